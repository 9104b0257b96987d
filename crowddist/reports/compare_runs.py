"""Comparison: finished runs in one table, beside what the papers say of the same method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from crowddist import storage
from crowddist.errors import InputError
from crowddist.methods.table import METHODS
from crowddist.ops.calibration import calibration_error, reliability, sparsification_error
from crowddist.storage.run_folder import IMAGES, RESULT

PAIRS = {
    "renderer_to_sha": "GCC->SHA",
    "gcc_to_sha": "GCC->SHA",
    "icassp2020_gcc_to_sha": "GCC->SHA",
    "renderer_to_shb": "GCC->SHB",
    "gcc_to_shb": "GCC->SHB",
    "icassp2020_gcc_to_shb": "GCC->SHB",
    "sha_to_shb": "A->B",
    "mm2020_sha_to_shb": "A->B",
    "shb_to_sha": "B->A",
    "mm2020_shb_to_sha": "B->A",
}
"""Recipe -> the published pair that is nearest to it."""
HEADINGS = ("run", "recipe", "method", "seed", "images", "counter alone", "adapted", "change", "paper",
            "paper's change")


def published(recipe: str, method: str) -> tuple[float, float] | None:
    """What the method's paper says of the pair of data sets nearest to a recipe: MAE without and with adaptation; None
    where it says nothing.
    """
    return METHODS[method].published.get(PAIRS.get(recipe, "")) if method in METHODS else None


def read_result(place: str) -> dict[str, Any]:
    """What a run left in its `result.json`. Args: `place` the run's folder. Raises: InputError: there is none, or it
    was not evaluated.
    """
    url = storage.join(storage.normalise(place), RESULT)
    if not storage.exists(url):
        raise InputError(f"no {RESULT} in {place}: give the folder of a run that has ended")
    result = storage.read_json(url)
    if not isinstance(result.get("rounds"), list) or not result["rounds"] or "target/mae" not in result["rounds"][-1]:
        raise InputError(f"{url} holds no error: the run had no labelled evaluation data")
    return result


def read_images(folder: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row an image of a run's round, the largest error first; none where nothing was evaluated. Args: `folder` URL of
    the run, `row` of `rounds`.
    """
    url = storage.join(folder, row["stage"], IMAGES)
    return storage.read_json(url) if storage.exists(url) else []


def read_uncertainties(place: str) -> dict[str, list[float]]:
    """What the last counter of a run said of its evaluation: `errors`, predicted minus true count, and `uncertainties`,
    both persons, an image each.

    {} where the counter has no ensemble. Args: `place` the run's folder, of which `read_result` has a result.
    """
    folder = storage.normalise(place)
    images = read_images(folder, storage.read_json(storage.join(folder, RESULT))["rounds"][-1])
    found = {"errors": [row["error"] for row in images], "uncertainties": [row["uncertainty"] for row in images]}
    return found if any(found["uncertainties"]) else {}


def calibration_table(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A line a run, as plain text: how large the uncertainty of the count is beside its error, and how well it tells
    one image from another.

    Args:
        runs: name -> as `read_uncertainties` gives it.
    """
    lines = [("run", "images", "rmse", "uncertainty", "calibration error", "AUSE")]
    for name, found in runs.items():
        errors, spreads = found["errors"], found["uncertainties"]
        error, spread = (math.sqrt(sum(value * value for value in values) / len(values))
                         for values in (errors, spreads))
        ence, ause = calibration_error(reliability(errors, spreads)), sparsification_error(errors, spreads)
        lines.append((name, str(len(errors)), f"{error:.1f}", f"{spread:.1f}", f"{ence:.2f}", f"{ause:.3f}"))
    return _table(lines)


def compare(results: Sequence[Mapping[str, Any]]) -> str:
    """A line a run, as plain text: MAE / rmse of the counter without adaptation and at the end, as it came, and the
    paper's of the same method.

    Where a run's count is that of several networks together, the one without adaptation is that of the counter (or
    regressor) alone, as papers have it. Errors compare where data, seed and number of steps are the same.

    Args:
        results: as `read_result` gives them.
    """
    return _table([HEADINGS, *(_cells(result) for result in results)])


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the headings first, as columns."""
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def _cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    first, last = result["rounds"][0], result["rounds"][-1]
    alone = "target/regression_" if "target/regression_mae" in first else "target/"
    paper = published(result["recipe"], result["method"])
    adapts = len(result["rounds"]) > 1
    return (
        result["run"],
        result["recipe"],
        result["method"],
        str(result["seed"]),
        f"{last['target/num_images']:.0f}",
        f"{first[f'{alone}mae']:.1f} / {first[f'{alone}rmse']:.1f}" if adapts else "-",
        f"{last['target/mae']:.1f} / {last['target/rmse']:.1f}",
        _change(first[f"{alone}mae"], last["target/mae"]) if adapts else "-",
        "-" if paper is None else f"{paper[0]:g} -> {paper[1]:g}",
        "-" if paper is None else _change(*paper),
    )


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.0%}" if before else "-"
