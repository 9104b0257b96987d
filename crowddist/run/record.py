"""A run's record: its name, its folder, and the configuration and data that it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crowddist import storage
from crowddist.config import RunConfig, from_json, to_json
from crowddist.data.config import DataSpec, parse_data, parse_share
from crowddist.data.prepare import Prepared, Role
from crowddist.data.scenes import SceneRule, kept_samples
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.methods.table import facts_of
from crowddist.storage.run_folder import CONFIG, DATA, LIMIT

if TYPE_CHECKING:
    from crowddist.methods.base import Method

FREE_TO_CHANGE = (
    "storage", "num_workers", "min_workers", "num_labellers", "launcher", "threads", "grace_s", "patience_s",
    "tracking_uri", "experiment",
)
"""Settings that may change when a run is resumed: they decide where and how fast, not what is computed."""


def run_name(config: RunConfig) -> str:
    """The run's name: as given, or the recipe's."""
    return config.run_name or config.recipe


def run_folder(config: RunConfig) -> str:
    """URL of the run's folder."""
    return storage.join(storage.normalise(config.storage), run_name(config))


def data_specs(config: RunConfig) -> dict[str, tuple[Role, DataSpec]]:
    """Name of each of the run's data sets -> its role, and the data that the user named."""
    texts: dict[Role, str] = {"source": config.source, "target": config.target, "evaluation": config.evaluation,
                              "boxes": config.boxes}
    if facts_of(config.method).learns_from_target:
        texts = {"labelled_target": config.target, "evaluation": config.evaluation}
    named: dict[str, tuple[Role, DataSpec]] = {role: (role, parse_data(text)) for role, text in texts.items() if text}
    if "source" in named:
        named |= {name: ("source", parse_share(text)[1]) for name, text in more_sources(config)}
        if config.calibration:
            named["calibration"] = ("calibration", parse_data(config.calibration))
    if config.search.labelled:
        named["search"] = ("evaluation", parse_data(config.search.labelled))
    return named


def more_sources(config: RunConfig) -> list[tuple[str, str]]:
    """Name and setting of each data set that is mixed into the source."""
    return [(f"source_{number}", text) for number, text in enumerate(config.more_sources, start=2)]


def require_same_config(config: RunConfig, folder: str) -> None:
    """Raises InputError where the run has begun with another configuration."""
    mine = json.loads(to_json(config))
    # Newer fields take their defaults.
    recorded = json.loads(to_json(config_of_run(folder) or config))
    if mine["engine"]["precision"] == "auto":  # older runs record float32, which was the default
        recorded["engine"]["precision"] = "auto"
    differ = sorted(name for name in {*mine, *recorded} if name not in FREE_TO_CHANGE
                    and mine.get(name) != recorded.get(name))
    if differ:
        raise InputError(f"run {run_name(config)} exists with another configuration (it differs in "
                         f"{', '.join(differ)}): choose another --run-name, or remove {folder}")


def claim_run(config: RunConfig, folder: str, data: Mapping[str, Prepared], scenes: SceneRule | None) -> None:
    """Records configuration and data of a new run. Raises InputError where a run has begun with other data, or a new
    one would calibrate on images that it trains on.
    """
    mine = {name: prepared.manifest.digest for name, prepared in data.items()}
    if scenes is not None:
        mine["scenes"] = repr(scenes)
    recorded = read_record(folder, DATA)
    if not recorded:
        _require_held_out({name: ShardReader(prepared.url) for name, prepared in data.items()})
    recorded = recorded or mine
    changed = [name for name in mine if mine[name] != recorded.get(name)]
    if changed:
        raise InputError(f"the data of run {run_name(config)} changed since it began ({', '.join(changed)}): choose "
                         f"another --run-name, or remove {folder}")
    for name, content in ((CONFIG, json.loads(to_json(config))), (DATA, mine)):
        if not storage.exists(storage.join(folder, name)):
            storage.write_json(storage.join(folder, name), content)


def _require_held_out(data: Mapping[str, ShardReader]) -> None:
    """Raises InputError where an image of the calibration is in a source: its error there says nothing of others."""
    if "calibration" not in data:
        return
    held = data["calibration"]
    for name in ("source", *(name for name in data if name.startswith("source_"))):
        for key in sorted({*held.keys()} & {*data[name].keys()}):
            one, other = (images.read(images.index_of(key), ("jpg", "png"))[1] for images in (held, data[name]))
            if one == other:
                raise InputError(f"image {key} of the calibration is one that training sees ({name}): give labelled "
                                 'images that it does not see, or --calibration "" for no intervals')


def config_of_run(folder: str) -> RunConfig | None:
    """The configuration that a run began with; None where there is none. Raises InputError, naming the file, for a
    damaged one.
    """
    url = storage.join(folder, CONFIG)
    if not storage.exists(url):
        return None
    text = json.dumps(storage.read_json(url))
    try:
        return from_json(text)
    except InputError as error:
        raise InputError(f"{storage.shown(url)}: {error}") from None


def density_limit(config: RunConfig, method: Method, folder: str, data: Mapping[str, Prepared],
                  scenes: SceneRule | None) -> float | None:
    """The most persons in a cell of any source, at the smallest size that the target is seen at; None without
    density regularisation. Kept in the run's folder, because it takes reading all images.
    """
    if not config.train.density_limit:
        return None
    from crowddist.data.stream import densest_cell  # imports torch

    known = storage.join(folder, LIMIT)
    if storage.exists(known):
        return storage.read_json(known)["persons"]
    most = []
    for name in ("source", *(name for name, _ in more_sources(config))):
        images = ShardReader(data[name].url)
        kept = kept_samples(images, scenes) if scenes is not None and name == "source" else range(len(images))
        scale = min(1.0, *method.label_views(), *method.stream.zooms)
        most.append(densest_cell(images, kept, method.stream, stride=method.output_stride, scale=scale))
    storage.write_json(known, {"persons": max(most)})
    return max(most)


def read_record(folder: str, name: str) -> dict[str, Any]:
    """The JSON file `name` of a run's folder; {} where it is missing."""
    url = storage.join(folder, name)
    return storage.read_json(url) if storage.exists(url) else {}
