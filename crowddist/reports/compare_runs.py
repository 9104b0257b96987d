"""Compares finished runs in one table, beside the figures of the methods' papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from crowddist import storage
from crowddist.errors import InputError
from crowddist.methods.table import METHODS
from crowddist.ops.calibration import calibration_error, reliability, sparsification_error
from crowddist.reports.text_table import text_table
from crowddist.storage.run_folder import IMAGES, RESULT

PAIRS = {
    "renderer_to_sha": "GCC->SHA", "gcc_to_sha": "GCC->SHA", "icassp2020_gcc_to_sha": "GCC->SHA",
    "renderer_to_shb": "GCC->SHB", "gcc_to_shb": "GCC->SHB", "icassp2020_gcc_to_shb": "GCC->SHB",
    "gcc_to_ucf_cc_50": "GCC->UCF_CC_50", "gcc_to_qnrf": "GCC->QNRF", "icassp2020_gcc_to_qnrf": "GCC->QNRF",
    "sha_to_shb": "A->B", "mm2020_sha_to_shb": "A->B", "shb_to_sha": "B->A", "mm2020_shb_to_sha": "B->A",
    "sha_to_ucf_cc_50": "A->UCF_CC_50", "sha_to_qnrf": "A->QNRF", "shb_to_qnrf": "B->QNRF",
}
"""Recipe -> the nearest published pair of data sets."""
_LARGEST = 1e100  # ours: a mean of squares of larger errors has no number
HEADINGS = ("run", "recipe", "method", "seed", "images", "counter alone", "adapted", "change", "paper",
            "paper's change")


def published(recipe: str, method: str) -> tuple[float, float] | None:
    """MAE without and with adaptation from the method's paper, on the pair of data sets nearest to the recipe; None if
    the paper has none.
    """
    return METHODS[method].published.get(PAIRS.get(recipe, "")) if method in METHODS else None


def read_result(place: str) -> dict[str, Any]:
    """The `result.json` in a run's folder. Raises InputError if there is none, it is damaged, or the run was not
    evaluated.
    """
    url = storage.join(storage.normalise(place), RESULT)
    if not storage.exists(url):
        raise InputError(f"no {RESULT} in {place}: give the folder of a run that has ended")
    result = storage.read_json(url)
    rounds = result.get("rounds") if isinstance(result, dict) else None
    if not (isinstance(rounds, list) and rounds and all(isinstance(row, dict) for row in rounds)
            and "target/mae" in rounds[-1]):
        raise InputError(f"{url} holds no error: the run had no labelled evaluation data")
    require_whole(result, url)
    first, last = result["rounds"][0], kept(result)
    needed = ((first, f"{_alone(first)}mae"), (first, f"{_alone(first)}rmse"), (last, "target/mae"),
              (last, "target/rmse"), (last, "target/num_images"))
    if missing := [name for row, name in needed if name not in row]:
        raise _damaged(url, missing[0])
    return result


def require_whole(result: Mapping[str, Any], url: str) -> None:
    """Raises InputError, naming the file, where what tables and reports show of a run is missing or of another kind."""
    needed = {"run": str, "recipe": str, "method": str, "seed": int, "rounds": list}
    more = {"checkpoint": str, "data": dict, "timeline": list}
    wrong = [name for name, kind in {**needed, **more}.items()
             if (name in needed or name in result) and not isinstance(result.get(name), kind)]
    rows = [*(result["rounds"] if "rounds" not in wrong else ()), *filter(None, [result.get("final")])]
    for row in rows:
        is_row = isinstance(row, dict) and isinstance(row.get("stage"), str) and isinstance(row.get("round"), int)
        wrong += ["rounds"] * (not is_row) + [name for name, value in (row.items() if is_row else ())
                                              if name.startswith("target/") and not _is_finite(value)]
    if wrong:
        raise _damaged(url, wrong[0])


def _damaged(url: str, name: str) -> InputError:
    return InputError(f"{url} is damaged: it has no {name} that can be read; the command of the run writes it anew")


def _is_finite(value: Any) -> bool:
    """True for a number that charts can show."""
    return isinstance(value, int | float) and abs(value) <= _LARGEST


def read_images(folder: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per evaluated image of a round, the largest error first; empty without an evaluation. `folder`: the run's
    URL; `row`: the round's row in result.json.
    """
    url = storage.join(folder, row["stage"], IMAGES)
    rows = storage.read_json(url) if storage.exists(url) else []
    if not (isinstance(rows, list) and all(isinstance(row, dict) and _is_finite(row.get("error"))
                                           and _is_finite(row.get("uncertainty")) for row in rows)):
        raise InputError(f"{url} is damaged: it must be a list of images with their errors; restore it from a copy, "
                         "or leave this run out")
    return rows


def read_uncertainties(place: str) -> dict[str, list[float]]:
    """`errors` (predicted minus true count) and `uncertainties` of the last round's evaluation, persons, one per
    image; {} if the counter has no ensemble. `place` is the folder of a run that `read_result` can read.
    """
    folder = storage.normalise(place)
    images = read_images(folder, kept(storage.read_json(storage.join(folder, RESULT))))
    found = {"errors": [row["error"] for row in images], "uncertainties": [row["uncertainty"] for row in images]}
    return found if any(found["uncertainties"]) else {}


def calibration_table(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A plain-text table with one line per run: size of the uncertainty beside the error, and how well it ranks the
    images. `runs`: name -> result of `read_uncertainties`.
    """
    lines = [("run", "images", "rmse", "uncertainty", "calibration error", "AUSE")]
    for name, found in runs.items():
        errors, spreads = found["errors"], found["uncertainties"]
        error, spread = (math.sqrt(sum(value * value for value in values) / len(values))
                         for values in (errors, spreads))
        ence, ause = calibration_error(reliability(errors, spreads)), sparsification_error(errors, spreads)
        lines.append((name, str(len(errors)), f"{error:.1f}", f"{spread:.1f}", f"{ence:.2f}", f"{ause:.3f}"))
    return text_table(lines, rule_after=1)


def compare(results: Sequence[Mapping[str, Any]]) -> str:
    """A plain-text table with one line per run: MAE / rmse without adaptation, MAE / rmse at the end, and the paper's
    MAE of the same method.

    If several networks together give a run's count, the error without adaptation is that of the counter (or regressor)
    alone, as in the papers. Errors are comparable for equal data, seed and number of steps. `results`: of
    `read_result`.
    """
    return text_table([HEADINGS, *(cells(result) for result in results)], rule_after=1)


def mean_line(results: Sequence[Mapping[str, Any]]) -> str:
    """The mean over runs, each run as much as another: what papers report of the folds of a cross-validation.

    Both errors are averaged as they are (the rmse is no root of a mean over folds). `results`: of `read_result`.
    """
    means = [sum(errors) / len(results) for errors in zip(*map(errors, results), strict=True)]
    adapts = all(len(result["rounds"]) > 1 for result in results)
    before = f"counter alone {means[0]:.1f} / {means[1]:.1f}, adapted " if adapts else ""
    return f"mean of {len(results)} runs, MAE / rmse: {before}{means[2]:.1f} / {means[3]:.1f}"


def change(before: float, after: float) -> str:
    """The relative change in per cent; "" from 0."""
    return f"{after / before - 1:+.0%}" if before else ""


def kept(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row of the round whose counter is the run's: the last, unless it was dropped."""
    return result.get("final") or result["rounds"][-1]


def errors(result: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """MAE and rmse of the counter alone, then MAE and rmse at the end."""
    first, last = result["rounds"][0], kept(result)
    return first[f"{_alone(first)}mae"], first[f"{_alone(first)}rmse"], last["target/mae"], last["target/rmse"]


def _alone(first: Mapping[str, Any]) -> str:
    """What the errors of the counter alone begin with in the first row."""
    return "target/regression_" if "target/regression_mae" in first else "target/"


def cells(result: Mapping[str, Any]) -> tuple[str, ...]:
    """A run's cells below `HEADINGS`."""
    mae, rmse, last_mae, last_rmse = errors(result)
    paper = published(result["recipe"], result["method"])
    adapts = len(result["rounds"]) > 1
    return (
        result["run"], result["recipe"], result["method"], str(result["seed"]),
        f"{kept(result)['target/num_images']:.0f}", f"{mae:.1f} / {rmse:.1f}" if adapts else "-",
        f"{last_mae:.1f} / {last_rmse:.1f}", (change(mae, last_mae) if adapts else "") or "-",
        "-" if paper is None else f"{paper[0]:g} -> {paper[1]:g}",
        "-" if paper is None else change(*paper),
    )
