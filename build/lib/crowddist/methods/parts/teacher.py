"""Mean teacher: the moving average of a counter's weights labels the crops that the counter learns from."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from crowddist.models.ensemble import member_maps
from crowddist.ops.resizing import resize_sums

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.models.counter import Counter
    from crowddist.models.ensemble import DeepEnsemble


class Teacher:
    """The moving average of a counter's weights: teacher = decay teacher + (1 - decay) counter after each step.

    It begins as the counter itself, which has labelled the round, so it needs no warm-up, unlike `run.averaging`. No
    module: else the objective would train it, and its weights would be parts of the run's networks. It depends on the
    weights alone, so workers that train alike have equal teachers.

    Source: Tarvainen and Valpola, NeurIPS 2017, Eq. 3.

    Args:
        decay: share that a step keeps, 0 to below 1.
    """

    def __init__(self, counter: Counter | DeepEnsemble, decay: float, device: torch.device) -> None:
        self.counter, self.decay = counter, decay
        self.network = copy.deepcopy(counter).to(device).requires_grad_(False).eval()
        self.most_persons = math.inf
        """Cells with more persons are set to 0, see `train.density_limit`."""

    @torch.no_grad()
    def update(self) -> None:
        """Adds the counter's weights after a step. Buffers rest in a round of labels, see `TrainingMethod`."""
        torch._foreach_lerp_(list(self.network.parameters()), list(self.counter.parameters()), 1 - self.decay)

    @torch.no_grad()
    def densities(self, views: Sequence[Tensor], cells: tuple[int, int]) -> Tensor:
        """Persons per cell by the mean of the ensemble.

        Args:
            views: (3, h, w) each, 0 to 1: the crops as the teacher sees them, of any sizes
            cells: (height, width) of the counter's maps of the same crops

        Returns:
            (N, 1, height, width) float32; the sum of a map is that of the teacher's own.
        """
        # One by one: they differ in size, and a label does not depend on the batch's other crops.
        maps = [member_maps(self.network, view[None]) for view in views]
        means = [torch.where(part > self.most_persons, 0, part).mean(0) for part in maps]
        return torch.cat([resize_sums(part, cells) for part in means])
