"""The local launcher where memory runs out: once more with less at a time, then one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.inference.jobs import EvaluateJob
from crowddist.inference.metrics import ImageResult
from crowddist.inference.predictor import Predictor
from crowddist.launch.base import is_out_of_memory, train_stages, worker_threads
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.methods.self_supervision import SelfSupervision
from crowddist.recipes import smoke
from crowddist.run.engine import LocalRuntime, StageData


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert (is_out_of_memory(raised.value) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
            and is_out_of_memory(MemoryError()))
    assert not is_out_of_memory(RuntimeError("a bug")) and not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images fit into memory at a time: the first number; how many were tried follows."""
    sizes, see = [100], Predictor.see_batch

    def careful(predictor: Predictor, images: Sequence[np.ndarray]) -> Any:
        sizes.append(len(images))
        if len(images) > sizes[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return see(predictor, images)

    monkeypatch.setattr(Predictor, "see_batch", careful)
    return sizes


def test_a_unit_is_counted_one_by_one_where_memory_ran_out(
    tiny_config: RunConfig, tiny_checkpoint: str, room: list[int], caplog: pytest.LogCaptureFixture,
    make_images: Callable[..., str], tmp_path: Path
) -> None:
    launcher, images = LocalLauncher(tiny_config), make_images(tmp_path / "images", count=40)
    job = EvaluateJob(checkpoint_url=tiny_checkpoint, images_url=images)

    def counted() -> list[ImageResult]:
        return [result for record in launcher.run(job) for result in record]

    together = counted()
    assert max(room[1:]) > 1
    room[:] = [1]
    alone = counted()
    assert [result.key for result in alone] == [result.key for result in together]
    assert [result.count for result in alone] == pytest.approx([result.count for result in together], rel=1e-4)
    assert caplog.text.count("from now on one at a time") == 1
    room[:] = [0]
    with pytest.raises(InputError,
                       match=r"out of memory over images 0 to \d+ of .*, also one at a time: give a smaller "
                             r"--stream.image-size"):
        counted()


def test_a_step_that_memory_is_too_small_for_is_one_line(tiny_config: RunConfig, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SelfSupervision, "step", step)
    config = replace(tiny_config, method="self_supervision")
    data = StageData(stage=build_method(config).plan()[0], folder=(tmp_path / "source").as_uri(),
                     urls={"source": config.source})
    with pytest.raises(InputError,
                       match=r"out of memory over a step of source: give a smaller --train.batch-size or "
                             r"--stream.crop-size"):
        train_stages(config, [data], LocalRuntime())


@pytest.mark.slow
def test_networks_that_cannot_be_compiled_are_told_in_one_line(tiny_config: RunConfig, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling is asked for where there is no compiler."""
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    config = replace(tiny_config, method="source_only", engine=replace(tiny_config.engine, compile=True))
    data = StageData(stage=build_method(config).plan()[0], folder=(tmp_path / "source").as_uri(),
                     urls={"source": config.source})
    with pytest.raises(InputError, match=r"the networks cannot be compiled here \(.*\): leave --engine.compile out"):
        train_stages(config, [data], LocalRuntime())


@pytest.mark.parametrize(("num_workers", "machines", "threads"), [
    (1, (16,), 16), (2, (16,), 8), (3, (16,), 5), (32, (16,), 1),
    (2, (16, 16), 16),  # one on each
    (3, (16, 16), 8), (4, (16, 16), 8), (4, (8, 16), 4), (2, (16, 16, 16), 16),
])
def test_workers_share_the_cores_of_all_machines(num_workers: int, machines: tuple[int, ...], threads: int) -> None:
    assert worker_threads(smoke(), num_workers, machines) == threads
    assert worker_threads(replace(smoke(), threads=3), num_workers, machines) == 3
