"""Dssinet: the regressor of bi-knowledge transfer, which exchanges features between three sizes of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.base import HeadWidth
from crowddist.models.backbones.encoder import Encoder, accept_former_names
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import RegressorConfig
from crowddist.models.initialisation import NORMAL_STD, fill_bias, init_normal
from crowddist.models.weights import load_start

PYRAMID = (2.0, 1.0, 0.5)  # P: the sizes of the image; C: resized bilinearly.
NUM_LEVELS = 4  # C: conv1_2, conv2_2, conv3_3 and conv4_3 of VGG-16.
NUM_DENSITIES = NUM_LEVELS + len(PYRAMID) - 2  # resolutions where several sizes meet, and the coarsest: five decoders
MEAN_FIELD_STEPS = 2  # C
HIDDEN: dict[HeadWidth, int] = {"published": 128, "small": 32}
"""Channels between the two convolutions of a decoder; C, and ours."""
INITIAL_DENSITY = 0.05 / 64  # ours, persons per px, as in `models.decoder`.


class Dssinet(nn.Module):
    """Deep structured scale integration network: image pyramid, message passing, five decoders from coarse to fine.

    Source: Liu et al., Crowd Counting with Deep Structured Scale Integration Network, ICCV 2019, and its released
    CRFVGG.py (C). One stack of blocks reads the image at twice, once and half its size. Block l of the image of size s
    gives features of stride 2^l / s, so up to three sizes meet at every stride. There they exchange messages by a
    conditional random field of two mean-field steps, and the results go on through the blocks. A decoder at each stride
    makes a density of them, corrected by the coarser density.

    Images of any size are padded at the right and the bottom to multiples of 16 cells.

    Args:
        encoder: of `NUM_LEVELS` levels, which take (features, index of the size in `PYRAMID`) and give features that
            are not activated; each halves the resolution, but the first divides it by the output stride
        hidden: channels between the convolutions of a decoder
        activation: of the final density, >= 0
    """

    def __init__(self, encoder: Encoder, *, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.encoder, self.output_stride, widths = encoder, encoder.stride, encoder.widths
        meeting = [[widths[level] for _, level in _members(place)] for place in range(NUM_DENSITIES)]
        self.messages = nn.ModuleList([MessagePassing(channels) if len(channels) > 1 else nn.ReLU()
                                       for channels in meeting])
        self.decoders = nn.ModuleList([nn.Sequential(nn.Conv2d(sum(channels), hidden, 1), nn.ReLU(inplace=True),
                                                     nn.Conv2d(hidden, 1, 3, padding=1))
                                       for channels in meeting])
        self.corrections = nn.ModuleList([nn.Conv2d(1, 1, 3, padding=1) for _ in range(NUM_DENSITIES - 1)])
        self.density_activation = nn.PReLU()
        self.activation = activation
        accept_former_names(self, "blocks.", "encoder.levels.")

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images, 0 to 1 -> (N, 1, ceil(H / stride), ceil(W / stride)), persons per cell, >= 0.

        Raises:
            ValueError: `images` is not a batch of RGB images.
        """
        height, width = images.shape[-2:]
        blocks = self.encoder.levels
        padded = self.encoder.normalise(images, self.output_stride * 2 ** (NUM_DENSITIES - 1))
        features = [padded if size == 1 else _resized(padded, size) for size in PYRAMID]
        features[0] = functional.relu(blocks[0](features[0], 0))  # the finest gets no message
        gathered = []
        for place in range(NUM_DENSITIES):
            members = _members(place)
            sent = [blocks[level](features[size], size) for size, level in members]
            received = self.messages[place](sent) if len(members) > 1 else [self.messages[place](sent[0])]
            for (size, _), one in zip(members, received, strict=True):
                features[size] = one
            gathered.append(torch.cat(received, dim=1))
        density = self.density_activation(self.decoders[-1](gathered[-1]))
        for place in range(NUM_DENSITIES - 2, -1, -1):
            corrected = self.decoders[place](gathered[place]) + self.corrections[place](_resized(density, 2.0))
            density = self.density_activation(corrected) if place else self.activation(corrected)
        return density[..., : -(-height // self.output_stride), : -(-width // self.output_stride)]

    def last_two_layers(self) -> list[nn.Parameter]:
        """Parameters of the two convolutions of every decoder.

        Source: Liu et al., MM 2020, Sec. 4.2: "only weights of the last two layers are updated"; our reading.
        """
        return list(self.decoders.parameters())


class MessagePassing(nn.Module):
    """Message passing between features of one resolution: h_i <- relu(h_i + prelu(sum over j != i of W_ji h_j)), twice.

    Source: ICCV 2019, Eqs. 2 and 3; both mean-field steps share their weights (C).
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ModuleDict({f"{j}_to_{i}": nn.Conv2d(channels[j], channels[i], 1)
                                      for i in range(len(channels)) for j in range(len(channels)) if i != j})
        self.activation = nn.PReLU()

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(N, C_i, h, w) each -> the same shapes, >= 0."""
        hidden = list(features)
        for _ in range(MEAN_FIELD_STEPS):
            messages = [sum(self.weights[f"{j}_to_{i}"](other) for j, other in enumerate(hidden) if j != i)
                        for i in range(len(hidden))]
            hidden = [functional.relu(own + self.activation(message))
                      for own, message in zip(hidden, messages, strict=True)]
        return hidden


def build_dssinet(config: RegressorConfig) -> Dssinet:
    """The regressor that `config` describes; random weights from torch's own generator. Raises: as `build_counter`."""
    backbone = BACKBONES[config.backbone]
    published = backbone.heads == "published"
    encoder = Encoder(backbone, "regressor", pretrained=config.weights != "none", joined=False)
    network = Dssinet(encoder, hidden=HIDDEN[backbone.heads], activation=nn.ReLU() if published else nn.Softplus())
    start = INITIAL_DENSITY * network.output_stride**2
    if published:
        for part in (network.messages, network.decoders, network.corrections):
            init_normal(part)
    if backbone.weights is not None:
        # ours: with N(0, 0.01) VGG's features give up to a hundred times that density or, for one seed in six, values
        # below zero everywhere; EfficientNet's are as strong, but softplus lets values below zero learn.
        for last in (network.decoders[0][-1], network.corrections[0]):  # type: ignore[index]
            strength = INITIAL_DENSITY if published else 1
            nn.init.normal_(last.weight, std=NORMAL_STD * strength)  # type: ignore[arg-type]
    if not published:
        start = math.log(math.expm1(start))  # softplus turns it into that density
    # ours: with a bias of 0 a last ReLU may start below zero everywhere and pass no gradient.
    fill_bias(network.decoders[0][-1], start)  # type: ignore[index]
    load_start(network, encoder, name="regressor", weights=config.weights, backbone=backbone)
    return network.to(memory_format=torch.channels_last)


def _members(place: int) -> list[tuple[int, int]]:
    """(index of the size, level) of the features that meet at a place: deeper levels of larger images."""
    return [(size, place + 1 - size) for size in range(len(PYRAMID)) if 0 <= place + 1 - size < NUM_LEVELS]


def _resized(maps: Tensor, scale: float) -> Tensor:
    return functional.interpolate(maps, scale_factor=scale, mode="bilinear", align_corners=False)
