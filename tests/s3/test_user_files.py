"""Counting what lies in object storage: a folder or one object, read when its turn comes, and named by its address."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from crowddist import storage
from crowddist.data.user_files import find_user_files, read_place
from crowddist.errors import InputError, TooLargeError
from crowddist.inference.predictor import Predictor
from crowddist.reports.count_files import predict_files
from crowddist.service.places import AllowedPlaces, NotAllowedError


def picture(seed: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def photos(steady: str) -> str:
    for number, name in enumerate(("a.png", "in/b.png", "counted/counts.csv", "counted/a.png", "notes.txt")):
        storage.write_bytes(storage.join(steady, name), picture(number) if name.endswith(".png") else b"x")
    return steady


def test_folders_and_objects_are_found(photos: str) -> None:
    lines: list[str] = []
    found = find_user_files([photos, f"{photos}/a.png"], say=lines.append)
    assert [file.name for file in found] == [f"{photos}/a.png", f"{photos}/in/b.png", f"{photos}/a.png"]
    assert lines == [f"{photos}: 2 images, 3 other files",
                     "1 of 3 images are given, or linked to, more than once: each counts as often"]
    assert found[1].lies_in(f"{photos}/in")
    stamp = found[0].stamp()
    storage.write_bytes(found[0].name, picture(9))
    assert found[0].stamp() != stamp and found[2].stamp() == found[0].stamp()
    assert (found[0].read()[0] == read_place(found[0].name)[0]).all()
    with pytest.raises(FileNotFoundError, match="no file or folder at s3://"):
        find_user_files([f"{photos}/missing"])
    storage.remove_file(found[1].name)
    with pytest.raises(InputError, match=r"b\.png: cannot be read: no such file"):
        found[1].read()


def test_counts_and_points_go_back_there(photos: str, tiny_checkpoint: str) -> None:
    counter, out = Predictor.from_checkpoint(tiny_checkpoint), f"{photos}/again"
    rows = predict_files(counter, [photos], out, points=["coco"], say=lambda _: None)
    assert [row["file"] for row in rows] == [f"{photos}/a.png", f"{photos}/in/b.png"]
    assert storage.list_files(out) == ["a.png", "b.png", "counts.csv", "points.coco.json", "points.csv", "points.json"]
    table = storage.read_bytes(f"{out}/points.csv").decode().splitlines()
    assert len(table) - 1 == sum(max(row["points"], 1) for row in rows) and table[1].startswith(f"{photos}/a.png,")
    images = storage.read_json(f"{out}/points.coco.json")["images"]
    assert [image["file_name"] for image in images] == ["a.png", "in/b.png"]


def test_a_service_fetches_from_an_allowed_folder_alone(photos: str) -> None:
    places = AllowedPlaces([f"{photos}/in"])
    for url in (f"{photos}/in/b.png", f"{photos}/x/../in/b.png"):
        assert places.read(url, max_bytes=10_000, total_s=9) == picture(1)
    for name, error in (("a.png", NotAllowedError), ("in/../a.png", NotAllowedError), ("in.png", NotAllowedError),
                        ("in/c.png", FileNotFoundError)):
        with pytest.raises(error):
            places.read(f"{photos}/{name}", max_bytes=10_000, total_s=9)
    with pytest.raises(TooLargeError, match="bytes; at most 9 are taken"):
        places.read(f"{photos}/in/b.png", max_bytes=9, total_s=9)
