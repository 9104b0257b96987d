"""Summaries of a finished run: for the terminal, and as notes for MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crowddist import storage

if TYPE_CHECKING:
    from crowddist.inference.metrics import Metric


def closing_lines(result: Mapping[str, Any], folder: str, how_to_open: str) -> str:
    """The table of rounds, the change of the error, and the places of the outputs."""
    from crowddist.inference.metrics import METRICS
    from crowddist.reports.sheets import held, rounds_table

    columns = [metric for metric in METRICS if metric.at_terminal]
    lines = ["", f"{result['recipe']}, method {result['method']}, run {result['run']}",
             rounds_table(result["rounds"], held(columns, result["rounds"]))]
    parts = held(_part_columns(), result["rounds"])
    if len(parts) > 2:  # every method marks heads
        lines += ["", "the parts alone, and the number of heads that are marked", rounds_table(result["rounds"], parts)]
    lines += _outcome(result)
    place = storage.shown(folder)
    lines += ["", f"report    {place}/report.html", f"result    {place}/result.json", f"pictures  {place}/pictures",
              f"counter   {result['checkpoint']}"]
    if how_to_open:
        lines.append(f"MLflow    {how_to_open}")
    return "\n".join(lines)


def run_note(result: Mapping[str, Any]) -> str:
    """MLflow's note of a finished run, markdown: the outcome first, as MLflow folds the rest away."""
    from crowddist.inference.metrics import METRICS
    from crowddist.reports.sheets import figure, held

    data = ", ".join(f"{role} {facts['name']} ({facts['num_images']:,} images)"
                     for role, facts in result["data"].items())
    shown = held([metric for metric in METRICS if metric.in_notes], result["rounds"])
    lines = [*_outcome(result), "", f"Recipe `{result['recipe']}`, method `{result['method']}`: {data}.", ""]
    if shown:
        headings = " | ".join(f"{metric.heading}, {metric.unit}" for metric in shown)
        lines += [f"| round | {headings} |", "|---|" + "---:|" * len(shown)]
        for row in result["rounds"]:
            cells = " | ".join(figure(row.get(metric.key), metric) for metric in shown)
            lines.append(f"| {row['round']} {row.get('title', '')} | {cells} |")
        told = (f"{metric.meaning} {metric.better.capitalize()} is better." for metric in shown)
        lines += ["", *(f"- {metric.heading}: {words}" for metric, words in zip(shown, told, strict=True))]
    return "\n".join([*lines, "",
                      "Each round is a child run; its page shows its pictures. `report.html` and all settings are "
                      "under *Artifacts*."])


def round_note(title: str, metrics: Mapping[str, float], run: str) -> str:
    """MLflow's note of a round, markdown."""
    from crowddist.inference.metrics import METRICS

    shown = (metric for metric in METRICS if metric.in_notes and metric.unit == "people" and metric.key in metrics)
    told = ", ".join(f"{metric.heading} {metrics[metric.key]:.2f}" for metric in shown)
    return f"**{title}**, of run `{run}`" + (f": {told} people on images of the target held out." if told else ".")


def _outcome(result: Mapping[str, Any]) -> list[str]:
    from crowddist.reports.compare_runs import change

    lines: list[str] = []
    if result["stopped"]:
        lines.append(result["stopped"])
    first, last = result["rounds"][0], result["final"]
    if "target/mae" in first and len(result["rounds"]) > 1:
        before, after = first["target/mae"], last["target/mae"]
        percent = f" ({change(before, after)})" if before else ""
        lines.append(f"target MAE {before:.2f} -> {after:.2f}{percent} on {last['target/num_images']:.0f} images "
                     "held out")
    elif "target/mae" not in first:
        lines.append("no labelled evaluation data was given, so the error is not known")
    for name, keys in result["skipped"].items():
        lines.append(f"skipped, because workers died over them: {name} {', '.join(keys)}")
    return lines


def _part_columns() -> list[Metric]:
    """Errors of the parts of a method alone, and of the heads of the whole."""
    from crowddist.inference.metrics import Metric

    kinds = (("mae", "MAE", "people", 1.0), ("rmse", "rmse", "people", 1.0), ("map", "mAP", "%", 100.0))
    parts = (("regression", "R"), ("detection", "D"), ("transformed", "Phi(R)"), ("points", "heads"))
    return [Metric(key=f"target/{name}_{kind}", heading=f"{heading} {word}", unit=unit, scale=scale)
            for name, heading in parts for kind, word, unit, scale in kinds]
