"""CounterConfig: what a crowd counter is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from crowddist.errors import InputError, require_choice
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


@dataclass(frozen=True, kw_only=True)
class CounterConfig:
    """The counter's networks; equal configs and equal checkpoints give equal counters."""

    backbone: CounterBackbone = "compact"
    """Encoder: efficientnet for CPUs, vgg or resnet for GPUs. VGG and ResNet have the published decoder; `compact` has
    no pretrained weights."""
    decoder: DecoderName = "usual"
    """What turns features into density: `usual` is that of CVPR 2022 (small behind encoders for a CPU), `upsampling`
    that of ICASSP 2020 as printed, behind features of stride 16, so that its cells are pixels, and `upsampling_large`
    the same with the kernels of its authors' later code."""
    weights: str = "none"
    """Initial weights: none, imagenet, or a path or URL. `none` is random. `imagenet` comes from an installed package,
    torch's cache or a download. The path or URL is a file of the encoder's weights, or a run's folder or checkpoint,
    whose whole counter is taken."""
    ensemble: Ensemble = "masksembles"
    """What the members of the ensemble are: fixed masks over the channels, fixed dropouts, networks of their own
    (`deep`), or one network alone."""
    num_masks: int = 3
    """How many members the ensemble has (masks, dropouts at inference, or networks)."""  # P: n = 3.
    orientation: bool = True
    """Whether there is a head that tells upright images from upside-down ones; False where nothing trains it."""

    def __post_init__(self) -> None:
        require_choice("counter decoder", self.decoder, get_args(DecoderName))
        _check_backbone("counter", "upsampling" if self.upsamples else "counter", self.backbone, self.weights)
        require_choice("counter ensemble", self.ensemble, get_args(Ensemble))
        if self.num_masks < 1:
            raise InputError(f"counter num_masks is {self.num_masks}; it must be at least 1")

    @property
    def upsamples(self) -> bool:
        """Whether the decoder is one of ICASSP 2020, behind features of stride 16."""
        return self.decoder != "usual"

    @property
    def num_members(self) -> int:
        """How many maps the ensemble gives for one image."""
        return 1 if self.ensemble == "none" else self.num_masks


@dataclass(frozen=True, kw_only=True)
class RegressorConfig:
    """DSSINet, which regresses density (bi-knowledge transfer)."""

    backbone: RegressorBackbone = "compact"
    """`vgg16` as published, one cell a pixel; those for a CPU are narrow and have cells of 2x2 px."""
    weights: str = "none"
    """What it starts from, as of the counter; from a run, its whole regressor."""

    def __post_init__(self) -> None:
        _check_backbone("regressor", "regressor", self.backbone, self.weights)

    @property
    def output_stride(self) -> int:
        """Pixels of the image along a cell's side."""
        return BACKBONES[self.backbone].uses["regressor"].strides[0]


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """CSP, which detects heads by centre and scale (bi-knowledge transfer)."""

    backbone: DetectorBackbone = "compact"
    """`resnet50` as published; the efficientnet ones and `compact` are for a CPU."""
    weights: str = "none"
    """What it starts from, as of the counter; from a run, its whole detector, e.g. one that was trained on boxes."""

    def __post_init__(self) -> None:
        _check_backbone("detector", "detector", self.backbone, self.weights)


@dataclass(frozen=True, kw_only=True)
class LocaliserConfig:
    """The nested U-Net that makes points of a density, Reg-to-Det (bi-knowledge transfer)."""

    backbone: LocaliserBackbone = "compact"
    """`vgg16`: a dilated VGG-16 encoder as published; `compact`: the same blocks, an eighth as wide."""
    weights: str = "none"
    """What it starts from, as of the counter; from a run, its whole localiser."""

    def __post_init__(self) -> None:
        _check_backbone("localiser", "localiser", self.backbone, self.weights)


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """CycleGAN's networks, which show the source as the target would look (translation). They are always trained from
    scratch.
    """

    backbone: TranslatorBackbone = "compact"
    """`published`: generators of width 64 with 9 residual blocks, patches of 70 px; `compact`: of width 16 with 4,
    which say what to change of the image, patches of 34 px."""

    def __post_init__(self) -> None:
        require_choice("translator backbone", self.backbone, get_args(TranslatorBackbone))


def _check_backbone(network: str, use: Use, backbone: str, weights: str) -> None:
    require_choice(f"{network} backbone" if use != "upsampling" else "counter backbone behind an upsampling decoder",
                   backbone,
                   names_for(use))
    if not weights:
        raise InputError(f"{network} weights are empty; give none, imagenet, or a path or URL of a file of weights or "
                         "of a run")
    if weights == "imagenet" and BACKBONES[backbone].weights is None:
        others = ", ".join(name for name in names_for(use) if BACKBONES[name].weights)
        raise InputError(f"the {network} backbone {backbone} has no imagenet weights; use weights none, or one of the "
                         f"backbones {others}")
