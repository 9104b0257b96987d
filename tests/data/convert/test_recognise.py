"""Public sets as downloads leave them: beside their archives, in parts, in folders of their names, or not whole.
None is ever read as points of one's own, with its test images and without its regions of interest.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.recognise import recognise
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from tests.data.convert.conftest import CrowdHuman, Gcc, Jhu, Nwpu, Pairs, Shanghai, Wider, WorldExpo

MADE: dict[str, tuple[Any, list[tuple[tuple[Any, ...], dict[str, Any]]]]] = {
    "gcc": (Gcc, [(("scene_00_0", "1", [[3, 4]]), {})]),
    "shanghaitech": (Shanghai, [((1, [[3, 4]]), {}), ((2, [[3, 4]]), {"split": "test"})]),
    "ucf_qnrf": (Pairs, [(("img_0001", [[3, 4]]), {"folder": "Train"}), (("img_0002", [[3, 4]]), {"folder": "Test"})]),
    "worldexpo10": (WorldExpo, [(("100140_1", [[3, 4]]), {}), (("104207_1", [[3, 4]]), {"side": "test"})]),
    "jhu_crowd": (Jhu, [(("0001", [[3, 4]]), {}), (("0002", [[3, 4]]), {"split": "test"})]),
    "nwpu_crowd": (Nwpu, [(("0001", [[3, 4]]), {}), (("0002", [[3, 4]]), {"split": "val"})]),
    "wider_face": (Wider, [(("event/1.jpg", [[1, 2, 5, 5]]), {})]),
    "crowd_human": (CrowdHuman, [(("1", [CrowdHuman.region([1, 2, 5, 5], [1, 2, 9, 9])]), {})]),
}
TRAINED = {"gcc": "scene_00_0/1", "shanghaitech": "IMG_1", "ucf_qnrf": "img_0001", "worldexpo10": "100140_1",
           "jhu_crowd": "0001", "nwpu_crowd": "0001", "wider_face": "event/1", "crowd_human": "1"}
TRAINING = {"shanghaitech": "train_data", "ucf_qnrf": "Train", "worldexpo10": "train_frame", "nwpu_crowd": "train.txt"}
"""What holds the training data, of sets whose labels are files that formats of one's own could read."""


def make(name: str, root: Path) -> Path:
    kind, added = MADE[name]
    for given, more in added:
        kind(root).add(*given, **more)
    return root


def whole(name: str, root: Path, place: Path) -> bool:
    """Recognised, also by the name of the format, and read with the images to train on alone."""
    done = convert(FORMATS[name], root, place)
    return recognise(root) == name and ShardReader(done.url).keys() == [TRAINED[name].replace("/", "_")]


@pytest.mark.parametrize("name", MADE)
def test_files_beside_a_set_change_nothing(tmp_path: Path, name: str) -> None:
    make(name, tmp_path / "in" / "part_A_final")
    for beside in ("set.zip", "readme.txt", "Thumbs.db", "images/.keep/a"):
        (tmp_path / "in" / beside).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / beside).write_bytes(b"x")
    (tmp_path / "in" / "images").rename(tmp_path / "in" / "@eaDir")
    assert whole(name, tmp_path / "in", tmp_path / "set")
    (tmp_path / "in" / "notes").mkdir()
    with pytest.raises(InputError, match=f"laid out as the set {name} in part_A_final; give one folder of these, or "
                                         "name the format" if name in {*TRAINING, "gcc"} else "no labels that are"):
        recognise(tmp_path / "in")


def test_several_parts_are_not_mixed(tmp_path: Path) -> None:
    for part in "AB":
        make("shanghaitech", tmp_path / "downloads" / f"part_{part}_final")
    with pytest.raises(InputError, match="as the set shanghaitech in part_A_final, part_B_final; give one folder of "):
        recognise(tmp_path / "downloads")


@pytest.mark.parametrize(("name", "packed"), TRAINING.items())
@pytest.mark.parametrize("inside", ["", "part_A"])
def test_a_set_whose_training_data_is_still_packed_is_not_trained_on(tmp_path: Path, name: str, packed: str,
                                                                     inside: str) -> None:
    root = make(name, tmp_path / "in" / inside)
    shutil.rmtree(root / packed, ignore_errors=True)
    (root / packed).unlink(missing_ok=True)
    for beside in (root, tmp_path / "in"):
        (beside / "train.zip").write_bytes(b"x")
    with pytest.raises(InputError, match=rf"the labels are laid out as the set {name}, but .*; or name the format, "):
        recognise(tmp_path / "in")
    with pytest.raises(InputError, match=r"no .* data of the split"):
        convert(FORMATS[name], tmp_path / "in", tmp_path / "set")


@pytest.mark.parametrize(("name", "wrapped", "outer"), [
    ("nwpu_crowd", "images", "images_part1/images_part1"), ("nwpu_crowd", "images", "images_part1 (1)/images_part1"),
    ("nwpu_crowd", "jsons", "jsons/jsons"), ("worldexpo10", "train_label", "train_label/train_label"),
    ("shanghaitech", "train_data/images", "train_data/images/images"), ("jhu_crowd", "train", "train/train"),
    ("wider_face", "WIDER_train", "WIDER_train/WIDER_train")])
def test_parts_in_folders_of_their_names(tmp_path: Path, name: str, wrapped: str, outer: str) -> None:
    root = make(name, tmp_path / "in")
    (root / wrapped).rename(tmp_path / "part")
    (root / outer).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "part").rename(root / outer)
    assert whole(name, root, tmp_path / "set")


def test_a_set_that_has_something_to_refuse_stays_the_set(tmp_path: Path) -> None:
    root = make("worldexpo10", tmp_path / "in")
    WorldExpo(root).add("104207_2", [[3, 4]])  # of a scene for testing
    assert recognise(root) == "worldexpo10"
    with pytest.raises(InputError, match=r"104207_2\.jpg: shows one of the scenes for testing; remove it"):
        convert(FORMATS["worldexpo10"], root, tmp_path / "set")
