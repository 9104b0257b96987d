"""The moving average of weights by hand; buffers that are no weights are copied."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crowddist.models.norm import SyncBatchNorm2d
from crowddist.run.averaging import WeightAverage


def _set(layer: nn.Linear, value: float) -> None:
    with torch.no_grad():
        layer.weight.fill_(value)


def test_the_first_steps_by_hand() -> None:
    """It keeps 1/10 at step 0, 2/11 at step 1, and never more than its decay."""
    layer = nn.Linear(1, 1, bias=False)
    _set(layer, 10.0)
    average = WeightAverage(layer, 0.15)
    _set(layer, 20.0)
    average.update(0)
    assert average.values["weight"].item() == pytest.approx(0.1 * 10 + 0.9 * 20)  # 19
    _set(layer, 39.0)
    average.update(1)
    assert average.values["weight"].item() == pytest.approx(0.15 * 19 + 0.85 * 39)  # 36
    assert layer.weight.item() == 39.0
    average.apply()
    assert layer.weight.item() == pytest.approx(36.0)


def test_running_statistics_are_averaged_and_masks_and_limits_are_taken_as_they_are() -> None:
    module = nn.Module()
    module.norm = SyncBatchNorm2d(2)
    module.register_buffer("masks", torch.tensor([True, False]))
    module.register_buffer("density_limit", torch.tensor(float("inf")))
    average = WeightAverage(module, 0.9)
    module.norm.running_mean.fill_(1.0)
    module.density_limit.fill_(5.0)
    module.masks.logical_not_()
    average.update(0)
    assert average.values["norm.running_mean"].tolist() == pytest.approx([0.9, 0.9])
    assert average.values["masks"].tolist() == [False, True] and average.values["density_limit"].item() == 5.0


def test_it_goes_on_from_what_a_checkpoint_holds_of_it() -> None:
    layer = nn.Linear(1, 1)
    average = WeightAverage(layer, 0.5)
    average.load({"weight": torch.full((1, 1), 7.0)})
    assert average.values["weight"].item() == 7.0 and torch.equal(average.values["bias"], layer.bias)
