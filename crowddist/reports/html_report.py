"""A run's report: one HTML file with its rounds, charts, images, data and costs, made from the run's files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crowddist import storage
from crowddist.config import REMOVED_SETTINGS, flat, to_json
from crowddist.data.safe_decode import read_png
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import pixels_only
from crowddist.errors import InputError
from crowddist.inference.intervals import LEVEL, CountInterval
from crowddist.inference.metrics import METRICS
from crowddist.methods.table import METHODS, idle_groups
from crowddist.reports.charts import calibration_chart, trials_chart
from crowddist.reports.compare_runs import PAIRS, change, published, read_images, require_whole
from crowddist.reports.html_page import embedded, page
from crowddist.reports.round_pictures import summary_charts
from crowddist.reports.sheets import figure, held, overlay
from crowddist.reports.timeline_chart import timeline
from crowddist.run.engine import read_done
from crowddist.storage.run_folder import CONFIG, PICTURES, REPORT, RESULT, SEARCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_EXTREMES = 3
"""Number of images shown with the largest errors, and with the smallest."""
ROLES = {"source": "to learn from", "target": "to adapt to, without labels", "labelled_target": "to learn from",
         "evaluation": "to measure the error; nothing else opens its labels",
         "calibration": "to measure how wide intervals must be"}
"""What a run uses a data set for."""


def write_report(folder: str, *, say: Callable[[str], None] = print) -> str:
    """Writes the report of a finished run into its folder, a URL. Returns the report's URL.

    Reads only the run's files and, if still there, its evaluation data: it shows the images with the largest and
    smallest errors, with pixels and counts but no labels.

    Raises:
        InputError: there is no finished run.
    """
    url = storage.join(folder, RESULT)
    if not storage.exists(url):
        raise InputError(f"no {RESULT} in {folder}: a report needs a run that has ended")
    result, config = storage.read_json(url), storage.read_json(storage.join(folder, CONFIG))
    if not isinstance(result, dict) or not isinstance(config, dict):
        raise InputError(f"{folder} holds no {RESULT} and {CONFIG} of a run: each must be a JSON object")
    require_whole(result, url)
    content = page(
        "report.html", result=result, learnt=_learnt(result), method=METHODS.get(result["method"]),
        heads=_headline(result), measures=_measures(result["rounds"]),
        rounds=[{"number": row["round"], "title": row["title"], "kept": row["round"] == result["final"]["round"]}
                for row in result["rounds"]],
        errors=", ".join(f"{row['title']} {row['target/mae']:.1f}" for row in result["rounds"] if "target/mae" in row),
        paper=_paper(result), charts=_charts(folder, result), searches=_searches(folder, result),
        extremes=_extremes(folder, result, say), shown=_shown(folder, result),
        timeline=timeline(result.get("timeline", ())),
        stages=_stages(folder, result, config), roles=ROLES, config=json.dumps(config, indent=2),
        changed=_changed(config), place=storage.shown(folder))
    report = storage.join(folder, REPORT)
    storage.write_bytes(report, content)
    return report


def _headline(result: Mapping[str, Any]) -> dict[str, Any]:
    first, last = result["rounds"][0], result["final"]
    if "target/mae" not in last:
        return {}
    before, after = first["target/mae"], last["target/mae"]
    return {
        "before": f"{before:.1f}", "after": f"{after:.1f}", "better": after < before,
        "adapted": len(result["rounds"]) > 1, "change": f"{abs(after / before - 1):.0%}" if before else "",
        "images": f"{last['target/num_images']:.0f}",
        "people": f"{last['target/mean_count'] - last['target/bias']:.0f}" if "target/bias" in last else "",
        "inside": f"{last['target/interval_coverage']:.0%}" if "target/interval_coverage" in last else "",
    }


def _learnt(result: Mapping[str, Any]) -> str:
    """What the counter was made of, in one sentence."""
    data = result["data"]
    labelled = [f"{facts['num_images']:,} labelled images of {facts['name']}" for role, facts in data.items()
                if role.startswith(("source", "labelled_target"))]
    told = f"Learnt from {' and '.join(labelled)}" if labelled else ""
    if told and "target" in data and len(result["rounds"]) > 1:
        name = data["target"]["name"].removesuffix("-unlabelled")
        told += f", adapted to {data['target']['num_images']:,} images of {name} without labels"
    return told and f"{told}."


def _measures(rounds: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """The figures of the rounds, a row a metric: those of the terminal, then the others."""
    metrics = held(METRICS, rounds)
    return [[{"heading": metric.heading, "unit": metric.unit, "meaning": metric.meaning, "better": metric.better,
              "cells": [figure(row.get(metric.key), metric) for row in rounds]}
             for metric in metrics if metric.at_terminal is first] for first in (True, False)]


def _paper(result: Mapping[str, Any]) -> dict[str, str] | None:
    """The paper's figures of the method on the nearest pair of data sets."""
    found = published(result["recipe"], result["method"])
    if found is None:
        return None
    return {"pair": PAIRS[result["recipe"]], "before": f"{found[0]:g}", "after": f"{found[1]:g}",
            "change": change(*found)}


def _charts(folder: str, result: Mapping[str, Any]) -> dict[str, Figure]:
    """Those that have data, by name."""
    charts = summary_charts(result["rounds"], folder)
    images = read_images(folder, result["final"])
    uncertainties = [row["uncertainty"] for row in images]
    if any(uncertainties):
        charts["calibration"] = calibration_chart({"images": ([row["error"] for row in images], uncertainties)})
    return charts


def _searches(folder: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Results of each round's search of thresholds."""
    searches = []
    for row in result["rounds"]:
        url = storage.join(folder, row["stage"], SEARCH)
        if storage.exists(url):
            found = storage.read_json(url)
            names = [name for name in found["own"] if "." in name]
            searches.append({
                "title": row["title"], "objective": found["objective"], "number": len(found["trials"]),
                "rows": [(name.rpartition(".")[2].replace("_", " "), f"{found['own'][name]:.3g}",
                          f"{found['best'][name]:.3g}") for name in names],
                "scores": (f"{found['own']['score']:.3f}", f"{found['best']['score']:.3f}"),
                "ranking": [(name.replace("_", " "), f"{value:.3g}")
                            for name, value in found.get("ranking", {}).items()],
                "chart": trials_chart(found["trials"], found.get("truth", ())),
            })
    return searches


def _extremes(folder: str, result: Mapping[str, Any], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The images with the largest and smallest errors, with the last counter's density."""
    rows = read_images(folder, result["final"])
    data = result["data"].get("evaluation")
    if not rows or data is None:
        return []
    number = min(NUM_EXTREMES, len(rows) // 2) or 1
    groups = [("The largest errors", rows[:number]),
              ("The smallest errors", rows[::-1][:number] if len(rows) > 1 else [])]
    try:
        from crowddist.inference.predictor import Predictor

        images, predictor = ShardReader(data["url"]), Predictor.from_checkpoint(result["checkpoint"])
        return [{"title": title, "pictures": [_extreme(predictor, images, row) for row in some]}
                for title, some in groups if some]
    except (OSError, ValueError) as error:
        say(f"the report shows no images of the evaluation: {error}")
        return []


def _extreme(predictor: Any, images: ShardReader, row: Mapping[str, Any]) -> tuple[str, str]:
    """Caption and overlay of an image."""
    key, members = images.read(images.index_of(row["image"]))
    image = decode(key, pixels_only(members)).image
    found = predictor.predict(image)
    interval = CountInterval(low=row["low"], high=row["high"], level=LEVEL) if "low" in row else None
    picture = overlay(image, found.density, count=row["count"], points=found.points, sizes=found.sizes, captioned=False)
    told = f" ({interval})" if interval else ""
    return f"{key}: {row['count']:.0f} counted{told}, {row['true_count']:.0f} there", embedded(picture)


def _shown(folder: str, result: Mapping[str, Any]) -> list[list[tuple[str, str]]]:
    """Of each of the few images that every round shows: words and picture of the first round, and of the kept one."""
    place = storage.join(folder, PICTURES)
    names = storage.list_files(place) if storage.is_folder(place) else []
    rows = {row["round"]: row for row in (result["rounds"][0], result["final"])}
    counted = {number: {image["image"]: image for image in read_images(folder, row)} for number, row in rows.items()}
    shown = []
    for key in sorted({name.partition("/")[0] for name in names if "/" in name}):
        pictures = []
        for number, row in rows.items():
            if (name := f"{key}/round-{number}.png") in names:
                image = counted[number].get(key)
                told = f": {image['count']:.0f} counted, {image['true_count']:.0f} there" if image else ""
                words = f"{key}, {row['title']}{told}; side by side the image, its density, spread, labels and heads"
                pictures.append((words, _stored(folder, name)))
        shown += [pictures] if pictures else []
    return shown


def _stages(folder: str, result: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, str]]:
    """Time and cost of all computations: seconds and worker hours."""
    labellers = config["num_labellers"] or config["num_workers"]
    found: list[tuple[str, int | None, float, float]] = []  # name, steps, seconds, worker hours
    for row in result["rounds"]:
        for name, workers in ((f"{row['stage']}/labels", labellers), (f"{row['stage']}/translated", labellers),
                              *((stage, config["num_workers"]) for stage in row["stages"])):
            done = read_done(storage.join(folder, name))
            if done is not None:
                found.append((name, done.get("steps"), done["seconds"], done["seconds"] * workers / 3600))
    total, cost = sum(stage[2] for stage in found), sum(stage[3] for stage in found)
    rows = [{"name": name, "steps": f"{steps:,}" if steps else "", "seconds": f"{seconds:,.0f}",
             "share": f"{seconds / total:.0%}" if total else "", "cost": f"{hours:.2f}"}
            for name, steps, seconds, hours in found]
    return [*rows, {"name": "all", "steps": "", "seconds": f"{total:,.0f}", "share": "", "cost": f"{cost:.2f}"}]


def _changed(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, recipe's value and this run's value of each setting that differs from the recipe."""
    from crowddist.recipes import RECIPES

    recipe = next((recipe for recipe in RECIPES if recipe.__name__ == config["recipe"]), None)
    if recipe is None:
        return []
    usual, own, idle = flat(json.loads(to_json(recipe()))), flat(config), idle_groups([config["method"]])
    return [(name, str(usual.get(name, "")), str(own[name])) for name in own
            if usual.get(name) != own[name] and name not in ("storage", "run_name", *REMOVED_SETTINGS)
            and name.partition(".")[0] not in idle]


def _stored(folder: str, name: str) -> str:
    """A picture of the run as a data URL."""
    return embedded(read_png(storage.read_bytes(storage.join(folder, PICTURES, name))))
