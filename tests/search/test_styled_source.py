"""Labelled images in the style of a target that has no labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crowddist.data import shard_codec
from crowddist.data.shards import ShardReader, ShardWriter, decode, verify
from crowddist.search.styled_source import in_the_style_of


def dark_target(folder: Path) -> str:
    """Photographs of a camera at night, all a little blue."""
    import cv2

    rng = np.random.default_rng(0)
    with ShardWriter(folder, name="night", split="all", labelled=False, converter="test") as shards:
        for index in range(4):
            image = rng.integers([10, 10, 30], [40, 40, 90], (60, 80, 3)).astype(np.uint8)
            _, png = cv2.imencode(".png", image[:, :, ::-1])
            shards.add(f"night-{index}", {"png": png.tobytes(), "json": {"id": f"{index}", "height": 60, "width": 80}})
    return folder.as_uri()


def test_the_source_looks_like_the_target_and_keeps_its_labels(tiny_source: str, tmp_path: Path) -> None:
    said: list[str] = []
    url = in_the_style_of(dark_target(tmp_path / "night"), tiny_source, str(tmp_path / "work"), say=said.append)
    assert said == ["showing 12 labelled images in the style of the target"]
    assert verify(url).labelled and verify(url).converter == ShardReader(tiny_source).manifest.converter
    source, styled = ShardReader(tiny_source), ShardReader(url)
    assert source.keys() == styled.keys()
    for index in range(12):
        given, shown = (decode(*reader.read(index)) for reader in (source, styled))
        assert (given.points is not None and shown.points is not None and given.mask is not None
                and shown.mask is not None)
        np.testing.assert_array_equal(given.points, shown.points)
        np.testing.assert_array_equal(given.mask, shown.mask)
        assert given.image.shape == shown.image.shape
        red, _, blue = shown.image.mean((0, 1))
        assert red < 45 < blue < 75 and given.image.mean() > 80
        # Persons stay brighter than what is round them.
        assert shown.image[shown.mask > 0].mean() > shown.image[shown.mask == 0].mean() + 5


def test_it_is_made_once_for_each_pair(tiny_source: str, tiny_evaluation: str, tmp_path: Path) -> None:
    night, said = dark_target(tmp_path / "night"), list[str]()
    first = in_the_style_of(night, tiny_source, str(tmp_path), say=said.append)
    assert in_the_style_of(night, tiny_source, str(tmp_path), say=said.append) == first and len(said) == 1
    assert in_the_style_of(night, tiny_evaluation, str(tmp_path), say=said.append) != first and len(said) == 2


def test_labels_of_the_target_stay_closed(
    tiny_source: str, make_images: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_images(tmp_path / "labelled", count=3, seed=5)
    closed = {ShardReader(target).read(index)[1]["points.npy"] for index in range(3)}

    def guarded(data: bytes) -> np.ndarray:
        assert data not in closed, "a label of the target was opened"
        return plain(data)

    plain = shard_codec._DECODERS["points.npy"]
    monkeypatch.setitem(shard_codec._DECODERS, "points.npy", guarded)
    with pytest.raises(AssertionError, match="was opened"):
        decode(*ShardReader(target).read(0))
    in_the_style_of(target, tiny_source, str(tmp_path), say=lambda line: None)
