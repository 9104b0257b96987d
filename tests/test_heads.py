"""Heads on their way: from a network's pixels through tiles to those of the image, into label shards, and into the crops of a detector."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from crowddist import predictor
from crowddist.config import RunConfig
from crowddist.data.sample import Prediction
from crowddist.data.shards import ShardReader, ShardWriter, decode_labels
from crowddist.data.stream import CropDataset
from crowddist.labels import label_unit, publish_labels
from crowddist.methods.bi_knowledge import BiKnowledge
from crowddist.predictor import Predictor

RADIUS_PX = 4


class BrightHeads(BiKnowledge):
    """Detects bright discs, exactly; the density and the transformer see nobody."""

    def predict(self, images: Tensor) -> Prediction:
        density = torch.zeros(len(images), 1, *(-(-side // self.output_stride) for side in images.shape[2:]))
        found = []
        for image in images.numpy():
            _, _, _, centres = cv2.connectedComponentsWithStats((image[0] > 0.6).astype(np.uint8))
            found.append(np.column_stack([centres[1:], np.tile([8.0, 0.9], (len(centres) - 1, 1))]).astype(np.float32).reshape(-1, 4))
        return Prediction(density=density, spread=density, detections=found, transformed=[one[:0] for one in found])


def photograph(height: int, width: int, heads: np.ndarray) -> np.ndarray:
    image = np.full((height, width, 3), 60, np.uint8)
    for x, y in heads.tolist():
        cv2.circle(image, (x, y), RADIUS_PX, (250, 250, 250), -1)
    return image


def method(config: RunConfig) -> BrightHeads:
    return BrightHeads(replace(config, method="bi_knowledge"))


def test_tiles_give_every_head_once_where_it_is(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a seam, in a corner, and where the last cells reach beyond the image."""
    heads = np.array([[10, 10], [127, 60], [128, 100], [129, 140], [255, 256], [256, 30], [60, 128], [300, 255], [414, 292], [4, 294]])
    monkeypatch.setattr(predictor, "TILE_PX", 128)
    found = Predictor(method(tiny_config), image_size=0).predict(photograph(299, 419, heads))
    assert found.sizes is not None and len(found.points) == len(heads) and (found.sizes == 8).all()
    for head in heads:
        assert np.abs(found.points[:, :2] - head).max(1).min() < 1e-3
    assert found.count == pytest.approx(len(heads), rel=1e-3), "the density is that of the heads"


def test_heads_pixels_and_density_stay_together_from_labels_to_crops(tiny_config: RunConfig, tmp_path: Path) -> None:
    """Images seen larger than they are, patches cut from labels, and flips."""
    rng = np.random.default_rng(0)
    truths = []
    with ShardWriter(tmp_path / "images", name="images", split="all", labelled=False, converter="test") as shards:
        for index in range(6):
            places = np.stack(np.meshgrid(np.arange(12, 185, 20), np.arange(12, 135, 20)), -1).reshape(-1, 2)
            heads = rng.permutation(places)[:12] + rng.integers(-4, 5, (12, 2))
            truths.append(heads)
            _, png = cv2.imencode(".png", photograph(141, 193, heads))
            shards.add(f"image-{index}", {"png": png.tobytes(), "json": {"id": f"image-{index}", "height": 141, "width": 193}})
    images = ShardReader((tmp_path / "images").as_uri())
    large = replace(tiny_config.stream, image_size=288, soft_share=0.0, colour_jitter=0.0, grey_share=0.0)
    made = method(replace(tiny_config, stream=large))
    labels = (tmp_path / "run" / "cycle-1" / "labels").as_uri()
    publish_labels(labels, images, [label_unit(Predictor(made, image_size=made.stream.image_size), images, range(6), labels)], name="labels")

    reader = ShardReader(labels)
    for index, heads in enumerate(truths):
        label = decode_labels(*reader.read(index))
        assert len(label.detections) == 12 and label.extent == pytest.approx((210 / 2, 288 / 2), abs=0.5)
        for head in heads:
            assert np.abs(label.detections[:, :2] - head).max(1).min() < 0.5, "pixels of the image as given"
        assert label.detections[:, 2] == pytest.approx(8 / (288 / 193), rel=0.01)
        assert {"regressor", "detector"} <= label.windows.keys() and all((part[:, 2:] == 32).all() for part in label.windows.values()), "cells"

    dataset = CropDataset(images.url, made.stream, labels_url=labels, plan_seed=0, name="a", open_points=False, stride=2, windows="detector",
                          with_heads=True)
    places, num_heads = set(), 0
    for position in range(48):
        crop = dataset[position]
        assert crop["image"].shape == (64, 64, 3) and crop["density"].shape == (32, 32)
        _, _, _, centres = cv2.connectedComponentsWithStats((crop["image"][:, :, 0] > 155).astype(np.uint8))
        inner = [centre for centre in centres[1:] if centre.min() > 8 and centre.max() < 55]
        for centre in inner:
            assert np.abs(crop["heads"][:, :2] - centre).max(1).min() < 1.0, position
            column, row = ((centre + 0.5) / 2).astype(int)
            assert crop["density"][row - 1 : row + 2, column - 1 : column + 2].max() == pytest.approx(crop["density"].max(), rel=0.2)
        assert len(crop["heads"]) >= len(inner) and crop["heads"][:, 2] == pytest.approx(8, rel=0.02)
        assert crop["density"].sum() == pytest.approx(len(crop["heads"]), abs=1.5)
        num_heads += len(inner)
        places.add(tuple(np.round(crop["heads"][:, 0], 1).tolist()))
    assert num_heads > 25 and len(places) > 12, "patches of several images, flipped at times"
