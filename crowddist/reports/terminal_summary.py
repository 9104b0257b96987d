"""What a finished run tells the person at the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crowddist import storage

if TYPE_CHECKING:
    from crowddist.inference.metrics import Metric


def closing_lines(result: Mapping[str, Any], folder: str, how_to_open: str) -> str:
    """The table of rounds, what was gained, and where everything lies."""
    from crowddist.inference.metrics import METRICS
    from crowddist.reports.sheets import rounds_table

    columns = [metric for metric in METRICS if metric.at_terminal]
    lines = ["", f"{result['recipe']}, method {result['method']}, run {result['run']}",
             rounds_table(result["rounds"], _held(columns, result))]
    parts = _held(_part_columns(), result)
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
    """What MLflow shows with a run that has ended: markdown, the outcome first, for the rest is folded away."""
    data = ", ".join(f"{role} {facts['name']} ({facts['num_images']:,} images)"
                     for role, facts in result["data"].items())
    from crowddist.inference.metrics import METRICS
    from crowddist.reports.sheets import figure

    held = _held([metric for metric in METRICS if metric.in_notes], result)
    lines = [*_outcome(result), "", f"Recipe `{result['recipe']}`, method `{result['method']}`: {data}.", ""]
    headings = " | ".join(f"{metric.heading}, {metric.unit}" for metric in held)
    lines += [f"| round | {headings} |", "|---|" + "---:|" * len(held)] if held else []
    for row in result["rounds"] if held else []:
        cells = [figure(row.get(metric.key), metric) for metric in held]
        lines.append(f"| {row['round']} {row.get('title', '')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "",
                      "Each round is a child run, on whose page its pictures are. `report.html` and all settings are "
                      "under *Artifacts*."])


def round_note(title: str, metrics: Mapping[str, float], run: str) -> str:
    """What MLflow shows with a round: markdown."""
    from crowddist.inference.metrics import METRICS

    shown = (metric for metric in METRICS if metric.in_notes and metric.unit == "people" and metric.key in metrics)
    told = ", ".join(f"{metric.heading} {metrics[metric.key]:.2f}" for metric in shown)
    return f"**{title}**, of run `{run}`" + (f": {told} people on images of the target held out." if told else ".")


def _outcome(result: Mapping[str, Any]) -> list[str]:
    """What was gained, in lines."""
    lines: list[str] = []
    if result["stopped"]:
        lines.append(result["stopped"])
    first, last = result["rounds"][0], result["final"]
    if "target/mae" in first and len(result["rounds"]) > 1:
        before, after = first["target/mae"], last["target/mae"]
        change = f" ({after / before - 1:+.0%})" if before else ""
        lines.append(f"target MAE {before:.2f} -> {after:.2f}{change} on {last['target/num_images']:.0f} images "
                     "held out")
    elif "target/mae" not in first:
        lines.append("no labelled evaluation data was given, so the error is not known")
    for name, keys in result["skipped"].items():
        lines.append(f"skipped, because workers died over them: {name} {', '.join(keys)}")
    return lines


def _part_columns() -> list[Metric]:
    """What parts of a method would have said alone, and the heads of all of it together."""
    from crowddist.inference.metrics import Metric

    columns = []
    for name, heading in (("regression", "R"), ("detection", "D"), ("transformed", "Phi(R)")):
        columns.append(Metric(key=f"target/{name}_mae", heading=f"{heading} MAE", unit="people", digits=2))
        columns.append(Metric(key=f"target/{name}_rmse", heading=f"{heading} rmse", unit="people", digits=2))
        columns.append(Metric(key=f"target/{name}_map", heading=f"{heading} mAP", unit="%", scale=100))
    columns.append(Metric(key="target/points_mae", heading="heads MAE", unit="people", digits=2))
    columns.append(Metric(key="target/points_rmse", heading="heads rmse", unit="people", digits=2))
    return columns


def _held(columns: Sequence[Metric], result: Mapping[str, Any]) -> list[Metric]:
    """The columns that a round has a value for."""
    return [column for column in columns if any(column.key in row for row in result["rounds"])]
