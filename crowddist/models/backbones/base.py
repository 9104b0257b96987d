"""Backbone: what a network has to know of an encoder before it is built; imports no torch, so that options can be
checked quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

Use = Literal["counter", "upsampling", "regressor", "detector", "localiser"]
"""What features are for: `upsampling` is the counter with the decoder of ICASSP 2020, `counter` all others, and the
segmenter."""

HeadWidth = Literal["small", "published"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The layers that one use takes of a backbone, in groups that run one after the other."""

    build: Callable[[], Sequence[nn.Module]]
    """Builds the groups with random weights, from torch's own generator."""
    strides: tuple[int, ...]
    """Pixels of the image along a cell's side, behind each group."""
    channels: tuple[int, ...]
    """Channels behind each group."""
    context_px: int = 256
    """How far from a cell the image still matters to the network, px: tiles of a large image are seen with so much
    around them. A multiple of 32."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Where ImageNet's weights of a backbone are to be had."""

    url: str
    """Of the download; its last part is the file's name, with the first digits of its sha256 before the ending."""
    package: str = ""
    """The Python package that holds the same file, as pip calls it; empty: none does."""
    file: str = ""
    """The file inside the package, relative to its folder."""

    @property
    def digest(self) -> str:
        """First hexadecimal digits of the file's sha256."""
        return (self.file or self.url).rpartition(".")[0].rpartition("-")[2]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A row of the table."""

    name: str
    uses: Mapping[Use, Features]
    """What each use takes; a use that is missing cannot be had with this backbone."""
    heads: HeadWidth = "small"
    """How wide decoders and heads behind it are: small for a CPU, or as the papers' authors have them behind VGG and
    ResNet."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of the input, red, green and blue in 0..1, that its weights were trained with."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Likewise the standard deviation."""
    weights: Pretrained | None = None
    """None: there are none, it learns from scratch."""
    keeps_statistics: bool = False
    """Whether batch norms keep the statistics that came with the weights, in training too. From A to B (ShanghaiTech,
    600 steps, seed 0) a counter that normalised by its batches of 8 crops erred by 33.0 persons, one that kept
    ImageNet's statistics by 28.3."""
    file_names: Callable[[str], tuple[str, ...]] = lambda name: (name,)
    """Name of a parameter within its group -> what files call it, in each naming that is known, always in the same
    order."""
