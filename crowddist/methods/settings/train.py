"""How a method trains on the source, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crowddist.errors import InputError, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training on the source, as every method begins. Bi-knowledge transfer has steps and rates of its own, and takes
    the rest from here.
    """

    steps: int = 3000
    """Steps of the first stage."""
    batch_size: int = 8
    """Source crops per step, over all workers."""
    learning_rate: float = 2e-3
    """Peak learning rate of the one-cycle schedule. Compact counter: 2e-3; VGG-16 and ResNet: 1e-4."""
    pretrained_share: float = 1.0
    """What part of the learning rate the layers with pretrained weights learn at, above 0 to 1; of every network of the
    method."""
    frozen_px: int = 8
    """Pretrained layers whose features have at most this stride keep their weights; 0: all are trained. Of
    EfficientNet-Lite alone. What rendered images teach the first layers is no use on photographs, and a step takes
    three quarters of the time (docs/networks.md)."""
    weight_decay: float = 5e-4
    """AdamW's weight decay."""
    cell_error: Literal["poisson", "squared"] = "poisson"
    """Error of a cell of the map: of Poisson counts (ours), or squared (as published)."""
    block_weight: float = 0.1
    """Weight of the error of 8x8-block counts beside the error of cells (ours; 0 = as published)."""
    density_limit: bool = False
    """Density regularisation: a counter's density is nothing where it says more than the densest cell of the source
    holds (Wang et al., CVPR 2019)."""

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate)
        if not 0 < self.pretrained_share <= 1:
            raise InputError(f"pretrained_share lies in (0, 1], got {self.pretrained_share}")
        require_not_negative(weight_decay=self.weight_decay, block_weight=self.block_weight, frozen_px=self.frozen_px)
