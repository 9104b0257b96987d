"""The report of a run: one HTML file with its rounds, charts, images, data and costs, made from what the run has left
on storage.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

import crowddist
from crowddist import storage
from crowddist.config import REMOVED_SETTINGS, flat, to_json
from crowddist.data.safe_decode import read_png
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import pixels_only
from crowddist.errors import InputError
from crowddist.inference.metrics import METRICS
from crowddist.reports.charts import calibration_chart, curves, rounds_chart, sweep_chart, trials_chart
from crowddist.reports.compare_runs import PAIRS, published, read_images
from crowddist.reports.sheets import figure
from crowddist.run.engine import read_curve, read_done
from crowddist.storage.run_folder import CONFIG, CURVE, PICTURES, REPORT, RESULT, SEARCH

NUM_EXTREMES = 3
"""Images of the largest errors that are shown, and as many of the smallest."""
JPEG_QUALITY = 82
PICTURE_WIDTH_PX = 1440


def write_report(folder: str, *, say: Callable[[str], None] = print) -> str:
    """Writes the report of a run that has ended into its folder. Returns: its URL.

    Nothing but what the run has left is read, and, where it is still there, its evaluation data, of which the images
    with the largest and the smallest errors are shown: pixels and counts, no labels.

    Args:
        folder: URL of the run's folder.

    Raises:
        InputError: there is no finished run.
    """
    url = storage.join(folder, RESULT)
    if not storage.exists(url):
        raise InputError(f"no {RESULT} in {folder}: a report is made of a run that has ended")
    result, config = storage.read_json(url), storage.read_json(storage.join(folder, CONFIG))
    from jinja2 import Environment

    template = resources.files("crowddist.reports").joinpath("page.html").read_text()
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        result=result,
        heads=_headline(result),
        columns=_columns(result["rounds"]),
        rounds=[_cells(row, result["rounds"]) for row in result["rounds"]],
        paper=_paper(result),
        charts=_charts(folder, result),
        searches=_searches(folder, result),
        extremes=_extremes(folder, result, say),
        shown=_shown(folder, result),
        stages=_stages(folder, result, config),
        config=json.dumps(config, indent=2),
        changed=_changed(config),
        place=storage.shown(folder),
        version=crowddist.__version__,
    )
    report = storage.join(folder, REPORT)
    storage.write_bytes(report, page.encode())
    return report


def _headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants to know first."""
    first, last = result["rounds"][0], result["final"]
    if "target/mae" not in last:
        return {"evaluated": False, "mean_count": last.get("labels/mean_count")}
    before, after = first["target/mae"], last["target/mae"]
    return {
        "evaluated": True,
        "before": f"{before:.1f}",
        "after": f"{after:.1f}",
        "change": f"{after / before - 1:+.0%}" if before and len(result["rounds"]) > 1 else "",
        "better": after < before,
        "images": f"{last['target/num_images']:.0f}",
        "people": f"{last['target/mean_count'] - last['target/bias']:.0f}" if "target/bias" in last else "",
    }


def _columns(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(metric.heading, metric.unit) for metric in METRICS if any(metric.key in row for row in rounds)]


def _cells(row: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Number, title and figures of a round."""
    cells = [str(row["round"]), row["title"]]
    return [*cells, *(figure(row.get(metric.key), metric)
                      for metric in METRICS if any(metric.key in other for other in rounds))]


def _paper(result: Mapping[str, Any]) -> dict[str, str] | None:
    """What was published of the same method on the nearest pair of data sets."""
    found = published(result["recipe"], result["method"])
    if found is None:
        return None
    pair = PAIRS[result["recipe"]]
    return {"pair": pair, "before": f"{found[0]:g}", "after": f"{found[1]:g}",
            "change": f"{found[1] / found[0] - 1:+.0%}"}


def _charts(folder: str, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Caption and picture of each chart there is something to draw for."""
    rounds = result["rounds"]
    charts = []
    if any("target/mae" in row for row in rounds):
        charts.append(("Error on the target by round. The dashed line is the counter without adaptation.",
                       rounds_chart(rounds)))
    lines = {name: [(point["step"], point["loss"])
                    for point in read_curve(storage.join(folder, name, CURVE)) if "loss" in point]
             for row in rounds for name in row["stages"]}
    if any(lines.values()):
        charts.append(("Loss of every stage. Losses of different stages are not of one kind.",
                       curves(lines, title="Learning curves", label="loss")))
    images = read_images(folder, result["final"])
    uncertainties = [row["uncertainty"] for row in images]
    if any(uncertainties):
        caption = ("How well the last round's uncertainty knows its error. Left: on the dashed line they are equal; "
                   "above it the counter is too sure of "
                   "itself. Right: the lower the blue line, the better the uncertainty tells which images to doubt.")
        charts.append((caption, calibration_chart({"images": ([row["error"] for row in images], uncertainties)})))
    return [(caption, _embedded(picture)) for caption, picture in charts]


def _searches(folder: str, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each round's search of thresholds has found."""
    searches = []
    for row in result["rounds"]:
        url = storage.join(folder, row["stage"], SEARCH)
        if storage.exists(url):
            found = storage.read_json(url)
            names = [name for name in found["own"] if "." in name]
            searches.append({
                "title": row["title"],
                "objective": found["objective"],
                "number": len(found["trials"]),
                "rows": [(name.rpartition(".")[2].replace("_", " "), f"{found['own'][name]:.3g}",
                          f"{found['best'][name]:.3g}") for name in names],
                "scores": (f"{found['own']['score']:.3f}", f"{found['best']['score']:.3f}"),
                "ranking": [(name.replace("_", " "), f"{value:.3g}")
                            for name, value in found.get("ranking", {}).items()],
                "picture": _embedded(trials_chart(found["trials"], found.get("truth", ()))),
                "sweep": _sweep(found),
            })
    return searches


def _sweep(found: Mapping[str, Any]) -> tuple[str, str] | None:
    """Caption and picture of how the count depends on the least confidence of a detection; None of a search that has
    not looked at it.
    """
    sweep = found.get("sweep")
    if not sweep:
        return None
    name = next(name for name in sweep[0] if "." in name)
    caption = ("A detector is more or less sure of each head. How many people an image would be counted on average, "
               "over the images of the search, if "
               "detections below a least confidence were left out, with all other thresholds as chosen; no label is "
               "needed for that.")
    if "mae" in sweep[0]:
        caption += (" Right: how wrong the count would then be on the evaluation's images, whose labels were opened "
                    "only when the threshold had been "
                    "chosen: the lower, the better.")
    return caption, _embedded(sweep_chart(sweep, own=found["own"][name], chosen=found["best"][name]))


def _extremes(folder: str, result: Mapping[str, Any], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The images with the largest and the smallest errors of the last round, as its counter sees them."""
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
        return [
            {"title": title, "pictures": [(_words(row), _embedded(_overlay(predictor, images, row))) for row in some]}
            for title, some in groups if some
        ]
    except (OSError, ValueError) as error:
        say(f"the report shows no images of the evaluation: {error}")
        return []


def _words(row: Mapping[str, Any]) -> str:
    return f"{row['image']}: {row['count']:.0f} counted, {row['true_count']:.0f} there"


def _overlay(predictor: Any, images: ShardReader, row: Mapping[str, Any]) -> np.ndarray:
    from crowddist.reports.sheets import overlay

    key, members = images.read(images.index_of(row["image"]))
    image = decode(key, pixels_only(members)).image
    found = predictor.predict(image)
    return overlay(image, found.density, count=row["count"], uncertainty=row["uncertainty"], points=found.points,
                   sizes=found.sizes,
                   truth=row["true_count"], title=key)


def _shown(folder: str, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few images that every round shows, as the last one sees them."""
    place = storage.join(folder, PICTURES)
    last = f"round-{result['final']['round']}.png"
    pictures = []
    for name in storage.list_files(place) if storage.is_folder(place) else ():
        if name.endswith(f"/{last}"):
            pictures.append((name.partition("/")[0],
                             _embedded(read_png(storage.read_bytes(storage.join(place, name))))))
    return pictures


def _stages(folder: str, result: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, str]]:
    """Time and cost of everything that was computed: seconds, and hours of a worker."""
    found = []
    for row in result["rounds"]:
        for name, workers in ((f"{row['stage']}/labels", config["num_labellers"] or config["num_workers"]),
                              (f"{row['stage']}/translated", config["num_labellers"] or config["num_workers"]),
                              *((stage, config["num_workers"]) for stage in row["stages"])):
            done = read_done(storage.join(folder, name))
            if done is not None:
                found.append({"name": name, "steps": done.get("steps"), "seconds": done["seconds"], "workers": workers})
    total = sum(stage["seconds"] for stage in found)
    rows = [{"name": stage["name"], "steps": f"{stage['steps']:,}" if stage["steps"] else "",
             "seconds": f"{stage['seconds']:,.0f}",
             "share": f"{stage['seconds'] / total:.0%}" if total else "",
             "cost": f"{stage['seconds'] * stage['workers'] / 3600:.2f}"} for stage in found]
    cost = sum(stage["seconds"] * stage["workers"] for stage in found) / 3600
    return [*rows, {"name": "all", "steps": "", "seconds": f"{total:,.0f}", "share": "", "cost": f"{cost:.2f}"}]


def _changed(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Settings that are not the recipe's: name, the recipe's value, and this run's."""
    from crowddist.recipes import RECIPES

    recipe = next((recipe for recipe in RECIPES if recipe.__name__ == config["recipe"]), None)
    if recipe is None:
        return []
    usual, own = flat(json.loads(to_json(recipe()))), flat(config)
    return [(name, str(usual.get(name, "")), str(own[name]))
            for name in own if usual.get(name) != own[name] and name not in ("storage", "run_name", *REMOVED_SETTINGS)]


def _embedded(picture: np.ndarray) -> str:
    """A picture as a data URL: charts, which have few colours, as PNG, photographs as JPEG."""
    import cv2

    if picture.shape[1] > PICTURE_WIDTH_PX:
        size = (PICTURE_WIDTH_PX, round(picture.shape[0] * PICTURE_WIDTH_PX / picture.shape[1]))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    png = cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
    jpeg = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    kind, data = ("png", png) if len(png) <= 1.5 * len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
