"""Segmenter: a separate network that finds where persons may be, for targets without masks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.encoder import Encoder
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import CounterConfig
from crowddist.models.pyramid import PyramidHead
from crowddist.models.weights import load_start


class Segmenter(nn.Module):
    """The counter's encoder and a pyramid head, not shared with the counter (ours: the paper gives no details)."""

    def __init__(self, encoder: Encoder, head: PyramidHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images, 0 to 1 -> (N, 1, ceil(H/s), ceil(W/s)) logits of "person", s the encoder's stride."""
        return self.head(self.encoder(images))


def build_segmenter(config: CounterConfig) -> Segmenter:
    """The segmenter with the backbone and weights of the counter in `config`. Raises: as `build_counter`."""
    backbone = BACKBONES[config.backbone]
    encoder = Encoder(backbone, "upsampling" if config.upsamples else "counter", pretrained=config.weights != "none")
    segmenter = Segmenter(encoder, PyramidHead(encoder.channels, backbone.heads))
    load_start(segmenter, encoder, name="segmenter", weights=config.weights, backbone=backbone)
    return segmenter


def mask_cells(mask: Tensor, cells: tuple[int, int]) -> Tensor:
    """The share of every cell that a mask covers.

    Args:
        mask: (N, 1, H, W), 1 = person, else 0; cells beyond its right or bottom edge count as "no person"
        cells: (h, w) of the result; a cell's sides are H/h and W/w, rounded up

    Returns:
        (N, 1, h, w) float, 0 to 1.
    """
    rows, columns = (-(-side // number) for side, number in zip(mask.shape[2:], cells, strict=True))
    padded = functional.pad(mask.float(), (0, columns * cells[1] - mask.shape[3], 0, rows * cells[0] - mask.shape[2]))
    return functional.avg_pool2d(padded, (rows, columns))
