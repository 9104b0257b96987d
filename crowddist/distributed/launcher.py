"""The Ray launcher: the engine's loop inside TorchTrainer, labelling and evaluation on resident actors."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.distributed.labeler import run_units
from crowddist.distributed.runtime import connect
from crowddist.launcher import worker_threads
from crowddist.pipeline import run_folder

if TYPE_CHECKING:
    from crowddist.engine import StageData
    from crowddist.evaluate import ImageResult

MAX_FAILURES = 3
"""Times a training group is started again after the loss of a worker; each resumes at the stage's last checkpoint."""
TIMEOUT_S = 600
"""Longest wait of a collective before the group counts as broken."""


class RayLauncher:
    """Trains with Ray Train (gloo on CPUs, NCCL on GPUs) and labels and evaluates with actors."""

    def __init__(self, config: RunConfig) -> None:
        connect()
        self.config = config
        self.use_gpu = ray.cluster_resources().get("GPU", 0) >= config.num_workers
        self.num_labellers = config.num_labellers or config.num_workers
        logging.getLogger("ray.train").setLevel(logging.WARNING)

    def train(self, stages: Sequence[StageData]) -> None:
        """See `Launcher.train`. Our own checkpoints decide what is resumed, so every start gets a new name in Ray."""
        config, threads = self.config, worker_threads(self.config, self.config.num_workers)

        def loop() -> None:
            import torch

            from crowddist.distributed.runtime import RayRuntime
            from crowddist.launcher import train_stages

            torch.set_num_threads(threads)
            train_stages(config, stages, RayRuntime())

        name = f"{'-'.join(data.stage.name for data in stages)}-{time.time_ns()}"
        trainer = TorchTrainer(
            loop,
            torch_config=TorchConfig(timeout_s=TIMEOUT_S),
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=self.use_gpu),
            run_config=RayRunConfig(
                name=name,
                storage_path=str(storage.local_folder(storage.join(run_folder(config), ".ray-train"))),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        trainer.fit()

    def label(self, checkpoint_url: str, images_url: str, labels_url: str) -> list[dict[str, Any]]:
        """See `Launcher.label`."""
        return self._run("label", checkpoint_url, images_url, (labels_url,))

    def evaluate(self, checkpoint_url: str, data_url: str) -> list[ImageResult]:
        """See `Launcher.evaluate`."""
        parts = self._run("evaluate", checkpoint_url, data_url, ())
        return [result for part in parts for result in part]

    def _run(self, call: str, checkpoint_url: str, data_url: str, arguments: tuple[Any, ...]) -> list[Any]:
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
