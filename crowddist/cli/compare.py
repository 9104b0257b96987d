"""Prints finished runs in one table, beside the papers' figures of the same method, and how well their counters know
their errors.

    for method in source_only self_supervision semantic_consistency translation bi_knowledge combined supervised; do
        crowddist adapt renderer_to_shb --method $method --run-name $method
    done
    crowddist compare runs/source_only runs/self_supervision runs/semantic_consistency ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from crowddist.cli.called import EXIT_CODES, as_called
from crowddist.errors import InputError, require_png_name
from crowddist.process.cli import one_line_errors, read_arguments


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which runs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """Folders of runs that have ended, paths or URLs."""
    mean: bool = False
    """Also print the mean error over the runs, e.g. over the folds of a cross-validation."""
    calibration: Annotated[str, tyro.conf.arg(metavar="PNG")] = ""
    """A picture to write: the error of the count against its uncertainty, and how well that ranks the images, of all
    runs whose counter has an ensemble."""
    html: Annotated[str, tyro.conf.arg(metavar="HTML")] = ""
    """A page to write, for a browser: errors, settings that differ, and the same images as each run sees them."""
    csv: Annotated[str, tyro.conf.arg(metavar="CSV")] = ""
    """A table to write, a row a run."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("no run is given; give the folders of runs that have ended, e.g. runs/a runs/b")


def main(arguments: Sequence[str], prog: str = "crowddist compare") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors():
        about = f"{as_called(__doc__ or '', prog)}\n{EXIT_CODES}"
        compare_runs(read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments), about))


def compare_runs(arguments: Arguments) -> None:
    """Prints the tables, and writes what is asked for."""
    from crowddist.reports.compare_page import comparison_csv, comparison_page
    from crowddist.reports.compare_runs import calibration_table, compare, mean_line, read_result, read_uncertainties

    if arguments.calibration:
        require_png_name("picture", arguments.calibration)
    results = {run: read_result(run) for run in arguments.runs}
    print(compare(list(results.values())))
    if arguments.mean:
        print(f"\n{mean_line(list(results.values()))}")
    known: dict[str, dict[str, list[float]]] = {}
    for run, result in results.items():
        if found := read_uncertainties(run):
            known[run if result["run"] in known else result["run"]] = found
    if known:
        print(f"\nuncertainty of the count (root mean square, people, as rmse)\n{calibration_table(known)}")
    if arguments.calibration and not known:
        raise InputError("no run has an uncertainty that a picture could show: their counters have no ensemble")
    from crowddist import storage

    for place, made in ((arguments.calibration, lambda: _calibration(known)),
                        (arguments.html, lambda: comparison_page(results, known)),
                        (arguments.csv, lambda: comparison_csv(list(results.values())).encode())):
        if place:
            storage.write_bytes(storage.normalise(place), made())
            print(f"\nwritten to {place}")


def _calibration(known: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """The picture, as PNG."""
    from crowddist.data.safe_decode import encode_png
    from crowddist.reports.charts import calibration_chart, pixels

    return encode_png(pixels(calibration_chart({name: (found["errors"], found["uncertainties"])
                                                for name, found in known.items()})))
