"""Dssinet: the regressor of bi-knowledge transfer, which exchanges features between three sizes of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.config import RegressorConfig
from crowddist.models.initialisation import NORMAL_STD, init_normal
from crowddist.models.norm import SyncBatchNorm2d
from crowddist.models.normalise import Normalise
from crowddist.models.vgg import VGG_WIDTHS, vgg_convolutions

PYRAMID = (2.0, 1.0, 0.5)  # P: the sizes of the image; C: resized bilinearly.
NUM_LEVELS = 4  # C: conv1_2, conv2_2, conv3_3 and conv4_3 of VGG-16.
NUM_DENSITIES = NUM_LEVELS + len(PYRAMID) - 2  # resolutions at which features of several sizes meet, and the coarsest: five decoders.
MEAN_FIELD_STEPS = 2  # C
HIDDEN = 128  # C: between the two convolutions of a decoder.
COMPACT_WIDTHS = (16, 32, 64, 96)  # ours
COMPACT_HIDDEN = 32  # ours
COMPACT_STRIDE = 2  # ours: a stem of stride 2, where VGG-16 begins with every pixel.
INITIAL_DENSITY = 0.05 / 64  # ours, persons per px, as the counters of `models.decoder` begin.


class Dssinet(nn.Module):
    """Deep structured scale integration network: image pyramid, message passing, five decoders from coarse to fine.

    Source: Liu et al., Crowd Counting with Deep Structured Scale Integration Network, ICCV 2019, and its released CRFVGG.py (C).
    One stack of blocks reads the image at twice, once and half its size. Block l of the image of size s gives features of stride
    2^l / s, so up to three sizes meet at every stride; there each hears the others by a conditional random field of two mean-field
    steps, and what was heard goes on through the blocks. A decoder at each stride makes a density of what is there, corrected by the
    coarser one.

    Images of any size are padded at the right and the bottom to multiples of 16 cells. A map has ceil(H / stride) x ceil(W / stride)
    cells and holds persons per cell; its sum is the count.

    Args:
        blocks: `NUM_LEVELS` modules; each halves the resolution of its input, but for the first, which divides it by `output_stride`.
            They are called with (features, index of the size in `PYRAMID`) and give features that nothing has activated yet.
        widths: of the blocks.
        hidden: channels between the convolutions of a decoder.
        output_stride: pixels of the image along a cell's side.
        activation: of the final density: it must not be negative.
    """

    def __init__(self, blocks: Sequence[nn.Module], *, widths: Sequence[int], hidden: int, output_stride: int, activation: nn.Module) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.normalise = Normalise()
        self.blocks = nn.ModuleList(blocks)
        meeting = [[widths[level] for _, level in _members(place)] for place in range(NUM_DENSITIES)]
        self.messages = nn.ModuleList([MessagePassing(channels) if len(channels) > 1 else nn.ReLU() for channels in meeting])
        self.decoders = nn.ModuleList([nn.Sequential(nn.Conv2d(sum(channels), hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 3, padding=1))
                                       for channels in meeting])
        self.corrections = nn.ModuleList([nn.Conv2d(1, 1, 3, padding=1) for _ in range(NUM_DENSITIES - 1)])
        self.density_activation = nn.PReLU()
        self.activation = activation

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images in [0, 1] -> (N, 1, ceil(H / stride), ceil(W / stride)) persons per cell, not negative.

        Raises:
            ValueError: `images` is not a batch of RGB images.
        """
        height, width = images.shape[-2:]
        padded = self.normalise(images, self.output_stride * 2 ** (NUM_DENSITIES - 1))
        features = [padded if size == 1 else _resized(padded, size) for size in PYRAMID]
        features[0] = functional.relu(self.blocks[0](features[0], 0))  # the finest has no other to hear
        gathered = []
        for place in range(NUM_DENSITIES):
            members = _members(place)
            spoken = [self.blocks[level](features[size], size) for size, level in members]
            heard = self.messages[place](spoken) if len(members) > 1 else [self.messages[place](spoken[0])]
            for (size, _), one in zip(members, heard, strict=True):
                features[size] = one
            gathered.append(torch.cat(heard, dim=1))
        density = self.density_activation(self.decoders[-1](gathered[-1]))
        for place in range(NUM_DENSITIES - 2, -1, -1):
            corrected = self.decoders[place](gathered[place]) + self.corrections[place](_resized(density, 2.0))
            density = self.density_activation(corrected) if place else self.activation(corrected)
        return density[..., : -(-height // self.output_stride), : -(-width // self.output_stride)]

    def last_two_layers(self) -> list[nn.Parameter]:
        """The parameters of the two convolutions of every decoder.

        Source: Liu et al., MM 2020, Sec. 4.2: "only weights of the last two layers are updated"; which ones is our reading.
        """
        return list(self.decoders.parameters())


class MessagePassing(nn.Module):
    """Features of one resolution hear each other: h_i <- relu(h_i + prelu(sum over j != i of W_ji h_j)), twice.

    Source: ICCV 2019, Eqs. 2 and 3; weights shared by both mean-field steps (C).
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ModuleDict({f"{j}_to_{i}": nn.Conv2d(channels[j], channels[i], 1)
                                      for i in range(len(channels)) for j in range(len(channels)) if i != j})
        self.activation = nn.PReLU()

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """(N, C_i, h, w) each -> the same shapes, not negative."""
        hidden = list(features)
        for _ in range(MEAN_FIELD_STEPS):
            heard = [sum(self.weights[f"{j}_to_{i}"](other) for j, other in enumerate(hidden) if j != i) for i in range(len(hidden))]
            hidden = [functional.relu(own + self.activation(message)) for own, message in zip(hidden, heard, strict=True)]
        return hidden


class VggBlock(nn.Module):
    """One block of VGG-16 without its last activation; the same for all sizes of the image."""

    def __init__(self, convolutions: Sequence[nn.Conv2d], *, pool: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if pool else []
        for index, convolution in enumerate(convolutions):
            layers += [nn.PReLU()] if index else []  # C: its VGG has PReLUs.
            layers.append(convolution)
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor, size: int) -> Tensor:
        """See `Dssinet`."""
        del size
        return self.layers(features)


class CompactBlock(nn.Module):
    """Two 3x3 convolutions to train from scratch (ours); each size of the image has a normalisation of its own.

    What is sharp at twice the size is soft at once, so the statistics of one size tell nothing of another's.
    """

    def __init__(self, in_channels: int, channels: int, *, stem: bool) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, channels, 5, stride=COMPACT_STRIDE, padding=2, bias=False)
        self.pool = nn.Identity() if stem else nn.MaxPool2d(2)
        self.first = first if stem else nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.ModuleList([SyncBatchNorm2d(channels) for _ in PYRAMID]) for _ in range(2)])

    def forward(self, features: Tensor, size: int) -> Tensor:
        """See `Dssinet`."""
        first, second = self.norms
        hidden = functional.relu(first[size](self.first(self.pool(features))))  # type: ignore[index]
        return second[size](self.second(hidden))  # type: ignore[index]


def build_dssinet(config: RegressorConfig) -> Dssinet:
    """The regressor that `config` describes; random weights come from torch's own generator.

    Raises:
        InputError, FileNotFoundError: the weights cannot be had, or are of another architecture.
    """
    if config.backbone == "vgg16":
        groups = vgg_convolutions(config.weights)
        blocks: list[nn.Module] = [VggBlock(group, pool=index > 0) for index, group in enumerate(groups)]
        network = Dssinet(blocks, widths=VGG_WIDTHS, hidden=HIDDEN, output_stride=1, activation=nn.ReLU())
        for part in (network.messages, network.decoders, network.corrections):
            init_normal(part)
        # ours: N(0, 0.01) alone makes of VGG's features up to a hundred times that density or, for one seed in six, less than zero everywhere.
        for last in (network.decoders[0][-1], network.corrections[0]):  # type: ignore[index]
            nn.init.normal_(last.weight, std=NORMAL_STD * INITIAL_DENSITY)  # type: ignore[arg-type]
        start = INITIAL_DENSITY
    else:
        channels = (3, *COMPACT_WIDTHS)
        blocks = [CompactBlock(channels[level], channels[level + 1], stem=level == 0) for level in range(NUM_LEVELS)]
        network = Dssinet(blocks, widths=COMPACT_WIDTHS, hidden=COMPACT_HIDDEN, output_stride=COMPACT_STRIDE, activation=nn.Softplus())
        start = math.log(math.expm1(INITIAL_DENSITY * COMPACT_STRIDE**2))
    # ours: with a bias of 0 a last ReLU may begin below zero everywhere, where it passes no gradient.
    nn.init.constant_(network.decoders[0][-1].bias, start)  # type: ignore[index,arg-type]
    return network.to(memory_format=torch.channels_last)


def _members(place: int) -> list[tuple[int, int]]:
    """(index of the size, level) of the features that meet at a place: the larger image's deeper level with the smaller one's shallower."""
    return [(size, place + 1 - size) for size in range(len(PYRAMID)) if 0 <= place + 1 - size < NUM_LEVELS]


def _resized(maps: Tensor, scale: float) -> Tensor:
    return functional.interpolate(maps, scale_factor=scale, mode="bilinear", align_corners=False)
