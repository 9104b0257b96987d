"""Backbone: the facts about an encoder that a network needs before it is built. Imports no torch, so it is fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Use = Literal["counter", "upsampling", "regressor", "detector", "localiser"]
"""What features are for. `upsampling`: the counter with a decoder of ICASSP 2020; `counter`: all others."""

HeadWidth = Literal["small", "published"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The layers that one use takes of a backbone, in groups that run one after the other."""

    build: Callable[[], Sequence[nn.Module]]
    """Builds the groups with random weights from torch's own generator."""
    strides: tuple[int, ...]
    """Side of a cell after each group, px of the image."""
    channels: tuple[int, ...]
    """Channels after each group."""
    context_px: int = 256
    """Margin of image around each tile of a large image, px, a multiple of 32: content farther away does not matter."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Where to get ImageNet weights of a backbone."""

    url: str
    """Download address; the file name ends with the first digits of the file's sha256."""
    package: str = ""
    """pip's name of the Python package with the same file; empty: there is none."""
    file: str = ""
    """The file's path inside the package's folder."""

    @property
    def digest(self) -> str:
        """First hexadecimal digits of the file's sha256."""
        return (self.file or self.url).rpartition(".")[0].rpartition("-")[2]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A row of the table."""

    name: str
    uses: Mapping[Use, Features]
    """The layers of each use; a missing use is not available with this backbone."""
    heads: HeadWidth = "small"
    """Width of decoders and heads: small for a CPU, or as published behind VGG and ResNet."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of red, green and blue, 0 to 1, of the images that the weights were trained with."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Their standard deviation, 0 to 1."""
    weights: Pretrained | None = None
    """None: it trains from scratch."""
    keeps_statistics: bool = False
    """Batch norms keep the weights' statistics, in training too. From A to B (ShanghaiTech, 600 steps, seed 0) a
    counter's error was 33.0 persons with statistics of its batches of 8 crops, 28.3 with ImageNet's."""
    file_names: Callable[[str], tuple[str, ...]] = lambda name: (name,)
    """Name of a parameter in its group -> its name in weight files, for each known naming in a fixed order."""
