"""Joining a Ray cluster or starting a private Ray, and the runtime of a training worker."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from crowddist.errors import InputError
from crowddist.process.safe_text import redacted
from crowddist.process.stopwatch import PHASES

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(ray://)?(\[[0-9a-fA-F:.]+\]|[^\s/:@]+):\d{1,5}")
ANSWER_S = 30.0
"""Time for a cluster that was just joined to answer one more request."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a private Ray: results are small, images go through files."""


def prepare_environment() -> None:
    """Sets variables that Ray reads at its import, so call this before the first import of ray.

    Ray executes whatever reaches its ports, so it must ask for a token, unless RAY_AUTH_MODE says otherwise. A private
    Ray gets its own token, which is not left in the home folder; the user gives a cluster's.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # else a worker's report waits up to 2 s for the controller's next look
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # keep workers in the driver's folder, so that paths mean the same there
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # else a thread that calls Ray while the program ends starts another Ray
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if (os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ
        and not os.environ.get("RAY_ADDRESS")):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def ray_address() -> str:
    """$RAY_ADDRESS, "" if it is not set. Raises InputError for what is no address of a cluster's head."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address.lower().startswith(("http://", "https://")):
        raise InputError(f"RAY_ADDRESS is {redacted(address)}, the dashboard's address for `ray job submit`: unset it, "
                         "or set it to the HOST:6379 of the cluster's head")
    if address not in ("", "auto", "local") and not _ADDRESS.fullmatch(address):
        raise InputError(f"RAY_ADDRESS is {redacted(address)!r}, which is no cluster: unset it, or set it to the "
                         "HOST:6379 of the cluster's head")
    return address


def connect(num_workers: int = 1, fewest: int = 0) -> None:
    """Joins the cluster of $RAY_ADDRESS (`ray job submit` sets it), or starts a private Ray on this machine.

    `num_workers` run at once, one CPU each, for which a private Ray has room on any machine; `fewest` could do the work
    (0: all are needed). Raises InputError if the cluster takes work from anybody, or its token is missing or wrong.
    """
    import ray
    from ray.exceptions import AuthenticationError

    if not ray.is_initialized():
        sigterm = signal.getsignal(signal.SIGTERM)
        if address := ray_address():
            try:
                ray.init(address=address, log_to_driver=False)
            except (AuthenticationError, ConnectionError):  # with a wrong token Ray cannot connect, after a while
                raise InputError(f"no Ray at {address}, or no token for it, or not its own: set RAY_AUTH_TOKEN or "
                                 "RAY_AUTH_TOKEN_PATH to the one that all of its machines were started with") from None
            except (RuntimeError, ValueError) as error:  # another version of Ray or Python
                raise InputError(f"the Ray at {address} cannot be joined: {str(error).splitlines()[0]}") from error
            if os.environ.get("RAY_AUTH_MODE") != "disabled" and is_open(ray.get_runtime_context().gcs_address):
                ray.shutdown()
                raise InputError(f"the Ray at {address} takes work from anybody who reaches it: start it with "
                                 "RAY_AUTH_MODE=token and a RAY_AUTH_TOKEN on all machines (or set "
                                 "RAY_AUTH_MODE=disabled for this job, where nobody else reaches them)")
        else:
            # without "local" Ray would join any Ray that `ray start` left on this machine
            ray.init(address="local", num_cpus=num_workers if num_workers > (os.cpu_count() or 1) else None,
                     include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False,
                     logging_level=logging.WARNING)
        # Ray installs its own handler, but the job decides how it ends
        if callable(sigterm) and signal.getsignal(signal.SIGTERM) is not sigterm:
            signal.signal(signal.SIGTERM, sigterm)
    num_cpus, needed = ray.cluster_resources().get("CPU", 0), fewest or num_workers
    if num_cpus < needed:
        logger.warning("the cluster has %d CPUs for %d workers: the work waits until more join", num_cpus, needed)


def is_open(gcs_address: str) -> bool:
    """True if a cluster answers a request without a token; `gcs_address` is host:port of its head."""
    import grpc

    with grpc.insecure_channel(gcs_address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")(b"", timeout=ANSWER_S)
        except grpc.RpcError:
            return False
    return True


def has_gpus(num_workers: int) -> bool:
    """True if each worker gets a GPU; warns if there are some GPUs, but too few."""
    import ray

    num_gpus = ray.cluster_resources().get("GPU", 0)
    if 0 < num_gpus < num_workers:
        logger.warning("%d GPUs for %d workers: all run on CPUs; start as many workers as there are GPUs to use them",
                       num_gpus, num_workers)
    return num_gpus >= num_workers


def num_places(*, use_gpu: bool) -> int:
    """Number of workers for which the usable machines have room, whoever uses it."""
    from crowddist.distributed.heartbeat import usable_nodes

    return sum(int(node["Resources"].get("GPU" if use_gpu else "CPU", 0)) for node in usable_nodes())


def averaged(module: nn.Module) -> nn.Module:
    """The module in DistributedDataParallel, set so that a resumed training has the bits of an unbroken one.

    Buffers are not broadcast: each worker's running statistics are those of the whole batch. find_unused_parameters
    fixes the gradient layout; none are unused. Else the layout changes after a start's first step, and three workers or
    more add in an order that depends on a gradient's place in memory.
    """
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
    made = torch.nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)
    made._set_ddp_runtime_logging_sample_rate(1)  # DDP's own times of every step
    return made


def gradient_wait_s(module: torch.nn.parallel.DistributedDataParallel) -> float:
    """Seconds by which the newest exchange of gradients that DDP has timed outlasted the backward pass; 0 before."""
    times = module._get_ddp_logging_data()
    overlap = times.get("backward_compute_comm_overlap_time", 0)
    return max(times.get("backward_comm_time", 0) - overlap, 0) / 1e9


class RayRuntime:
    """The runtime of a worker in a Ray Train group for one chain of stages, as whose `group` it beats; `watch` is of
    `start_watch`. The caller closes it.
    """

    def __init__(self, watch: Any, group: str) -> None:
        import ray.train
        import ray.train.torch

        from crowddist.distributed.heartbeat import Pulse

        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._pulse = Pulse(watch, group, self.rank)
        self._averaged: Any = None

    def wrap(self, module: nn.Module) -> nn.Module:
        """See `averaged`; a single worker needs no averaging."""
        if self.world_size == 1:
            return module
        self._averaged = averaged(module)
        return self._averaged

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """Tells Ray Train that the group is alive; checkpoints and curves are on storage already."""
        import ray.train

        ray.train.report({"step": step, **scalars})

    def at(self, step: int, doing: str) -> None:
        """See `Pulse.at`."""
        self._pulse.at(step, doing)

    def close(self) -> None:
        """Ends the beats."""
        self._pulse.end()

    def stop_requested(self) -> bool:
        """True if any worker was ordered to stop."""
        if self.world_size == 1:
            return self._pulse.stopping
        stopping = torch.tensor(int(self._pulse.stopping), device=self.device)
        torch.distributed.all_reduce(stopping, torch.distributed.ReduceOp.MAX)
        return bool(stopping)

    def waited_s(self) -> float:
        """See `gradient_wait_s`; of the step before, as DDP sums a step up when the next begins."""
        return 0.0 if self._averaged is None else gradient_wait_s(self._averaged)

    def gather(self, seconds: Mapping[str, float]) -> list[dict[str, float]]:
        """See `Runtime.gather`."""
        if self.world_size == 1:
            return [dict(seconds)]
        mine = torch.tensor([seconds.get(phase, 0.0) for phase in PHASES], dtype=torch.float64, device=self.device)
        every = [torch.empty_like(mine) for _ in range(self.world_size)]
        torch.distributed.all_gather(every, mine)
        return [{phase: value for phase, value in zip(PHASES, each.tolist(), strict=True) if value} for each in every]
