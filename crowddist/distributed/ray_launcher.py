"""The Ray launcher: the engine's loop inside TorchTrainer, jobs on actors; on CPUs both stay for what comes next."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import queue
import signal
import threading
import time
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
from crowddist.distributed.actors import UnitActors
from crowddist.distributed.elastic import StopReasons, group_size
from crowddist.distributed.heartbeat import Beat, Monitor, answers, named, start_watch, suspects, usable_nodes
from crowddist.distributed.network import GroupConfig
from crowddist.distributed.runtime import connect, has_gpus, num_places
from crowddist.distributed.training_group import LONGEST_FAREWELL_S, Task, TrainingGroup, train_tasks
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
"""Restarts in a row of a training group that lost a worker, without another checkpoint between them."""
MISTAKES = (OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError, ImportError)
"""Errors that a retry cannot fix. The death of a worker is none of these, and its peers see a RuntimeError."""
UNREACHABLE = (ConnectionError, TimeoutError)
"""OSErrors that a retry may fix."""
SAID_IN_FULL = (InputError, OSError, FloatingPointError)
"""Mistakes whose message says everything; the others are bugs and keep their traceback."""
ROOM_S = 20
"""A group that may have fewer workers waits so long for room, then tries with fewer."""
MOST_REASON = 120
"""Most characters of a library's message."""
SHORT_FAREWELL_S = 3.0
"""Longest wait for workers to leave where whoever has stopped the job would kill it soon."""
WORKERS = "workers.json"
"""In a start's folder: rank, machine and process of its workers."""
Loss: TypeAlias = WorkerGroupError | PreemptionError | ControllerError
"""Failures of a group that a retry may fix."""

logger = logging.getLogger(__name__)


class RayLauncher:
    """Trains with Ray Train (gloo on CPUs, NCCL on GPUs) and does jobs with actors.

    On CPUs a group of training workers waits for the next training, and meanwhile actors do jobs on its CPUs: each then
    starts once in a run. On GPUs, whose memory neither gives up while it waits, one ends before the other begins.
    """

    def __init__(self, config: RunConfig, termination: Termination | None = None) -> None:
        started = time.perf_counter()
        self.config, self.termination = config, termination or Termination()
        self.num_labellers = config.num_labellers or config.num_workers
        self.group_sizes = config.group_sizes()
        connect(max(config.num_workers, self.num_labellers), self.group_sizes[0])
        self.use_gpu = has_gpus(self.group_sizes[0])
        # Ray's numbers: a container may use fewer cores than its machine has.
        self._machines = [cores for node in usable_nodes() if (cores := int(node["Resources"].get("CPU", 0)))]
        threads = self._threads(self.num_labellers)
        self.arithmetic = arithmetic("cuda" if self.use_gpu else "cpu", threads)
        self._actors = UnitActors(num_actors=self.num_labellers, threads=threads, use_gpu=self.use_gpu)
        self._leaving = False
        """Start no more groups."""
        self._left_behind = False
        """A thread that waits for a trainer did not end."""
        self._watch: Any = None
        self._renewing = threading.Lock()
        self._group: TrainingGroup | None = None
        """The group that waits for the next training."""
        self._started: list[TrainingGroup] = []
        # for a frozen worker, which its peers cannot detect
        os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(config.patience_s))
        # wait no longer than this for lost machines, which Ray notices late
        if len(self.group_sizes) > 1:
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(ROOM_S))
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        self.start_up_s = time.perf_counter() - started

    @functools.cached_property
    def _scratch(self) -> Path:
        """Ray Train's own files."""
        return storage.scratch_folder(storage.join(run_folder(self.config), ".ray-train"))

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """See `Launcher.train`; trains as many chains at the same time as the cluster has room for. Raises a worker's
        own InputError, OSError or FloatingPointError at once; RuntimeError if workers are lost more than `MAX_FAILURES`
        times in a row without another checkpoint.
        """
        with self.termination.deferred():
            self._train(chains)

    def _train(self, chains: Sequence[Sequence[StageData]]) -> None:
        self._living_watch()
        # Counts finished chains too: a resumed run then has as many threads as an unbroken one, and so the same bits.
        at_once = self._at_once(len(chains))
        waiting = [stages for stages in chains if not all(read_done(data.folder) for data in stages)]
        if not waiting:
            return
        self._actors.close(guests=False)
        num_groups = min(at_once, len(waiting))
        kept, self._group = self._group, None
        if num_groups > 1:
            self._dismiss(kept)
            kept = None
        left, ended = iter(waiting), queue.SimpleQueue[BaseException | None]()

        def work(group: TrainingGroup | None) -> None:
            try:
                for stages in left:  # shared by all threads
                    if self._leaving or self.termination.requested:
                        break
                    group = self._train_chain(stages, at_once, group)
                if self.use_gpu or num_groups > 1 or self._leaving or self.termination.requested:
                    self._dismiss(group)
                else:
                    self._group = group
                ended.put(None)
            except BaseException as error:
                self._leaving = True  # before this or another thread begins a chain
                ended.put(error)

        # Daemons, so that the program can end although a trainer may still wait for something.
        threads = [threading.Thread(target=work, args=(kept,), name=f"chain-{number}", daemon=True)
                   for number in range(num_groups)]
        with interruptible():
            try:
                for thread in threads:
                    thread.start()
                for _ in threads:
                    error = ended.get()
                    if error is not None:
                        raise error
            except BaseException:
                self._leaving = True
                self._end(threads)
                raise

    def _living_watch(self) -> Any:
        """The actor by which driver and workers meet; a new one where it has died."""
        with self._renewing:
            if self._watch is None or not answers(self._watch):
                self._watch = start_watch()
            return self._watch

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """Ends the trainers for which these threads wait, and so the threads: no thread may use Ray after `close`."""
        last = time.monotonic() + self._farewell_s()
        with contextlib.suppress(RayError):
            ray.get(self._watch.leave.remote(), timeout=self._farewell_s())
        for thread in threads:
            if thread.is_alive():  # an interruption may come before all are started
                thread.join(max(last - time.monotonic(), 0.0))
        self._left_behind |= any(thread.is_alive() for thread in threads)
        self._dismiss_all()

    def _farewell_s(self) -> float:
        """Time to leave: little once the job was asked to stop."""
        return SHORT_FAREWELL_S if self.termination.requested else LONGEST_FAREWELL_S

    def _dismiss_all(self) -> None:
        """Ends the workers of all groups."""
        for group in self._started:
            if not self._left_behind:
                self._dismiss(group, self._farewell_s())

    def _dismiss(self, group: TrainingGroup | None, longest_s: float = LONGEST_FAREWELL_S) -> None:
        """Ends a group's workers."""
        if group is not None and not group.end(longest_s):
            self._left_behind = True

    def _train_chain(self, stages: Sequence[StageData], at_once: int,
                     group: TrainingGroup | None) -> TrainingGroup | None:
        """Trains a chain until all its stages are done: with the group there is, if it lives and has the right size,
        else with a new one; again after a loss, and for more or fewer workers. Returns: the group, if it lives.
        """
        names = " and ".join(data.stage.name for data in stages)
        num_lost, largest = 0, self.config.num_workers
        while not (self._leaving or self.termination.requested or all(read_done(data.folder) for data in stages)):
            sizes = [size for size in self.group_sizes if size <= largest]
            size = group_size(sizes, num_places(use_gpu=self.use_gpu) // at_once)
            largest = self.config.num_workers
            if size < largest:
                logger.warning("%s: training with %d of %d workers", names, size, largest)
            task = Task(name=f"{'-'.join(data.stage.name.replace('/', '-') for data in stages)}-{time.time_ns()}",
                        stages=stages, threads=self._threads(at_once * self.config.num_workers), asked=time.time())
            watch = self._living_watch()
            if group is None or not group.alive or group.watch is not watch or group.size != size:
                self._dismiss(group)
                group = self._start_group(watch, task.name, size)
            reasons = StopReasons(self.termination, size=size, sizes=self.group_sizes, num_groups=at_once,
                                  use_gpu=self.use_gpu)
            before = [_newest(data.folder) for data in stages]
            with Monitor(watch, task.name, names, reasons, record=self._scratch / task.name / WORKERS,
                         size=size) as monitor:
                loss = self._train_task(group, task)
                beats = monitor.beats() if loss else []
            if loss or monitor.reason:
                self._dismiss(group)
                group = None
            if self._leaving or self.termination.requested:
                return group
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
        return group

    def _train_task(self, group: TrainingGroup, task: Task) -> Loss | None:
        """Has a group train a chain. Returns a failure that a retry may fix, or None; raises the other failures."""
        try:
            group.train(task)
        except WorkerGroupError as error:
            mistake = mistake_among(error.worker_failures)
            if mistake is not None:
                raise mistake from (None if isinstance(mistake, SAID_IN_FULL) else error)
            return error
        except ControllerError as error:
            if not isinstance(error.controller_failure, WorkerGroupStartupTimeoutError | WorkerGroupStartupFailedError):
                raise
            return error
        except PreemptionError as error:
            return error
        return None

    def _start_group(self, watch: Any, name: str, size: int) -> TrainingGroup:
        """Starts a group's workers. Our own checkpoints are resumed, so every start gets a new name in Ray. Ray's
        restarts are off: they would retry after wrong input. Its storage path may be local to the driver's machine,
        where Ray's controller runs: only Ray's own checkpoints, which we do not write, need it elsewhere.
        """
        config = self.config

        def loop() -> None:
            train_tasks(config, watch, name)

        trainer = TorchTrainer(
            loop,
            torch_config=GroupConfig(timeout_s=config.patience_s),
            scaling_config=ScalingConfig(
                num_workers=size, use_gpu=self.use_gpu,
                # GPUs together, for their links; CPUs apart, for all of a machine's cores
                placement_strategy="PACK" if self.use_gpu else "SPREAD",
            ),
            run_config=RayRunConfig(
                name=name, storage_path=str(self._scratch),
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0,
                                             controller_failure_limit=0),  # type: ignore[call-arg]
            ),
        )
        self._started.append(TrainingGroup(trainer.fit, watch=watch, name=name, size=size))
        return self._started[-1]

    def _at_once(self, num_chains: int) -> int:
        """Number of chains that the cluster has room for at the same time."""
        return min(max(num_places(use_gpu=self.use_gpu) // self.config.num_workers, 1), num_chains)

    def training_arithmetic(self, num_chains: int) -> str:
        """See `Launcher.training_arithmetic`."""
        num_workers = self.config.num_workers
        threads = self._threads(self._at_once(num_chains) * num_workers)
        return f"{arithmetic('cuda' if self.use_gpu else 'cpu', threads)}, {num_workers} worker{'s'[:num_workers > 1]}"

    def run(self, job: Job) -> list[Any]:
        """See `Launcher.run`; the actors stay for the next job, on the CPUs of training workers that wait, if there are
        any, and else until a training takes their places.
        """
        with interruptible():
            return self._actors.run(job, machines=self._group.machines() if self._group else ())

    def take_times(self) -> dict[str, dict[str, float]]:
        """See `Launcher.take_times`."""
        return self._actors.take_times()

    def free_places(self) -> None:
        """See `Launcher.free_places`."""
        self._actors.close()
        group, self._group = self._group, None
        self._dismiss(group)

    def _threads(self, num_workers: int) -> int:
        """CPU threads of each of so many simultaneous workers."""
        return worker_threads(self.config, num_workers, self._machines)

    def close(self) -> None:
        """Leaves the cluster; a private Ray ends with it. Ray exits silently, with a code of its own, if a thread uses
        it after shutdown: with a thread left behind, Ray is left when the program ends.
        """
        self._dismiss_all()
        if not self._left_behind:
            ray.shutdown()


def mistake_among(failures: Mapping[int, Exception]) -> Exception | None:
    """The lowest rank's error that a retry cannot fix; None if workers died or lost their peers. Keys are ranks."""
    return next((failure for _, failure in sorted(failures.items())
                 if isinstance(failure, MISTAKES) and not isinstance(failure, UNREACHABLE)), None)


def explain(loss: Loss, beats: Sequence[Beat]) -> str:
    """Names, in words, the workers that died, or else those that held up the others, and the error."""
    failures = loss.worker_failures if isinstance(loss, WorkerGroupError) else {}
    dead = [rank for rank, failure in sorted(failures.items()) if isinstance(failure, RayError)]
    if dead:
        return " and ".join(named(rank, beats) for rank in dead) + " died"
    seen: Exception = (loss.controller_failure if isinstance(loss, ControllerError) else min(failures.items())[1]
                       if failures else loss)
    return f"{suspects(beats)} ({(str(seen).strip() or type(seen).__name__).splitlines()[0][:MOST_REASON]})"


def _newest(folder: str) -> str:
    """URL of a stage's newest checkpoint; "" if there is none."""
    try:
        return checkpoint.latest_url(folder)
    except FileNotFoundError:
        return ""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """In the block Ctrl-C and SIGTERM raise KeyboardInterrupt; afterwards Ctrl-C does again. Ray turns a SystemExit
    that a signal raises while it waits into exit code 1. Ray Train's handler of Ctrl-C ends its workers and then the
    driver with another code, and would stay for the rest of the program's life.
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
