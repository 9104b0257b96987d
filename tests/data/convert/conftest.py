"""Small raw data sets in the layouts that the converters read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pixels(size, seed=0):
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    return np.stack([rows * 3 + seed * 20, columns * 2, rows + columns], axis=2).astype(np.uint8)


def cell(points, number=None):
    """`image_info` as ShanghaiTech nests it: a struct in a cell."""
    inner = np.empty((1, 1), [("location", object), ("number", object)])
    inner[0, 0] = (np.asarray(points, np.float64).reshape(-1, 2),
                   np.array([[len(points) if number is None else number]], np.uint16))
    outer = np.empty((1, 1), object)
    outer[0, 0] = inner
    return outer


class Shanghai:
    """Builds `part_B_final/{train,test}_data`."""

    def __init__(self, root: Path, annotations: str = "ground_truth") -> None:
        self.root, self.annotations = root, annotations

    def add(self, number, points, *, split="train", size=(32, 48), image=None):
        import scipy.io

        place = self.root / f"{split}_data"
        for folder in ("images", self.annotations):
            (place / folder).mkdir(parents=True, exist_ok=True)
        (image or Image.fromarray(pixels(size, number))).save(place / "images" / f"IMG_{number}.jpg")
        if points is not None:
            scipy.io.savemat(place / self.annotations / f"GT_IMG_{number}.mat", {"image_info": cell(points)})
        return place / "images" / f"IMG_{number}.jpg"


class Gcc:
    """Builds `scene_XX_Y/{pngs,jpgs,jsons,mats,segs}`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, scene, time, rows_columns, *, size=(32, 48), kind="jpg", mask=None, with_json=True, with_mat=True,
            **entries):
        import scipy.io

        place = self.root / scene
        for folder in (f"{kind}s", "jsons", "mats", "segs"):
            (place / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size)).save(place / f"{kind}s" / f"{time}.{kind}")
        if with_json:
            record = {
                "image_info": rows_columns, "weather": 1, "timeInfo": [14, 30], "roi": [[0, 0], [47, 0], [47, 31]],
                "camera": [1.5, 2.5], **entries}
            (place / "jsons" / f"{time}.json").write_text(json.dumps(record))
        if with_mat:
            location = np.asarray(rows_columns, np.float64).reshape(-1, 2)
            scipy.io.savemat(place / "mats" / f"{time}.mat", {"image_info": {"location": location}})
        if mask is not None:
            (place / "segs" / f"{time}.raw").write_bytes(mask.astype(np.uint8).tobytes())
        return place / f"{kind}s" / f"{time}.{kind}"


class Pairs:
    """Builds folders of `NAME.jpg` and `NAME_ann.mat`, as UCF-QNRF (`Train`, `Test`) and UCF_CC_50 have them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, name, points, *, folder="", size=(32, 48), mode="RGB", variable="annPoints"):
        import scipy.io

        place = self.root / folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size, 3)).convert(mode).save(place / f"{name}.jpg")
        if points is not None:
            scipy.io.savemat(place / f"{name}_ann.mat", {variable: np.asarray(points, np.float64).reshape(-1, 2)})
        return place / f"{name}.jpg"


class Wider:
    """Builds `WIDER_{train,val}/images/EVENT/NAME.jpg` and `wider_face_split/wider_face_{train,val}_bbx_gt.txt`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def annotations(self, split="train"):
        return self.root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"

    def add(self, name, boxes, *, split="train", size=(32, 48)):
        """`boxes`: x, y, w, h and perhaps the flag `invalid` each; lines end in a space, as in the original."""
        path = self.root / f"WIDER_{split}" / "images" / name
        for place in (path, self.annotations(split)):
            place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size, len(name))).save(path)
        rows = [f"{x} {y} {w} {h} 0 0 0 {invalid} 1 0 " for x, y, w, h, invalid in ((*box, 0)[:5] for box in boxes)]
        with self.annotations(split).open("a") as stream:
            stream.write("\n".join([name, str(len(boxes)), *(rows or ["0 0 0 0 0 0 0 0 0 0 "])]) + "\n")
        return path


class WorldExpo:
    """Builds `{train,test}_frame`, flat or with one folder a scene, and `{train,test}_label/SCENE/{NAME,roi}.mat`."""

    def __init__(self, root: Path, nested: bool = False) -> None:
        self.root, self.nested = root, nested

    def label(self, name, side="train"):
        return self.root / f"{side}_label" / name[:6] / f"{name}.mat"

    def roi(self, scene, side="train"):
        return self.root / f"{side}_label" / scene / "roi.mat"

    def add(self, name, points, *, side="train", size=(32, 48), roi=((0, 0), (47, 0), (47, 31))):
        import scipy.io

        path = self.root / f"{side}_frame" / (name[:6] if self.nested else "") / f"{name}.jpg"
        for place in (path, self.label(name, side)):
            place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size, len(name))).save(path)
        positions = np.asarray(points, np.float64).reshape(-1, 2)
        scipy.io.savemat(self.label(name, side), {"point_num": len(positions), "point_position": positions})
        columns = np.asarray(roi, np.float64)
        scipy.io.savemat(self.roi(name[:6], side),
                         {"maskVerticesXCoordinates": columns[:, :1], "maskVerticesYCoordinates": columns[:, 1:]})
        return path


class Jhu:
    """Builds `{train,val,test}/{images,gt}` and, line by line, `{train,val,test}/image_labels.txt`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def annotation(self, name, split="train"):
        return self.root / split / "gt" / f"{name}.txt"

    def index(self, split="train"):
        return self.root / split / "image_labels.txt"

    def add(self, name, heads, *, split="train", size=(32, 48), told=None):
        """`heads`: x, y and perhaps w, h each; `told`: scene type, weather and distractor, as the index has them."""
        path = self.root / split / "images" / f"{name}.jpg"
        for place in (path, self.annotation(name, split)):
            place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size, len(heads))).save(path)
        rows = [(*head, 5, 6)[:4] for head in heads]
        self.annotation(name, split).write_text("".join(f"{x} {y} {w} {h} 1 0\n" for x, y, w, h in rows))
        if told is not None:
            with self.index(split).open("a") as stream:
                stream.write(f"{name},{len(heads)},{','.join(map(str, told))}\n")
        return path


class Nwpu:
    """Builds `images`, or another folder, `jsons` and, line by line, `{train,val,test}.txt`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def annotation(self, name):
        return self.root / "jsons" / f"{name}.json"

    def list(self, split="train"):
        return self.root / f"{split}.txt"

    def add(self, name, points, *, split="train", codes="0 3", folder="images", boxes=None, size=(32, 48)):
        path = self.root / folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size, int(name))).save(path)
        if points is not None:
            self.annotation(name).parent.mkdir(parents=True, exist_ok=True)
            boxes = [[x - 2, y - 2, x + 2, y + 2] for x, y in points] if boxes is None else boxes
            record = {"img_id": path.name, "human_num": len(points), "points": points, "boxes": boxes}
            self.annotation(name).write_text(json.dumps(record))
        with self.list(split).open("a") as stream:
            stream.write(f"{name} {codes}\n")
        return path


class CrowdHuman:
    """Builds `CrowdHuman_train01/Images` and so on, or `Images`, and, line by line, `annotation_{train,val}.odgt`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def annotations(self, split="train"):
        return self.root / f"annotation_{split}.odgt"

    def add(self, name, regions, *, split="train", folder="CrowdHuman_train01", size=(32, 48)):
        """`regions` as the set has them, see `region`."""
        path = self.root / folder / "Images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(size, len(name))).save(path)
        with self.annotations(split).open("a") as stream:
            stream.write(json.dumps({"ID": name, "gtboxes": regions}) + "\n")
        return path

    @staticmethod
    def region(head, visible, *, tag="person", **attributes):
        """`attributes`: `extra` and `head_attr`."""
        return {"tag": tag, "hbox": head, "vbox": visible, "fbox": [0, 0, 1, 1], "extra": {"box_id": 0, "occ": 1},
                "head_attr": {"ignore": 0},
                **attributes}


@pytest.fixture
def worldexpo(tmp_path):
    return WorldExpo(tmp_path / "expo")


@pytest.fixture
def worldexpo_by_scene(tmp_path):
    return WorldExpo(tmp_path / "expo-by-scene", nested=True)


@pytest.fixture
def jhu(tmp_path):
    return Jhu(tmp_path / "jhu")


@pytest.fixture
def nwpu(tmp_path):
    return Nwpu(tmp_path / "nwpu")


@pytest.fixture
def crowd_human(tmp_path):
    return CrowdHuman(tmp_path / "crowd human")


@pytest.fixture
def pairs(tmp_path):
    return Pairs(tmp_path / "ucf")


@pytest.fixture
def wider(tmp_path):
    return Wider(tmp_path / "wider")


@pytest.fixture
def shanghai(tmp_path):
    return Shanghai(tmp_path / "part_B_final")


@pytest.fixture
def gcc_folder(tmp_path):
    return Gcc(tmp_path / "gcc")


@pytest.fixture(scope="session")
def real_data():
    place = Path(os.environ.get("CROWDDIST_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not place.is_dir():
        pytest.skip(f"no real data at {place}; set CROWDDIST_DATA")
    return place
