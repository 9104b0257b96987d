"""Heads on their way: from a network's pixels through tiles to those of the image, into label shards, and into the
crops of a detector.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from crowddist.config import RunConfig
from crowddist.data.sample import Prediction
from crowddist.data.shards import ShardReader, ShardWriter, decode_labels
from crowddist.data.stream import CropDataset
from crowddist.inference import base_predictor
from crowddist.inference.predictor import Predictor
from crowddist.inference.pseudo_labels import label_unit, publish_labels
from crowddist.methods.bi_knowledge import BiKnowledge

RADIUS_PX = 4


class BrightHeads(BiKnowledge):
    """Detects white discs exactly and red ones with doubt; density and localiser are empty."""

    def predict(self, images: Tensor) -> Prediction:
        density = torch.zeros(len(images), 1, *(-(-side // self.output_stride) for side in images.shape[2:]))
        found = []
        for image in images.numpy():
            _, _, _, centres = cv2.connectedComponentsWithStats((image[0] > 0.6).astype(np.uint8))
            scores = [0.9 if image[1, int(y), int(x)] > 0.8 else 0.2 for x, y in centres[1:]]
            found.append(np.column_stack([centres[1:], np.full(len(scores), 8.0),
                                          scores]).astype(np.float32).reshape(-1, 4))
        return Prediction(density=density, spread=density, detections=found, transformed=[one[:0] for one in found])


def photograph(height: int, width: int, heads: np.ndarray, num_red: int = 0) -> np.ndarray:
    """White discs, and red ones in the place of the last; channels as OpenCV writes them where there are red ones."""
    image = np.full((height, width, 3), 60, np.uint8)
    for index, (x, y) in enumerate(heads.tolist()):
        cv2.circle(image, (x, y), RADIUS_PX, (60, 60, 250) if index >= len(heads) - num_red else (250, 250, 250), -1)
    return image


def method(config: RunConfig) -> BrightHeads:
    return BrightHeads(replace(config, method="bi_knowledge",
                               bi_knowledge=replace(config.bi_knowledge, confidence=0.3, sure_confidence=0.38)))


def test_tiles_give_every_head_once_where_it_is(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a seam, in a corner, and where the last cells reach beyond the image."""
    heads = np.array([[10, 10], [127, 60], [128, 100], [129, 140], [255, 256], [256, 30], [60, 128], [300, 255],
                      [414, 292], [4, 294]])
    monkeypatch.setattr(base_predictor, "TILE_PX", 128)
    found = Predictor(method(tiny_config), image_size=0).predict(photograph(299, 419, heads))
    assert found.sizes is not None and len(found.points) == len(heads) and (found.sizes == 8).all()
    for head in heads:
        assert np.abs(found.points[:, :2] - head).max(1).min() < 1e-3
    assert found.count == pytest.approx(len(heads), rel=1e-3), "the density is that of the heads"


def test_tiles_of_real_networks_leave_no_seam(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The margin is as wide as these networks look: a strip in four tiles is what it is whole."""
    torch.manual_seed(0)
    anywhere = replace(tiny_config.bi_knowledge, confidence=1e-6)
    made = BiKnowledge(replace(tiny_config, method="bi_knowledge", bi_knowledge=anywhere))
    image = np.random.default_rng(0).integers(0, 256, (128, 896, 3), dtype=np.uint8)
    whole = Predictor(made, image_size=0)._see([image])[0]
    monkeypatch.setattr(base_predictor, "TILE_PX", 256)
    tiles = Predictor(made, image_size=0)._see([image])[0]
    np.testing.assert_allclose(tiles.density, whole.density, atol=1e-4 * float(whole.density.max()))
    some, others = (part.detections for part in (tiles, whole))
    assert some is not None and others is not None and len(some) == len(others) > 0
    np.testing.assert_allclose(*(part[np.lexsort(part[:, :2].T)] for part in (some, others)), rtol=1e-3, atol=0.05)


def test_heads_pixels_and_density_stay_together_from_labels_to_crops(tiny_config: RunConfig, tmp_path: Path) -> None:
    """Images seen larger than they are, patches cut from labels, and flips."""
    rng = np.random.default_rng(0)
    truths = []
    with ShardWriter(tmp_path / "images", name="images", split="all", labelled=False, converter="test") as shards:
        for index in range(6):
            places = np.stack(np.meshgrid(np.arange(12, 185, 20), np.arange(12, 135, 20)), -1).reshape(-1, 2)
            heads = rng.permutation(places)[:16] + rng.integers(-4, 5, (16, 2))
            truths.append(heads)
            _, png = cv2.imencode(".png", photograph(141, 193, heads, num_red=4))
            shards.add(f"image-{index}",
                       {"png": png.tobytes(), "json": {"id": f"image-{index}", "height": 141, "width": 193}})
    images = ShardReader((tmp_path / "images").as_uri())
    large = replace(tiny_config.stream, image_size=288, soft_share=0.0, colour_jitter=0.0, grey_share=0.0)
    made = method(replace(tiny_config, stream=large))
    labels = (tmp_path / "run" / "cycle-1" / "labels").as_uri()
    publish_labels(labels, images, [label_unit(Predictor(made, image_size=made.stream.image_size), images, range(6),
                                               labels)], name="labels")

    reader = ShardReader(labels)
    for index, heads in enumerate(truths):
        label = decode_labels(*reader.read(index))
        assert (len(label.detections) == 12 and len(label.doubtful) == 4
                and label.extent == pytest.approx((210 / 2, 288 / 2), abs=0.5))
        for some, truth in ((label.detections, heads[:12]), (label.doubtful, heads[12:])):
            for head in truth:
                assert np.abs(some[:, :2] - head).max(1).min() < 0.5, "pixels of the image as given"
            assert some[:, 2] == pytest.approx(8 / (288 / 193), rel=0.01)
        assert ({"regressor", "detector"} <= label.windows.keys()
                and all((part[:, 2:] == 32).all() for part in label.windows.values())), "cells"

    dataset = CropDataset(images.url, made.stream, labels_url=labels, plan_seed=0, name="a", open_points=False,
                          stride=2, windows="detector",
                          with_heads=True)
    places, num_heads, num_doubtful = set(), 0, 0
    for position in range(96):
        crop = dataset[position]
        assert crop["image"].shape == (64, 64, 3) and crop["density"].shape == (32, 32)
        _, _, _, centres = cv2.connectedComponentsWithStats((crop["image"][:, :, 0] > 155).astype(np.uint8))
        inner = [centre for centre in centres[1:] if centre.min() > 8 and centre.max() < 55]
        sure = [centre for centre in inner if crop["image"][int(centre[1]), int(centre[0]), 1] > 155]
        doubtful = [centre for centre in inner if crop["image"][int(centre[1]), int(centre[0]), 1] < 155]
        for centre in doubtful:
            assert np.abs(crop["doubtful"][:, :2] - centre).max(1).min() < 1.0, position
        for centre in sure:
            assert np.abs(crop["heads"][:, :2] - centre).max(1).min() < 1.0, position
            column, row = ((centre + 0.5) / 2).astype(int)
            assert crop["density"][row - 1 : row + 2,
                                   column - 1 : column + 2].max() == pytest.approx(crop["density"].max(), rel=0.2)
        assert len(crop["heads"]) >= len(sure) and len(crop["doubtful"]) >= len(doubtful)
        assert (crop["heads"][:, 2] == pytest.approx(8, rel=0.02)
                and crop["doubtful"][:, 2] == pytest.approx(8, rel=0.02))
        assert crop["density"].sum() == pytest.approx(len(crop["heads"]), abs=1.5)
        num_heads, num_doubtful = num_heads + len(sure), num_doubtful + len(doubtful)
        places.add(tuple(np.round(crop["heads"][:, 0], 1).tolist()))
    assert num_heads > 50 and num_doubtful > 6 and len(places) > 12, "patches of several images, flipped at times"
