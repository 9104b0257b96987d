"""Folds of cross-validation: a recipe of the first fold -> the recipes of all."""

from __future__ import annotations

from dataclasses import replace

from crowddist.config import RunConfig
from crowddist.data.config import parse_data
from crowddist.data.convert.ucf_cc_50 import NUM_FOLDS
from crowddist.errors import InputError

FIRST = "fold-1-"
"""How the splits of the first fold begin."""


def folds(config: RunConfig) -> list[RunConfig]:
    """The configurations of all folds; each run's name ends in its fold.

    Raises:
        InputError: target and evaluation are not the two sides of the first fold.
    """
    sides = {side: getattr(config, side) for side in ("target", "evaluation")}
    splits = [parse_data(text).split if text else "" for text in sides.values()]
    if splits != [f"{FIRST}train", f"{FIRST}test"]:
        raise InputError("folds need a recipe whose target and evaluation are the first fold, such as "
                         f"ucf_cc_50:PATH:{FIRST}train and ...:{FIRST}test, got the splits {splits[0]!r} and "
                         f"{splits[1]!r}")
    name, places = config.run_name or config.recipe, [text.rpartition(FIRST)[0] for text in sides.values()]
    return [
        replace(config, run_name=f"{name}-fold-{fold}", target=f"{places[0]}fold-{fold}-train",
                evaluation=f"{places[1]}fold-{fold}-test")
        for fold in range(1, NUM_FOLDS + 1)
    ]
