"""What training on many machines costs a step, and what checkpoints cost a stage."""

from __future__ import annotations

import contextlib
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from crowddist.config import EngineConfig, RunConfig
from crowddist.data.sample import Batch
from crowddist.data.stream import STRIDE
from crowddist.distributed.runtime import averaged
from crowddist.methods.build import build_method
from crowddist.models.config import CounterConfig
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]
ROUNDS, CROP_PX = 7, 480
"""The side of the published recipes' crops."""
MOST_STEP_COST, MOST_CHECKPOINT_COST = 1.2, 0.05
"""The goals."""


def published(source: str) -> RunConfig:
    """The published recipes' counter: 65 MB of gradients."""
    counter = CounterConfig(backbone="vgg16", weights="none", ensemble="none", orientation=False)
    return RunConfig(recipe="published", source=source, target=source, method="source_only", counter=counter)


def time_steps(rank: int, source: str, folder: str) -> None:
    """Steps with and without the exchange of gradients, in turn, on two processes of one thread."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = averaged(build_method(published(source)).networks())
    images = torch.rand(1, 3, CROP_PX, CROP_PX, generator=torch.Generator().manual_seed(rank))

    def step(synchronised: bool) -> None:
        with contextlib.nullcontext() if synchronised else network.no_sync():
            outputs = network(images)
            tensors = [part for part in (outputs if isinstance(outputs, tuple | list) else [outputs])
                       if torch.is_tensor(part)]
            torch.stack([part.float().square().mean() for part in tensors]).sum().backward()
        if synchronised:  # as the engine asks after every step
            torch.distributed.all_reduce(torch.tensor(0), torch.distributed.ReduceOp.MAX)
        network.zero_grad(set_to_none=False)

    times = np.empty((ROUNDS + 1, 2))
    for number in range(ROUNDS + 1):
        for synchronised in (True, False) if number % 2 else (False, True):
            torch.distributed.barrier()
            began = time.perf_counter()
            step(synchronised)
            times[number, int(synchronised)] = time.perf_counter() - began
    if rank == 0:
        num_bytes = sum(parameter.numel() * 4 for parameter in network.parameters())
        np.savez(f"{folder}/times.npz", times=times[1:], num_bytes=num_bytes)
    torch.distributed.destroy_process_group()


def test_a_step_of_two_workers_against_one_without_the_exchange(tiny_source: str, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(time_steps, args=(tiny_source, str(tmp_path)), nprocs=2)
    found = np.load(tmp_path / "times.npz")
    ratio = float(np.median(found["times"][:, 1] / found["times"][:, 0]))
    without, shared = np.median(found["times"], axis=0)
    print(f"\n{found['num_bytes'] / 1e6:.0f} MB of gradients: a step {shared:.2f} s, without the exchange "
          f"{without:.2f} s, {ratio:.2f}x")
    assert ratio <= MOST_STEP_COST


def a_batch(num_crops: int, side_px: int) -> Batch:
    """Crops of noise with a few persons."""
    images, draws = torch.rand(num_crops, 3, side_px, side_px), torch.zeros(num_crops, dtype=torch.int64)
    return Batch(images=images, density=torch.full((num_crops, 1, side_px // STRIDE, side_px // STRIDE), 0.01),
                 keep=None, draws=draws)


@pytest.mark.parametrize("backbone", ["compact", "vgg16"])
def test_checkpoints_at_the_default_interval(tiny_source: str, tmp_path: Path, backbone: str) -> None:
    """As if all waited for the whole of it; the engine waits until the content is taken."""
    torch.set_num_threads(1)
    config = (published(tiny_source) if backbone == "vgg16"
              else RunConfig(recipe="compact", source=tiny_source, target=tiny_source, method="source_only"))
    method = build_method(config)
    stage = method.plan()[0]
    method.start(stage, LocalRuntime())
    steps = []
    for number in range(4):
        batches = {"source": a_batch(2 if backbone == "vgg16" else config.train.batch_size, config.stream.crop_size)}
        began = time.perf_counter()
        method.step(number, batches)
        steps.append(time.perf_counter() - began)
    taken, written = [], []
    with closing(checkpoint.Saver(tmp_path.as_uri())) as saver:
        for number in range(4):
            began = time.perf_counter()
            saver.save(number, {"method": method.state_dict()})
            taken.append(time.perf_counter() - began)
            saver.wait()
            written.append(time.perf_counter() - began)
    interval_s = EngineConfig().checkpoint_every * float(np.median(steps[1:]))
    cost = float(np.median(written)) / interval_s
    megabytes = max(path.stat().st_size for path in tmp_path.glob("*.pt")) / 1e6
    print(f"\n{backbone}: {megabytes:.0f} MB taken in {np.median(taken):.2f} s, written in {np.median(written):.2f} s, "
          f"{cost:.2%} of "
          f"{EngineConfig().checkpoint_every} steps of {np.median(steps[1:]):.2f} s")
    assert cost < MOST_CHECKPOINT_COST
