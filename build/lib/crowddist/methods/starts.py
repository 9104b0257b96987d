"""Which stages of a method's plan are fitted in one start of the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crowddist.methods.base import Stage


def starts(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Groups of consecutive stages that the trainer fits in one start."""
    found: list[list[Stage]] = []
    for stage in stages:
        if found and not _waits(stage, found[-1][-1]):
            found[-1].append(stage)
        else:
            found.append([stage])
    return found


def _waits(stage: Stage, before: Stage) -> bool:
    """Whether a stage needs more than training on from the stage before: labels, a translation, other or new
    networks.
    """
    new_round = stage.num_round != before.num_round
    return (stage.fresh or (new_round and (stage.needs_labels or stage.trains != before.trains))
            or (stage.needs_translation and not before.needs_translation))
