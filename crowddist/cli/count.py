"""Counts people in images of any size: a table counts.csv, the heads' points, and an overlay PNG each.

    crowddist count photo.jpg --output counted/
    crowddist count photo.jpg folder/ 'more/*.jpg' --model runs/demo --output counted/
    crowddist count s3://bucket/photos https://example.org/square.jpg --model runs/demo --output counted/
    crowddist count photos/ --model runs/demo --output counted/ --points cvat     (to correct the points by hand)
    crowddist count photos/ --model runs/demo --output counted/ --zones zones.json

After a stop or a kill, counts.csv holds what was counted, and the same command goes on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from crowddist.cli.called import EXIT_CODES, as_called
from crowddist.cli.counting import Counting, Options
from crowddist.errors import InputError
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.process.host import sigterm_as_exit

if TYPE_CHECKING:
    from crowddist.inference.base_predictor import BasePredictor
    from crowddist.reports.points_table import PointFormat

CODE = ("data", "inference", "methods", "models", "ops")
"""Rooms of the package that decide a count."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to count with what."""

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE ...")] = ()
    """Images; folders, which are searched for images; quoted patterns of paths; s3:// addresses of both; and images on
    the web (http, https), which are fetched if they have at most 128 MiB."""
    input: tuple[str, ...] = ()
    """More of them, behind a flag."""
    model: Annotated[str, tyro.conf.arg(aliases=["--checkpoint"])] = ""
    """A run's folder, one of its checkpoint files, or a file of crowddist export; path or URL. Not given: the counter
    that comes with crowddist, which only saw rendered crowds."""
    output: str
    """The folder for counts.csv, the points and the overlays."""
    counting: Options = field(default_factory=Counting)
    points: Annotated[tuple[Literal["table", "cvat", "labelstudio", "coco", "labelme", "none"], ...],
                      tyro.conf.arg(metavar="FORMAT ...")] = ()
    """Files of the heads' points, to correct them by hand: cvat, labelstudio, coco or labelme, beside points.csv and
    points.json (table), which are always written unless this is none."""
    zones: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """Parts of the images that are counted too, into zones.csv: JSON, an export of LabelMe, CVAT or Label Studio, or a
    mask. Zones of one image hold for all; of several, or of a folder of exports, each image has its own, by its name.
    """
    skip_bad: bool = False
    """Leave out files that cannot be read, instead of stopping at the first."""
    fresh: bool = False
    """Count everything anew, instead of going on where an earlier start with the same output was stopped."""

    def __post_init__(self) -> None:
        if not (self.images or self.input):
            raise InputError("no image is given; name images or folders, e.g. photo.jpg or photos/")
        if "none" in self.points and len(self.points) > 1:
            raise InputError(f"the points cannot be none and {', '.join(sorted({*self.points} - {'none'}))}; choose")


def main(arguments: Sequence[str], prog: str = "crowddist count", *, points: tuple[str, ...] = ("table",)) -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
        points: stands for --points where it is not given; (): no points.
    """
    with one_line_errors(), sigterm_as_exit():
        about = f"{as_called(__doc__ or '', prog)}\n{EXIT_CODES}"
        given = read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments), about)
        formats = given.points or points
        count_images(given, None if not formats or "none" in formats else formats)


def count_images(arguments: Arguments, points: Sequence[str] | None) -> None:
    """Counts every image and says where the results lie."""
    from crowddist import storage
    from crowddist.data.zones.files import read_zone_file
    from crowddist.inference.open_counter import find_counter
    from crowddist.reports.count_files import predict_files

    zones = read_zone_file(arguments.zones) if arguments.zones else None  # before the counter, which takes seconds
    checkpoint_url = find_counter(arguments.model)
    predictor = arguments.counting.open(checkpoint_url)
    about = [] if arguments.model else ["no --model is given: the counter that comes with crowddist counts, which only "
                                        "saw rendered crowds"]
    if predictor.intervals is not None:
        about.append(predictor.intervals.told)
    formats = None if points is None else cast("list[PointFormat]", [name for name in points if name != "table"])
    rows = predict_files(predictor, (*arguments.images, *arguments.input), arguments.output,
                         skip_bad=arguments.skip_bad, fresh=arguments.fresh,
                         job=_job(arguments, predictor, storage.local_file(checkpoint_url)), points=formats,
                         zones=zones, about=about, say=lambda line: print(line, flush=True))
    print(f"{len(rows)} image{'s' * (len(rows) != 1)}, {sum(row['count'] for row in rows):.0f} people: "
          f"{arguments.output.rstrip('/')}/counts.csv")


def _job(arguments: Arguments, predictor: BasePredictor, checkpoint: str | os.PathLike[str]) -> str:
    """The digest of the counter and of how it counts: a stopped count goes on with the same alone."""
    import hashlib

    from crowddist.process.host import code_digest

    with open(checkpoint, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    # The intervals have their level, and a calibration that may change beside the same checkpoint. Rows of another
    # version of the code may be counted otherwise.
    settings = (code_digest(CODE), digest, arguments.counting, predictor.intervals)
    return hashlib.sha256(repr(settings).encode()).hexdigest()
