"""Every encoder has output stride 8 and the channels of its publication."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crowddist.models.backbone import build_encoder
from crowddist.models.config import CounterConfig
from crowddist.models.norm import SyncBatchNorm2d

CHANNELS = {"compact": 96, "vgg16": 512, "vgg16_bn": 512, "resnet101": 1024}
# Convolutions by backbone: stem + 5; the first ten; the same; stem, and 3 + 4 + 23 blocks of 3, with 3 shortcuts.
CONVOLUTIONS = {"compact": 6, "vgg16": 10, "vgg16_bn": 10, "resnet101": 1 + 3 * 30 + 3}


@pytest.mark.parametrize("name", CHANNELS)
def test_stride_channels_and_depth(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(CounterConfig(backbone=name)).eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 64, 40))
    assert encoder.channels == CHANNELS[name]
    assert features.shape == (1, CHANNELS[name], 8, 5)
    assert features.isfinite().all() and features.min() >= 0 and features.std() > 1e-3
    assert sum(isinstance(layer, nn.Conv2d) for layer in encoder.modules()) == CONVOLUTIONS[name]


@pytest.mark.parametrize("name", ["compact", "vgg16_bn", "resnet101"])
def test_every_batch_norm_is_synchronised(name: str) -> None:
    encoder = build_encoder(CounterConfig(backbone=name))
    assert any(isinstance(layer, SyncBatchNorm2d) for layer in encoder.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in encoder.modules())


def test_the_third_layer_of_resnet_keeps_its_stride_without_dilation() -> None:
    encoder = build_encoder(CounterConfig(backbone="resnet101"))
    convolutions = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.dilation == (1, 1) for layer in convolutions)
    assert sum(layer.stride == (2, 2) for layer in convolutions) == 3  # The stem, and layer 2 with its shortcut; max-pooling makes 8.


def test_random_encoders_follow_the_seed() -> None:
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build_encoder(CounterConfig()).layers[0].weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
