"""The Ray launcher: the engine's loop inside TorchTrainer, labelling, translation and evaluation on resident actors."""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.train import FailureConfig, ScalingConfig, WorkerGroupError
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.distributed.labeler import run_units
from crowddist.distributed.runtime import connect, has_gpus, room_for
from crowddist.engine import read_done
from crowddist.errors import InputError
from crowddist.launcher import worker_threads
from crowddist.pipeline import run_folder

if TYPE_CHECKING:
    from crowddist.engine import StageData
    from crowddist.evaluate import ImageResult

MAX_FAILURES = 3
"""Times a training group is started again after the loss of a worker; each resumes at the stage's last checkpoint."""
TIMEOUT_S = 600
"""Longest wait of a collective before the group counts as broken."""
MISTAKES = (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError, ImportError)
"""What a worker raises that another start would only raise again. A dead worker is none of these, and a peer of it sees a RuntimeError."""
LONGEST_FAREWELL_S = 5.0
"""How long a trainer that lost its Ray is waited for."""
UNREACHABLE = (ConnectionError, TimeoutError)
"""The OSErrors that another start may not meet."""
SAID_IN_FULL = (InputError, OSError, FloatingPointError)
"""Mistakes whose message is all there is to say; others are bugs, whose traceback is wanted."""

logger = logging.getLogger(__name__)


class RayLauncher:
    """Trains with Ray Train (gloo on CPUs, NCCL on GPUs) and labels, translates and evaluates with actors."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.num_labellers = config.num_labellers or config.num_workers
        connect(max(config.num_workers, self.num_labellers))
        self.use_gpu = has_gpus(config.num_workers)
        self._leaving = False
        logging.getLogger("ray.train").setLevel(logging.WARNING)

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """See `Launcher.train`: as many chains at the same time as the cluster has room for.

        Raises:
            InputError, OSError, FloatingPointError: what a worker raised, as it raised it, and without another start.
            RuntimeError: workers were lost more than `MAX_FAILURES` times.
        """
        # Of all chains, also those that are done: a resumed run has as many threads as an unbroken one, and so the same bits.
        at_once = min(room_for(self.config.num_workers, use_gpu=self.use_gpu), len(chains))
        waiting = [stages for stages in chains if not all(read_done(data.folder) for data in stages)]
        if at_once == 1 or len(waiting) == 1:
            for stages in waiting:
                self._train_chain(stages, at_once)
            return
        left, ended = deque(waiting), queue.SimpleQueue[BaseException | None]()

        def work() -> None:
            while not self._leaving:
                try:
                    stages = left.popleft()
                except IndexError:
                    return
                try:
                    self._train_chain(stages, at_once)
                    ended.put(None)
                except BaseException as error:
                    ended.put(error)

        # Daemons: whatever a trainer waits for when another one has failed, the program can end.
        threads = [threading.Thread(target=work, name=f"chain-{number}", daemon=True) for number in range(at_once)]
        with _interruptible():
            try:
                for thread in threads:
                    thread.start()
                for _ in waiting:
                    error = ended.get()
                    if error is not None:
                        raise error
            except BaseException:
                # The others train for nothing: they end with Ray, and none is started again.
                self._leaving = True
                ray.shutdown()
                for thread in threads:
                    thread.join(LONGEST_FAREWELL_S)
                raise

    def _train_chain(self, stages: Sequence[StageData], at_once: int) -> None:
        names = " and ".join(data.stage.name for data in stages)
        for num_lost in range(1, MAX_FAILURES + 2):
            try:
                with _interruptible():
                    self._trainer(stages, at_once).fit()
                return
            except WorkerGroupError as error:
                mistake = mistake_among(error.worker_failures)
                if mistake is not None:
                    raise mistake from (None if isinstance(mistake, SAID_IN_FULL) else error)
                if self._leaving or num_lost > MAX_FAILURES:
                    raise RuntimeError(f"{names}: workers were lost {num_lost} times, the last time as above") from error
                logger.warning("%s: a worker was lost (%s); all start again from the last checkpoint", names, _reason(error))

    def _trainer(self, stages: Sequence[StageData], at_once: int) -> TorchTrainer:
        """One start. Our own checkpoints decide what is resumed, so every start gets a new name in Ray.

        Ray's own restarts are off: it would repeat a wrong input as if it were the loss of a worker. Its storage path may lie on the driver's machine
        alone, where its controller is: workers look for it only with checkpoints of Ray's, and there are none.
        """
        config, threads = self.config, worker_threads(self.config, at_once * self.config.num_workers)

        def loop() -> None:
            import torch

            from crowddist.distributed.runtime import RayRuntime
            from crowddist.launcher import train_stages

            torch.set_num_threads(threads)
            train_stages(config, stages, RayRuntime())

        return TorchTrainer(
            loop,
            torch_config=TorchConfig(timeout_s=TIMEOUT_S),
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=self.use_gpu),
            run_config=RayRunConfig(
                name=f"{'-'.join(data.stage.name.replace('/', '-') for data in stages)}-{time.time_ns()}",
                storage_path=str(storage.scratch_folder(storage.join(run_folder(config), ".ray-train"))),
                failure_config=FailureConfig(max_failures=0),
            ),
        )

    def label(self, checkpoint_url: str, images_url: str, labels_url: str) -> list[dict[str, Any]]:
        """See `Launcher.label`."""
        return self._run("label", checkpoint_url, images_url, (labels_url,))

    def translate(self, checkpoint_url: str, images_url: str, translated_url: str) -> list[dict[str, Any]]:
        """See `Launcher.translate`."""
        return self._run("translate", checkpoint_url, images_url, (translated_url,))

    def evaluate(self, checkpoint_url: str, data_url: str) -> list[ImageResult]:
        """See `Launcher.evaluate`."""
        parts = self._run("evaluate", checkpoint_url, data_url, ())
        return [result for part in parts for result in part]

    def _run(self, call: str, checkpoint_url: str, data_url: str, arguments: tuple[Any, ...]) -> list[Any]:
        with _interruptible():
            return run_units(
                call,
                checkpoint_url,
                data_url,
                arguments,
                num_actors=self.num_labellers,
                threads=worker_threads(self.config, self.num_labellers),
                use_gpu=self.use_gpu,
            )

    def close(self) -> None:
        """Leaves the cluster; a private Ray ends with it."""
        ray.shutdown()


def mistake_among(failures: Mapping[int, Exception]) -> Exception | None:
    """What the lowest rank raised that another start would only raise again; None where workers died or lost their peers.

    Args:
        failures: rank -> what it raised, or what Ray says of its death.
    """
    for _, failure in sorted(failures.items()):
        if isinstance(failure, MISTAKES) and not isinstance(failure, UNREACHABLE):
            return failure
    return None


def _reason(error: WorkerGroupError) -> str:
    """The first line of what the lowest rank failed of."""
    _, failure = min(error.worker_failures.items())
    return (str(failure).strip() or type(failure).__name__).splitlines()[0]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt within, and Ctrl-C does so afterwards.

    Ray makes exit code 1 of every SystemExit that a signal raises while it waits. Ray Train answers Ctrl-C by ending its workers and then
    the driver, with another code, and would do so for the rest of the program's life.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as leaving:
        raise KeyboardInterrupt from leaving
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
