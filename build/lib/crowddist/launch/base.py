"""The launchers' interface, and the functions they share: threads, training, and out-of-memory errors."""

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
    """Does the work of an adaptation."""

    arithmetic: str
    """See the function `arithmetic`."""

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """Fits chains of consecutive stages; chains do not depend on each other. Resumes after the work already done.
        Raises SystemExit, with a checkpoint written, if the process was asked to stop.
        """

    def training_arithmetic(self, num_chains: int) -> str:
        """Names, besides the stages' own inputs, all that the last bits of `train` depend on with so many chains."""

    def run(self, job: Job) -> list[Any]:
        """Does a job on every image of its data set once. Returns the records of its units, in order."""

    def free_places(self) -> None:
        """Ends the workers that wait for the next job, so that others, as a search's trials, have their places."""

    def close(self) -> None:
        """Releases the launcher's resources."""


def is_out_of_memory(error: BaseException) -> bool:
    """True if the machine's or the GPU's memory ran out."""
    return (isinstance(error, MemoryError | torch.OutOfMemoryError)
            or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)))


def out_of_memory(what: str, option: str) -> InputError:
    """The error for work that needs more memory; its message says what to do."""
    return InputError(f"out of memory over {what}: give a smaller --{option}, fewer workers a machine (--num-workers, "
                      "--num-labellers), or more memory")


def arithmetic(device: str, threads: int) -> str:
    """Names, besides the networks and the image, all that the last bits of a prediction depend on."""
    return f"torch {torch.__version__}, {device}, {threads} threads"


def worker_threads(config: RunConfig, num_workers: int, machines: Sequence[int] = ()) -> int:
    """CPU threads of each worker: as configured, or an equal share of the cores of `machines` (default: this one)."""
    cores = machines or (os.cpu_count() or 1,)
    return config.threads or max(min(cores) // math.ceil(num_workers / len(cores)), 1)


def train_stages(config: RunConfig, stages: Sequence[StageData], runtime: Any) -> None:
    """Fits stages on one worker; all launchers call it."""
    from crowddist.methods.build import build_method

    config = with_values(config, stages[0].thresholds)
    keep_freed_memory()
    begun = stages[0].initial or is_begun(stages[0].folder)
    try:
        fit_stages(lambda: build_method(config, weights="none" if begun else "all"), stages, runtime,
                   engine=config.engine, seed=config.seed, record=to_json(config))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(f"a step of {' and '.join(data.stage.name for data in stages)}",
                            "train.batch-size or --stream.crop-size") from error
