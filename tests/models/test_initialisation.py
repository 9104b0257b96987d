"""Random weights have the spread that was asked for, and come from torch's generator."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from crowddist.models.initialisation import init_kaiming, init_normal


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.Conv1d(128, 64, 9), nn.Conv2d(4, 4, 1, bias=False))


def test_normal_weights_and_no_biases() -> None:
    torch.manual_seed(0)
    network = _network()
    init_normal(network)
    for layer in (network[0], network[2]):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not layer.bias.any()


def test_kaiming_keeps_the_variance_through_relus() -> None:
    torch.manual_seed(0)
    network = _network()
    init_kaiming(network)
    assert network[0].weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert network[2].weight.std().item() == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert not network[0].bias.any()


@pytest.mark.parametrize("initialise", [init_normal, init_kaiming])
def test_equal_seeds_give_equal_weights(initialise: object) -> None:
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        network = _network()
        initialise(network)
        networks.append(network[0].weight)
    assert torch.equal(networks[0], networks[1]) and not torch.equal(networks[0], networks[2])
