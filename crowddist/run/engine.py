"""Fits stages: one worker's training loop, the same on every launcher."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

from crowddist import storage
from crowddist.data.stream import CropDataset, MixedDataset, batches
from crowddist.errors import InputError
from crowddist.models.compiling import compile_networks
from crowddist.process.stopwatch import Stopwatch, added
from crowddist.randomness import derive
from crowddist.run import checkpoint
from crowddist.run.averaging import WeightAverage
from crowddist.run.feed import Feed
from crowddist.storage.run_folder import CHECKPOINTS, CURVE, DONE, LATEST

if TYPE_CHECKING:
    from torch import nn

    from crowddist.config import EngineConfig
    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Batch
    from crowddist.data.scenes import SceneRule
    from crowddist.methods.base import Method, Runtime, Stage, Stream
    from crowddist.process.stop_signals import Termination

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StageData:
    """Where a stage reads and writes."""

    stage: Stage
    folder: str
    """URL of the stage's folder."""
    urls: Mapping[str, str]
    """Name of a data set (source, target, ...) -> URL of its shards."""
    labels_url: str = ""
    """URL of the newest pseudo-labels of the target, where the stage trains on them."""
    initial: str = ""
    """URL of the checkpoint whose weights the stage starts from; "": fresh networks."""
    scenes: SceneRule | None = None
    """The rule that chooses the source's images, see `stream.scenes`; None: all."""
    shares: Mapping[str, Fraction] = field(default_factory=dict)
    """Name of a data set that is mixed into the source -> its share of the crops; all its images are used."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Name -> value of the newest search, instead of the configuration's own."""
    density_limit: float | None = None
    """Most persons in a cell of the source, where `train.density_limit` is on."""
    key: str = ""
    """Identifies all that decides the stage's bits, see `run.reuse`; "": not known."""


class LocalRuntime:
    """One worker, in this process."""

    def __init__(self, *, device: str = "cpu", termination: Termination | None = None) -> None:
        self.rank, self.world_size, self.device, self.termination = 0, 1, torch.device(device), termination

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module itself: no other worker to average with."""
        return module

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """No-op: the curve file has the scalars."""

    def at(self, step: int, doing: str) -> None:
        """No-op: no other worker waits."""

    def stop_requested(self) -> bool:
        """True once this process was asked to stop."""
        return self.termination is not None and self.termination.requested

    def waited_s(self) -> float:
        """No other worker is waited for."""
        return 0.0

    def gather(self, seconds: Mapping[str, float]) -> list[dict[str, float]]:
        """Those of this worker."""
        return [dict(seconds)]


def default_device() -> str:
    """The GPU where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fit(method: Method, data: StageData, runtime: Runtime, *, engine: EngineConfig, seed: int, record: str,
        watch: Stopwatch | None = None) -> bool:
    """Trains one stage to its end, from its last checkpoint if any, and writes its DONE.json.

    When asked to stop, it writes a checkpoint after the current step. All randomness is a function of (seed, stage,
    step, rank) or of a sample's position, so a resumed stage ends with the same bits as an unbroken one.

    Args:
        method: the stage starts from its weights, unless `data.initial` or the stage has a checkpoint.
        record: the run's configuration as JSON; every checkpoint holds it, so that it alone rebuilds a counter.
        watch: has the seconds that went before, into starting this worker; has none when the stage ends. Checkpoints
            and DONE.json hold those of all workers, by phase, over all starts.

    Returns:
        False where it was asked to stop.

    Raises:
        FloatingPointError: a loss that is not finite, with stage, step and keys; the last good checkpoint stays.
        InputError: a batch size that the workers cannot share, or damaged data.
    """
    stage, started, watch = data.stage, time.time(), watch or Stopwatch("start_up")
    folder = storage.join(data.folder, CHECKPOINTS)
    reduced = in_bfloat16(engine, runtime.device)
    if reduced and runtime.rank == 0 and not _has_bfloat16(runtime.device):
        logger.warning("this CPU computes bfloat16 without instructions for it, several times slower than float32: use "
                       "--engine.precision float32")
    torch.manual_seed(derive(seed, stage.seed_name, "start"))
    if data.initial:
        method.load_state_dict(checkpoint.load(data.initial)["method"], optimizers=False)
    method.start(stage, runtime)
    state = checkpoint.load_latest(folder)
    first_step, seconds_before = 0, 0.0
    workers_before: list[dict[str, float]] = []
    decay = stage.average_decay or engine.average_decay
    average = WeightAverage(method.networks(), decay) if decay else None
    if state is not None:
        networks = state["method"]["networks"]
        method.load_state_dict({**state["method"], "networks": state["method"].get("unaveraged", networks)})
        first_step, seconds_before, workers_before = state["step"], state["seconds"], state.get("workers", [])
        if average is not None:
            average.load(networks)
    if data.density_limit is not None:
        method.limit_density(data.density_limit)
    loaders = {name: _loader(name, data, runtime, stream=method.stream, seed=seed, first_step=first_step)
               for name in stage.streams}
    curve = _Curve(storage.join(data.folder, CURVE) if runtime.rank == 0 else "", first_step, engine.log_every)
    feed = Feed(loaders, runtime.device, ahead=runtime.device.type == "cuda")
    losses: list[float] = []
    workers = workers_before
    stopping = False
    with closing(checkpoint.Saver(folder)) as saver:
        for step in range(first_step, stage.steps):
            torch.manual_seed(derive(seed, stage.seed_name, step, runtime.rank))
            runtime.at(step, "reading samples")
            watch.at("read")
            parts = feed.take()
            runtime.at(step, "computing")
            watch.at("compute")
            with torch.autocast(runtime.device.type, torch.bfloat16, enabled=reduced):
                scalars = method.step(step, parts)
            if average is not None:
                average.update(step)
            feed.look_ahead()
            losses.append(float(scalars["loss"]))
            if not math.isfinite(losses[-1]):
                keys = ", ".join(key for part in parts.values() for key in part.keys)
                raise FloatingPointError(f"loss of stage {stage.name} is {losses[-1]} at step {step}; samples: {keys}")
            watch.at("checkpoint")
            watch.move(runtime.waited_s(), "compute", "exchange")
            curve.add(step, scalars)
            watch.at("exchange")
            stopping = runtime.stop_requested()
            if (step + 1) % engine.checkpoint_every == 0 or step + 1 == stage.steps or stopping:
                runtime.at(step, "writing a checkpoint")
                workers = _over_starts(workers_before, runtime.gather(watch.seconds()))
                watch.at("checkpoint")
                if runtime.rank == 0:
                    seconds = seconds_before + time.time() - started
                    seen = {name: (step + 1) * use.batch_size for name, use in stage.streams.items()}
                    content = {"stage": stage.name, "samples_seen": seen,
                               "method": _method_state(method, stage, average), "config": record, "seconds": seconds,
                               "workers": workers}
                    saver.save(step + 1, content, loss=math.fsum(losses) / len(losses))
                losses.clear()
                runtime.report(step + 1, curve.newest)
                if stopping:
                    break
        watch.at("checkpoint")
        saver.wait()
    own = _over_starts(workers_before, [watch.take()])
    watch.at("start_up")  # of the next stage
    if average is not None:
        average.apply()  # the next stage begins with the weights that count
    if runtime.rank == 0 and (not stopping or step + 1 == stage.steps):
        done = {"stage": stage.name, "steps": stage.steps, "checkpoint": checkpoint.latest_url(folder),
                **({"key": data.key} if data.key else {})}
        storage.write_json(storage.join(data.folder, DONE),
                           {**done, "seconds": round(seconds_before + time.time() - started, 1),
                            "workers": [*own[:1], *workers[1:]]})
    return not stopping


def _over_starts(before: Sequence[Mapping[str, float]], now: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Seconds by phase of each rank over all starts; a group that starts again may have fewer workers or more."""
    nothing: dict[str, float] = {}
    return [added(old, new) for old, new in itertools.zip_longest(before, now, fillvalue=nothing)]


def _method_state(method: Method, stage: Stage, average: WeightAverage | None) -> dict[str, Any]:
    """A method's part of a checkpoint: `networks` count; `unaveraged`, where they differ, continue the training."""
    state = method.state_dict(stage.trains)
    if average is None:
        return state
    return {**state, "networks": {name: average.values[name] for name in state["networks"]},
            "unaveraged": state["networks"]}


def _loader(name: str, data: StageData, runtime: Runtime, *, stream: StreamConfig, seed: int,
            first_step: int) -> Iterator[Batch]:
    use = data.stage.streams[name]
    if use.batch_size % runtime.world_size:
        raise InputError(f"batch size {use.batch_size} of stream {name} cannot be shared equally by "
                         f"{runtime.world_size} workers")
    dataset: CropDataset | MixedDataset
    if use.data == "source" and data.shares:
        first = _dataset(name, "source", use, data, stream, seed, 1 - sum(data.shares.values()))
        others = [_dataset(f"{name}/{other}", other, use, data, stream, seed, share)
                  for other, share in data.shares.items()]
        dataset = MixedDataset([first, *others], list(data.shares.values()))
    else:
        dataset = _dataset(name, use.data, use, data, stream, seed)
    return batches(dataset, first_step=first_step, steps=data.stage.steps, global_batch=use.batch_size,
                   rank=runtime.rank, world_size=runtime.world_size)


def _dataset(name: str, source: str, use: Stream, data: StageData, stream: StreamConfig, seed: int,
             memory_share: Fraction | int = 1) -> CropDataset:
    """Crops of the data set `source` of `data.urls` for the stream `name`."""
    if use.plain:
        stream = replace(stream, colour_jitter=0.0, grey_share=0.0, soft_share=0.0, noisy_share=0.0, denser_share=0.0)
    return CropDataset(
        data.urls[source],
        replace(stream, scale_jitter=use.scale_jitter or stream.scale_jitter,
                crop_size=use.crop_size or stream.crop_size, crop_width=0 if use.crop_size else stream.crop_width,
                cache_bytes=int(stream.cache_bytes * memory_share)),
        labels_url=data.labels_url if use.labels else "", plan_seed=seed, name=f"{data.stage.seed_name}/{name}",
        open_points=use.data != "target", stride=use.stride, windows=use.windows, share=use.share,
        scenes=data.scenes if source == "source" else None, with_heads=use.heads,
        with_boxes=use.data == "boxes" and use.heads, with_masks=use.masks,
        whole_px=use.whole_px, weak_scales=use.weak_scales, weak_zoom=use.weak_zoom, erased_share=use.erased_share,
    )


def in_bfloat16(engine: EngineConfig, device: torch.device) -> bool:
    """Whether a stage computes in bfloat16 on a device, as `EngineConfig.precision` says."""
    if engine.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return engine.precision == "bfloat16"


def _has_bfloat16(device: torch.device) -> bool:
    """True where bfloat16 is fast: on all devices but x86 CPUs without AVX-512."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return device.type != "cpu" or not x86 or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


class _Curve:
    """Means of the scalars over `every` steps, a JSON line each; the driver follows the file."""

    def __init__(self, url: str, first_step: int, every: int) -> None:
        self.url, self.every = url, every
        self.newest: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._count, self._since = 0, time.monotonic()
        if url and storage.exists(url):  # drop the lines of steps that are trained again
            points = [point for point in read_curve(url) if point["step"] <= first_step]
            storage.write_bytes(url, "".join(json.dumps(point) + "\n" for point in points).encode())

    def add(self, step: int, scalars: Mapping[str, torch.Tensor]) -> None:
        for name, value in scalars.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._count += 1
        if (step + 1) % self.every:
            return
        self.newest = {name: total / self._count for name, total in self._sums.items()}
        self.newest["seconds_per_step"] = (time.monotonic() - self._since) / self._count
        if self.url:
            storage.append_line(self.url, json.dumps({"step": step + 1, **self.newest}))
        self._sums, self._count, self._since = {}, 0, time.monotonic()


def read_curve(url: str) -> list[dict[str, Any]]:
    """The points of a stage's curve so far: `step` and the scalars' means; ignores unfinished and damaged lines."""
    points = []
    for line in storage.read_bytes(url).splitlines() if storage.exists(url) else []:
        with contextlib.suppress(ValueError, RecursionError):
            points.append(json.loads(line))
    return [point for point in points if isinstance(point, dict) and isinstance(point.get("step"), int)
            and all(isinstance(value, int | float) for value in point.values())]


def fit_stages(build: Callable[[], Method], stages: Sequence[StageData], runtime: Runtime, *, engine: EngineConfig,
               seed: int, record: str, watch: Stopwatch | None = None) -> None:
    """Fits consecutive stages, each from the weights of the one before. Skips finished stages; begins none once asked
    to stop.
    """
    torch.use_deterministic_algorithms(runtime.device.type == "cpu")
    method = fresh_networks(build, seed)
    if engine.compile:
        compile_networks(method.networks())
    initial = ""
    for data in stages:
        done = read_done(data.folder)
        if done is None:
            data = replace(data, initial=initial) if initial else data
            if not fit(method, data, runtime, engine=engine, seed=seed, record=record, watch=watch):
                return
        initial = "" if done is None else done["checkpoint"]


def fresh_networks(build: Callable[[], Method], seed: int) -> Method:
    """A method with the networks that a run of this seed begins with."""
    torch.manual_seed(derive(seed, "networks"))
    return build()


def is_begun(folder: str) -> bool:
    """True once a stage's folder holds a checkpoint."""
    return storage.exists(storage.join(folder, CHECKPOINTS, LATEST))


def read_done(folder: str) -> dict[str, Any] | None:
    """The DONE.json of a finished stage; None before."""
    url = storage.join(folder, DONE)
    return storage.read_json(url) if storage.exists(url) else None
