"""What a mean teacher costs a step of a round of labels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.sample import Batch
from crowddist.data.stream import STRIDE
from crowddist.methods.build import build_method
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.models.config import CounterConfig
from crowddist.run.engine import LocalRuntime
from tests.benchmarks.harness import compare

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]
CROP_PX, ROUNDS = 256, 5
SIZES = {1.0: (256, 256, 256, 256), 2.0: (152, 216, 304, 432)}
"""Largest zoom of a teacher's views -> the sides of four, px: the middles of the quarters of what is drawn."""
MOST_COST = {1.0: 1.4, 2.0: 1.6}
"""The goals: a view costs a forward pass, and a step of source and target two of them and the way back."""


def crops(sizes: tuple[int, ...] = ()) -> Batch:
    """Four crops of noise with a few persons, and their weak views."""
    cells = CROP_PX // STRIDE
    return Batch(images=torch.rand(4, 3, CROP_PX, CROP_PX), density=torch.full((4, 1, cells, cells), 0.01),
                 weak=[torch.rand(3, side, side) for side in sizes] or None, draws=torch.arange(4))


def steps(source: str, share: float, sizes: tuple[int, ...]) -> Callable[[], None]:
    """Takes a step of a round on the recipes' counter."""
    config = RunConfig(recipe="taught", source=source, target=source,
                       counter=CounterConfig(backbone="efficientnet_lite0", weights="imagenet", orientation=False),
                       self_supervision=SelfSupervisionConfig(orientation_steps=0, rounds=1, teacher_share=share))
    torch.manual_seed(0)
    method = build_method(config)
    (stage,) = (stage for stage in method.plan() if stage.needs_labels)
    method.start(stage, LocalRuntime())
    batches = {"source": crops(), "target": crops(sizes)}

    def step() -> None:
        method.step(1, batches)

    return step


@pytest.mark.parametrize("zoom", SIZES)
def test_a_step_with_a_teacher_against_one_with_fixed_labels(tiny_source: str, zoom: float) -> None:
    found = compare(steps(tiny_source, 1.0, SIZES[zoom]), steps(tiny_source, 0.0, ()), rounds=ROUNDS)
    print(f"\nviews up to {zoom:g} times larger or smaller: {found.ratio:.2f} times a step with fixed labels "
          f"(quartiles {found.low:.2f} to {found.high:.2f}), {found.peer_s:.2f} s and {found.ours_s:.2f} s")
    assert found.ratio <= MOST_COST[zoom]
