"""Finished runs side by side: one HTML page, or a table as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from crowddist import storage
from crowddist.config import flat
from crowddist.data.safe_decode import read_png
from crowddist.errors import InputError
from crowddist.methods.table import idle_groups
from crowddist.reports.charts import calibration_chart, runs_chart
from crowddist.reports.compare_runs import cells, errors, kept, read_images
from crowddist.reports.html_page import embedded, page
from crowddist.storage.run_folder import CONFIG, PICTURES, RESULT

NUM_PICTURES = 3
"""Number of images that are shown as each run sees them."""
COLUMNS = (("run", ""), ("recipe", ""), ("method", ""), ("seed", ""), ("images", ""),
           ("without adaptation", "MAE / rmse, people"), ("at the end", "MAE / rmse, people"), ("change", "of the MAE"),
           ("paper", "MAE, people"), ("paper's change", "of the MAE"))
"""Heading of each of a run's `cells`, and what stands in it."""
_PLACES = ("storage", "run_name", "tracking_uri", "experiment")
"""Settings that say where a run is kept, not what it does."""


def comparison_page(results: Mapping[str, Mapping[str, Any]],
                    uncertainties: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """One file of HTML.

    Args:
        results: folder of each run -> its result, of `compare_runs.read_result`.
        uncertainties: name -> those of `compare_runs.read_uncertainties`, of runs that have them.

    Raises:
        InputError: a result does not tell which data its run was evaluated on.
    """
    folders = {name: storage.normalise(place) for name, place in zip(_names(results), results, strict=True)}
    runs = dict(zip(folders, results.values(), strict=True))
    evaluated = {name: _evaluated(result, folders[name]) for name, result in runs.items()}
    groups = [_group(folders, {name: runs[name] for name in runs if evaluated[name] == digest})
              for digest in dict.fromkeys(evaluated.values())]
    for group in groups:
        group["compared"] = group["number"] > 1 or len(groups) == 1
    return page(
        "compare.html", names=list(runs), columns=COLUMNS, groups=groups, settings=_settings(folders, runs),
        calibration=uncertainties and calibration_chart({name: (found["errors"], found["uncertainties"])
                                                         for name, found in uncertainties.items()}),
        places=[(name, storage.shown(folder)) for name, folder in folders.items()])


def _group(folders: Mapping[str, str], runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the page shows of runs that were evaluated on the same images: only their errors can be compared."""
    ends = {name: (errors(result)[0] if len(result["rounds"]) > 1 else None, errors(result)[2])
            for name, result in runs.items()}
    best = min(ends, key=lambda name: ends[name][1])
    last = kept(runs[best])
    rows = [(name, *cells(result)[1:]) for name, result in runs.items()]
    return {
        "number": len(runs), "data": runs[best]["data"]["evaluation"]["name"], "best": best,
        "error": f"{ends[best][1]:.1f}", "images": f"{last['target/num_images']:.0f}",
        "people": (f"{last['target/mean_count'] - last['target/bias']:.0f}"
                   if {"target/bias", "target/mean_count"} <= last.keys() else ""),
        "chart": runs_chart(ends), "errors": ", ".join(f"{name} {end:.1f}" for name, (_, end) in ends.items()),
        # Columns that say nothing of any run are left out.
        "shown": [place for place in range(len(COLUMNS)) if any(row[place] != "-" for row in rows)], "rows": rows,
        "pictures": _pictures({name: folders[name] for name in runs}, runs),
    }


def comparison_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """A row a run, with a head: errors in persons, as they were measured, not rounded."""
    columns = ("run", "recipe", "method", "seed", "images", "mae_without", "rmse_without", "mae", "rmse", "bias",
               "in_interval", "version")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for result in results:
        last, told = kept(result), errors(result)
        without = told[:2] if len(result["rounds"]) > 1 else ("", "")
        writer.writerow([result["run"], result["recipe"], result["method"], result["seed"],
                         round(last["target/num_images"]), *without, *told[2:], last.get("target/bias", ""),
                         last.get("target/interval_coverage", ""), result.get("version", "")])
    return text.getvalue()


def _names(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The runs' names, or the folders where two have the same."""
    names = [result["run"] for result in results.values()]
    return [place if names.count(name) > 1 else name for place, name in zip(results, names, strict=True)]


def _evaluated(result: Mapping[str, Any], folder: str) -> str:
    """The digest of the data that a run was evaluated on."""
    told = result.get("data", {}).get("evaluation")
    if not (isinstance(told, dict) and isinstance(told.get("digest"), str) and isinstance(told.get("name"), str)):
        raise InputError(f"{storage.join(folder, RESULT)} does not tell the name and the digest of its evaluation "
                         "data, by which the page knows what can be compared; leave the run out")
    return told["digest"]


def _pictures(folders: Mapping[str, str], runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Of the first images that all runs show: name, and words and picture of each run's last round."""
    urls = {name: {url.partition("/")[0]: storage.join(folder, PICTURES, url)
                   for url in _listed(storage.join(folder, PICTURES))
                   if url.endswith(f"/round-{kept(runs[name])['round']}.png")} for name, folder in folders.items()}
    keys = sorted(set.intersection(*(set(found) for found in urls.values())))
    counted = {name: {image["image"]: image for image in read_images(folder, kept(runs[name]))}
               for name, folder in folders.items()}

    def shown(name: str, key: str) -> tuple[str, str]:
        image = counted[name].get(key)
        words = f"{name}: {image['count']:.0f} counted, {image['true_count']:.0f} there" if image else name
        return words, embedded(read_png(storage.read_bytes(urls[name][key])))

    return [(key, [shown(name, key) for name in urls]) for key in keys[:NUM_PICTURES]]


def _listed(place: str) -> Sequence[str]:
    return storage.list_files(place) if storage.is_folder(place) else ()


def _settings(folders: Mapping[str, str], runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Name and each run's value of the settings that are not the same in all, without those of methods that none uses.
    """
    idle = idle_groups(result["method"] for result in runs.values())
    configs = [flat(storage.read_json(storage.join(folder, CONFIG))) for folder in folders.values()]
    names = dict.fromkeys(name for config in configs for name in config
                          if name not in _PLACES and name.partition(".")[0] not in idle)
    values = {name: [str(config.get(name, "")) for config in configs] for name in names}
    return [(name, row) for name, row in values.items() if len(set(row)) > 1]
