"""What every launcher does, and what its workers share: how many threads they have, training, and what to say when
memory runs out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from crowddist.config import RunConfig, to_json
from crowddist.errors import InputError
from crowddist.methods.thresholds import with_values
from crowddist.process.host import keep_freed_memory
from crowddist.run.engine import StageData, fit_stages, is_begun

if TYPE_CHECKING:
    from crowddist.inference.jobs import Job


class Launcher(Protocol):
    """Where the work of an adaptation is done."""

    arithmetic: str
    """What the last bits of its predictions depend on, see `arithmetic`."""

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """Fits chains of consecutive stages, which do not wait for each other; stages that are done are skipped, one
        under way is resumed.

        Raises:
            SystemExit: the process was asked to stop; a checkpoint is written.
        """

    def run(self, job: Job) -> list[Any]:
        """Does a job on every image of its data set once. Returns: the records of its units, in order."""

    def close(self) -> None:
        """Gives back what the launcher holds."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of its GPU."""
    return (isinstance(error, MemoryError | torch.OutOfMemoryError)
            or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)))


def out_of_memory(what: str, option: str) -> InputError:
    """What to say of work that there is too little memory for."""
    return (InputError(f"out of memory over {what}: give a smaller --{option}, fewer workers a machine (--num-workers, "
                       "--num-labellers), or more memory"))


def arithmetic(device: str, threads: int) -> str:
    """What the last bits of a prediction depend on, beside the networks and the image: in words."""
    return f"torch {torch.__version__}, {device}, {threads} threads"


def worker_threads(config: RunConfig, num_workers: int, machines: Sequence[int] = ()) -> int:
    """CPU threads of one of `num_workers` workers: as configured, or an equal share of the cores.

    Args:
        machines: cores of each machine that the workers are spread over; none: they are on this one.
    """
    cores = machines or (os.cpu_count() or 1,)
    return config.threads or max(min(cores) // math.ceil(num_workers / len(cores)), 1)


def train_stages(config: RunConfig, stages: Sequence[StageData], runtime: Any) -> None:
    """Fits stages on one worker of any launcher: the function that all of them call."""
    from crowddist.methods.build import build_method

    config = with_values(config, stages[0].thresholds)
    keep_freed_memory()
    begun = stages[0].initial or is_begun(stages[0].folder)
    try:
        fit_stages(
            lambda: build_method(config, weights="none" if begun else "all"),
            stages,
            runtime,
            engine=config.engine,
            seed=config.seed,
            record=to_json(config),
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(f"a step of {' and '.join(data.stage.name for data in stages)}",
                            "train.batch-size or --stream.crop-size") from error
