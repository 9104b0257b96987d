"""The dry run: whether storage, data, weights, name, MLflow, GPUs and versions are as a run needs them, before hours of
work. Nothing is changed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
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
LABELS_OPENED: tuple[str, ...] = ("source", "boxes")
"""Roles of the data sets whose labels may be looked at; those of the target are the evaluation's alone."""
HASTE = {"CROWDDIST_S3_ATTEMPTS": "2", "CROWDDIST_S3_PATIENCE_S": "0", "CROWDDIST_S3_CONNECT_TIMEOUT_S": "5"}
"""How long object storage is waited for here, where nobody has said so: a run has more patience."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What every node must find as it is found here."""

    config: RunConfig
    probe_url: str = ""
    """A small file that was written here, which a node must be able to read; "": storage failed here already."""
    probe: bytes = b""
    """Its content."""
    shards: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name of a data set that is shards -> URL and digest."""
    weights: bool = True
    """Whether there are weights to be looked for: not where they are missing here."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Python and of the libraries."""


Nodes = Callable[[Expected], list[Row]]
"""Looks at all nodes of a cluster, see `distributed.node_checks`."""


def check(config: RunConfig, nodes: Nodes | None, *, say: Callable[[str], None] = print) -> bool:
    """Looks at everything that a run needs, here and on all nodes, and prints one table.

    Args:
        nodes: looks at a cluster's nodes; None without Ray.

    Returns:
        Whether all is as it must be.
    """
    with hasty(), _probe(config) as (storage_row, probe_url, content):
        rows, expected = look_here(config, storage_ok=storage_row.state == "ok")
        rows = [storage_row, *rows]
        expected = replace(expected, probe_url=probe_url, probe=content)
        rows += nodes(expected) if nodes else []
    failures = [row for row in rows if row.state == "FAILED"]
    say(table(rows))
    say(f"{len(failures)} of {len(rows)} checks failed: mend what the lines marked FAILED say" if failures
        else f"all {len(rows)} checks are ok")
    return not failures


def look_here(config: RunConfig, *, storage_ok: bool = True) -> tuple[list[Row], Expected]:
    """The rows of this machine without that of storage, and what nodes must find likewise. Where storage failed, the
    name is not asked for.
    """
    rows, shards = [], {}
    name = f"run name {run_name(config)}"
    rows.append(looked(name, HERE, lambda: _name(config)) if storage_ok
                else Row(name, HERE, "skipped", "storage must be there first"))
    begun = False
    if storage_ok:
        with suppress(InputError, OSError):
            begun = storage.exists(storage.join(run_folder(config), CONFIG))
    weights = [] if begun else weights_rows(config, HERE)  # a run that was begun has its checkpoints
    network_row, masked = _networks(config, load=not begun and all(row.state == "ok" for row in weights))
    rows += [*weights, network_row]
    for data, (role, spec) in data_specs(config).items():
        row, found = data_row(data, role, spec, masks=role in masked, boxes=role == "boxes")
        rows.append(row)
        if found is not None:
            shards[data] = found
    if config.stream.scenes:
        from crowddist.data.scenes import find_rule

        rows.append(looked("scenes", HERE, lambda: f"rule {find_rule(config.stream.scenes).name}"))
    mine = versions()
    rows += [mlflow_row(config), versions_row(mine, mine, HERE),
             disk_row(_folders(config, storage_ok=storage_ok), HERE)]
    if config.launcher == "local":  # with Ray the nodes tell, of which this machine is one or not
        rows += [gpu_row(None, HERE), *([shared_memory_row(HERE)] if config.stream.num_readers else [])]
    return rows, Expected(config=config, shards=shards,
                          weights=bool(weights) and all(row.state == "ok" for row in weights), versions=mine)


def look_at_node(expected: Expected, where: str, num_gpus: int) -> list[Row]:
    """The rows of a node of a cluster, asked on that node.

    Args:
        where: what the node is called in the table.
        num_gpus: GPUs that it promises.
    """
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
    """Object storage that does not answer is given up soon."""
    added = {name: value for name, value in HASTE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _probe(config: RunConfig) -> Iterator[tuple[Row, str, bytes]]:
    """Writes a small file where runs will be; yields what became of that, its URL ("" where it failed) and its content,
    and removes it.
    """
    content, url, where = os.urandom(16), "", config.storage

    def write() -> str:
        nonlocal url
        base = _base(config)
        place = storage.join(base, temporary_name("check"))
        storage.write_bytes(place, content)
        if storage.read_bytes(place) != content:
            raise OSError(f"what was written to {place} reads back otherwise")
        url = place
        shown = storage.shown(config.storage)
        below = "" if _is_there(config) else f"will be made below {storage.shown(base)}; there "
        return f"{shown}: {below}a small file was written, read"

    row = looked("storage", HERE, write,
                 advice=f"make {where} a place that this user may write to, or give another --storage")
    failed: Row | None = None
    try:
        # removing is part of the check, and nodes need the file: whether it can be removed is tried with another
        if url:
            spare = storage.join(_base(config), temporary_name("check"))

            def remove() -> str:
                storage.write_bytes(spare, content)
                storage.remove_file(spare)
                if storage.exists(spare):
                    raise OSError(f"{spare} is still there after it was removed")
                return f"{row.detail} and removed"

            failed = looked("storage", HERE, remove, advice="grant this user the right to remove files there")
        yield failed or row, url, content
    finally:
        if url:
            with suppress(InputError, OSError):
                storage.remove_file(url)


def _base(config: RunConfig) -> str:
    """Where the small file goes: the storage, or the nearest folder above one that is not there yet; a file in the way
    is for the writer to refuse.
    """
    url = storage.normalise(config.storage)
    if not storage.is_local(url):
        return url
    path = Path(storage.shown(url))
    while not path.exists() and path != path.parent:
        path = path.parent
    return storage.normalise(path)


def _is_there(config: RunConfig) -> bool:
    return not storage.is_local(config.storage) or storage.exists(config.storage)


def _shared(expected: Expected) -> str:
    """A node reads what was written here, and writes and removes a file of its own."""
    try:
        found = storage.read_bytes(expected.probe_url)
    except FileNotFoundError:
        raise InputError(f"this node does not see what the driver wrote to {expected.config.storage}: mount the same "
                         "folder on every node, "
                         "or give an s3:// address") from None
    if found != expected.probe:
        raise InputError(f"this node finds other bytes in {expected.config.storage} than the driver wrote: mount the "
                         "same folder on every node")
    own = storage.join(expected.probe_url.rpartition("/")[0], temporary_name("check"))
    storage.write_bytes(own, expected.probe)
    storage.remove_file(own)
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
    """A row for each network of the method that starts from weights."""
    from crowddist.models.weights import require_weights  # imports torch

    rows = []
    for network in facts_of(config.method).networks:
        settings = getattr(config, network)
        if settings.weights != "none":
            look = lambda settings=settings: require_weights(settings.weights, settings.backbone)  # noqa: E731
            rows.append(looked(f"weights {network}", where, look, advice="correct the option weights"))
    return rows


def _networks(config: RunConfig, *, load: bool) -> tuple[Row, set[str]]:
    """Builds the networks, with weights from files where `load`, and none are downloaded. Returns also the roles whose
    images must have masks.
    """
    from crowddist.methods.build import build_method

    masked: set[str] = set()

    def build() -> str:
        plan = build_method(config, weights="files" if load else "none").plan()
        masked.update(stream.data for stage in plan for stream in stage.streams.values() if stream.masks)
        return f"{config.method} has {len(plan)} stages"

    return looked("networks", HERE, build), masked


def data_row(name: str, role: Role, spec: DataSpec, *, masks: bool, boxes: bool) -> tuple[Row, tuple[str, str] | None]:
    """Whether a data set resolves, and its first image decodes; of the target's and the evaluation's no label is
    opened.

    Returns: the row; URL and digest where it is shards.
    """
    from crowddist.data.prepare import expand

    found: list[tuple[str, str]] = []

    def look() -> str:
        full = expand(spec)
        if full.format == "renderer":
            return f"{full.num_images} images, look {full.look}, will be rendered"
        url = storage.normalise(full.place)
        if full.format == "place" and (role != "target" or storage.exists(storage.join(url, FILE_NAME))):
            manifest, told = _shards(url, role, masks=masks, boxes=boxes)
            found.append((url, manifest.digest))
            return told
        return _raw(full, role)

    row = looked(f"data {name}", HERE, look, advice="correct the address, or put the data there")
    return row, found[0] if found and row.state == "ok" else None


def _shards(url: str, role: Role, *, masks: bool, boxes: bool) -> tuple[Manifest, str]:
    from crowddist.data.shard_codec import decode
    from crowddist.data.shards import ShardReader

    reader = ShardReader(url)
    _require_shards(url, reader.manifest)
    if role != "target" and not reader.manifest.labelled:
        raise InputError(f"the {role} at {url} has no labels; give a labelled data set")
    key, members = reader.read(0, None if role in LABELS_OPENED else ("jpg", "png"))
    if masks and role in LABELS_OPENED and "mask.png" not in members:
        raise InputError(f"the {role} at {url} has no masks of persons, which the method needs; those of GCC, the "
                         "renderer and CrowdHuman have some")
    if boxes and not masks and "boxes.npy" not in members:
        raise InputError(f"the data set at {url} has points, but no boxes; give one that has, e.g. wider_face:PATH")
    decode(key, members)
    return (reader.manifest,
            f"{reader.manifest.name}, {len(reader)} images in {len(reader.manifest.shards)} shards; the first decodes")


def _require_shards(url: str, manifest: Manifest) -> None:
    missing = sorted({shard.name for shard in manifest.shards} - set(storage.list_files(url)))
    if missing:
        raise InputError(f"the data set at {url} lacks "
                         f"{missing[0]}{f' and {len(missing) - 1} more shards' if missing[1:] else ''}; copy it again")


def _raw(spec: DataSpec, role: Role) -> str:
    """Raw data that the run converts first: its layout, and its first image."""
    from crowddist.data.convert.formats import FORMATS
    from crowddist.data.images import store_image

    form = FORMATS["folder" if spec.format == "place" else spec.format]
    split = spec.split if spec.split != "all" else form.splits[0]
    if split not in form.splits:
        raise InputError(f"{form.name} has no split {split!r}; choose one of {', '.join(form.splits)}")
    if not storage.is_folder(spec.place):
        raise FileNotFoundError(f"no folder at {spec.place}; give the folder that holds the {form.name} data")
    if not storage.is_local(spec.place):
        return f"{form.name}: there is a folder; what it holds is only known when it is downloaded"
    labelled = form.annotate is not None and role in LABELS_OPENED
    items = form.find(Path(storage.shown(spec.place)), split, labelled).items
    if not items:
        raise InputError(f"no images of the split {split!r} in {spec.place}; give a folder that holds {form.summary}")
    size = store_image(items[0].image, upright=form.upright).source_size
    files = items[0].annotations
    if role != "target" and files and not any(file.exists() for file in files):
        raise InputError(f"{items[0].image} has no annotation at {files[0]}; give a labelled data set")
    if labelled and form.annotate is not None:
        form.annotate(items[0], size)
    return f"{form.name}, {len(items)} images will be converted; the first decodes"


def mlflow_row(config: RunConfig) -> Row:
    """Whether MLflow answers and the run's experiment can be written to; none is made."""
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
    """What a machine of the run needs disk space for; storage that failed needs another place first."""
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


