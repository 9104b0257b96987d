"""Folded networks answer as before, and hold no normalisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from crowddist.models.config import CounterConfig, DetectorConfig, RegressorConfig
from crowddist.models.counter import build_counter
from crowddist.models.detector import build_detector
from crowddist.models.dssinet import build_dssinet
from crowddist.models.folding import fold_norms
from crowddist.models.norm import SyncBatchNorm2d

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "compact counter": lambda: build_counter(CounterConfig(ensemble="none")),
    "lite0 counter": lambda: build_counter(CounterConfig(backbone="efficientnet_lite0", weights="imagenet",
                                                         ensemble="none")),
    "vgg16_bn counter": lambda: build_counter(CounterConfig(backbone="vgg16_bn", ensemble="none")),
    "upsampling counter": lambda: build_counter(CounterConfig(backbone="vgg16_bn", decoder="upsampling_large",
                                                              decoder_norm=True, ensemble="none", density_factor=100)),
    "compact detector": lambda: build_detector(DetectorConfig()),
    "lite0 detector": lambda: build_detector(DetectorConfig(backbone="efficientnet_lite0", weights="imagenet")),
    "compact regressor": lambda: build_dssinet(RegressorConfig()),
    "lite0 regressor": lambda: build_dssinet(RegressorConfig(backbone="efficientnet_lite0", weights="imagenet")),
}


def _moved(network: nn.Module) -> nn.Module:
    """With statistics and scales that are not those of a new layer."""
    generator = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, SyncBatchNorm2d):
            with torch.no_grad():
                layer.running_mean.add_(0.2 * torch.randn(layer.channels, generator=generator))
                layer.weight.mul_(0.5 + torch.rand(layer.channels, generator=generator))
    return network.eval()


def _answers(network: nn.Module) -> list[torch.Tensor]:
    with torch.inference_mode():
        answer = network(torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(2)))
    return [answer] if isinstance(answer, torch.Tensor) else list(answer)


@pytest.mark.parametrize("name", NETWORKS)
def test_answers_stay_the_same_without_a_norm_and_folding_again_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    network = _moved(NETWORKS[name]())
    before, calls = _answers(network), list[str]()
    network = fold_norms(network)
    for layer in network.modules():
        if isinstance(layer, SyncBatchNorm2d):
            layer.register_forward_hook(lambda *_: calls.append("normalised"))
    once = _answers(network)
    for own, folded in zip(before, once, strict=True):
        torch.testing.assert_close(folded, own, rtol=1e-4, atol=1e-4 * float(own.abs().max()))
    assert not calls or not name.endswith(" counter")
    assert torch.equal(once[0], _answers(fold_norms(network))[0])


def test_one_pass_is_the_decoder_behind_the_mean_of_the_masks() -> None:
    torch.manual_seed(0)
    counter = _moved(build_counter(CounterConfig(num_masks=3)))
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        features = counter.encode(images)
        mean = counter.masks.masks.float().mean(0)[:, None, None]
        expected = counter.decoder.rest(counter.decoder.trunk(features) * mean)
        counter.one_pass = True
        assert torch.equal(counter.members(features), expected[None])
