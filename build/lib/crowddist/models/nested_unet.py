"""NestedUnet: the Reg-to-Det transformer of bi-knowledge transfer, from a density map to a 0-1 localisation map."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.compact import plain_block
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import LocaliserConfig
from crowddist.models.initialisation import init_normal
from crowddist.models.weights import load_start

DILATIONS = (2, 2, 2)  # C (CSRNet): the dilated convolutions behind VGG's ten; ours: three of its six.
USUAL_PEAK = 0.01
"""Peak of a head of sigma 4 px, persons per px. ours: divides the density, because VGG expects values of about 1."""


class NestedUnet(nn.Module):
    """UNet++ with a dilated VGG-16 encoder: features of the level below refine every level's features repeatedly.

    Source: Liu et al., MM 2020, Sec. 3.3; Zhou et al., UNet++, DLMIA 2018: X(i, j) = block([X(i, 0), ..., X(i, j-1),
    up(X(i+1, j-1))]). Maps of any size are padded at the right and the bottom to multiples of 8 cells.

    Args:
        blocks: of the encoder, fine to coarse, each of half the resolution of the one before
        widths: channels of the blocks
    """

    def __init__(self, blocks: Sequence[nn.Module], *, widths: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        depth = len(widths)
        self.nodes = nn.ModuleDict({f"{row}_{column}": plain_block(column * widths[row] + widths[row + 1], widths[row])
                                    for column in range(1, depth) for row in range(depth - column)})
        self.answer = nn.Conv2d(widths[0], 1, 1)

    def forward(self, density: Tensor, stride: int) -> Tensor:
        """Phi: (N, 1, h, w), persons per cell of `stride` px, >= 0 -> (N, 1, h, w), about 1 at heads, 0 elsewhere."""
        height, width = density.shape[-2:]
        multiple = 2 ** (len(self.blocks) - 1)
        scaled = density / (USUAL_PEAK * stride**2)
        padded = functional.pad(scaled, (0, -width % multiple, 0, -height % multiple))
        features = padded.contiguous(memory_format=torch.channels_last)
        rows: list[list[Tensor]] = []
        for index, block in enumerate(self.blocks):
            features = block(features if index == 0 else functional.max_pool2d(features, 2))
            rows.append([features])
        for column in range(1, len(self.blocks)):
            for row in range(len(self.blocks) - column):
                below = functional.interpolate(rows[row + 1][column - 1], scale_factor=2.0, mode="bilinear",
                                               align_corners=False)
                rows[row].append(self.nodes[f"{row}_{column}"](torch.cat([*rows[row], below], dim=1)))
        return self.answer(rows[0][-1])[..., :height, :width]


def build_localiser(config: LocaliserConfig) -> NestedUnet:
    """The network that `config` describes; random weights from torch's own generator. Raises: as `build_counter`."""
    backbone = BACKBONES[config.backbone]
    features = backbone.uses["localiser"]
    blocks = nn.ModuleList(features.build())
    dilated = _dilated(features.channels[-1])
    coarsest = OrderedDict(blocks[-1].named_children())
    coarsest[str(len(coarsest))] = dilated
    network = NestedUnet([*blocks[:-1], nn.Sequential(coarsest)], widths=features.channels)
    if backbone.heads == "published":
        for part in (network.nodes, network.answer, dilated):
            init_normal(part)  # P: N(0, 0.01) for all layers outside VGG
    load_start(network, blocks, name="localiser", weights=config.weights, backbone=backbone)
    return network.to(memory_format=torch.channels_last)


def _dilated(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for dilation in DILATIONS:
        layers += [nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
