"""Searches the share of pseudo-labels to keep, without opening any label of the target.

    python jobs/tune.py --checkpoint runs/demo/source/checkpoints/step-003000.pt --target /photos/of/my/camera --output tune.json
    python jobs/tune.py --checkpoint COUNTER.pt --target shanghaitech:part_A_final:train --output tune.json --trials 20
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import tyro

from crowddist.cli import one_line_errors, read_arguments
from crowddist.errors import InputError
from crowddist.process import sigterm_as_exit


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to search on what."""

    checkpoint: str
    """A checkpoint file of a run, path or URL; its counter must be an ensemble (masksembles, dropout or deep)."""
    target: str
    """Images of your own cameras: a folder of images, shards, or FORMAT:PATH:SPLIT. Labels, if there are any, are not read."""
    output: str
    """The JSON file to write: the objective, all trials and the best one."""
    trials: int = 10
    """Kept shares to try, evenly from 1 / TRIALS to 1."""
    num_workers: int = 2
    """Actors that predict, and trials at once."""
    work: str = "runs"
    """Where raw data is converted to and predictions are cached."""

    def __post_init__(self) -> None:
        if self.trials < 2 or self.num_workers < 1:
            raise InputError(f"trials must be at least 2 and num_workers at least 1, got {self.trials} and {self.num_workers}")


def main(arguments: Arguments) -> None:
    """Predicts the target once, tries the shares, and writes and prints how they compare."""
    from crowddist.distributed.runtime import prepare_environment

    prepare_environment()  # before the import of ray
    from crowddist import storage
    from crowddist.data.config import parse_data
    from crowddist.data.prepare import prepare
    from crowddist.distributed.tune import search_kept_share
    from crowddist.tuning import require_kept_share, trial_table

    def say(line: str) -> None:
        print(line, flush=True)

    checkpoint = storage.normalise(arguments.checkpoint)
    require_kept_share(checkpoint)  # a slip of the pen, before the long work
    prepared = prepare(parse_data(arguments.target), arguments.work, role="target", say=say)
    found = search_kept_share(
        checkpoint,
        prepared.url,
        arguments.work,
        num_trials=arguments.trials,
        num_workers=arguments.num_workers,
        threads=max((os.cpu_count() or 1) // arguments.num_workers, 1),
        say=say,
    )
    storage.write_json(storage.normalise(arguments.output), {**found, "checkpoint": checkpoint, "data": prepared.summary()})
    print(trial_table(found["trials"]))
    print("agreement = kept mass - kept spread; it sees the ensemble's doubt, not errors that all its members share")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    with one_line_errors(), sigterm_as_exit():
        main(read_arguments(lambda: tyro.cli(Arguments, description=__doc__)))
