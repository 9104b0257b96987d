"""A deep ensemble: several counters with separate weights."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from crowddist.models.config import CounterConfig
from crowddist.models.counter import Counter, build_counter


class DeepEnsemble(nn.Module):
    """M separate counters behind the interface of one `Counter`; features have the members in front.

    Every member learns from every sample, so a step costs M times that of one counter.
    Source: Lakshminarayanan et al., NeurIPS 2017; random initialisation alone makes the members differ.
    """

    def __init__(self, counters: list[Counter]) -> None:
        super().__init__()
        self.counters = nn.ModuleList(counters)
        self.num_members = len(counters)
        self.output_stride = counters[0].output_stride

    @property
    def density_factor(self) -> Tensor | None:
        """As of a `Counter`; all members have one unit."""
        return self._members()[0].density_factor

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images, 0 to 1 -> (M, N, C, h, w) features."""
        return torch.stack([counter.encode(images) for counter in self._members()])

    def training_maps(self, features: Tensor, draws: Tensor) -> Tensor:
        """(M * N, 1, h, w), persons per cell: the maps of all samples by the first member, then by the next."""
        return torch.cat([counter.training_maps(own, draws)
                          for counter, own in zip(self._members(), features, strict=True)])

    def members(self, features: Tensor) -> Tensor:
        """(M, N, 1, h, w), persons per cell, by every member."""
        return torch.stack([counter.density(own) for counter, own in zip(self._members(), features, strict=True)])

    def orientation(self, features: Tensor) -> Tensor:
        """(M * N, 2) logits: upright, upside-down; all samples by the first member, then by the next."""
        return torch.cat([counter.orientation(own) for counter, own in zip(self._members(), features, strict=True)])

    def orientation_parameters(self) -> list[nn.Parameter]:
        """Parameters of all orientation heads."""
        return [parameter for counter in self._members() for parameter in counter.orientation_parameters()]

    def _members(self) -> list[Counter]:
        return cast(list[Counter], list(self.counters))


def member_maps(network: Counter | DeepEnsemble, images: Tensor) -> Tensor:
    """(N, 3, H, W) images, 0 to 1 -> (M, N, 1, h, w) float32 persons per cell by every member, without the cells beyond
    the images.
    """
    stride = network.output_stride
    # Of positive numbers alone: in ONNX the quotient of a negative one is cut towards zero.
    rows, columns = ((side + stride - 1) // stride for side in images.shape[2:])
    return network.members(network.encode(images))[..., :rows, :columns].float()


def build_networks(config: CounterConfig) -> Counter | DeepEnsemble:
    """The counter that `config` describes, or `num_masks` of them for a deep ensemble. Raises: as `build_counter`."""
    if config.ensemble != "deep":
        return build_counter(config)
    single = replace(config, ensemble="none")
    return DeepEnsemble([build_counter(single) for _ in range(config.num_masks)])
