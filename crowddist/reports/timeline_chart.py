"""Where a run's time went, for the report: a bar for each worker of each step, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from crowddist.process.stopwatch import added
from crowddist.run.timeline import DRIVER

if TYPE_CHECKING:
    from markupsafe import Markup

Row = tuple[str, str, Mapping[str, float]]
"""Step, worker, seconds by phase."""
# Okabe and Ito's colours, which the colour-blind can tell apart, on a light and on a dark page.
COLOURS = {"start_up": "#e69f00", "read": "#56b4e9", "compute": "#0072b2", "exchange": "#d55e00",
           "checkpoint": "#cc79a7", "predict": "#009e73", "idle": "#b5b5b5", "other": "#7d7d7d"}
NAMES = {"start_up": "start-up", "predict": "count, label"}
ALONE = ("launcher", "data")
"""Steps of the driver that have a bar of their own; all else that it does is one bar."""
THE_REST = "pictures and all else"
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BAR = 1000, 270, 70, 34, 22, 15


def timeline(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The chart and its table as HTML; nothing where no time is known.

    Args:
        rows: `Timeline.rows` of the run.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    shown = _shown(rows)
    total = added(*(times for _, _, times in shown))
    spent, phases = sum(total.values()), [phase for phase in total if total[phase] > 0]
    if not spent:
        return Markup()
    work = (total.get("compute", 0.0) + total.get("predict", 0.0)) / spent
    template = resources.files("crowddist.reports").joinpath("timeline.html").read_text("utf-8")
    return Markup(Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(
        spent=f"{_figure(spent)} s" if spent < 600 else f"{spent / 60:.0f} minutes" if spent < 7200
        else f"{spent / 3600:.1f} hours", work=f"{work:.0%}",
        width=_WIDTH, height=_TOP + len(shown) * _ROW, left=_LEFT, bar=_BAR, legend=_legend(phases),
        bars=_bars(shown, phases), table=_table(shown, phases)))


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    rest = [row["seconds"] for row in rows if row["worker"] == DRIVER and row["step"] not in ALONE]
    shown = [(row["step"], row["worker"], row["seconds"]) for row in rows
             if any(row["seconds"].values()) and (row["worker"] != DRIVER or row["step"] in ALONE)]
    return [*shown, (THE_REST, DRIVER, added(*rest))] if rest else shown


def _legend(phases: Sequence[str]) -> list[dict[str, Any]]:
    keys, x = [], 0.0
    for phase in phases:
        name = NAMES.get(phase, phase)
        keys.append({"x": x, "name": name, "colour": COLOURS[phase]})
        x += 34 + 7.5 * len(name)
    return keys


def _bars(rows: Sequence[Row], phases: Sequence[str]) -> list[dict[str, Any]]:
    """Horizontal bars from parts, as long as their seconds."""
    scale = (_WIDTH - _LEFT - _RIGHT) / max(sum(times.values()) for _, _, times in rows)
    bars: list[dict[str, Any]] = []
    for number, (step, worker, times) in enumerate(rows):
        parts, x = [], float(_LEFT)
        for phase in phases:
            width = times.get(phase, 0.0) * scale
            if width >= 0.05:  # else nothing is seen
                parts.append({"x": f"{x:.1f}", "width": f"{width:.1f}", "colour": COLOURS[phase],
                              "told": f"{step}, {worker}: {NAMES.get(phase, phase)} {_figure(times[phase])} s"})
            x += width
        bars.append({"y": _TOP + number * _ROW, "step": "" if number and step == rows[number - 1][0] else step,
                     "worker": worker, "parts": parts, "end": f"{x + 6:.1f}",
                     "total": f"{_figure(sum(times.values()))} s"})
    return bars


def _table(rows: Sequence[Row], phases: Sequence[str]) -> list[list[str]]:
    """Step, number of workers, and the means over them of all seconds and of each phase's."""
    steps: dict[str, list[Mapping[str, float]]] = {}
    for step, _, times in rows:
        steps.setdefault(step, []).append(times)
    table = []
    for step, workers in steps.items():
        means = [sum(times.get(phase, 0.0) for times in workers) / len(workers) for phase in phases]
        table.append([step, str(len(workers)), _figure(sum(means)), *map(_figure, means)])
    return table


def _figure(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"
