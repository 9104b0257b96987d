"""The Ray runtime: connecting to a cluster or starting a private one, and a worker's place in its group."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a private Ray: results of actors are small, images go through files."""


def prepare_environment() -> None:
    """Settings that Ray reads when it is imported, so this comes before its first import.

    A private Ray gets a token of its own: nobody else on the machine can run code in it, and none is left in the home folder.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this a worker's report waits up to 2 s for the controller's next look.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A path means the same in a worker as on the command line: Ray would move workers into a folder of its own.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def connect(num_workers: int = 1) -> None:
    """Joins the cluster of $RAY_ADDRESS (`ray job submit` sets it), or starts a private Ray on this machine.

    Args:
        num_workers: that are to run at once, each counted as one CPU: a private Ray has room for them whatever the machine.
    """
    import ray

    if not ray.is_initialized():
        sigterm = signal.getsignal(signal.SIGTERM)
        address = os.environ.get("RAY_ADDRESS")
        if address:
            ray.init(address=address, log_to_driver=False)
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
        if callable(sigterm) and signal.getsignal(signal.SIGTERM) is not sigterm:  # Ray sets its own, but how a job ends is the job's to say
            signal.signal(signal.SIGTERM, sigterm)
    num_cpus = ray.cluster_resources().get("CPU", 0)
    if num_cpus < num_workers:
        logger.warning("the cluster has %d CPUs for %d workers: the work waits until more join", num_cpus, num_workers)


def has_gpus(num_workers: int) -> bool:
    """Whether each of the workers gets a GPU; says so where there are some, but too few."""
    import ray

    num_gpus = ray.cluster_resources().get("GPU", 0)
    if 0 < num_gpus < num_workers:
        logger.warning("%d GPUs for %d workers: all run on CPUs; start as many workers as there are GPUs to use them", num_gpus, num_workers)
    return num_gpus >= num_workers


def room_for(num_workers: int, *, use_gpu: bool) -> int:
    """How many groups of workers the cluster has room for at the same time, at least one."""
    import ray

    return max(int(ray.cluster_resources().get("GPU" if use_gpu else "CPU", 0)) // num_workers, 1)


class RayRuntime:
    """A worker of a Ray Train group: its rank, and gradients averaged over the group."""

    def __init__(self) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()

    def wrap(self, module: nn.Module) -> nn.Module:
        """DistributedDataParallel; buffers are not broadcast, because each worker's running statistics are those of the whole batch."""
        if self.world_size == 1:
            return module
        return torch.nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """Shows Ray Train that the group is alive; checkpoints and curves are on storage already."""
        import ray.train

        ray.train.report({"step": step, **scalars})
