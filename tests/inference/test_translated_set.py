"""Translated data sets: every image once, with its labels, as sharp as it was, and whole at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.data.shards import ShardReader, ShardWriter, decode, verify
from crowddist.inference.jobs import JobWorker
from crowddist.inference.predictor import Predictor
from crowddist.inference.translated_set import publish_translation, translate_image, translate_unit
from crowddist.methods.base import Method
from crowddist.methods.build import build_method
from crowddist.run import checkpoint

UNITS = (range(0, 3), range(3, 4))


def write_checkpoint(config: RunConfig, folder: Path, seed: int = 0) -> str:
    """Checkpoint of untrained translators."""
    torch.manual_seed(seed)
    config = replace(config, method="translation")
    return checkpoint.save(folder.as_uri(), 1, {"method": build_method(config).state_dict(), "config": to_json(config)})


@pytest.fixture
def source(tmp_path: Path) -> ShardReader:
    """Four images, two of them JPEG, with points, boxes, masks and what else is known of them; the translator sees them
    at 96 px.
    """
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "source", name="streets", split="train", labelled=True, converter="test") as writer:
        for index, (height, width) in enumerate([(72, 96), (50, 64), (150, 190), (41, 200)]):
            image = cv2.GaussianBlur(rng.integers(0, 255, (height, width, 3), dtype=np.uint8), (0, 0), 2)
            points = rng.uniform(0, 40, (index, 2)).astype(np.float32)
            extension = "jpg" if index % 2 else "png"
            members: dict[str, Any] = {
                extension: cv2.imencode(f".{extension}", image)[1].tobytes(),
                "points.npy": points,
                "boxes.npy": np.column_stack([points, np.full((index, 2), 6)]).astype(np.float32),
                "mask.png": rng.integers(0, 2, (height, width)),
                "json": {"id": f"street/{index}", "height": height, "width": width, "count": index, "weather": "rain"},
            }
            writer.add(f"street_{index}", members)
    return ShardReader(tmp_path / "source")


def test_every_image_is_translated_once_and_keeps_its_labels(source: ShardReader, tiny_config: RunConfig,
                                                             tmp_path: Path) -> None:
    worker, url = JobWorker(write_checkpoint(tiny_config, tmp_path / "checkpoint"),
                            source.url), (tmp_path / "translated").as_uri()
    records = [translate_unit(worker.predictor, worker.images, unit, url) for unit in UNITS]
    with pytest.raises(ValueError, match=r"1 translated images in .* for 4 images"):
        publish_translation(url, source, records[1:])
    assert not storage.exists(storage.join(url, "manifest.json"))
    metrics = publish_translation(url, source, records)
    manifest, before = verify(url), source.manifest  # sizes, counts and checksums of all shards
    assert (manifest.name, manifest.split, manifest.kind,
            manifest.labelled) == ("streets-translated", "train", "images", True)
    assert manifest.converter == before.converter, "it tells whether images with regions count whole"
    assert (manifest.statistics == {**before.statistics, **metrics, "translated_from": before.digest}
            and "height_px" in manifest.statistics)
    assert [shard.persons for shard in manifest.shards] == [3, 3]
    translated = ShardReader(url)
    assert translated.keys() == source.keys()
    changes = []
    for index in range(4):
        (key, given), (_, made) = source.read(index), translated.read(index)
        assert set(made) == {"jpg", "points.npy", "boxes.npy", "mask.png", "json"}
        assert all(made[name] == given[name] for name in made if name != "jpg"), "to the byte"
        sample, original = decode(key, made), decode(key, given)
        assert sample.image.shape == original.image.shape
        expected = translate_image(worker.predictor, original.image)
        assert np.abs(sample.image.astype(int) - expected).mean() < 6  # JPEG of what is still noise
        changes.append(np.abs(expected.astype(int) - original.image).mean())
    assert metrics == {"translation/change_levels": pytest.approx(np.mean(changes))} and np.mean(changes) > 5


def test_a_unit_with_a_record_is_not_translated_again(source: ShardReader, tiny_config: RunConfig,
                                                      tmp_path: Path) -> None:
    mine, other = (Predictor.from_checkpoint(write_checkpoint(tiny_config, tmp_path / str(seed), seed))
                   for seed in (0, 1))
    url, name = (tmp_path / "translated").as_uri(), "translated-000000-000003"
    record = translate_unit(mine, source, UNITS[0], url)
    shard = tmp_path / "translated" / f"{name}.tar"
    content, stamp = shard.read_bytes(), shard.stat().st_mtime_ns
    assert translate_unit(other, source, UNITS[0], url) == record
    assert (shard.read_bytes(), shard.stat().st_mtime_ns) == (content, stamp)
    # Killed between shard and record: the unit is translated again, to the same bytes.
    (tmp_path / "translated" / f"{name}.done.json").unlink()
    assert translate_unit(mine, source, UNITS[0], url) == record and shard.read_bytes() == content
    (tmp_path / "translated" / f"{name}.done.json").unlink()
    assert translate_unit(other, source, UNITS[0], url)["shard"]["sha256"] != record["shard"]["sha256"]


def stand_in(show: Callable[[torch.Tensor], torch.Tensor], image_size: int = 96) -> Predictor:
    """A predictor whose method translates by a formula."""
    method = cast(Method, SimpleNamespace(translate=show))
    return cast(Predictor, SimpleNamespace(method=method, image_size=image_size, device=torch.device("cpu")))


@pytest.mark.parametrize("size", [(72, 96), (150, 190), (300, 400), (30, 41)])
def test_what_is_not_changed_stays_as_it_was(size: tuple[int, int]) -> None:
    """Whatever size the translator sees an image at: neither softer nor sharper, and a shift of the colours is one
    everywhere.
    """
    image = np.random.default_rng(0).integers(30, 200, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(translate_image(stand_in(lambda seen: seen), image), image)
    colours = torch.tensor([10.0, 0, -20])[:, None, None] / 255
    np.testing.assert_array_equal(translate_image(stand_in(lambda seen: seen + colours), image).astype(int) - image,
                                  np.broadcast_to([10, 0, -20], image.shape))
    assert (translate_image(stand_in(lambda seen: 2 + seen), image)
            == 255).all() and (translate_image(stand_in(lambda seen: seen - 2), image) == 0).all()


def test_a_translation_lies_where_the_image_shows_it() -> None:
    """The right half turned dark, of an image that the translator sees at half its size."""
    image = np.full((80, 200, 3), 200, np.uint8)

    def darken(seen: torch.Tensor) -> torch.Tensor:
        assert seen.shape == (1, 3, 40, 100)
        return torch.cat([seen[..., :50], seen[..., 50:] / 2], dim=3)

    shown = translate_image(stand_in(darken, image_size=100), image)
    assert (shown[:, :98] == 200).all() and (shown[:, 102:] == 100).all()
    # As it is, where images are seen at their own size.
    np.testing.assert_array_equal(translate_image(stand_in(lambda seen: 1 - seen, image_size=0), image), 255 - image)


def test_other_methods_translate_nothing(tiny_checkpoint: str, source: ShardReader, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="SelfSupervision translates no images"):
        translate_unit(Predictor.from_checkpoint(tiny_checkpoint), source, UNITS[1], (tmp_path / "translated").as_uri())
    assert not list(tmp_path.glob("translated/*.tar"))
