"""Prints finished runs in one table, beside the papers' figures of the same method.

    for method in source_only self_supervision semantic_consistency translation bi_knowledge combined supervised; do
        python jobs/adapt.py renderer_to_shb --method $method --run-name $method
    done
    python jobs/compare.py runs/source_only runs/self_supervision runs/semantic_consistency ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from crowddist.cli import one_line_errors, read_arguments
from crowddist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which runs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """Folders of runs that have ended, paths or URLs."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("no run is given; give the folders of runs that have ended")


def main(arguments: Arguments) -> None:
    """Prints the table."""
    from crowddist.comparison import compare, read_result

    print(compare([read_result(run) for run in arguments.runs]))


if __name__ == "__main__":
    with one_line_errors():
        main(read_arguments(lambda: tyro.cli(Arguments, description=__doc__)))
