"""The facts a run needs of training on the target's own labels."""

from __future__ import annotations

from typing import Any

from crowddist.errors import InputError
from crowddist.methods.settings.facts import MethodFacts


def _check(config: Any) -> None:
    if config.more_sources:
        raise InputError("supervised learns from the target's labels alone: leave more_sources out, or choose another "
                         "method")
    if config.train.density_limit:
        raise InputError("train.density_limit is for counters that learn from the source, not for supervised: leave "
                         "it out")


FACTS = MethodFacts(
    line="trains on the target's own labels: the ceiling, no adaptation",
    module="crowddist.methods.supervised",
    name="Supervised",
    settings=("counter", "train"),
    check=_check,
    learns_from_target=True,
    # CVPR 2022, Table 1, whose supervised figures on UCF-QNRF are those of the method, so misprinted.
    published={"GCC->SHA": (160.0, 76.3), "GCC->SHB": (22.8, 11.0), "GCC->UCF_CC_50": (487.2, 259.3)},
)
