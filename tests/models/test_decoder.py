"""The decoders have the published shape, start at a small density, and the head tells up from down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crowddist.models.decoder import (
    INITIAL_DENSITY,
    Decoder,
    OrientationHead,
    build_orientation_head,
    published_decoder,
    small_decoder,
)
from crowddist.models.initialisation import init_kaiming
from crowddist.models.norm import SyncBatchNorm2d
from crowddist.models.spatial import SpatialEncoder


def _widths(layers: nn.Sequential) -> list[int]:
    return [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)]


def test_the_published_decoder() -> None:
    decoder = published_decoder(512)
    assert _widths(decoder.trunk) == [512] and _widths(decoder.rest) == [512, 512, 256, 128, 64, 1]
    convolutions = [layer for layer in (*decoder.trunk, *decoder.rest) if isinstance(layer, nn.Conv2d)]
    assert all(layer.kernel_size == (3, 3) and layer.dilation == (2, 2) for layer in convolutions[:-1])
    assert convolutions[-1].kernel_size == (1, 1)
    assert (isinstance(decoder.trunk[-1], nn.ReLU) and isinstance(decoder.rest[-1], nn.ReLU)
            and isinstance(decoder.rest[-3], SpatialEncoder))
    assert not any(isinstance(layer, SyncBatchNorm2d | nn.BatchNorm2d) for layer in decoder.modules())
    assert convolutions[0].weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_the_small_decoder() -> None:
    decoder = small_decoder(96)
    assert _widths(decoder.trunk) == [96] and _widths(decoder.rest) == [96, 64, 1]
    assert isinstance(decoder.rest[-1], nn.Softplus)
    assert sum(isinstance(layer, SyncBatchNorm2d) for layer in decoder.modules()) == 3


@pytest.mark.parametrize("build", [lambda: small_decoder(32), lambda: published_decoder(32)])
@pytest.mark.parametrize("seed", range(3))
def test_the_first_density_is_small_and_alive(build: object, seed: int) -> None:
    torch.manual_seed(seed)
    decoder: Decoder = build()
    density = decoder.rest(decoder.trunk(torch.rand(4, 32, 6, 9)))
    assert density.shape == (4, 1, 6, 9)
    assert INITIAL_DENSITY / 2 < density.mean().item() < 2 * INITIAL_DENSITY
    density.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in decoder.parameters())


def _head() -> OrientationHead:
    torch.manual_seed(0)
    head = OrientationHead(4, (8, 8))
    init_kaiming(head)
    return head


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 4), (13, 7), (40, 30)])
def test_the_head_takes_any_size(size: tuple[int, int]) -> None:
    assert _head()(torch.rand(2, 4, *size)).shape == (2, 2)


@pytest.mark.parametrize("heads, alike", [("small", True), ("published", False)])
def test_the_small_head_sees_features_at_one_scale(heads: str, alike: bool) -> None:
    torch.manual_seed(0)
    head, features = build_orientation_head(4, heads), torch.rand(2, 4, 16, 12)  # type: ignore[arg-type]
    init_kaiming(head)
    assert torch.allclose(head(features), head(20 * features + 3), atol=1e-4) == alike


def test_the_head_learns_which_way_is_up() -> None:
    head = _head()
    ramp = torch.linspace(0, 1, 16)[:, None].expand(4, 16, 12)  # Dark above, bright below.
    features = torch.stack([ramp, ramp.flip(1)]) + 0.1 * torch.rand(2, 4, 16, 12)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(20):
        loss = nn.functional.cross_entropy(head(features), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
