"""Settings of the training on the source, shared by all methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crowddist.errors import InputError, require_choice, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training on the source, the start of every method. Bi-knowledge transfer has its own steps and rates."""

    steps: int = 3000
    """Steps of the first stage."""
    batch_size: int = 8
    """Source crops per step, over all workers."""
    learning_rate: float = 2e-3
    """Peak learning rate, see `schedule`. Compact counter: 2e-3; VGG-16 and ResNet: 1e-4."""
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    """Learning rates within every stage: up to the peak and down again (ours), or the peak throughout (P of ICASSP
    2020). Discriminators and translators have their own."""
    pretrained_share: float = 1.0
    """Factor on the learning rate of pretrained layers, above 0 to 1, in every network of the method."""
    frozen_px: int = 8
    """Pretrained layers with features of at most this stride in px keep their weights; 0: all are trained. For
    EfficientNet-Lite only. Rendered images teach first layers nothing of use on photographs, and a step takes three
    quarters of the time (docs/networks.md)."""
    weight_decay: float = 5e-4
    """AdamW's weight decay."""
    cell_error: Literal["poisson", "squared", "squared_sum"] = "poisson"
    """Error of a density cell: poisson (ours), squared (P of CVPR 2022), each the mean over cells, or squared_sum, half
    the sum over pixels (P, Eq. 6 of ICASSP 2020; a cell spreads its persons evenly over its pixels)."""
    block_weight: float = 0.1
    """Weight of the error of the counts of 8x8-cell blocks, beside that of cells (ours; P: 0)."""
    density_limit: bool = False
    """Density regularisation: sets predicted cells to 0 that hold more than the source's densest cell (Wang et al.,
    CVPR 2019)."""

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate)
        require_choice("schedule", self.schedule, ("one_cycle", "constant"))
        require_choice("cell_error", self.cell_error, ("poisson", "squared", "squared_sum"))
        if not 0 < self.pretrained_share <= 1:
            raise InputError(f"pretrained_share lies in (0, 1], got {self.pretrained_share}")
        require_not_negative(weight_decay=self.weight_decay, block_weight=self.block_weight, frozen_px=self.frozen_px)
