"""Pseudo-labels: shards and records that agree with a naive count, made once, from pixels alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from crowddist import storage
from crowddist.data.manifest import read_manifest
from crowddist.data.shards import (
    Manifest,
    ShardReader,
    ShardWriter,
    decode,
    decode_labels,
    publish_manifest,
    verify,
    write_shard,
)
from crowddist.errors import InputError
from crowddist.inference.predictor import ImagePrediction, Predictor
from crowddist.inference.pseudo_labels import label_change, label_unit, publish_labels

UNITS = (range(0, 18), range(18, 20))  # the first is more than one chunk of decoded images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., str]) -> ShardReader:
    """Twenty unlabelled images in several shards that end elsewhere than the units."""
    return ShardReader(make_images(tmp_path_factory.mktemp("images"), count=20, labelled=False,
                                   max_shard_bytes=120_000))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, images: ShardReader,
             tiny_checkpoint: str) -> tuple[str, list[dict]]:
    """Labels of all images: their place, and the records of the units."""
    url = tmp_path_factory.mktemp("labels").as_uri()
    counter = Predictor.from_checkpoint(tiny_checkpoint)
    return url, [label_unit(counter, images, unit, url) for unit in UNITS]


def seen(counter: Predictor, images: ShardReader, index: int) -> ImagePrediction:
    """An image's prediction as for labels, at all of the method's sizes."""
    assert len(counter.method.label_views()) > 1
    return next(counter.predict_views([decode(*images.read(index)).image], counter.method.label_views()))


def test_records_are_the_sums_of_what_the_counter_says(images: ShardReader, labelled: tuple[str, list[dict]],
                                                       tiny_checkpoint: str) -> None:
    url, records = labelled
    counter = Predictor.from_checkpoint(tiny_checkpoint)
    for unit, record in zip(UNITS, records, strict=True):
        persons = kept_persons = certain = cells = kept_cells = spread = 0.0
        for index in unit:
            found = seen(counter, images, index)
            kept = [value for value, keep in zip(found.density.ravel(), found.keep.ravel(), strict=True) if keep]
            persons, kept_persons = persons + float(found.density.sum()), kept_persons + float(sum(kept))
            cells, kept_cells = cells + 9 * 12, kept_cells + len(kept)
            certain += sum((found.density * found.certainty).ravel().tolist())
            spread += found.uncertainty
        assert record["num_samples"] == len(unit) and record["name"] == f"labels-{unit.start:06d}-{unit.stop:06d}.tar"
        assert (record["persons"] == pytest.approx(persons, rel=1e-4)
                and record["spread_persons"] == pytest.approx(spread, rel=1e-4))
        assert (record["kept_persons"] == pytest.approx(kept_persons, rel=1e-3)
                and 0 < record["kept_persons"] < record["persons"])
        assert record["certain_persons"] == pytest.approx(certain, rel=1e-4)
        assert (record["cells"], record["kept_cells"]) == (cells, pytest.approx(kept_cells, abs=1e-6))
        path = storage.local_file(storage.join(url, record["name"]))
        assert record["num_bytes"] == path.stat().st_size
        assert storage.read_json(storage.join(url, f"{path.stem}.done.json")) == record


def test_a_published_set_holds_every_image_once(images: ShardReader, labelled: tuple[str, list[dict]],
                                                tiny_checkpoint: str) -> None:
    url, records = labelled
    with pytest.raises(ValueError, match=r"2 labels in .* for 20 images"):
        publish_labels(url, images, records[1:], name="half")
    assert not storage.exists(storage.join(url, "manifest.json"))
    metrics = publish_labels(url, images, records, name="round-1")
    manifest = verify(url)  # sizes, counts and checksums of all shards
    assert (manifest.name, manifest.kind, manifest.num_samples,
            manifest.statistics) == ("round-1", "labels", 20, metrics)
    assert ShardReader(url).keys() == images.keys()
    counter = Predictor.from_checkpoint(tiny_checkpoint)
    density_sum = kept_sum = kept_cells = counts = 0.0
    for index in range(20):
        labels, found = decode_labels(*ShardReader(url).read(index)), seen(counter, images, index)
        np.testing.assert_allclose(labels.density, found.density, rtol=2e-3)  # stored as float16
        assert np.mean(labels.keep == found.keep) > 0.95 and len(labels.detections) == 0
        density_sum, kept_sum = density_sum + labels.density.sum(), kept_sum + labels.density[labels.keep].sum()
        kept_cells, counts = kept_cells + labels.keep.sum(), counts + found.count
    # Shares of sums over all images; the mean of the images' own shares is another number.
    assert metrics["labels/kept_mass"] == pytest.approx(kept_sum / density_sum, rel=1e-3)
    assert metrics["labels/kept_cells"] == pytest.approx(kept_cells / (20 * 9 * 12))
    assert metrics["labels/certainty"] == pytest.approx(sum(record["certain_persons"] for record in records) / counts,
                                                        rel=1e-4)
    assert metrics["labels/mean_count"] == pytest.approx(counts / 20, rel=1e-4)
    assert metrics["labels/mean_uncertainty"] == pytest.approx(sum(record["spread_persons"] for record in records) / 20)
    assert [shard.persons for shard in manifest.shards] == [record["persons"] for record in records]


def test_a_unit_with_a_record_is_not_labelled_again(images: ShardReader, tmp_path: Path, tiny_checkpoint: str,
                                                    make_checkpoint) -> None:  # type: ignore[no-untyped-def]
    counter, url = Predictor.from_checkpoint(tiny_checkpoint), (tmp_path / "labels").as_uri()
    other = Predictor.from_checkpoint(make_checkpoint(tmp_path / "other", seed=7))
    record = label_unit(counter, images, range(3), url)
    shard = tmp_path / "labels" / record["name"]
    content, stamp = shard.read_bytes(), shard.stat().st_mtime_ns
    assert label_unit(other, images, range(3), url) == record
    assert (shard.read_bytes(), shard.stat().st_mtime_ns) == (content, stamp)
    # Killed between shard and record: the unit is labelled again, to the same bytes.
    (tmp_path / "labels" / "labels-000000-000003.done.json").unlink()
    assert label_unit(counter, images, range(3), url) == record and shard.read_bytes() == content
    (tmp_path / "labels" / "labels-000000-000003.done.json").unlink()
    assert label_unit(other, images, range(3), url)["persons"] != record["persons"]


def test_points_and_masks_of_the_target_are_never_opened(tmp_path: Path, tiny_evaluation: str,
                                                         tiny_checkpoint: str) -> None:
    """Points and masks that nobody can read change nothing: the labels are those of an unlabelled copy, byte for
    byte.
    """
    counter, source = Predictor.from_checkpoint(tiny_checkpoint), ShardReader(tiny_evaluation)
    for name, labelled in (("labelled", True), ("copy", False)):
        with ShardWriter(tmp_path / name, name="a", split="all", labelled=labelled, converter="test") as writer:
            for key, members in (source.read(index) for index in range(3)):
                pixels = {"png": members["png"], "json": members["json"]}
                writer.add(key, {**pixels, "points.npy": members["points.npy"], "mask.png": b"damage"} if labelled
                           else pixels)
    shard = tmp_path / "labelled" / "a-all-000000.tar"
    assert shard.read_bytes().count(b"\x93NUMPY") == 3
    shard.write_bytes(shard.read_bytes().replace(b"\x93NUMPY", b"damage"))
    for member in (r"points\.npy", r"mask\.png"):
        with pytest.raises(InputError, match=f"{member} is damaged"):
            key, members = ShardReader(tmp_path / "labelled").read(0)
            decode(key, {name: data for name, data in members.items() if name in ("png", member.replace("\\", ""))})
    record = label_unit(counter, ShardReader(tmp_path / "labelled"), range(3), (tmp_path / "labels").as_uri())
    assert label_unit(counter, ShardReader(tmp_path / "copy"), range(3),
                      (tmp_path / "labels-of-copy").as_uri()) == record


def write_labels(folder: Path, densities: Sequence[tuple[str, list[list[float]]]]) -> str:
    """A published set of labels with these maps."""
    members = {key: np.array(density, np.float32) for key, density in densities}
    samples = [(key, {"density.npy": map_, "keep.png": np.ones(map_.shape, np.uint8), "json": {"id": key}})
               for key, map_ in members.items()]
    info = write_shard(folder, "labels.tar", samples)
    manifest = Manifest(name="labels", split="all", kind="labels", labelled=True, shards=(info,), statistics={},
                        converter="test")
    publish_manifest(folder, manifest)
    return folder.as_uri()


def test_label_change_by_hand(tmp_path: Path) -> None:
    before = write_labels(tmp_path / "before", [("a", [[1, 1], [0, 2]]), ("b", [[6]])])
    after = write_labels(tmp_path / "after", [("b", [[4]]), ("a", [[2, 1], [0, 0]])])  # found by key, not by place
    # |2-1| + |0-2| = 3 of 4 persons, and |4-6| = 2 of 6: 5 of 10 in all (the mean of the images' shares would be 0.54).
    assert label_change(before, after) == pytest.approx(0.5)
    assert label_change(after, before) == pytest.approx(5 / 7)
    assert label_change(before, before) == 0


def test_label_change_of_blocks_by_hand(tmp_path: Path) -> None:
    """A person who moves within a block has not changed; blocks at the edge hold what is left."""
    maps = np.zeros((2, 3, 5), np.float32)
    maps[0, 0, 0] = maps[1, 1, 1] = 1  # within the first block of 2x2
    maps[0, 2, 4] = 1  # the last block is one cell
    before, after = (write_labels(tmp_path / name, [("a", one.tolist())])
                     for name, one in zip(("before", "after"), maps, strict=True))
    assert label_change(before, after) == pytest.approx(1.5) and label_change(before, after, 2) == pytest.approx(0.5)


def test_label_change_of_empty_labels(tmp_path: Path) -> None:
    empty, some = write_labels(tmp_path / "empty",
                               [("a", [[0, 0]])]), write_labels(tmp_path / "some", [("a", [[0, 1]])])
    assert (label_change(empty, empty) == 0 and label_change(empty, some) == float("inf")
            and label_change(some, empty) == 1)


def test_labels_of_other_images_cannot_be_compared(tmp_path: Path) -> None:
    one, other = write_labels(tmp_path / "one", [("a", [[1]])]), write_labels(tmp_path / "other", [("b", [[1]])])
    with pytest.raises(InputError, match="no sample is called 'b'"):
        label_change(one, other)
    assert read_manifest(one).num_samples == 1
