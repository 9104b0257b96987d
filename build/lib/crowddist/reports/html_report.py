"""A run's report: one HTML file with its rounds, charts, images, data and costs, made from the run's files."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.config import REMOVED_SETTINGS, flat, to_json
from crowddist.data.safe_decode import encode_png, read_png
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import pixels_only
from crowddist.errors import InputError
from crowddist.inference.intervals import LEVEL, CountInterval
from crowddist.inference.metrics import METRICS
from crowddist.reports.charts import calibration_chart, trials_chart
from crowddist.reports.compare_runs import PAIRS, change, published, read_images
from crowddist.reports.sheets import figure, held, overlay
from crowddist.run.engine import read_done
from crowddist.storage.run_folder import CONFIG, PICTURES, REPORT, RESULT, SEARCH

NUM_EXTREMES = 3
"""Number of images shown with the largest errors, and with the smallest."""
JPEG_QUALITY = 82
PICTURE_WIDTH_PX = 1440


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
    from jinja2 import Environment

    metrics = held(METRICS, result["rounds"])
    template = resources.files("crowddist.reports").joinpath("page.html").read_text("utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        result=result, heads=_headline(result), columns=[(metric.heading, metric.unit) for metric in metrics],
        rounds=[[str(row["round"]), row["title"], *(figure(row.get(metric.key), metric) for metric in metrics)]
                for row in result["rounds"]],
        paper=_paper(result), charts=_charts(folder, result), searches=_searches(folder, result),
        extremes=_extremes(folder, result, say), shown=_shown(folder, result),
        stages=_stages(folder, result, config), config=json.dumps(config, indent=2), changed=_changed(config),
        place=storage.shown(folder))
    report = storage.join(folder, REPORT)
    storage.write_bytes(report, page.encode())
    return report


def _headline(result: Mapping[str, Any]) -> dict[str, Any]:
    first, last = result["rounds"][0], result["final"]
    if "target/mae" not in last:
        return {}
    before, after = first["target/mae"], last["target/mae"]
    return {
        "before": f"{before:.1f}", "after": f"{after:.1f}", "better": after < before,
        "change": change(before, after) if len(result["rounds"]) > 1 else "",
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
    """The paper's figures of the method on the nearest pair of data sets."""
    found = published(result["recipe"], result["method"])
    if found is None:
        return None
    return {"pair": PAIRS[result["recipe"]], "before": f"{found[0]:g}", "after": f"{found[1]:g}",
            "change": change(*found)}


def _charts(folder: str, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Caption and picture of each chart that has data."""
    captions = {"rounds.png": "Error on the target by round. The dashed line is the counter without adaptation.",
                "curves.png": "Loss of every stage. Losses of different stages cannot be compared."}
    charts = [(caption, _stored(folder, name)) for name, caption in captions.items()
              if storage.exists(storage.join(folder, PICTURES, name))]
    images = read_images(folder, result["final"])
    uncertainties = [row["uncertainty"] for row in images]
    if any(uncertainties):
        caption = ("How well the last round's uncertainty predicts its error. Left: on the dashed line they are equal; "
                   "above it the counter is overconfident. Right: the lower the blue line, the better the uncertainty "
                   "shows which images to doubt.")
        chart = calibration_chart({"images": ([row["error"] for row in images], uncertainties)})
        charts.append((caption, _embedded(chart)))
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
                "picture": _embedded(trials_chart(found["trials"], found.get("truth", ()))),
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
    picture = overlay(image, found.density, count=row["count"], uncertainty=row["uncertainty"], interval=interval,
                      points=found.points, sizes=found.sizes, truth=row["true_count"], title=key)
    told = f" ({interval})" if interval else ""
    return f"{key}: {row['count']:.0f} counted{told}, {row['true_count']:.0f} there", _embedded(picture)


def _shown(folder: str, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and last picture of the few images that every round shows."""
    place = storage.join(folder, PICTURES)
    names = storage.list_files(place) if storage.is_folder(place) else ()
    return [(name.partition("/")[0], _stored(folder, name)) for name in names
            if name.endswith(f"/round-{result['final']['round']}.png")]


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
    usual, own = flat(json.loads(to_json(recipe()))), flat(config)
    return [(name, str(usual.get(name, "")), str(own[name]))
            for name in own if usual.get(name) != own[name] and name not in ("storage", "run_name", *REMOVED_SETTINGS)]


def _stored(folder: str, name: str) -> str:
    """A picture of the run as a data URL."""
    return _embedded(read_png(storage.read_bytes(storage.join(folder, PICTURES, name))))


def _embedded(picture: np.ndarray) -> str:
    """A picture as a data URL: charts have few colours and become PNG, photographs JPEG."""
    import cv2

    if picture.shape[1] > PICTURE_WIDTH_PX:
        size = (PICTURE_WIDTH_PX, round(picture.shape[0] * PICTURE_WIDTH_PX / picture.shape[1]))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    png = encode_png(picture)
    jpeg = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    kind, data = ("png", png) if len(png) <= 1.5 * len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
