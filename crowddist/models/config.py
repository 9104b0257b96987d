"""Configurations of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from crowddist.errors import InputError, require_choice, require_positive
from crowddist.models.backbones.base import Use
from crowddist.models.backbones.table import BACKBONES, names_for

if TYPE_CHECKING:
    CounterBackbone: TypeAlias = str
    RegressorBackbone: TypeAlias = str
    DetectorBackbone: TypeAlias = str
    LocaliserBackbone: TypeAlias = str
else:  # the choices that --help shows
    CounterBackbone = Literal[names_for("counter")]
    RegressorBackbone = Literal[names_for("regressor")]
    DetectorBackbone = Literal[names_for("detector")]
    LocaliserBackbone = Literal[names_for("localiser")]
DecoderName = Literal["usual", "upsampling", "upsampling_large"]
TranslatorBackbone = Literal["compact", "published"]
Ensemble = Literal["masksembles", "dropout", "deep", "none"]
_MOST_MEMBERS = 64
"""ours: the papers have 3 to 10; each is a pass over an image."""


@dataclass(frozen=True, kw_only=True)
class CounterConfig:
    """The counter's networks; equal configs and equal checkpoints give equal counters."""

    backbone: CounterBackbone = "compact"
    """Encoder: efficientnet for CPUs, vgg or resnet for GPUs. VGG and ResNet have the published decoder; `compact` has
    no pretrained weights."""
    decoder: DecoderName = "usual"
    """Decoder of the density. `usual`: CVPR 2022, small behind encoders for a CPU. `upsampling`: ICASSP 2020 as
    printed, cells are pixels. `upsampling_large`: the same with the larger kernels of the authors' later code."""
    weights: str = "none"
    """Initial weights: none, imagenet, or a path or URL. `none` is random. `imagenet` comes from an installed package,
    torch's cache or a download. The path or URL is a file of the encoder's weights, or a run's folder or checkpoint,
    whose whole counter is taken; `rendered` is the counter that comes with crowddist."""
    ensemble: Ensemble = "masksembles"
    """Members of the ensemble: `masksembles` (fixed masks over channels), `dropout` (fixed dropouts), `deep` (separate
    networks), or `none` (one network)."""
    num_masks: int = 3
    """Number of members (masks, dropouts or networks), 1 to 64."""
    density_factor: float = 1.0
    """The network's own unit: its last layer gives this times the persons of a cell, and the density loss compares
    that; counts stay persons. Where a cell is a pixel, mean squared errors at 1 leave half of the decoder gradients
    below the 1e-8 that Adam adds to them; the authors' later code has 100 (C)."""
    decoder_norm: bool = False
    """Batch normalisation in an upsampling decoder, as in the authors' later code (C); the paper prints none."""
    orientation: bool = True
    """Add a head that tells upright images from upside-down ones. Off where nothing trains it."""

    def __post_init__(self) -> None:
        require_choice("counter decoder", self.decoder, get_args(DecoderName))
        _check_backbone("counter", "upsampling" if self.upsamples else "counter", self.backbone, self.weights)
        require_choice("counter ensemble", self.ensemble, get_args(Ensemble))
        if not 1 <= self.num_masks <= _MOST_MEMBERS:  # a damaged checkpoint would ask for a million networks
            raise InputError(f"counter num_masks is {self.num_masks}; it must be 1 to {_MOST_MEMBERS}")
        require_positive(density_factor=self.density_factor)
        if self.decoder_norm and not self.upsamples:
            raise InputError("counter decoder_norm is for the upsampling decoders: leave it out, or set "
                             "counter.decoder")

    @property
    def upsamples(self) -> bool:
        """The decoder is one of ICASSP 2020, behind features of stride 16."""
        return self.decoder != "usual"

    @property
    def num_members(self) -> int:
        """Maps that the ensemble gives for an image."""
        return 1 if self.ensemble == "none" else self.num_masks


@dataclass(frozen=True, kw_only=True)
class RegressorConfig:
    """DSSINet, which regresses density (bi-knowledge transfer)."""

    backbone: RegressorBackbone = "compact"
    """Encoder. `vgg16`: as published, one cell a pixel; the others are narrow, for a CPU, with cells of 2x2 px."""
    weights: str = "none"
    """Initial weights, as for the counter; a run gives its whole regressor."""

    def __post_init__(self) -> None:
        _check_backbone("regressor", "regressor", self.backbone, self.weights)

    @property
    def output_stride(self) -> int:
        """Side of a cell, px of the image."""
        return BACKBONES[self.backbone].uses["regressor"].strides[0]


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """CSP, which detects heads by centre and size (bi-knowledge transfer)."""

    backbone: DetectorBackbone = "compact"
    """Encoder. `resnet50`: as published; the efficientnet ones and `compact` suit a CPU."""
    weights: str = "none"
    """Initial weights, as for the counter; a run gives its whole detector, e.g. one trained on boxes."""

    def __post_init__(self) -> None:
        _check_backbone("detector", "detector", self.backbone, self.weights)


@dataclass(frozen=True, kw_only=True)
class LocaliserConfig:
    """The nested U-Net that reads points from a density, Reg-to-Det (bi-knowledge transfer)."""

    backbone: LocaliserBackbone = "compact"
    """Encoder. `vgg16`: a dilated VGG-16 as published; `compact`: the same blocks, an eighth as wide."""
    weights: str = "none"
    """Initial weights, as for the counter; a run gives its whole localiser."""

    def __post_init__(self) -> None:
        _check_backbone("localiser", "localiser", self.backbone, self.weights)


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """CycleGAN's networks, which make source images look like the target (translation); always trained from scratch."""

    backbone: TranslatorBackbone = "compact"
    """Size of the networks. `published`: generators of width 64 with 9 residual blocks, patches of 70 px; `compact`:
    width 16 with 4 blocks that predict the change of the image, patches of 34 px."""

    def __post_init__(self) -> None:
        require_choice("translator backbone", self.backbone, get_args(TranslatorBackbone))


def _check_backbone(network: str, use: Use, backbone: str, weights: str) -> None:
    require_choice(f"{network} backbone" if use != "upsampling" else "counter backbone behind an upsampling decoder",
                   backbone, names_for(use))
    if not weights:
        raise InputError(f"{network} weights are empty; give none, imagenet, or a path or URL of a file of weights or "
                         "of a run")
    if weights == "imagenet" and BACKBONES[backbone].weights is None:
        others = ", ".join(name for name in names_for(use) if BACKBONES[name].weights)
        raise InputError(f"the {network} backbone {backbone} has no imagenet weights; use weights none, or one of the "
                         f"backbones {others}")
