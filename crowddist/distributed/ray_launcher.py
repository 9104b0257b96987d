"""The Ray launcher: the engine's loop inside TorchTrainer, jobs on resident actors."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import ray
from ray.exceptions import RayError
from ray.train import ControllerError, FailureConfig, PreemptionError, ScalingConfig, WorkerGroupError
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.distributed.actors import run_job
from crowddist.distributed.elastic import StopReasons, group_size
from crowddist.distributed.heartbeat import Beat, Monitor, named, start_watch, suspects
from crowddist.distributed.network import GroupConfig
from crowddist.distributed.runtime import connect, cores_of_machines, has_gpus, num_places, room_for
from crowddist.errors import InputError
from crowddist.launch.base import arithmetic, worker_threads
from crowddist.process.stop_signals import Termination
from crowddist.run import checkpoint
from crowddist.run.engine import read_done
from crowddist.run.record import run_folder

if TYPE_CHECKING:
    from crowddist.inference.jobs import Job
    from crowddist.run.engine import StageData

MAX_FAILURES = 3
"""Times in a row that a training group is started again after the loss of a worker without having come to another
checkpoint."""
MISTAKES = (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError, ImportError)
"""What a worker raises that another start would only raise again. A dead worker is none of these, and a peer of it sees
a RuntimeError."""
ROOM_S = 20
"""How long there may be no room for a group that can have fewer workers, before it is tried with fewer."""
MOST_REASON = 120
"""Characters of what a library says."""
LONGEST_FAREWELL_S = 30.0
"""How long trainers whose workers have been told to leave are waited for."""
UNREACHABLE = (ConnectionError, TimeoutError)
"""The OSErrors that another start may not meet."""
SAID_IN_FULL = (InputError, OSError, FloatingPointError)
"""Mistakes whose message is all there is to say; others are bugs, whose traceback is wanted."""
WORKERS = "workers.json"
"""In a start's folder: rank, machine and process of its workers."""
Loss: TypeAlias = WorkerGroupError | PreemptionError | ControllerError
"""How a group's start can end that another start may not."""

logger = logging.getLogger(__name__)


class RayLauncher:
    """Trains with Ray Train (gloo on CPUs, NCCL on GPUs) and does jobs with actors."""

    def __init__(self, config: RunConfig, termination: Termination | None = None) -> None:
        self.config, self.termination = config, termination or Termination()
        self.num_labellers = config.num_labellers or config.num_workers
        self.group_sizes = config.group_sizes()
        connect(max(config.num_workers, self.num_labellers), self.group_sizes[0])
        self.use_gpu = has_gpus(self.group_sizes[0])
        self._machines = cores_of_machines()
        self.arithmetic = arithmetic("cuda" if self.use_gpu else "cpu", self._threads(self.num_labellers))
        self._leaving = False
        """Nothing is started any more."""
        self._left_behind = False
        """A thread that waits for a trainer could not be ended."""
        self._watch: Any = None
        # of a worker that is frozen, which no peer can tell
        os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(config.patience_s))
        # how long machines that are lost, which Ray takes a while to notice, are waited for
        if len(self.group_sizes) > 1:
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(ROOM_S))
        logging.getLogger("ray.train").setLevel(logging.WARNING)

    @functools.cached_property
    def _scratch(self) -> Path:
        """What Ray Train keeps of its starts."""
        return storage.scratch_folder(storage.join(run_folder(self.config), ".ray-train"))

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """See `Launcher.train`: as many chains at the same time as the cluster has room for.

        Raises:
            InputError, OSError, FloatingPointError: what a worker raised, as it raised it, and without another start.
            RuntimeError: workers were lost more than `MAX_FAILURES` times in a row without another checkpoint.
            SystemExit: the process was asked to stop; a checkpoint is written.
        """
        with self.termination.deferred():
            self._train(chains)

    def _train(self, chains: Sequence[Sequence[StageData]]) -> None:
        if self._watch is None:
            self._watch = start_watch()
        # Of all chains, also those that are done: a resumed run has as many threads as an unbroken one, and so the same
        # bits.
        at_once = min(room_for(self.config.num_workers, use_gpu=self.use_gpu), len(chains))
        waiting = [stages for stages in chains if not all(read_done(data.folder) for data in stages)]
        if at_once == 1 or len(waiting) == 1:
            for stages in waiting:
                self._train_chain(stages, at_once)
            return
        left, ended = deque(waiting), queue.SimpleQueue[BaseException | None]()

        def work() -> None:
            while not (self._leaving or self.termination.requested):
                try:
                    stages = left.popleft()
                except IndexError:
                    return
                try:
                    self._train_chain(stages, at_once)
                    ended.put(None)
                except BaseException as error:
                    self._leaving = True  # before anything else is begun, here or in another thread
                    ended.put(error)

        # Daemons: whatever a trainer waits for when another one has failed, the program can end.
        threads = [threading.Thread(target=work, name=f"chain-{number}", daemon=True) for number in range(at_once)]
        with interruptible():
            try:
                for thread in threads:
                    thread.start()
                for _ in waiting:
                    error = self._next(ended, threads)
                    if error is not None:
                        raise error
            except BaseException:
                self._leaving = True
                self._end(threads)  # they would train for nothing
                raise

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """Ends the trainers that these threads wait for, and with them the threads: Ray may only end when no thread is
        in it, see `close`.
        """
        with contextlib.suppress(RayError):
            ray.get(self._watch.leave.remote(), timeout=LONGEST_FAREWELL_S)
        last = time.monotonic() + LONGEST_FAREWELL_S
        for thread in threads:
            if thread.is_alive():  # an interruption may come before all are started
                thread.join(max(last - time.monotonic(), 0.0))
        self._left_behind = any(thread.is_alive() for thread in threads)

    @staticmethod
    def _next(ended: queue.SimpleQueue[BaseException | None],
              threads: Sequence[threading.Thread]) -> BaseException | None:
        """What the next chain ended with; None also where none is left to end."""
        while True:
            try:
                return ended.get(timeout=1.0)
            except queue.Empty:
                if not any(thread.is_alive() for thread in threads) and ended.empty():
                    return None

    def _train_chain(self, stages: Sequence[StageData], at_once: int) -> None:
        """Starts a chain's group until all of its stages are done: again after a loss, after a request to stop, and
        with more or fewer workers.
        """
        names = " and ".join(data.stage.name for data in stages)
        num_lost, largest = 0, self.config.num_workers
        while not (self._leaving or self.termination.requested or all(read_done(data.folder) for data in stages)):
            sizes = [size for size in self.group_sizes if size <= largest]
            size = group_size(sizes, num_places(use_gpu=self.use_gpu) // at_once)
            largest = self.config.num_workers
            if size < largest:
                logger.warning("%s: training with %d of %d workers", names, size, largest)
            group = f"{'-'.join(data.stage.name.replace('/', '-') for data in stages)}-{time.time_ns()}"
            reasons = StopReasons(self.termination, size=size, sizes=self.group_sizes, num_groups=at_once,
                                  use_gpu=self.use_gpu)
            before = [_newest(data.folder) for data in stages]
            with Monitor(self._watch, group, names, reasons, record=self._scratch / group / WORKERS,
                         size=size) as monitor:
                loss = self._fit(stages, group, size, at_once)
                beats = monitor.beats() if loss else []
            if self._leaving or self.termination.requested:
                return
            if loss is None:
                if monitor.reason:
                    logger.warning("%s: stopped at a checkpoint: %s", names, monitor.reason)
            elif isinstance(loss, ControllerError) and isinstance(loss.controller_failure,
                                                                  WorkerGroupStartupTimeoutError):
                largest = max((smaller for smaller in self.group_sizes if smaller < size), default=largest)
                logger.warning("%s: the cluster has no room for %d workers yet", names, size)
            else:
                num_lost = num_lost + 1 if [_newest(data.folder) for data in stages] == before else 1
                if num_lost > MAX_FAILURES:
                    raise RuntimeError(f"{names}: workers were lost {num_lost} times without another checkpoint, the "
                                       "last time as above") from loss
                logger.warning("%s: a worker was lost: %s; all start again from the last checkpoint", names,
                               explain(loss, beats))

    def _fit(self, stages: Sequence[StageData], group: str, size: int, at_once: int) -> Loss | None:
        """One start of a chain's group. Returns: the loss of a worker, or what kept it from starting; None where all
        ended by themselves.

        Raises:
            InputError, OSError, FloatingPointError, ControllerError: as `train`, and what else another start would only
                raise again.
        """
        try:
            with interruptible():
                self._trainer(stages, group, size, at_once).fit()
        except WorkerGroupError as error:
            mistake = mistake_among(error.worker_failures)
            if mistake is not None:
                raise mistake from (None if isinstance(mistake, SAID_IN_FULL) else error)
            return error
        except PreemptionError as error:
            return error
        except ControllerError as error:
            if not isinstance(error.controller_failure, WorkerGroupStartupTimeoutError | WorkerGroupStartupFailedError):
                raise
            return error
        return None

    def _trainer(self, stages: Sequence[StageData], group: str, size: int, at_once: int) -> TorchTrainer:
        """One start. Our own checkpoints decide what is resumed, so every start gets a new name in Ray.

        Ray's own restarts are off: it would repeat a wrong input as if it were the loss of a worker. Its storage path
        may lie on the driver's machine alone, where its controller is: workers look for it only with checkpoints of
        Ray's, and there are none.
        """
        config, threads, watch = self.config, self._threads(at_once * self.config.num_workers), self._watch

        def loop() -> None:
            import torch

            from crowddist.distributed.runtime import RayRuntime
            from crowddist.launch.base import train_stages

            torch.set_num_threads(threads)
            train_stages(config, stages, RayRuntime(watch, group))

        return TorchTrainer(
            loop,
            torch_config=GroupConfig(timeout_s=config.patience_s),
            scaling_config=ScalingConfig(
                num_workers=size,
                use_gpu=self.use_gpu,
                # GPUs are rather together, for their links; CPUs apart, for all of a machine's cores.
                placement_strategy="PACK" if self.use_gpu else "SPREAD",
            ),
            run_config=RayRunConfig(
                name=group,
                storage_path=str(self._scratch),
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0,
                                             controller_failure_limit=0),  # type: ignore[call-arg]
            ),
        )

    def run(self, job: Job) -> list[Any]:
        """See `Launcher.run`."""
        with interruptible():
            return run_job(job, num_actors=self.num_labellers, threads=self._threads(self.num_labellers),
                           use_gpu=self.use_gpu)

    def _threads(self, num_workers: int) -> int:
        """Of each of so many workers at once."""
        return worker_threads(self.config, num_workers, self._machines)

    def close(self) -> None:
        """Leaves the cluster; a private Ray ends with it.

        Ray ends the whole program, without a word and with a code of its own, where one thread asks it for something
        when another one has left: where a trainer could not be ended, Ray is left when the program ends.
        """
        if not self._left_behind:
            ray.shutdown()


def mistake_among(failures: Mapping[int, Exception]) -> Exception | None:
    """What the lowest rank raised that another start would only raise again; None where workers died or lost their
    peers.

    Args:
        failures: rank -> what it raised, or what Ray says of its death.
    """
    for _, failure in sorted(failures.items()):
        if isinstance(failure, MISTAKES) and not isinstance(failure, UNREACHABLE):
            return failure
    return None


def explain(loss: Loss, beats: Sequence[Beat]) -> str:
    """In words, which workers died, or else whom the others waited for and what they saw of it."""
    failures = loss.worker_failures if isinstance(loss, WorkerGroupError) else {}
    dead = [rank for rank, failure in sorted(failures.items()) if isinstance(failure, RayError)]
    if dead:
        return " and ".join(named(rank, beats) for rank in dead) + " died"
    seen: Exception = (loss.controller_failure if isinstance(loss, ControllerError) else min(failures.items())[1]
                       if failures else loss)
    return f"{suspects(beats)} ({(str(seen).strip() or type(seen).__name__).splitlines()[0][:MOST_REASON]})"


def _newest(folder: str) -> str:
    """URL of a stage's newest checkpoint; "" before the first."""
    try:
        return checkpoint.latest_url(folder)
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt within, and Ctrl-C does so afterwards.

    Ray makes exit code 1 of every SystemExit that a signal raises while it waits. Ray Train answers Ctrl-C by ending
    its workers and then the driver, with another code, and would do so for the rest of the program's life.
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
