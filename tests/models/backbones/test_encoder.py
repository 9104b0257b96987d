"""Every row of the table says what its layers give, and the encoder hands it on."""

from __future__ import annotations

import functools
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from crowddist.models.backbones.base import Backbone, Use
from crowddist.models.backbones.encoder import (
    Encoder,
    FeaturePyramid,
    pretrained_parameters,
)
from crowddist.models.backbones.table import BACKBONES, names_for
from crowddist.models.norm import SyncBatchNorm2d

ENCODERS: list[tuple[str, Use]] = [
    (name, use) for name, row in BACKBONES.items() for use in row.uses if use in ("counter", "upsampling", "detector")
]
# Convolutions of the counter's: stem + 5; the first ten; the same; stem, and 3 + 4 + 23 blocks of 3, with 3 shortcuts.
CONVOLUTIONS = {"compact": 6, "vgg16": 10, "vgg16_bn": 10, "resnet50": 1 + 3 * 13 + 3, "resnet101": 1 + 3 * 30 + 3}


@functools.lru_cache(8)
def _built(name: str, use: Use, **options: bool) -> Encoder:
    torch.manual_seed(0)
    return Encoder(BACKBONES[name], use, **options).eval()


def _encoder(name: str, use: Use = "counter", **options: bool) -> Encoder:
    """The same one for all who only look at it; the next random numbers are those of the seed, too."""
    encoder = _built(name, use, **options)
    torch.manual_seed(0)
    return encoder


@pytest.mark.parametrize(("name", "use"), ENCODERS)
def test_strides_and_channels_are_those_of_the_table(name: str, use: Use) -> None:
    encoder, row = _encoder(name, use, joined=False), BACKBONES[name].uses[use]
    with torch.no_grad():
        found = encoder.features(torch.rand(1, 3, 64, 96))
    assert [level.shape[1:] for level in found] == [
        (channels, 64 // stride, 96 // stride) for channels, stride in zip(row.channels, row.strides, strict=True)
    ]
    assert all(level.isfinite().all() and level.std() > 1e-3 for level in found)


@pytest.mark.parametrize("name", names_for("counter"))
def test_one_map_of_the_finest_stride_for_images_of_any_size(name: str) -> None:
    """Of as many convolutions as published, and with synchronised norms alone."""
    encoder = _encoder(name)
    for size in ((64, 40), (33, 41), (1, 1)):
        with torch.no_grad():
            features = encoder(torch.rand(1, 3, *size))
        assert encoder.stride == 8
        assert features.shape == (1, encoder.channels, -(-size[0] // 8), -(-size[1] // 8)), size
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in encoder.modules())
    assert convolutions == CONVOLUTIONS.get(name, convolutions)
    assert any(isinstance(layer, SyncBatchNorm2d) for layer in encoder.modules()) == (name != "vgg16")
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in encoder.modules())


def test_the_third_layer_of_resnet_keeps_its_stride_without_dilation() -> None:
    convolutions = [layer for layer in _encoder("resnet101").modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.dilation == (1, 1) for layer in convolutions)
    # The stem, and layer 2 with its shortcut; max-pooling makes 8.
    assert sum(layer.stride == (2, 2) for layer in convolutions) == 3


def test_random_encoders_follow_the_seed() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(next(Encoder(BACKBONES["compact"], "counter").parameters()))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_pyramid_by_hand() -> None:
    """One channel at each of three levels: what is coarse is doubled twice."""
    pyramid = FeaturePyramid((1, 1, 1), 1)
    with torch.no_grad():
        for lateral, factor in zip(pyramid.laterals, (1.0, 10.0, 100.0), strict=True):
            lateral.weight.fill_(factor)
        joined = pyramid([torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)])
    torch.testing.assert_close(joined, torch.full((1, 1, 4, 4), 111.0))


def test_a_pyramid_equals_its_definition() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid((3, 5), 4)
    fine, coarse = torch.rand(2, 3, 6, 8), torch.rand(2, 5, 3, 4)
    with torch.no_grad():
        expected = torch.einsum("oc,nchw->nohw", pyramid.laterals[1].weight[:, :, 0, 0], coarse)
        expected = functional.interpolate(expected, (6, 8), mode="bilinear", align_corners=False)
        expected = expected + torch.einsum("oc,nchw->nohw", pyramid.laterals[0].weight[:, :, 0, 0], fine)
        torch.testing.assert_close(pyramid([fine, coarse]), expected)


def test_padding_is_the_mean_colour_at_the_right_and_the_bottom() -> None:
    encoder, images = _encoder("efficientnet_lite0"), torch.rand(1, 3, 20, 27)
    padded = encoder.normalise.mean.expand(1, 3, 32, 32).clone()
    padded[:, :, :20, :27] = images
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), encoder(padded)[..., :3, :4])


@pytest.mark.parametrize(("name", "white"), [("compact", (1 - 0.485) / 0.229), ("efficientnet_lite0", 1.0)])
def test_images_are_normalised_as_the_weights_expect(name: str, white: float) -> None:
    normalised = _encoder(name).normalise(torch.ones(1, 3, 32, 32), 32)
    torch.testing.assert_close(normalised[:, 0], torch.full((1, 32, 32), white))


def test_pretrained_parameters_are_those_of_levels_that_start_from_weights() -> None:
    """They learn more slowly; without weights they are random, and learn as all else."""
    assert pretrained_parameters(nn.ModuleList([_encoder("efficientnet_lite0")])) == set()
    encoder = _encoder("efficientnet_lite0", pretrained=True)
    assert (pretrained_parameters(nn.ModuleList([encoder])) == set(encoder.levels.parameters())
            < set(encoder.parameters()))


def test_statistics_are_kept_where_there_are_weights() -> None:
    free, kept = _encoder("efficientnet_lite0"), _encoder("efficientnet_lite0", pretrained=True)
    assert not any(layer.frozen for layer in free.modules() if isinstance(layer, SyncBatchNorm2d))
    assert all(layer.frozen for layer in kept.modules() if isinstance(layer, SyncBatchNorm2d))


@pytest.mark.parametrize(("stride_px", "last"), [(0, -1), (2, 1), (4, 3), (8, 5), (16, 11), (32, 16)])
def test_the_first_layers_are_told_by_the_stride_of_their_features(stride_px: int, last: int) -> None:
    """Of lite0: the stem and block 0 have stride 2; block 1 is the first of stride 4, block 3 of 8, block 5 of 16,
    block 11 of 32.
    """
    kept = _encoder("efficientnet_lite0", pretrained=True)
    layers = dict(child for level in kept.levels for child in level.named_children())
    first = nn.ModuleList([layers[name] for name in ("stem", *(f"block{number}" for number in range(16)))[: last + 1]])
    assert pretrained_parameters(nn.ModuleList([kept]), stride_px) == set(first.parameters())
    assert pretrained_parameters(_encoder("efficientnet_lite0"), stride_px) == set(), "nothing to keep"
    assert pretrained_parameters(_encoder("vgg16", pretrained=True), stride_px) == set()


def test_a_checkpoint_of_version_0_1_still_fills_the_compact_encoder() -> None:
    encoder = _encoder("compact")
    other = deepcopy(encoder)
    former = {f"layers.{name.removeprefix('levels.0.')}": tensor + 1 for name, tensor in encoder.state_dict().items()}
    other.load_state_dict(former)
    assert torch.equal(next(other.parameters()), next(encoder.parameters()) + 1)


@pytest.mark.parametrize("row", BACKBONES.values(), ids=lambda row: row.name)
def test_rows_are_whole(row: Backbone) -> None:
    for features in row.uses.values():
        assert features.context_px > 0 and features.context_px % 32 == 0
        assert len(features.strides) == len(features.channels) and list(features.strides) == sorted(features.strides)
    assert row.weights is None or len(row.weights.digest) == 8
