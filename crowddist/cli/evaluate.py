"""Evaluates a counter on a labelled data set, or writes the report of a run that has ended.

    crowddist evaluate --checkpoint runs/demo --data shards/ --output metrics.json
    crowddist evaluate --report runs/demo
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from crowddist.cli.called import EXIT_CODES, as_called
from crowddist.cli.counting import Counting, Options
from crowddist.errors import InputError
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.process.host import sigterm_as_exit


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to evaluate on what."""

    report: str = ""
    """The folder of a run that has ended, path or URL, whose report.html is written anew; nothing else is done."""
    checkpoint: Annotated[str, tyro.conf.arg(aliases=["--model"])] = ""
    """A run's folder or one of its checkpoint files, path or URL."""
    data: str = ""
    """Labelled shards; FORMAT:PATH:SPLIT, e.g. shanghaitech:part_A_final:val; or a folder of images with labels, e.g. a
    .csv with the columns file, x, y."""
    output: str = ""
    """The JSON file to write: the metrics, under `images` one row an image, and under `zones` the errors in each."""
    counting: Options = field(default_factory=Counting)
    radii: Annotated[tuple[float, ...], tyro.conf.arg(metavar="PX ...")] = (4.0, 8.0, 16.0)
    """Distances from a true head, in px of the image, that precision, recall and F1 of the points are given at."""
    zones: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """Parts of the images whose errors are told too, the same for all images: JSON, an export of LabelMe, CVAT or Label
    Studio, or a mask."""
    work: str = "runs"
    """Where raw data is converted to."""

    def __post_init__(self) -> None:
        given = [bool(option) for option in (self.checkpoint, self.data, self.output)]
        if not (all(given) or (self.report and not any(given))):
            raise InputError("give --checkpoint, --data and --output, or --report alone")
        if self.zones and self.report:
            raise InputError("a report has no zones; give --zones with --checkpoint, --data and --output")
        if not self.radii or not all(0 <= radius < math.inf for radius in self.radii):
            raise InputError("radii must be one or more numbers of px, not negative, got "
                             f"{' '.join(map(str, self.radii))}")


def main(arguments: Sequence[str], prog: str = "crowddist evaluate") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors(), sigterm_as_exit():
        about = f"{as_called(__doc__ or '', prog)}\n{EXIT_CODES}"
        evaluate(read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments), about))


def evaluate(arguments: Arguments) -> None:
    """Counts every image once and writes the metrics."""
    from crowddist import storage

    if arguments.report:
        from crowddist.reports.html_report import write_report

        print(f"written to {storage.shown(write_report(storage.normalise(arguments.report)))}")
        return
    if storage.is_folder(arguments.output):
        raise InputError(f"the output {arguments.output} is a folder; give the file to write")
    from crowddist.data.config import parse_data
    from crowddist.data.prepare import prepare
    from crowddist.data.shards import ShardReader
    from crowddist.data.zones.files import as_zones
    from crowddist.inference.evaluation import evaluate_data
    from crowddist.inference.metrics import image_rows, summarise, zone_errors
    from crowddist.inference.open_counter import find_counter
    from crowddist.inference.predictor import Predictor

    zones = as_zones(arguments.zones or None)
    url = find_counter(arguments.checkpoint)
    predictor = arguments.counting.open(url)
    if not isinstance(predictor, Predictor):
        raise InputError(f"{storage.shown(url)} does not tell how its densities were drawn, which errors are measured "
                         "by; evaluate the run that it was exported from, which counts the same")
    if predictor.intervals is not None:
        print(predictor.intervals.told)
    prepared = prepare(parse_data(arguments.data), arguments.work, role="evaluation", say=print)
    results = evaluate_data(predictor, ShardReader(prepared.url), zones)
    metrics = summarise(results, arguments.radii)
    errors = zone_errors(results)
    record = {**metrics, "checkpoint": url, "data": prepared.summary(), "images": image_rows(results)} | (
        {"zones": errors} if errors else {})
    storage.write_json(storage.normalise(arguments.output), record)
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{name:{width}} {value:.4g}")
    for name, of_zone in errors.items():
        print(f"zone {name}: " + ", ".join(f"{noun} {value:.4g}" for noun, value in of_zone.items()))
    print(f"written to {arguments.output}")
