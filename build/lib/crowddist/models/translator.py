"""Translator: CycleGAN's four networks, which show images of one domain as images of the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.config import TranslatorConfig

STRUCTURES: dict[str, dict[str, Any]] = {
    # P: patches of 70 x 70 px
    "published": {"width": 64, "num_blocks": 9, "adds": False, "patches": (64, 128, 256, 512)},
    "compact": {"width": 16, "num_blocks": 4, "adds": True, "patches": (24, 48, 96)},  # ours: patches of 34 x 34 px
}
"""Arguments of `Translator` by the name of its structure."""
INITIAL_STD = 0.02  # P
LEAK = 0.2  # P
REACH = 0.99  # ours: largest brightness, of -1 to 1, that the compact generator adds to; beyond, tanh has no slope.
MULTIPLE = 4  # two halvings
SMALLEST_PX = 8  # leaves two cells, each with a neighbour to mirror.


class Generator(nn.Module):
    """Translates an image: a wide convolution, two halvings, residual blocks, two doublings, a wide convolution.

    Source: Zhu et al., ICCV 2017, appendix: c7s1-k, d2k, d4k, R4k, ..., u2k, uk, c7s1-3, each but the last with
    instance normalisation and ReLU, borders mirrored, tanh at the end. Convolutions before a normalisation have no
    bias (ours). Images of any size are extended at the right and the bottom to multiples of 4 px, at least 8.

    Args:
        width: k, channels at full resolution
        num_blocks: residual blocks
        adds: tanh takes the image plus the layers' output, so translation starts as the identity (ours). After 150
            steps from scratch a small generator without it has no colours, shows bright as dark, and smears heads.
    """

    def __init__(self, *, width: int, num_blocks: int, adds: bool) -> None:
        super().__init__()
        self.adds = adds
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7, bias=False), _instance_norm(width),
                                   nn.ReLU(inplace=True)]
        for channels in (width, 2 * width):
            layers += [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False),
                       _instance_norm(2 * channels), nn.ReLU(inplace=True)]
        layers += [ResidualBlock(4 * width) for _ in range(num_blocks)]
        for channels in (4 * width, 2 * width):
            layers += [nn.ConvTranspose2d(channels, channels // 2, 3, 2, padding=1, output_padding=1, bias=False),
                       _instance_norm(channels // 2), nn.ReLU(inplace=True)]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images, 0 to 1 -> the same shape, 0 to 1."""
        height, width = images.shape[-2:]
        below, right = (max(-side % MULTIPLE, SMALLEST_PX - side) for side in (height, width))
        padded = functional.pad(2 * images - 1, (0, right, 0, below), mode="replicate")
        answer = self.layers(padded)
        if self.adds:
            answer = answer + torch.atanh(REACH * padded)
        return (torch.tanh(answer[..., :height, :width]) + 1) / 2


class ResidualBlock(nn.Module):
    """x + f(x), f two convolutions with mirrored borders. P."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, bias=False) for _ in range(2))
        self.change = nn.Sequential(nn.ReflectionPad2d(1), first, _instance_norm(channels), nn.ReLU(inplace=True),
                                    nn.ReflectionPad2d(1), second, _instance_norm(channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        return features + self.change(features)


class PatchDiscriminator(nn.Module):
    """Tells real images of a domain from made ones, for overlapping patches.

    Source: Zhu et al., ICCV 2017, appendix (PatchGAN of Isola et al.): 4x4 convolutions, all of stride 2 but the last
    two, leaky ReLU, the first without normalisation.

    Args:
        widths: channels of the convolutions before the answer
    """

    def __init__(self, *, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        for index in range(1, len(widths)):
            stride = 2 if index < len(widths) - 1 else 1
            layers += [nn.Conv2d(widths[index - 1], widths[index], 4, stride=stride, padding=1, bias=False)]
            layers += [_instance_norm(widths[index]), nn.LeakyReLU(LEAK)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images, 0 to 1 -> (N, 1, h, w), unbounded, 1 = real."""
        return self.layers(2 * images - 1)


class Translator(nn.Module):
    """A generator and a discriminator for each domain; the key names the domain that is made or recognised."""

    def __init__(self, *, width: int, num_blocks: int, adds: bool, patches: tuple[int, ...]) -> None:
        super().__init__()
        self.generators = nn.ModuleDict({domain: Generator(width=width, num_blocks=num_blocks, adds=adds)
                                         for domain in ("source", "target")})
        self.discriminators = nn.ModuleDict({domain: PatchDiscriminator(widths=patches)
                                             for domain in ("source", "target")})
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=INITIAL_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def build_translator(config: TranslatorConfig) -> Translator:
    """The networks that `config` describes; random weights come from torch's own generator."""
    return Translator(**STRUCTURES[config.backbone])


def _instance_norm(channels: int) -> nn.Module:
    """Each channel of each image to zero mean and unit variance, as groups of one channel.

    On a CPU torch 2.14's InstanceNorm2d has wrong gradients for one image with channels-last slopes, and is slower.
    """
    return nn.GroupNorm(channels, channels, affine=False)
