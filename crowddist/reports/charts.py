"""Charts: learning curves, errors by round, calibration, the trials of a search, and counts over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from crowddist.ops.calibration import reliability, sparsification
from crowddist.reports.zone_drawing import COLOURS as ZONE_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = ("#1f5fa8", "#c4362c", "#2a8f4d", "#8a5fb0", "#b07a1f", "#3a9ca6")
"""Colours of the lines, one for each counter."""
_WHOLE = "#19191e"
"""The line of the whole image, beside those of zones: no colour of `ZONE_COLOURS`."""

_STEPS_S = (1, 2, 5, 10, 30, *(60 * minutes for minutes in (1, 2, 5, 10, 30)),
            *(3600 * hours for hours in (1, 2, 6, 12, 24, 48, 168)))
"""Seconds between the ticks of a time that is told as a clock tells it."""
_MOST_TICKS = 8


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str, label: str) -> np.ndarray:
    """Learning curves: one line per name, of (step, value) points; `label` names the values and their unit.

    Values that span more than two orders of magnitude get a logarithmic axis.
    Returns RGB uint8. Raises ValueError if there is nothing to draw.
    """
    drawn = {name: sorted(points) for name, points in lines.items() if len(points)}
    if not drawn:
        raise ValueError(f"no curve to draw for {title!r}: every line is empty")
    figure, axes = _chart(title, "training step", label)
    for name, points in drawn.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, marker="o" if len(points) < 12 else None, markersize=5, linewidth=1.8)
    heights = [value for points in drawn.values() for _, value in points]
    if min(heights) > 0 and max(heights) > 100 * min(heights):
        axes.set_yscale("log")
    elif min(heights) >= 0:
        axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False)  # beside the lines
    return _rendered(figure)


def counts_chart(lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str,
                 peak: tuple[float, float]) -> np.ndarray:
    """Counts over the time of a video, one line per place.

    Args:
        lines: name -> (seconds, persons): the whole image, then zones, in the colours that pictures draw them in.
        peak: of the first line; marked.

    Returns RGB uint8. Raises ValueError if a line is empty.
    """
    if not lines or not all(map(len, lines.values())):
        raise ValueError(f"no counts to draw for {title!r}")
    figure, axes = _chart(title, "time", "people")
    for number, (name, points) in enumerate(lines.items(), -1):
        seconds, counts = zip(*points, strict=True)
        cycle, place = divmod(number, len(ZONE_COLOURS))
        colour = _WHOLE if number < 0 else tuple(part / 255 for part in ZONE_COLOURS[place])
        # Where colours come again, zones differ by their dashes.
        axes.plot(seconds, counts, label=name, color=colour, linestyle=("-", "--", ":", "-.")[max(cycle, 0) % 4],
                  linewidth=2.4 if number < 0 else 1.8, marker="o" if len(points) < 12 else None, markersize=5)
    axes.plot(*peak, marker="o", markersize=10, markerfacecolor="none", color=_WHOLE)
    axes.annotate(f"{peak[1]:.0f}", peak, textcoords="offset points", xytext=(0, 10), ha="center", fontsize=12)
    axes.set_ylim(0, 1.15 * max(peak[1], *(count for points in lines.values() for _, count in points)) or 1.0)
    times = [seconds for points in lines.values() for seconds, _ in points]
    if max(times) < 120:
        axes.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g} s")
    else:
        from matplotlib.ticker import MultipleLocator

        # Round one time alone the axis reaches a twentieth of it to both sides.
        least = (max(times) - min(times) or 0.1 * max(times)) / _MOST_TICKS
        axes.xaxis.set_major_locator(MultipleLocator(next((step for step in _STEPS_S if step >= least), least)))
        axes.xaxis.set_major_formatter(lambda seconds, _: str(timedelta(seconds=round(max(seconds, 0)))))
    if len(lines) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False)  # beside the lines
    return _rendered(figure)


def rounds_chart(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The mean absolute error by round, with its value at each point and round 0 (no adaptation) as a dashed line.

    Args:
        rows: as in result.json; those without the error are left out.

    Returns RGB uint8. Raises ValueError if no row has the error.
    """
    errors = {row["round"]: float(row["target/mae"]) for row in rows if row.get("target/mae") is not None}
    if not errors:
        raise ValueError("no round has the metric target/mae")
    figure, axes = _chart("Error by round", "round", "mean absolute error (people)")
    axes.plot(list(errors), list(errors.values()), marker="o", markersize=8, linewidth=2.2, color="#1f5fa8")
    for number, value in errors.items():
        axes.annotate(f"{value:.1f}", (number, value), textcoords="offset points", xytext=(0, 10), ha="center",
                      fontsize=12)
        if number == 0:
            axes.axhline(value, color="#888888", linestyle="--", linewidth=1.2, zorder=1)
    titles = {row["round"]: row.get("title", "no adaptation" if row["round"] == 0 else "") for row in rows}
    axes.set_xticks(list(errors), [f"{number}\n{titles[number]}" for number in errors])
    axes.margins(x=0.12)
    axes.set_ylim(0, 1.18 * max(errors.values()) or 1.0)
    return _rendered(figure)


def calibration_chart(counters: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> np.ndarray:
    """Calibration of uncertainties: the error against the uncertainty, and the error without the most uncertain images.

    Args:
        counters: name -> predicted minus true count of each image, and the uncertainty of each, persons.

    Returns RGB uint8. Raises ValueError without counters, and as `ops.calibration.reliability`.
    """
    if not counters:
        raise ValueError("there is no uncertainty to draw")
    figure, (left, right) = _charts(2)
    _dress(left, "Error against uncertainty", "uncertainty (people)", "error (people, root mean square)")
    _dress(right, "Without the most uncertain images", "share of images left out", "mean error of the rest, of all = 1")
    tops = []
    for number, (name, (errors, uncertainties)) in enumerate(counters.items()):
        curve, (shares, by_spread, oracle) = reliability(errors, uncertainties), sparsification(errors, uncertainties)
        colour = COLOURS[number % len(COLOURS)]
        left.plot(curve[:, 0], curve[:, 1], marker="o", linewidth=2.0, color=colour, label=name)
        right.plot(shares, by_spread, linewidth=2.0, color=colour)
        right.plot(shares, oracle, linewidth=1.5, color=colour, linestyle=":",
                   label=None if number else "right: by the error itself, the best there is")
        tops.append(curve[:, :2].max(axis=0))
    across, up = np.maximum(1.1 * np.max(tops, axis=0), 1e-9)
    top = max(across, up)
    left.plot([0, top], [0, top], color="#888888", linestyle="--", linewidth=1.2,
              label="left: calibrated; right: at random")
    left.set_xlim(0, across)
    left.set_ylim(0, top)
    right.axhline(1, color="#888888", linestyle="--", linewidth=1.2)
    right.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return _rendered(figure)


def trials_chart(trials: Sequence[Mapping[str, float]], truths: Sequence[Mapping[str, float]] = ()) -> np.ndarray:
    """The scores of a search against each threshold; marks the chosen trial and the first, the configuration's own.

    Args:
        trials: from search.json; thresholds have a dot in their names.
        truths: the same trials judged by the true labels, where known; they add a panel.

    Returns RGB uint8. Raises ValueError without trials.
    """
    if not trials:
        raise ValueError("there is no trial to draw")
    names = [name for name in trials[0] if "." in name]
    scores = [trial["score"] for trial in trials]
    chosen = scores.index(max(scores))
    panels = [(name.rpartition(".")[2].replace("_", " "), [trial[name] for trial in trials], "score") for name in names]
    if truths:
        panels.append(("score of the search", scores, "score by the true labels"))
    figure, axes = _charts(len(panels))
    for place, (across, values, up) in zip(axes, panels, strict=True):
        heights = scores if up == "score" else [truth["score"] for truth in truths]
        _dress(place, "", across, up)
        place.scatter(values, heights, s=26, color="#1f5fa8", alpha=0.7, label="trials")
        place.scatter([values[0]], [heights[0]], s=110, marker="s", facecolors="none", edgecolors="#555555",
                      linewidths=2, label="as configured")
        place.scatter([values[chosen]], [heights[chosen]], s=150, marker="o", facecolors="none", edgecolors="#c4362c",
                      linewidths=2.4, label="chosen")
    axes[0].legend(frameon=False, loc="best")
    return _rendered(figure)


def _charts(number: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side, at most three in a row."""
    from matplotlib.figure import Figure

    columns = min(number, 3)
    rows = -(-number // columns)
    figure = Figure(figsize=(9.6 if number == 1 else 12.0, 4.6 * rows), dpi=110, layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(number)]


def _dress(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=14, fontweight="bold", loc="left")
    axes.set_xlabel(across, fontsize=12)
    axes.set_ylabel(up, fontsize=12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _chart(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, title, across, up)
    return figure, axes


def _rendered(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
