"""The Ray runtime: connecting to a cluster or starting a private one, and a worker's place in its group."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from crowddist.errors import InputError

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

ANSWER_S = 30.0
"""How long a cluster that was joined just now may take to answer one more question."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a private Ray: results of actors are small, images go through files."""


def prepare_environment() -> None:
    """Settings that Ray reads when it is imported, so this comes before its first import.

    Ray executes what whoever reaches its ports sends, so a token is asked for everywhere, unless RAY_AUTH_MODE says
    otherwise. A private Ray gets one of its own, which is not left in the home folder; that of a cluster is the user's
    to give.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this a worker's report waits up to 2 s for the controller's next look.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A path means the same in a worker as on the command line: Ray would move workers into a folder of its own.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # A thread that asks Ray for something while the program ends would otherwise start another Ray.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if (os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ
        and not os.environ.get("RAY_ADDRESS")):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def connect(num_workers: int = 1, fewest: int = 0) -> None:
    """Joins the cluster of $RAY_ADDRESS (`ray job submit` sets it), or starts a private Ray on this machine.

    Args:
        num_workers: that are to run at once, each counted as one CPU: a private Ray has room for them whatever the
            machine.
        fewest: of them that can do the work; 0: all.

    Raises:
        InputError: the cluster takes work from anybody, or no token for it is given, or another one.
    """
    import ray
    from ray.exceptions import AuthenticationError

    if not ray.is_initialized():
        sigterm = signal.getsignal(signal.SIGTERM)
        address = os.environ.get("RAY_ADDRESS")
        if address:
            try:
                ray.init(address=address, log_to_driver=False)
            # of a wrong token Ray says after a while that it cannot connect
            except (AuthenticationError, ConnectionError):
                raise InputError(f"no Ray at {address}, or no token for it, or not its own: set RAY_AUTH_TOKEN or "
                                 "RAY_AUTH_TOKEN_PATH to the one that all of "
                                 "its machines were started with") from None
            if os.environ.get("RAY_AUTH_MODE") != "disabled" and is_open(ray.get_runtime_context().gcs_address):
                ray.shutdown()
                raise InputError(f"the Ray at {address} takes work from anybody who reaches it: start it with "
                                 "RAY_AUTH_MODE=token and a RAY_AUTH_TOKEN on "
                                 "all machines (or set RAY_AUTH_MODE=disabled for this job, where nobody else reaches "
                                 "them)")
        else:
            # "local": without it Ray would join whatever `ray start` has left on this machine.
            ray.init(
                address="local",
                num_cpus=num_workers if num_workers > (os.cpu_count() or 1) else None,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        # Ray sets its own, but how a job ends is the job's to say
        if callable(sigterm) and signal.getsignal(signal.SIGTERM) is not sigterm:
            signal.signal(signal.SIGTERM, sigterm)
    num_cpus = ray.cluster_resources().get("CPU", 0)
    if num_cpus < (fewest or num_workers):
        logger.warning("the cluster has %d CPUs for %d workers: the work waits until more join", num_cpus,
                       fewest or num_workers)


def is_open(gcs_address: str) -> bool:
    """Whether a cluster answers a question that comes without a token.

    Args:
        gcs_address: host and port of its head.
    """
    import grpc

    with grpc.insecure_channel(gcs_address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")(b"", timeout=ANSWER_S)
        except grpc.RpcError:
            return False
    return True


def has_gpus(num_workers: int) -> bool:
    """Whether each of the workers gets a GPU; says so where there are some, but too few."""
    import ray

    num_gpus = ray.cluster_resources().get("GPU", 0)
    if 0 < num_gpus < num_workers:
        logger.warning("%d GPUs for %d workers: all run on CPUs; start as many workers as there are GPUs to use them",
                       num_gpus, num_workers)
    return num_gpus >= num_workers


def room_for(num_workers: int, *, use_gpu: bool) -> int:
    """How many groups of workers the cluster has room for at the same time, at least one."""
    return max(num_places(use_gpu=use_gpu) // num_workers, 1)


def num_places(*, use_gpu: bool) -> int:
    """How many workers the machines have room for that are alive and not about to be taken away, whoever uses them."""
    from crowddist.distributed.heartbeat import usable_nodes

    return sum(int(node["Resources"].get("GPU" if use_gpu else "CPU", 0)) for node in usable_nodes())


def averaged(module: nn.Module) -> nn.Module:
    """The module in DistributedDataParallel, so that a training that was resumed goes on with the bits of an unbroken
    one, for any number of workers.

    Buffers are not broadcast: each worker's running statistics are those of the whole batch. By default gradients are
    laid out anew after a start's first step, and three workers or more add in an order that depends on where in memory
    a gradient lies; where unused parameters are looked for, which there are none of, the layout stays.
    """
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
    return torch.nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


def cores_of_machines() -> list[int]:
    """Cores of each machine that takes workers, as they are now: what Ray may use there, which in a container is less
    than the machine has.
    """
    from crowddist.distributed.heartbeat import usable_nodes

    return [cores for node in usable_nodes() if (cores := int(node["Resources"].get("CPU", 0)))]


class RayRuntime:
    """A worker of a Ray Train group: its rank, and gradients averaged over the group.

    Args:
        watch: the actor of `heartbeat.start_watch`.
        group: the name of this start of the group.
    """

    def __init__(self, watch: Any, group: str) -> None:
        import ray.train
        import ray.train.torch

        from crowddist.distributed.heartbeat import Pulse

        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._pulse = Pulse(watch, group, self.rank)

    def wrap(self, module: nn.Module) -> nn.Module:
        """See `averaged`; a worker alone has nobody to average with."""
        return module if self.world_size == 1 else averaged(module)

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows Ray Train that the group is alive; checkpoints and curves are on storage already."""
        import ray.train

        ray.train.report({"step": step, **scalars})

    def at(self, step: int, doing: str) -> None:
        """Notes it for the next beat."""
        self._pulse.at(step, doing)

    def stop_requested(self) -> bool:
        """Whether any worker has been told to stop."""
        if self.world_size == 1:
            return self._pulse.stopping
        stopping = torch.tensor(int(self._pulse.stopping), device=self.device)
        torch.distributed.all_reduce(stopping, torch.distributed.ReduceOp.MAX)
        return bool(stopping)
