"""The dry run: checks storage, data, weights, name, MLflow, GPUs and versions before hours of work. Changes nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from crowddist import storage
from crowddist.data.manifest import FILE_NAME, Manifest
from crowddist.errors import InputError
from crowddist.methods.table import facts_of
from crowddist.preflight.machine import disk_row, gpu_row, shared_memory_row, versions, versions_row
from crowddist.preflight.table import Row, looked, table
from crowddist.run.record import data_specs, require_same_config, run_folder, run_name
from crowddist.storage.names import temporary_name
from crowddist.storage.run_folder import CONFIG, RESULT

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.data.config import DataSpec
    from crowddist.data.prepare import Role

HERE = "here"
LABELS_OPENED: tuple[str, ...] = ("source", "boxes", "calibration")
"""Roles of the data sets whose labels may be read; those of the target are for the evaluation alone."""
HASTE = {"CROWDDIST_S3_ATTEMPTS": "2", "CROWDDIST_S3_PATIENCE_S": "0", "CROWDDIST_S3_CONNECT_TIMEOUT_S": "5"}
"""Shorter timeouts of object storage than in a run, unless the user sets them."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What every node must find as this machine does."""

    config: RunConfig
    probe_url: str = ""
    """A small file that this machine wrote and nodes must read; "" if storage failed here already."""
    probe: bytes = b""
    """The file's content."""
    shards: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name of each data set of shards -> URL and digest."""
    weights: bool = True
    """Nodes look for the weights; False if they are missing here."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the libraries."""


Nodes = Callable[[Expected], list[Row]]
"""Checks all nodes of a cluster, see `distributed.node_checks`."""


def check(config: RunConfig, nodes: Nodes | None, *, say: Callable[[str], None] = print) -> bool:
    """Checks everything that a run needs, here and on all nodes (`nodes` is None without Ray), and prints one table.
    Returns True without failures.
    """
    with hasty(), _probe(config) as (storage_row, probe_url, content):
        rows, expected = look_here(config, storage_ok=storage_row.state == "ok")
        rows = [storage_row, *rows]
        expected = replace(expected, probe_url=probe_url, probe=content)
        rows += nodes(expected) if nodes else []
    failures = [row for row in rows if row.state == "FAILED"]
    say(table(rows))
    say(f"{len(failures)} of {len(rows)} checks failed: see the lines marked FAILED" if failures
        else f"all {len(rows)} checks are ok")
    return not failures


def look_here(config: RunConfig, *, storage_ok: bool = True) -> tuple[list[Row], Expected]:
    """The rows of this machine, except that of storage, and what nodes must find. Skips the name if storage failed."""
    rows, shards = [], {}
    name = f"run name {run_name(config)}"
    rows.append(looked(name, HERE, lambda: _name(config)) if storage_ok
                else Row(name, HERE, "skipped", "storage must work first"))
    begun = False
    if storage_ok:
        with suppress(InputError, OSError):
            begun = storage.exists(storage.join(run_folder(config), CONFIG))
    weights = [] if begun else weights_rows(config, HERE)  # a run that was begun has its checkpoints
    network_row, masked = _networks(config, load=not begun and all(row.state == "ok" for row in weights))
    rows += [*weights, network_row]
    for data, (role, spec) in data_specs(config).items():
        row, found = data_row(data, role, spec, masks=role in masked)
        rows.append(row)
        if found is not None:
            shards[data] = found
    if config.stream.scenes:
        from crowddist.data.scenes import find_rule

        rows.append(looked("scenes", HERE, lambda: f"rule {find_rule(config.stream.scenes).name}"))
    mine = versions()
    rows += [mlflow_row(config), versions_row(mine, mine, HERE),
             disk_row(_folders(config, storage_ok=storage_ok), HERE)]
    if config.launcher == "local":  # with Ray the nodes have these rows
        rows += [gpu_row(None, HERE), *([shared_memory_row(HERE)] if config.stream.num_readers else [])]
    return rows, Expected(config=config, shards=shards,
                          weights=bool(weights) and all(row.state == "ok" for row in weights), versions=mine)


def look_at_node(expected: Expected, where: str, num_gpus: int) -> list[Row]:
    """The rows of a cluster's node that promises `num_gpus` GPUs; runs on that node. `where`: its name in the table."""
    with hasty():
        config, rows = expected.config, []
        if expected.probe_url:
            rows.append(looked("storage", where, lambda: _shared(expected),
                               advice="the storage must be the same place for every node"))
        if expected.shards:
            rows.append(looked("data sets", where, lambda: _same_data(expected),
                               advice="copy or mount the data on every node, or give an s3:// address"))
        rows += weights_rows(config, where) if expected.weights else []
        rows.append(versions_row(expected.versions, versions(), where))
        rows += [gpu_row(num_gpus, where), disk_row(_folders(config, storage_ok=bool(expected.probe_url)), where),
                 shared_memory_row(where)]
        return rows


@contextmanager
def hasty() -> Iterator[None]:
    """Inside the block, object storage that does not answer fails soon."""
    added = {name: value for name, value in HASTE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _probe(config: RunConfig) -> Iterator[tuple[Row, str, bytes]]:
    """Writes a small file where runs will be, and removes it at the end. Yields the row of storage, the file's URL (""
    if it could not be written) and its content.
    """
    content, url = os.urandom(16), ""

    def look() -> str:
        nonlocal url
        base = _base(config)
        place = storage.join(base, temporary_name("check"))
        storage.write_bytes(place, content)
        if storage.read_bytes(place) != content:
            raise OSError(f"{place} reads back with other bytes")
        url = place
        # Nodes need the first file: removal is tried with another one.
        _write_and_remove(base, content)
        there = not storage.is_local(config.storage) or storage.exists(config.storage)
        below = "" if there else f"will be made below {storage.shown(base)}; there "
        return f"{storage.shown(config.storage)}: {below}a small file was written, read and removed"

    row = looked("storage", HERE, look, advice=f"make {config.storage} a place where this user may write and remove "
                                               "files, or give another --storage")
    try:
        yield row, url, content
    finally:
        if url:
            with suppress(InputError, OSError):
                storage.remove_file(url)


def _write_and_remove(folder: str, content: bytes) -> None:
    file = storage.join(folder, temporary_name("check"))
    storage.write_bytes(file, content)
    storage.remove_file(file)
    if storage.exists(file):
        raise OSError(f"{file} is still there after it was removed")


def _base(config: RunConfig) -> str:
    """The place of the small file: the storage, or the nearest existing path above it. A file there fails the write."""
    url = storage.normalise(config.storage)
    if not storage.is_local(url):
        return url
    path = Path(storage.shown(url))
    while not path.exists() and path != path.parent:
        path = path.parent
    return storage.normalise(path)


def _shared(expected: Expected) -> str:
    """Reads the driver's file on a node, and writes and removes another one."""
    try:
        found = storage.read_bytes(expected.probe_url)
    except FileNotFoundError:
        raise InputError(f"this node does not see what the driver wrote to {expected.config.storage}: mount the same "
                         "folder on every node, or give an s3:// address") from None
    if found != expected.probe:
        raise InputError(f"this node finds other bytes in {expected.config.storage} than the driver wrote: mount the "
                         "same folder on every node")
    _write_and_remove(expected.probe_url.rpartition("/")[0], expected.probe)
    return "sees the driver's file; wrote and removed one"


def _same_data(expected: Expected) -> str:
    from crowddist.data.manifest import read_manifest

    for name, (url, digest) in expected.shards.items():
        manifest = read_manifest(url)
        if manifest.digest != digest:
            raise InputError(f"the {name} at {url} is another than the driver's: copy it again, or mount the same "
                             "folder on every node")
        _require_shards(url, manifest)
    return f"{', '.join(expected.shards)} as here"


def _name(config: RunConfig) -> str:
    folder = run_folder(config)
    holder = storage.holder(folder)
    if holder:
        raise InputError(f"{holder} is at work in {folder}; wait for it, or choose another --run-name")
    require_same_config(config, folder)
    if storage.exists(storage.join(folder, RESULT)):
        return "has ended before: nothing would be computed again"
    return "begun with the same configuration: it goes on" if storage.exists(storage.join(folder, CONFIG)) else "free"


def weights_rows(config: RunConfig, where: str) -> list[Row]:
    """One row for each network of the method that starts from weights."""
    from crowddist.models.weights import require_weights  # imports torch

    settings = {network: getattr(config, network) for network in facts_of(config.method).networks}
    return [looked(f"weights {network}", where, partial(require_weights, own.weights, own.backbone),
                   advice="correct the option weights")
            for network, own in settings.items() if own.weights != "none"]


def _networks(config: RunConfig, *, load: bool) -> tuple[Row, set[str]]:
    """Builds the networks, with weights from files if `load`, without downloads. Also returns the roles that need
    masks.
    """
    from crowddist.inference import second_counter
    from crowddist.methods.build import build_method

    masked: set[str] = set()

    def build() -> str:
        method = build_method(config, weights="files" if load else "none")
        plan = method.plan()
        if load:
            second_counter.read(method)
        masked.update(stream.data for stage in plan for stream in stage.streams.values() if stream.masks)
        return f"{config.method} has {len(plan)} stages"

    return looked("networks", HERE, build), masked


def data_row(name: str, role: Role, spec: DataSpec, *, masks: bool) -> tuple[Row, tuple[str, str] | None]:
    """Finds a data set and decodes its first image, without labels of the target and the evaluation. Returns the row,
    and URL and digest of shards.
    """
    from crowddist.data.prepare import expand, recognised

    found: list[tuple[str, str]] = []

    def look() -> str:
        full = expand(spec)
        if full.format == "composite":
            return _composites(full)
        if role in LABELS_OPENED:
            full = recognised(full, role)
        elif (full.format == "place" and role != "target" and storage.is_local(full.place)
              and storage.is_folder(full.place) and not storage.exists(storage.join(full.place, FILE_NAME))):
            return "a folder without shards; labels in it are looked for when they are used"
        if full.format == "renderer":
            return f"{full.num_images} images, look {full.look}, will be rendered"
        url = storage.normalise(full.place)
        if full.format == "place" and (role != "target" or storage.exists(storage.join(url, FILE_NAME))):
            manifest, told = _shards(url, role, masks=masks)
            found.append((url, manifest.digest))
            return told
        return _raw(full, role)[1]

    row = looked(f"data {name}", HERE, look, advice="correct the address, or put the data there")
    return row, found[0] if found and row.state == "ok" else None


def _composites(spec: DataSpec) -> str:
    """Checks the images that people will be put into, and the counter that tells where nobody is."""
    from crowddist.data.composite.backgrounds import MIN_FRAMES, too_few_frames
    from crowddist.storage.run_folder import find_checkpoint

    assert spec.background is not None  # `parse_data` gives one
    if spec.counter and not storage.exists(find_checkpoint(spec.counter)):
        raise FileNotFoundError(f"no checkpoint at {spec.counter}; give the folder of a run that has ended")
    url = storage.normalise(spec.background.place)
    shards = spec.background.format == "place" and storage.exists(storage.join(url, FILE_NAME))
    if shards:
        manifest, told = _shards(url, "target", masks=False)
        number: int | None = manifest.num_samples
    else:
        number, told = _raw(spec.background, "target")
    if not spec.counter and number is not None and number < MIN_FRAMES:
        raise too_few_frames(url, number)
    return f"{spec.num_images} images will be composed; backgrounds: {told}"


def _shards(url: str, role: Role, *, masks: bool) -> tuple[Manifest, str]:
    from crowddist.data.prepare import require_labels
    from crowddist.data.shard_codec import decode
    from crowddist.data.shards import ShardReader

    reader, opened = ShardReader(url), role in LABELS_OPENED
    manifest = reader.manifest
    _require_shards(url, manifest)
    require_labels(url, manifest, role, masks=masks and opened)
    decode(*reader.read(0, None if opened else ("jpg", "png")))
    return manifest, f"{manifest.name}, {len(reader)} images in {len(manifest.shards)} shards; the first decodes"


def _require_shards(url: str, manifest: Manifest) -> None:
    missing = sorted({shard.name for shard in manifest.shards} - set(storage.list_files(url)))
    if missing:
        more = f" and {len(missing) - 1} more shards" if missing[1:] else ""
        raise InputError(f"the data set at {url} lacks {missing[0]}{more}; copy it again")


def _raw(spec: DataSpec, role: Role) -> tuple[int | None, str]:
    """Checks raw data, which the run converts first: its layout and its first image. Returns the number of images, None
    where that is not known yet, and the row's words.
    """
    from crowddist.data.convert.base import no_items, require_folder
    from crowddist.data.convert.formats import FORMATS
    from crowddist.data.convert.sample import find_items, read_labels
    from crowddist.data.images import store_image

    form = FORMATS["folder" if spec.format == "place" else spec.format]
    split = spec.split if spec.split != "all" else form.splits[0]
    if split not in form.splits:
        raise InputError(f"{form.name} has no split {split!r}; choose one of {', '.join(form.splits)}")
    require_folder(spec.place, form)
    if not storage.is_local(spec.place):
        return None, f"{form.name}: there is a folder; its content is checked after the download"
    labelled = form.annotate is not None and role in LABELS_OPENED
    root = Path(storage.shown(spec.place))
    listing = find_items(form, root, split, labelled)
    items = listing.items
    if not items:
        raise no_items(form, listing, root, split)
    size = store_image(items[0].image, upright=form.upright).source_size
    files = items[0].annotations
    if role != "target" and files and not any(file.exists() for file in files):
        raise InputError(f"{items[0].image} has no annotation at {files[0]}; give a labelled data set")
    if labelled:
        read_labels(form, items[0], size)
    return len(items), f"{form.name}, {len(items)} images will be converted; the first decodes"


def mlflow_row(config: RunConfig) -> Row:
    """Checks that MLflow answers and that the run's experiment, if it exists, is not deleted. Creates nothing."""
    if config.tracking_uri == "none":
        return Row("MLflow", HERE, "ok", "turned off")

    def look() -> str:
        from crowddist.tracking.choose import tracking_address
        from crowddist.tracking.mlflow_store import experiment_state

        uri, name = tracking_address(config), config.experiment or config.recipe
        state = experiment_state(uri, name)
        if state == "deleted":
            raise InputError(f"experiment {name} was deleted in {uri}; restore it (mlflow experiments restore), or "
                             "give another --experiment")
        return f"{uri}, experiment {name} {'is there' if state else 'will be made'}"

    return looked("MLflow", HERE, look, advice="correct --tracking-uri or MLFLOW_TRACKING_URI")


def _folders(config: RunConfig, *, storage_ok: bool) -> dict[str, Path]:
    """Purpose -> folder that needs disk space on this machine; without storage if that failed."""
    from crowddist.storage.cache import Cache

    folders = {"temporary files": Path(tempfile.gettempdir())}
    if not storage_ok:
        return folders
    if storage.is_local(config.storage):
        folders["storage"] = Path(storage.shown(config.storage))
    else:
        with suppress(InputError):
            folders["cache"] = Cache.from_environment().folder
    return folders
