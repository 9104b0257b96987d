"""Charts: learning curves, errors by round and of runs, calibration, the trials of a search, and counts over time.

Each is a figure of matplotlib. `pixels` makes a picture of it, on white; `svg` a part of a web page, in that page's
colours.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from crowddist.ops.calibration import reliability, sparsification
from crowddist.reports.zone_drawing import COLOURS as ZONE_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend


COLOURS = ("#1f5fa8", "#c4362c", "#2a8f4d", "#8a5fb0", "#b07a1f", "#3a9ca6")
"""Colours of the lines, one for each counter."""
_MIDDLE = "#888888"
_ON_PAGE = {"#000000": "var(--ink)", **{colour: f"var(--line-{number})" for number, colour in enumerate(COLOURS, 1)}}
"""Colours that a page has names for (`base.html`), which differ where it is dark. The others are seen on both."""
_WHOLE = "#19191e"
"""The line of the whole image, beside those of zones: no colour of `ZONE_COLOURS`."""

_STEPS_S = (1, 2, 5, 10, 30, *(60 * minutes for minutes in (1, 2, 5, 10, 30)),
            *(3600 * hours for hours in (1, 2, 6, 12, 24, 48, 168)))
"""Seconds between the ticks of a time that is told as a clock tells it."""
_MOST_TICKS = 8


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str, label: str) -> Figure:
    """Learning curves: one line per name, of (step, value) points; `label` names the values and their unit.

    Values that span more than two orders of magnitude get a logarithmic axis.
    Raises ValueError if there is nothing to draw.
    """
    drawn = {name: sorted(points) for name, points in lines.items() if len(points)}
    if not drawn:
        raise ValueError(f"no curve to draw for {title!r}: every line is empty")
    figure, axes = _chart(title, "training step", label)
    for number, (name, points) in enumerate(drawn.items()):
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, color=COLOURS[number % len(COLOURS)], markersize=5, linewidth=1.8,
                  # Where colours come again, lines differ by their dashes.
                  linestyle=("-", "--", ":", "-.")[number // len(COLOURS) % 4],
                  marker="o" if len(points) < 12 else None)
    heights = [value for points in drawn.values() for _, value in points]
    if min(heights) > 0 and max(heights) > 100 * min(heights):
        axes.set_yscale("log")
    elif min(heights) >= 0:
        axes.set_ylim(bottom=0)
    _names_beside(axes)
    return figure


def counts_chart(lines: Mapping[str, Sequence[tuple[float, float]]], *, title: str,
                 peak: tuple[float, float]) -> Figure:
    """Counts over the time of a video, one line per place.

    Args:
        lines: name -> (seconds, persons): the whole image, then zones, in the colours that pictures draw them in.
        peak: of the first line; marked.

    Raises ValueError if a line is empty.
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
        _names_beside(axes)
    return figure


def rounds_chart(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The mean absolute error by round, with its value at each point and round 0 (no adaptation) as a dashed line.

    Args:
        rows: as in result.json; those without the error are left out.

    Raises ValueError if no row has the error.
    """
    errors = {row["round"]: float(row["target/mae"]) for row in rows if row.get("target/mae") is not None}
    if not errors:
        raise ValueError("no round has the metric target/mae")
    # No wider than its rounds need: a narrow chart can be read on a phone.
    figure, axes = _chart("Error by round", "round", "mean absolute error (people)",
                          width=min(max(6.4, 1.4 * len(errors) + 1), 9.6))
    axes.plot(list(errors), list(errors.values()), marker="o", markersize=8, linewidth=2.2, color=COLOURS[0])
    for number, value in errors.items():
        axes.annotate(f"{value:.1f}", (number, value), textcoords="offset points", xytext=(0, 10), ha="center",
                      fontsize=12)
        if number == 0:
            axes.axhline(value, color=_MIDDLE, linestyle="--", linewidth=1.2, zorder=1)
    titles = {row["round"]: row.get("title", "no adaptation" if row["round"] == 0 else "") for row in rows}
    axes.set_xticks(list(errors), [f"{number}\n{titles[number]}" for number in errors],
                    parse_math=False)
    axes.margins(x=0.12)
    axes.set_ylim(0, 1.18 * max(errors.values()) or 1.0)
    return figure


def calibration_chart(counters: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Calibration of uncertainties: the error against the uncertainty, and the error without the most uncertain images.

    Args:
        counters: name -> predicted minus true count of each image, and the uncertainty of each, persons.

    Raises ValueError without counters, and as `ops.calibration.reliability`.
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
    left.plot([0, top], [0, top], color=_MIDDLE, linestyle="--", linewidth=1.2,
              label="left: calibrated; right: at random")
    left.set_xlim(0, across)
    left.set_ylim(0, top)
    right.axhline(1, color=_MIDDLE, linestyle="--", linewidth=1.2)
    right.set_ylim(bottom=0)
    _as_written(figure.legend(loc="outside lower center", ncols=3, frameon=False))
    return figure


def trials_chart(trials: Sequence[Mapping[str, float]], truths: Sequence[Mapping[str, float]] = ()) -> Figure:
    """The scores of a search against each threshold; marks the chosen trial and the first, the configuration's own.

    Args:
        trials: from search.json; thresholds have a dot in their names.
        truths: the same trials judged by the true labels, where known; they add a panel.

    Raises ValueError without trials.
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
        place.scatter(values, heights, s=26, color=COLOURS[0], alpha=0.7, label="trials")
        place.scatter([values[0]], [heights[0]], s=110, marker="s", facecolors="none", edgecolors=_MIDDLE,
                      linewidths=2, label="as configured")
        place.scatter([values[chosen]], [heights[chosen]], s=150, marker="o", facecolors="none", edgecolors=COLOURS[1],
                      linewidths=2.4, label="chosen")
    axes[0].legend(frameon=False, loc="best")
    return figure


def runs_chart(runs: Mapping[str, tuple[float | None, float]]) -> Figure:
    """The mean absolute error of runs as bars, the first on top.

    Args:
        runs: name -> the error without adaptation, or None where a run does not adapt, and at its end; persons.

    Raises ValueError without runs.
    """
    if not runs:
        raise ValueError("there is no run to draw")
    figure, (axes,) = _figure((9.6, 1.5 + 0.62 * len(runs)), 110, 1, 1, 1)
    _dress(axes, "", "mean absolute error (people)", "")
    alone = [(place - 0.19, errors[0]) for place, errors in enumerate(runs.values()) if errors[0] is not None]
    ends = [(place + (0 if before is None else 0.19), after) for place, (before, after) in enumerate(runs.values())]
    for bars, colour, name in ((alone, _MIDDLE, "without adaptation"), (ends, COLOURS[0], "at the end")):
        if bars:
            places, errors = zip(*bars, strict=True)
            drawn = axes.barh(places, errors, 0.36, color=colour, label=name)
            axes.bar_label(drawn, fmt="%.1f", padding=4, fontsize=11)
    axes.set_yticks(range(len(runs)), list(runs), parse_math=False)
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """The chart as a picture on white: RGB uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with _any_letters():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def svg(figure: Figure, told: str) -> str:
    """The chart as an `<svg>` element for a page made of `base.html`: on no ground of its own, in the page's colours.

    Args:
        told: what it shows, for those who do not see it.
    """
    import matplotlib

    file = io.StringIO()
    # Text stays text, which can be searched and read aloud; equal charts become equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "crowddist"}), _any_letters():
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg"):]
    # The page has rules of its own; names of parts, which come again in the next chart, are no use in a page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| id=\"[a-z][\w.]*_\d+\"", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    text = re.sub(r"((?:fill|stroke): )(#[0-9a-f]{6})", lambda match: match[1] + _ON_PAGE.get(match[2], match[2]), text)
    head, _, rest = text.partition(">")
    (size,) = re.findall(r'viewBox="[^"]*"', head)
    return f'<svg {size} role="img" aria-label="{escape(told)}">{rest}'


@contextmanager
def _any_letters() -> Iterator[None]:
    """In the block matplotlib says nothing of letters that its font lacks, as of Chinese names: it draws boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def _charts(number: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side, at most three in a row."""
    columns = min(number, 3)
    rows = -(-number // columns)
    return _figure((9.6 if number == 1 else 12.0, 4.6 * rows), 110, rows, columns, number)


def _chart(title: str, across: str, up: str, width: float = 9.6) -> tuple[Figure, Axes]:
    figure, (axes,) = _figure((width, 0.5625 * width), 120, 1, 1, 1)
    _dress(axes, title, across, up)
    return figure, axes


def _figure(size: tuple[float, float], dpi: int, rows: int, columns: int, number: int) -> tuple[Figure, list[Axes]]:
    """`number` panels in a grid; `size` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(number)]


def _dress(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=14, fontweight="bold", loc="left", parse_math=False)
    axes.set_xlabel(across, fontsize=12)
    axes.set_ylabel(up, fontsize=12)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _names_beside(axes: Axes) -> None:
    """The names of the lines, at their right."""
    _as_written(axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False))


def _as_written(legend: Legend) -> None:
    """Names may hold dollars, between which matplotlib would read a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)
