"""CounterConfig: what a crowd counter is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from crowddist.errors import InputError

Backbone = Literal["compact", "vgg16", "vgg16_bn", "vgg16_bn_stride16", "resnet101"]
DecoderName = Literal["usual", "upsampling", "upsampling_large"]
RegressorBackbone = Literal["compact", "vgg16"]
DetectorBackbone = Literal["compact", "resnet50"]
LocaliserBackbone = Literal["compact", "vgg16"]
TranslatorBackbone = Literal["compact", "published"]
Ensemble = Literal["masksembles", "dropout", "deep", "none"]


@dataclass(frozen=True, kw_only=True)
class CounterConfig:
    """The counter's networks; equal configs and equal checkpoints give equal counters."""

    backbone: Backbone = "compact"
    """The encoder. `compact` is small and trained from scratch on a CPU; the others are torchvision's, with the published decoder."""
    decoder: DecoderName = "usual"
    """What turns features into density: `usual` is that of CVPR 2022 (small behind `compact`), `upsampling` that of ICASSP 2020 as printed, whose
    cells are pixels behind `vgg16_bn_stride16`, and `upsampling_large` the same with the kernels of its authors' later code."""
    weights: str = "none"
    """The encoder's weights: `none` (random), `imagenet` (torchvision's download), or the path or URL of a state_dict file."""
    ensemble: Ensemble = "masksembles"
    """What the members of the ensemble are: fixed masks over the channels, fixed dropouts, networks of their own (`deep`), or one network alone."""
    num_masks: int = 3
    """How many members the ensemble has (masks, dropouts at inference, or networks)."""  # P: n = 3.
    mask_scale: float = 2.0
    """How little the masks share: 1 = all masks alike, large = disjoint sub-networks."""  # C: scale = 2.0.
    mask_seed: int = 0
    """The seed the masks are drawn from; they are stored in every checkpoint."""
    dropout: float = 0.5
    """The share of channels dropped with `ensemble=dropout`."""  # ours: (512, 3, 2.0) masks drop about as many, 43 %.
    orientation: bool = True
    """Whether there is a head that tells upright images from upside-down ones; False where nothing trains it."""

    def __post_init__(self) -> None:
        _check_backbone("counter", self.backbone, self.weights, get_args(Backbone))
        _choice("counter ensemble", self.ensemble, get_args(Ensemble))
        _choice("counter decoder", self.decoder, get_args(DecoderName))
        if (self.backbone == "vgg16_bn_stride16") != (self.decoder != "usual"):
            raise InputError(f"the counter's decoder {self.decoder} does not follow its backbone {self.backbone}: the upsampling ones belong to "
                             f"vgg16_bn_stride16, the usual one to the others")
        if self.num_masks < 1:
            raise InputError(f"counter num_masks is {self.num_masks}; it must be at least 1")
        if not 1.0 <= self.mask_scale < float("inf"):
            raise InputError(f"counter mask_scale is {self.mask_scale}; it must be at least 1 and finite")
        if self.mask_seed < 0:
            raise InputError(f"counter mask_seed is {self.mask_seed}; it must not be negative")
        if not 0.0 < self.dropout < 1.0:
            raise InputError(f"counter dropout is {self.dropout}; it must be above 0 and below 1; ensemble none has no dropout")

    @property
    def num_members(self) -> int:
        """How many maps the ensemble gives for one image."""
        return 1 if self.ensemble == "none" else self.num_masks


@dataclass(frozen=True, kw_only=True)
class RegressorConfig:
    """DSSINet, which regresses density (bi-knowledge transfer)."""

    backbone: RegressorBackbone = "compact"
    """`vgg16` as published, one cell a pixel; `compact` is narrow, has cells of 2x2 px and is trained from scratch on a CPU."""
    weights: str = "none"
    """Of VGG-16: `none` (random), `imagenet` (torchvision's download), or the path or URL of a state_dict file."""

    def __post_init__(self) -> None:
        _check_backbone("regressor", self.backbone, self.weights, get_args(RegressorBackbone))

    @property
    def output_stride(self) -> int:
        """Pixels of the image along a cell's side."""
        return 1 if self.backbone == "vgg16" else 2


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """CSP, which detects heads by centre and scale (bi-knowledge transfer)."""

    backbone: DetectorBackbone = "compact"
    """`resnet50` as published; `compact` is small and trained from scratch on a CPU."""
    weights: str = "none"
    """`none` (random); a run's checkpoint, whose detector to start from, e.g. after boxes; of ResNet-50 also `imagenet` (torchvision's
    download), or the path or URL of a state_dict file."""

    def __post_init__(self) -> None:
        _check_backbone("detector", self.backbone, self.weights, get_args(DetectorBackbone))


@dataclass(frozen=True, kw_only=True)
class LocaliserConfig:
    """The nested U-Net that makes points of a density, Reg-to-Det (bi-knowledge transfer)."""

    backbone: LocaliserBackbone = "compact"
    """`vgg16`: a dilated VGG-16 encoder as published; `compact`: the same blocks, an eighth as wide."""
    weights: str = "none"
    """Of VGG-16: `none` (random), `imagenet` (torchvision's download), or the path or URL of a state_dict file."""

    def __post_init__(self) -> None:
        _check_backbone("localiser", self.backbone, self.weights, get_args(LocaliserBackbone))


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """CycleGAN's networks, which show the source as the target would look (translation). They are always trained from scratch."""

    backbone: TranslatorBackbone = "compact"
    """`published`: generators of width 64 with 9 residual blocks, patches of 70 px; `compact`: of width 16 with 4, which say what to change of
    the image, patches of 34 px."""

    def __post_init__(self) -> None:
        _choice("translator backbone", self.backbone, get_args(TranslatorBackbone))


def _check_backbone(network: str, backbone: str, weights: str, backbones: tuple[str, ...]) -> None:
    _choice(f"{network} backbone", backbone, backbones)
    if not weights:
        raise InputError(f"{network} weights are empty; give none, imagenet, or the path or URL of a state_dict file")
    # Of the compact networks, the counter's encoder and the detector are read from a file.
    if backbone == "compact" and (weights == "imagenet" or network not in ("counter", "detector")) and weights != "none":
        others = " or ".join(name for name in backbones if name != "compact")
        raise InputError(f"the compact {network} takes no weights {weights}; use weights none, or backbone {others}")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
