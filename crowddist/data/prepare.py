"""Prepares a run's data: checks shards; converts raw data once and keeps it beside the runs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote

from crowddist import storage
from crowddist.data.config import RAW_FORMATS, DataSpec
from crowddist.data.manifest import FILE_NAME, Manifest
from crowddist.data.shards import ShardReader, verify
from crowddist.errors import InputError
from crowddist.process.host import code_digest
from crowddist.process.progress_bar import Progress, watched
from crowddist.process.safe_text import is_secret_name

if TYPE_CHECKING:
    from crowddist.data.composite.dataset import CrowdMaps

Role = Literal["source", "target", "labelled_target", "evaluation", "boxes", "calibration"]
Entry = TypeVar("Entry")
COMPOSITE_CODE = ("randomness.py", "data/scenes.py", "data/safe_decode.py", "data/shard_codec.py", "data/composite",
                  "data/simulator")
"""Source files that decide the bytes of composites."""
COUNTER_CODE = ("data/stream.py", "data/transforms.py", "inference/base_predictor.py", "inference/crowd_maps.py",
                "inference/predictor.py", "methods", "models", "ops")
"""Those that decide where a counter finds nobody."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A data set that was checked."""

    url: str
    manifest: Manifest

    def summary(self) -> dict[str, Any]:
        """Entries of a result about its data."""
        skipped = self.manifest.statistics.get("num_skipped", 0)
        facts = {"url": self.url, "name": self.manifest.name, "digest": self.manifest.digest,
                 "num_images": self.manifest.num_samples}
        return facts | ({"num_skipped": skipped} if skipped else {})


def prepare(
    spec: DataSpec, place: str, *, role: Role, say: Callable[[str], None], skip_bad: bool = False, masks: bool = False,
    crowd_maps: CrowdMaps | None = None
) -> Prepared:
    """Checks the shards of a data set; converts them first if they do not exist.

    Raises InputError or FileNotFoundError if the data is missing, damaged, or not what its role needs.

    Args:
        spec: the user's data set.
        place: folder of all runs; its `data` folder holds converted data for every run.
        role: a target is converted without its labels; all other roles need labels, "boxes" also boxes.
        say: shows a line of progress.
        skip_bad: leave out raw images and samples that cannot be read, and list them in `skipped.json` beside the
            shards.
        masks: require masks of persons.
        crowd_maps: counts people in images for composites with a counter; None: such composites cannot be made.
    """
    spec = expand(spec)
    if spec.format == "composite":
        return _composites(spec, place, role, say, skip_bad, masks, crowd_maps)
    spec = recognised(spec, role)
    folder = storage.join(storage.normalise(place), "data")
    # One process at a time: another run may render or convert the same data now.
    hold = storage.exclusive(folder, waiting=lambda: say(f"waiting for another run, which converts data to {folder}"))
    if spec.format == "place" and (role != "target"
                                   or storage.exists(storage.join(storage.normalise(spec.place), FILE_NAME))):
        url = storage.normalise(spec.place)
        if skip_bad:
            from crowddist.data.skip_unreadable import readable

            verify(url)
            with hold:
                storage.mark_as_ours(folder)
                url = readable(url, folder, closed=role == "target", say=lambda line: say(f"{role}: {line}"))
    else:
        url = storage.join(folder, _slug(spec, role, skip_bad))
        if not storage.exists(storage.join(url, FILE_NAME)):
            with hold:
                if not storage.exists(storage.join(url, FILE_NAME)):
                    form = f" as {spec.format}" if spec.format in RAW_FORMATS else ""
                    say(f"{role}: converting {spec.place or 'rendered images'}{form} to {url}")
                    _convert(spec, place, url, role, say, skip_bad)
                    storage.mark_as_ours(folder)
    manifest = verify(url)
    require_labels(url, manifest, role, masks=masks)
    say(f"{role}: {manifest.name}, {manifest.num_samples} images")
    return Prepared(url=url, manifest=manifest)


def require_labels(url: str, manifest: Manifest, role: Role, *, masks: bool) -> None:
    """Raises InputError if a data set lacks the labels, masks or boxes that its role needs."""
    if role != "target" and not manifest.labelled:
        raise InputError(f"the {role} at {url} has no labels; give a labelled data set")
    if masks and "mask.png" not in ShardReader(url).read(0)[1]:
        raise InputError(f"the {role} at {url} has no masks of persons, but the method needs them; GCC, the renderer, "
                         "CrowdHuman and composites on frames of one camera have masks")
    if role == "boxes" and not masks and "boxes.npy" not in ShardReader(url).read(0)[1]:
        raise InputError(f"the data set at {url} has points, but no boxes; give one that has, e.g. wider_face:PATH")


def expand(spec: DataSpec) -> DataSpec:
    """Expands `~` and `$NAME` in the place, unless a folder is called so. Raises InputError for a variable that is not
    set or holds a secret.
    """
    if os.path.exists(spec.place):
        return spec
    for name in re.findall(r"\$\{?(\w+)", spec.place):
        if is_secret_name(name):
            raise InputError(f"{spec.place}: ${name} holds a secret, which places and messages would show; name "
                             "another variable")
    expanded = os.path.expanduser(os.path.expandvars(spec.place))
    missing = re.search(r"\$\{?(\w+)", expanded)
    if missing:
        raise InputError(f"{spec.place}: ${missing.group(1)} is not set; set it, or give the data with --source, "
                         "--target, --evaluation and --calibration")
    background = None if spec.background is None else expand(spec.background)
    counter = expand(DataSpec(format="place", place=spec.counter)).place if spec.counter else ""
    return replace(spec, place=expanded, background=background, counter=counter)


def _composites(spec: DataSpec, place: str, role: Role, say: Callable[[str], None], skip_bad: bool, masks: bool,
                crowd_maps: CrowdMaps | None) -> Prepared:
    """As `prepare`, for people on the images of another data set, which is opened without its labels."""
    from crowddist.data.composite.dataset import TRIES, find_backgrounds, write_composites
    from crowddist.storage.run_folder import find_checkpoint

    if role != "source":
        raise InputError(f"composites are made as a source alone; name photographs as the {role.replace('_', ' ')}")
    assert spec.background is not None  # `parse_data` gives one
    checkpoint = find_checkpoint(spec.counter) if spec.counter else ""
    target = prepare(spec.background, place, role="target", say=lambda line: say(f"composites: {line}"),
                     skip_bad=skip_bad)
    made_of = (target.manifest.digest, hashlib.sha256(storage.read_bytes(checkpoint)).hexdigest() if checkpoint else "",
               spec.heads, code_digest(COMPOSITE_CODE + (COUNTER_CODE if checkpoint else ())))
    folder = storage.join(storage.normalise(place), "data")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", target.manifest.name)[:60]
    digest = hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]
    url = storage.join(folder, f"composite-{name}-{spec.num_images}-{spec.seed}-{digest}")
    if not storage.exists(storage.join(url, FILE_NAME)):
        waiting = f"waiting for another run, which converts data to {folder}"
        with storage.exclusive(folder, waiting=lambda: say(waiting)):
            if not storage.exists(storage.join(url, FILE_NAME)):
                say(f"{role}: looking for empty places in {target.manifest.name}")
                backgrounds = find_backgrounds(
                    ShardReader(target.url), spec, checkpoint, crowd_maps,
                    watch=lambda numbers: watched(numbers, "images looked at", say=say))
                say(f"{role}: putting people into {len(backgrounds)} images, to {url}")
                write_composites(url, backgrounds, spec, name=f"composite-{name}", num_workers=os.cpu_count() or 1,
                                 watch=lambda numbers: watched(numbers, "composites", say=say))
                storage.mark_as_ours(folder)
    manifest = verify(url)
    require_labels(url, manifest, role, masks=masks)
    say(f"{role}: {manifest.name}, {manifest.num_samples} images")
    if missing := spec.num_images - manifest.num_samples:
        say(f"{role}: {missing} composites are left out: {TRIES} images were tried for each, and none had room")
    return Prepared(url=url, manifest=manifest)


def recognised(spec: DataSpec, role: Role) -> DataSpec:
    """The same data with its format, where a folder of raw data is given by its place alone. Opens labels, so a target
    stays as it is. Raises FileNotFoundError, saying what is there, for a folder without labels that are read.
    """
    if (spec.format != "place" or role == "target" or not storage.is_local(spec.place)
            or not storage.is_folder(spec.place) or storage.exists(storage.join(spec.place, FILE_NAME))):
        return spec
    from crowddist.data.convert.recognise import recognise

    try:
        return replace(spec, format=recognise(Path(storage.shown(spec.place))))
    except InputError as error:
        raise FileNotFoundError(f"no data set at {spec.place}: {FILE_NAME} is missing, and {error}") from None


def _slug(spec: DataSpec, role: Role, skip_bad: bool) -> str:
    """A readable folder name, unique for place, content and role."""
    kind = "unlabelled" if role == "target" else "labelled"
    if spec.format == "renderer":
        return f"renderer-{spec.look}-{spec.num_images}-{spec.height_px}-{spec.seed}-{kind}"
    full = storage.normalise(spec.place)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", unquote(full.rstrip("/").rsplit("/", 1)[-1]))[:60]
    bad = "-skipping" if skip_bad else ""
    return f"{spec.format}-{name}-{spec.split}-{kind}{bad}-{storage.fingerprint(full)[:8]}"


def _convert(spec: DataSpec, place: str, url: str, role: Role, say: Callable[[str], None], skip_bad: bool) -> None:
    from crowddist.data.convert.base import SKIPPED, convert
    from crowddist.data.convert.doubts import DOUBTS, notes
    from crowddist.data.convert.formats import FORMATS

    def watch(items: Sequence[Entry]) -> Iterable[Entry]:
        return watched(items, f"images of the {role} converted", say=say)

    num_workers = os.cpu_count() or 1
    if spec.format == "renderer":
        convert(FORMATS["gcc"], _render(spec, place, say), url, unlabelled=role == "target",
                name=f"renderer-{spec.look}", num_workers=num_workers, watch=watch)
        return
    form = FORMATS["folder" if spec.format == "place" else spec.format]
    converted = convert(form, spec.place, url, split="" if spec.split == "all" else spec.split, skip_bad=skip_bad,
                        unlabelled=role == "target", num_workers=num_workers, watch=watch)
    for note in converted.notes:
        say(f"{role}: {note}")
    if told := notes({**converted.manifest.statistics, "num_skipped": 0}):  # which the next line tells
        say(f"{role}: {', '.join(told)}{f', listed in {storage.join(url, DOUBTS)}' if converted.doubts else ''}")
    if converted.skipped:
        say(f"{role}: {len(converted.skipped)} files left out, listed in {storage.join(url, SKIPPED)}")


def _render(spec: DataSpec, place: str, say: Callable[[str], None]) -> Path:
    """Draws a data set once into the runs' `data/raw` folder, or into a temporary one if runs are in object storage.
    Returns the folder.
    """
    from crowddist.data.simulator import write_dataset
    from crowddist.data.simulator.config import RendererConfig

    raw = storage.join(storage.normalise(place), "data", "raw",
                       f"renderer-{spec.look}-{spec.num_images}-{spec.height_px}-{spec.seed}")
    folder = storage.scratch_folder(raw)
    if any(folder.iterdir()):  # write_dataset fills it in one step; an empty folder is from a killed renderer
        return folder
    size = (spec.height_px, spec.height_px * 16 // 9)
    config = RendererConfig(num_images=spec.num_images, seed=spec.seed, look=spec.look, size=size)
    say(f"rendering {spec.num_images} images, look {spec.look}")
    progress = Progress(spec.num_images, "images rendered", say)
    # ours: another process takes as long to start as a few images to draw.
    num_workers = max(min(os.cpu_count() or 1, spec.num_images // 8), 1)
    write_dataset(folder, config, num_workers=num_workers, progress=lambda done, total: progress.show(done))
    progress.close()
    return folder
