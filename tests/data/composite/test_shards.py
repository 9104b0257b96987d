"""Composites as a run's data: what the user writes, shards, and what a target may be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import crowddist
from crowddist.data.composite.dataset import write_composites
from crowddist.data.config import DataSpec, StreamConfig, parse_data
from crowddist.data.prepare import Prepared, prepare
from crowddist.data.shards import ShardReader, decode
from crowddist.errors import InputError
from crowddist.process.host import code_digest
from crowddist.storage.names import MARK
from tests.data.composite.streets import empty_street, frames, image_set, street


def test_a_line_names_images_and_options() -> None:
    plain = parse_data("composite:/photos")
    assert (plain.format, plain.num_images, plain.seed, plain.counter, plain.heads) == ("composite", 1000, 0, "", None)
    assert plain.background == DataSpec(format="place", place="/photos")
    full = parse_data("composite:shanghaitech:$DATA/part_B_final:train?counter=runs/a&images=20&seed=3&heads=6-60.5")
    assert full.background == DataSpec(format="shanghaitech", place="$DATA/part_B_final", split="train")
    assert (full.counter, full.num_images, full.seed, full.heads) == ("runs/a", 20, 3, (6.0, 60.5))


def test_a_folder_may_have_a_question_mark_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "who?me=a").mkdir()
    spec = parse_data(f"composite:{tmp_path}/who?me=a")
    assert spec.background == DataSpec(format="place", place=f"{tmp_path}/who?me=a") and spec.num_images == 1000


@pytest.mark.parametrize("text", ["composite:", "composite:/a?people=3", "composite:/a?images=0", "composite:/a?seed=x",
                                  "composite:/a?heads=50-5", "composite:/a?heads=6", "composite:/a?counter=",
                                  "composite:?images=3"])
def test_other_options_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"not composites: .*give composite:DATA") as caught:
        parse_data(text)
    assert "\n" not in str(caught.value)


def test_no_composites_of_rendered_images() -> None:
    with pytest.raises(InputError, match="need photographs"):
        parse_data("composite:renderer:broad:10")


def spec(**changes) -> DataSpec:
    return DataSpec(**{"format": "composite", "num_images": 6, "heads": (6.0, 20.0), "seed": 0, **changes})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_are_the_same_from_one_process_and_from_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other processes have all puppets, so this one has, too; few people, who are large.
    monkeypatch.undo()
    empty = np.ones((15, 20), bool)
    empty[:, :5] = False
    places = [empty_street(), empty_street(key="half", empty=empty, crowded=~empty)]
    few = spec(num_images=4, heads=(14.0, 30.0))
    write_composites(str(tmp_path / "one"), places, few, name="composite-a")
    write_composites(str(tmp_path / "two"), places, few, name="composite-a", num_workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    reader = ShardReader(tmp_path / "one")
    assert len(reader) == 4 and reader.manifest.labelled and reader.manifest.converter.startswith("composite ")
    samples = [decode(*reader.read(index)) for index in range(4)]
    assert {sample.scene["background"] for sample in samples} == {"street", "half"}
    for sample in samples:
        half = sample.scene["background"] == "half"
        assert (sample.region is not None) == half and sample.mask is None  # unknown people have no mask
        assert sample.points is not None and sample.boxes is not None and sample.scene["count"] == len(sample.points)
        np.testing.assert_allclose(sample.boxes[:, :2] + sample.boxes[:, 2:] / 2 - 0.5, sample.points, atol=1e-3)


def test_training_leaves_out_what_lies_outside_the_region(tmp_path: Path) -> None:
    from crowddist.data.stream import CropDataset, collate

    empty = np.zeros((15, 20), bool)
    empty[:, 10:] = True
    write_composites(str(tmp_path / "set"), [empty_street(empty=empty, crowded=~empty)], spec(), name="a")
    config = StreamConfig(image_size=160, crop_size=64, scale_jitter=(1.0, 1.0), noisy_share=0.0)
    crops = CropDataset(str(tmp_path / "set"), config, plan_seed=0, name="source")
    shares = [crops[position]["keep"].mean() for position in range(40)]
    assert min(shares) == 0 and max(shares) == 1 and 0.2 < np.mean(shares) < 0.8
    whole = CropDataset(str(tmp_path / "set"), config, plan_seed=0, name="source", whole_px=160)[0]
    columns = whole["keep"][:, ::-1] if whole["keep"][:, :9].any() else whole["keep"]
    assert (columns[:, 11:] == 1).all() and (columns[:, :9] == 0).all()
    batch = collate([crops[0], {name: value for name, value in crops[1].items() if name != "keep"}])
    assert batch.keep is not None and (batch.keep[1] == 1).all()  # mixed with images without regions


def shanghaitech(folder: Path, pictures: list[np.ndarray]) -> Path:
    """Images in ShanghaiTech's layout, with labels that nobody can read."""
    train = folder / "part_B_final" / "train_data"
    (train / "ground_truth").mkdir(parents=True)
    (train / "images").mkdir()
    for number, picture in enumerate(pictures):
        PIL.Image.fromarray(picture).save(train / "images" / f"IMG_{number}.jpg", quality=92)
        (train / "ground_truth" / f"GT_IMG_{number}.mat").write_bytes(b"no labels")
    return folder / "part_B_final"


def prepared(text: str, place: Path, **options) -> tuple[Prepared, list[str]]:
    lines: list[str] = []
    return prepare(parse_data(text), str(place), **{"role": "source", "say": lines.append, **options}), lines


@pytest.mark.parametrize("level", [110, 12])
@pytest.mark.usefixtures("one_worker")
def test_a_run_makes_composites_once_and_opens_no_label_of_the_target(tmp_path: Path, level: int) -> None:
    """By day and by night."""
    place = shanghaitech(tmp_path, frames(level=level))
    with pytest.raises(InputError, match=r"GT_IMG_\d+\.mat"):
        prepared(f"shanghaitech:{place}:all", tmp_path / "labelled", role="evaluation")
    text = f"composite:shanghaitech:{place}:all?images=4&heads=6-20"
    found, lines = prepared(text, tmp_path / "runs", masks=True)  # on medians everybody is known
    assert found.manifest.num_samples == 4 and found.manifest.labelled
    assert any("putting people into 1 images" in line for line in lines)
    again, lines = prepared(text, tmp_path / "runs")
    assert again == found and not any("putting" in line for line in lines)
    other, _ = prepared(text.replace("images=4", "images=3"), tmp_path / "runs")
    assert other.url != found.url and other.manifest.num_samples == 3


@pytest.mark.usefixtures("one_worker")
def test_composites_are_made_anew_where_the_code_that_makes_them_changed(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """And not where only the version did."""
    text = f"composite:shanghaitech:{shanghaitech(tmp_path, frames())}:all?images=1&heads=6-20"
    first, _ = prepared(text, tmp_path / "runs")
    monkeypatch.setattr("crowddist.__version__", "99")
    assert prepared(text, tmp_path / "runs")[0] == first
    package = tmp_path / "crowddist"
    shutil.copytree(Path(crowddist.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "data" / "composite" / "match.py").open("a").write("\n")
    monkeypatch.setattr("crowddist.data.prepare.code_digest", lambda rooms: code_digest(rooms, package))
    assert prepared(text, tmp_path / "runs")[0].url != first.url


@pytest.mark.usefixtures("one_worker")
def test_a_counter_tells_where_nobody_is(tmp_path: Path, tiny_checkpoint: str) -> None:
    from crowddist.inference.crowd_maps import VIEWS, crowd_maps

    (tmp_path / "photos").mkdir()
    PIL.Image.fromarray(street()).save(tmp_path / "photos" / "only.png")
    reader = image_set(tmp_path / "set", [street()])
    maps = next(iter(crowd_maps(tiny_checkpoint, reader, [0])))
    assert maps.shape == (len(VIEWS), 9, 12) and not np.array_equal(maps[0], maps[2])  # 72 x 96 px, cells of 8
    text = f"composite:{tmp_path / 'photos'}?counter={tiny_checkpoint}&images=2&heads=6-20"

    def nobody(checkpoint: str, images: ShardReader, indexes) -> list[np.ndarray]:
        assert checkpoint == tiny_checkpoint
        return [np.zeros((3, 9, 12), np.float32) for _ in indexes]

    found, _ = prepared(text, tmp_path / "runs", crowd_maps=nobody)
    assert found.manifest.num_samples == 2  # of a target of one image
    prepared(text.replace("/photos?", "/set?"), tmp_path / "of shards", crowd_maps=nobody)
    assert (tmp_path / "of shards" / "data" / MARK).exists(), "nothing there is taken for a user's image"
    with pytest.raises(InputError, match=r"made by crowddist adapt"):
        prepared(text, tmp_path / "other")


def test_composites_are_a_source_alone(tmp_path: Path) -> None:
    for role in ("target", "evaluation", "boxes"):
        with pytest.raises(InputError, match=f"made as a source alone; name photographs as the {role}"):
            prepared("composite:/photos", tmp_path, role=role)


def test_a_counter_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="not the folder of a run that has ended"):
        prepared(f"composite:/photos?counter={tmp_path / 'run'}", tmp_path)
