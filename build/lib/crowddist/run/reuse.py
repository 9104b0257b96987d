"""Stages that are trained once: takes a stage over from another run of the storage that has finished the same.

A stage's inputs are all that decides its bits: what it trains, on which data, the settings that it depends on, its
first weights, and the code, the libraries and the processor. Their digest is its key.

    <storage>/<run>/<stage>/inputs.json   the inputs and the key, written before the stage is trained
    <storage>/<run>/<stage>/DONE.json     has the key too, and `taken_over` where the stage was not trained here
    <storage>/stages/<key>/<run>.json     names a stage with these inputs; its DONE.json says whether it is finished

A stage has no key where its training may go on with fewer workers (`min_workers`), or went on under other conditions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import crowddist
from crowddist import storage
from crowddist.config import RunConfig, flat, to_json
from crowddist.data.manifest import read_manifest
from crowddist.errors import InputError
from crowddist.methods.build import build_method
from crowddist.methods.table import facts_of
from crowddist.methods.thresholds import with_values
from crowddist.process import host
from crowddist.process.cli import one_line
from crowddist.run import checkpoint
from crowddist.run.engine import fresh_networks, is_begun, read_done
from crowddist.run.record import FREE_TO_CHANGE, run_name
from crowddist.storage.run_folder import CHECKPOINTS, CURVE, DONE, INPUTS, STAGES

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.methods.base import Method, Stage
    from crowddist.run.engine import StageData

CODE = ("config.py", "randomness.py", "distributed/runtime.py", "data", "launch", "losses", "methods", "models", "ops",
        "run")
"""Files and folders of the package that a training runs. A change elsewhere, e.g. of a report, matters to no stage."""
ELSEWHERE = (*FREE_TO_CHANGE, "recipe", "method", "run_name", "source", "more_sources", "target", "evaluation",
             "calibration", "boxes", "skip_bad", "engine.checkpoint_every", "engine.log_every")
"""Settings that decide nothing in a training, or that its inputs hold in another form: data by its content, threads by
the launcher's arithmetic."""
CROPS_ELSEWHERE = ("cache_bytes", "num_readers", "scenes", "zooms")
"""Settings of the crops that change none; the scenes' rule counts as data."""
SAID_IN_FULL = (InputError, OSError)
"""Errors whose message says everything."""
DAMAGED = (*SAID_IN_FULL, LookupError, TypeError, AttributeError)
"""Errors over the files of a run that is damaged, or is being removed."""


@dataclass(frozen=True, kw_only=True)
class _Finished:
    """A stage that another run has finished."""

    run: str
    root: str
    """`Method.root` there."""
    content: Mapping[str, Any]
    """Of its last checkpoint."""
    curve: bytes
    seconds: float


def take_over(chain: Sequence[StageData], config: RunConfig, *, arithmetic: str, fresh: bool,
              say: Callable[[str], None]) -> list[StageData]:
    """Gives the stages of a chain their keys, and takes the first ones over, as far as other runs have finished them.

    What is taken over lies in the run's own folder, as if it had been trained here: the other run may be removed.

    Args:
        chain: as for `Launcher.train`.
        arithmetic: see `Launcher.training_arithmetic`.
        fresh: take nothing over.
        say: is told which stage comes from which run.
    """
    for data in chain:
        _end_interrupted(data)
    unfinished = [data for data in chain if read_done(data.folder) is None]
    if len(config.group_sizes()) > 1:
        for data in unfinished:  # also if it goes on with all workers
            storage.remove_file(storage.join(data.folder, INPUTS))
        return list(chain)
    if not unfinished:
        return list(chain)
    config = with_values(config, chain[0].thresholds)
    method, place, own = _at_start(chain, config), storage.normalise(config.storage), run_name(config)
    keyed: list[StageData] = []
    before: list[tuple[set[str], str]] = []  # names that a stage reads, and its key
    leading = True
    for data in chain:
        names, done = method.reads(data.stage), read_done(data.folder)
        key = done.get("key", "") if done else _recorded_key(data, config, method, arithmetic, names, before)
        before.append((names, key))
        keyed.append(replace(data, key=key))
        if done:
            continue
        if key:
            storage.write_json(storage.join(place, STAGES, key, f"{own}.json"), {"run": own, "stage": data.stage.name})
        leading = leading and bool(key) and not fresh and not is_begun(data.folder)
        found = _find(place, keyed[-1], own, say) if leading else None
        leading = found is not None
        if found is not None:
            _copy(found, keyed[-1], config, method, names)
            say(f"{data.stage.name}: taken over from run {found.run} (same settings, data and code)")
    return keyed


def _at_start(chain: Sequence[StageData], config: RunConfig) -> Method:
    """The networks as the first unfinished stage of a chain finds them."""
    begun = chain[0].initial or is_begun(chain[0].folder)
    with torch.random.fork_rng(devices=[]):
        method = fresh_networks(lambda: build_method(config, weights="none" if begun else "all"), config.seed)
    finished = [done["checkpoint"] for data in chain if (done := read_done(data.folder))]
    newest = [chain[0].initial, *finished][-1]
    if newest:
        method.load_state_dict(checkpoint.load(newest)["method"], optimizers=False)
    return method


def _recorded_key(data: StageData, config: RunConfig, method: Method, arithmetic: str, names: set[str],
                  before: Sequence[tuple[set[str], str]]) -> str:
    """The key of an unfinished stage, recorded with its inputs; "" where its bits follow from no known inputs.

    Args:
        names: what the stage reads, see `Method.reads`.
        before: names that the stages before it in its chain read, and their keys.
    """
    url = storage.join(data.folder, INPUTS)
    after = [key for others, key in before if others & names]
    inputs = {**stage_inputs(data, config, method, arithmetic), "after": after}
    if is_begun(data.folder):
        record = storage.read_json(url) if storage.exists(url) else {}
        recorded = record.get("inputs", {})
        # The first weights may be gone, but they are as when the stage began.
        known = "" not in after and recorded == {**inputs, "start": recorded.get("start")}
        if not known:
            storage.remove_file(url)
        return record["key"] if known else ""
    if "" in after:
        storage.remove_file(url)
        return ""
    # Weights that a stage before has trained follow from its key; at first they are not there yet.
    first = names.difference(*(others for others, _ in before))
    weights = method.networks().state_dict()
    inputs["start"] = _weights_digest({_shared(name, method.root): weights[name] for name in first})
    key = _digest(inputs)
    storage.write_json(url, {"key": key, "root": method.root, "inputs": inputs})
    return key


def stage_inputs(data: StageData, config: RunConfig, method: Method, arithmetic: str) -> dict[str, Any]:
    """What decides the bits of a stage, beside its first weights, as values of JSON."""
    stage, crops = dataclasses.asdict(data.stage), dataclasses.asdict(method.stream)
    inputs = {
        "stage": {name: value for name, value in stage.items() if name not in ("name", "title")}
        | {"draws": data.stage.seed_name},
        "training": method.training(data.stage),
        "settings": _settings(data.stage, config),
        "crops": {name: value for name, value in crops.items() if name not in CROPS_ELSEWHERE},
        "data": _data(data),
        "density_limit": data.density_limit,
        "arithmetic": arithmetic,
        "machine": _machine(),
        "code": code_digest(),
    }
    return json.loads(json.dumps(inputs))


def _settings(stage: Stage, config: RunConfig) -> dict[str, Any]:
    """The settings that a stage depends on: those of no group, the engine's, and those that it names."""
    named = stage.settings or facts_of(config.method).settings

    def matters(name: str) -> bool:
        group = name.partition(".")[0]
        if group in (name, "engine"):
            return True
        # Crops stand beside the settings; what a search finds is in the thresholds.
        return group in named or name in named if named else group not in ("stream", "search")

    settings = {name: value for name, value in flat(dataclasses.asdict(config)).items()
                if name not in ELSEWHERE and matters(name)}
    return settings if stage.settings else {"method": config.method, **settings}


def _data(data: StageData) -> dict[str, Any]:
    """Digests of the contents of all data that a stage reads, and how they are mixed and chosen."""
    streams = data.stage.streams.values()
    contents: dict[str, Any] = {use.data: _content_digest(data.urls[use.data]) for use in streams}
    if data.stage.needs_labels:
        contents["labels"] = _content_digest(data.labels_url)
    if "source" in contents:
        contents["scenes"] = repr(data.scenes)
        contents["more"] = [[str(share), _content_digest(data.urls[name])] for name, share in data.shares.items()]
    return contents


def _content_digest(url: str) -> str:
    """Of the samples of a data set and their order; not of its name, which labels have from their run."""
    manifest = read_manifest(url)
    return _digest([[[shard.sha256, shard.num_samples] for shard in manifest.shards],
                    manifest.statistics.get("skipped")])


def _machine() -> dict[str, str]:
    """Libraries and processors of the driver; its workers have the same libraries, and the same kind of processor."""
    import cv2
    import numpy

    return {"torch": torch.__version__, "numpy": numpy.__version__, "opencv": cv2.__version__,
            "cpu": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else ""}


@cache
def _cpu() -> str:
    """The processor's model where the system tells it, else its architecture."""
    place = Path("/proc/cpuinfo")
    lines = place.read_text("utf-8").splitlines() if place.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def code_digest(package: Path = Path(crowddist.__file__).parent) -> str:
    """SHA-256, in hex, of the source files in `CODE`."""
    return host.code_digest(CODE, package)


def _digest(value: Any) -> str:
    """SHA-256, in hex, of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _shared(name: str, root: str) -> str:
    """The name that all methods have for a weight, from its name in one method's networks."""
    return f"{root}.{name}" if root else name


def _find(place: str, data: StageData, own_run: str, say: Callable[[str], None]) -> _Finished | None:
    """A stage with this key that another run has finished and that can be read; None if there is none."""
    folder = storage.join(place, STAGES, data.key)
    for name in storage.list_files(folder):
        if name == f"{own_run}.json":
            continue
        try:
            entry = storage.read_json(storage.join(folder, name))
            stage = storage.join(place, entry["run"], entry["stage"])
            done = read_done(stage)
            if done is None or done.get("key") != data.key:  # not finished, removed, or another one by now
                continue
            content = checkpoint.load_latest(storage.join(stage, CHECKPOINTS))
            if content is None or content["step"] != data.stage.steps:
                raise InputError("its last checkpoint is missing or damaged")
            curve = storage.join(stage, CURVE)
            return _Finished(run=entry["run"], root=storage.read_json(storage.join(stage, INPUTS))["root"],
                             content=content, curve=storage.read_bytes(curve) if storage.exists(curve) else b"",
                             seconds=done["seconds"])
        except DAMAGED as error:
            reason = one_line(error) if isinstance(error, SAID_IN_FULL) else "its files are damaged"
            say(f"{data.stage.name}: not taken over from run {name.removesuffix('.json')}: {reason}")
    return None


def _copy(found: _Finished, data: StageData, config: RunConfig, method: Method, names: set[str]) -> None:
    """Writes a finished stage's weights, between those of this run's other networks, as the end of the same stage here;
    `method` has them then.
    """

    def ours(networks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: networks[_shared(name, method.root).removeprefix(f"{found.root}.")] if name in names else tensor
                for name, tensor in state["networks"].items()}

    state, theirs = method.state_dict(data.stage.trains), found.content["method"]
    taken = {**theirs, **{part: ours(theirs[part]) for part in ("networks", "unaveraged") if part in theirs}}
    url = storage.join(data.folder, INPUTS)
    storage.write_bytes(storage.join(data.folder, CURVE), found.curve)
    storage.write_json(url, {**storage.read_json(url), "taken_over": {"run": found.run, "seconds": found.seconds}})
    content = {"stage": data.stage.name, "samples_seen": found.content["samples_seen"], "method": taken,
               "config": to_json(config), "seconds": found.content["seconds"]}
    checkpoint.save(storage.join(data.folder, CHECKPOINTS), data.stage.steps, content)
    _end_interrupted(data)
    method.load_state_dict(taken, optimizers=False)


def _end_interrupted(data: StageData) -> None:
    """Writes the DONE.json of a stage whose taking over has come as far as the checkpoint."""
    url = storage.join(data.folder, INPUTS)
    if read_done(data.folder) or not is_begun(data.folder) or not storage.exists(url):
        return
    record = storage.read_json(url)
    if "taken_over" not in record:
        return
    storage.write_json(storage.join(data.folder, DONE), {
        "stage": data.stage.name, "steps": data.stage.steps, "key": record["key"],
        "checkpoint": checkpoint.latest_url(storage.join(data.folder, CHECKPOINTS)),
        "seconds": record["taken_over"]["seconds"], "taken_over": record["taken_over"]["run"],
    })
