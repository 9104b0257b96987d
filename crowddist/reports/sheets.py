"""Pictures for people: heat maps over images, and the table of rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from crowddist.inference.intervals import CountInterval
from crowddist.inference.metrics import Metric
from crowddist.reports import drawing
from crowddist.reports.drawing import Bar, Mark
from crowddist.reports.text_table import text_table
from crowddist.reports.zone_drawing import DrawnZone, draw_zones

# ours: the size at which overlays are drawn, so that text and marks look alike on images of 0.1 and of 10 megapixels.
_OVERLAY_SIDE_PX = (960, 1920)
_PANEL_WIDTH_PX, _GAP_PX = 480, 16
# ours: a strip 64 times as high as wide would fill a sheet of 30,000 px, and its overlay would have no room for a word.
_MOST_PANEL_HEIGHT_PX, _LEAST_OVERLAY_WIDTH_PX = 1440, 320
_SAMPLES_IN_A_ROW = 3
# ours: none is a colour of the heat map, and the colour-blind can tell them apart.
_PREDICTED, _TRUE, _KEPT = (255, 255, 255), (255, 80, 205), (70, 220, 110)


def overlay(
    image: np.ndarray, density: np.ndarray, *, count: float, uncertainty: float | None = None,
    interval: CountInterval | None = None, points: np.ndarray | None = None, sizes: np.ndarray | None = None,
    truth: float | None = None, title: str = "", zones: Sequence[DrawnZone] = (), peak: float | None = None,
    captioned: bool = True
) -> np.ndarray:
    """The density as a heat map over its image, with the count above and the scale of colours below.

    Args:
        image: (H, W, 3) uint8 RGB.
        density: (h, w) persons per cell, over the same frame in cells of equal size.
        count: persons predicted.
        uncertainty: standard deviation of `count`, or None.
        interval: where the true count lies, or None.
        points: N x 2 or more columns: x, y of predicted heads in pixels of `image`; marked with rings.
        sizes: (N,) sides of the heads' squares in pixels of `image`, drawn instead of rings.
        truth: true number of persons, where known.
        title: shown first, e.g. the file's name and the round.
        zones: drawn with their names and counts.
        peak: persons per cell of the last colour; None: the map's largest, which differs from image to image.
        captioned: False leaves out the strip above, for a page that tells the count in its own text.

    Returns RGB uint8: the image, its longer side scaled to 960-1920 px, between two strips of text. Raises ValueError
    for wrong shapes or values.
    """
    _require_map("density", density)
    scale = _overlay_scale(image)
    bar = _density_bar(image, density, peak)
    canvas = drawing.heated(_resized(image, scale), density, image.shape, bar)
    marks = []
    if points is not None:
        marks.append(_mark_heads(canvas, points, scale, "ring", _PREDICTED, "predicted heads", sizes))
    width = max(canvas.shape[1], _LEAST_OVERLAY_WIDTH_PX)
    size_px = _letters_px(width)
    draw_zones(canvas, zones, scale, size_px)
    canvas = _widened(canvas, width)
    above = [drawing.caption(width, size_px, title, _count_words(count, uncertainty, truth, interval))]
    return np.concatenate([*(above if captioned else []), canvas,
                           drawing.legend(width, size_px * 4 // 5, bar, marks)])


def zones_overlay(image: np.ndarray, zones: Sequence[DrawnZone], *, title: str = "", words: str = "") -> np.ndarray:
    """Zones on their image, with a title and a line of words above. The arguments and the size are those of `overlay`.
    """
    scale = _overlay_scale(image)
    canvas = np.ascontiguousarray(_resized(image, scale))
    size_px = _letters_px(canvas.shape[1])
    draw_zones(canvas, zones, scale, size_px, fill=0.25)
    return np.concatenate([drawing.caption(canvas.shape[1], size_px, title, words), canvas])


def _overlay_scale(image: np.ndarray) -> float:
    """px of an overlay for one of its image."""
    longer = max(_require_image(image).shape[:2])
    return min(max(longer, _OVERLAY_SIDE_PX[0]), _OVERLAY_SIDE_PX[1]) / longer


def _letters_px(width: int) -> int:
    return max(18, width // 52)


def round_sheet(
    image: np.ndarray, *, density: np.ndarray, spread: np.ndarray, keep: np.ndarray, points: np.ndarray,
    sizes: np.ndarray | None = None, count: float, uncertainty: float | None = None,
    interval: CountInterval | None = None, true_points: np.ndarray | None = None, title: str = ""
) -> np.ndarray:
    """One row of panels of a round's view of an image: image, density, spread, kept cells, head points.

    Args:
        image: (H, W, 3) uint8 RGB.
        density: (h, w) persons per cell.
        spread: (h, w) standard deviation of the estimates whose mean is `density`.
        keep: (h, w) bool, the cells that are good enough as labels.
        points: N x 2 or more columns: x, y of predicted heads in pixels of `image`.
        sizes: (N,) sides of the heads' squares in pixels of `image`, drawn instead of rings.
        count, uncertainty, interval: persons predicted, its standard deviation, and where the true count lies.
        true_points: N x 2, the true heads, where known.
        title: shown above, e.g. the file's name and the round.

    Returns RGB uint8, five panels of 480 px width. Raises ValueError for wrong shapes or values.
    """
    for name, cells in (("density", density), ("spread", spread), ("keep", keep)):
        _require_map(name, cells)
    scale = _panel_scale(image)
    plain = _resized(image, scale)
    density_bar = _density_bar(image, density)
    spread_bar = Bar(peak=float(spread.max()), unit="standard deviation, same unit", colours=drawing.spread_colours)
    heads = plain // 2 + 20
    marks = [_mark_heads(heads, points, scale, "ring", _PREDICTED, "predicted", sizes)]
    if true_points is not None:
        marks.append(_mark_heads(heads, true_points, scale, "cross", _TRUE, "true"))
    row = _side_by_side([
        _panel("Image", plain, None, [Mark(shape="", text=f"{image.shape[1]} x {image.shape[0]} px")]),
        _panel("Predicted density", drawing.heated(plain, density, image.shape, density_bar), density_bar, []),
        _panel("Disagreement", drawing.heated(plain, spread, image.shape, spread_bar), spread_bar, []),
        _panel("Chosen for labels", drawing.chosen(plain, keep, image.shape, _KEPT), None, [_kept_mark(density, keep)]),
        _panel("Heads", heads, None, marks),
    ], 5)
    truth = None if true_points is None else float(len(true_points))
    above = drawing.caption(row.shape[1], 34, title, _count_words(count, uncertainty, truth, interval))
    return np.concatenate([above, row])


def translation_sheet(source: Sequence[np.ndarray], translated: Sequence[np.ndarray],
                      target: Sequence[np.ndarray]) -> np.ndarray:
    """One row for each image of the source: the image, its translation, and an image of the target for comparison.

    Args:
        source, translated: (H, W, 3) uint8 RGB, as many of each, of the same images.
        target: likewise, any number; those beyond the rows are left out.

    Returns RGB uint8, three columns of 480 px width. Raises ValueError without images, for different numbers of them,
    and for a wrong shape or type.
    """
    if not source or len(source) != len(translated):
        raise ValueError(f"as many images of the source as translated ones are needed, at least one, got {len(source)} "
                         f"and {len(translated)}")
    rows = [_side_by_side([drawing.caption(_PANEL_WIDTH_PX, 26, heading)
                           for heading in ("Source", "Source, translated", "Target (other places)")], 3)]
    for images in zip_longest(source, translated, target[: len(source)]):
        panels = [_widened(_resized(image, _panel_scale(image)), _PANEL_WIDTH_PX)
                  for image in images if image is not None]  # the target's may be fewer, and is the last
        rows.append(_side_by_side(panels, 3, below_px=_GAP_PX))
    return np.concatenate(rows)


def samples_sheet(samples: Sequence[tuple[str, np.ndarray, np.ndarray | None]], *, title: str,
                  line: str = "") -> np.ndarray:
    """Images of a data set with their heads, each below its name and its number of persons.

    Args:
        samples: name, (H, W, 3) uint8 RGB, and N x 2 x, y of the heads in its pixels, or None if unknown.
        title, line: shown above all.

    Returns RGB uint8, up to three columns of 480 px width. Raises ValueError without samples, and for a wrong shape or
    type.
    """
    if not samples:
        raise ValueError("a sheet needs at least one sample")
    panels = []
    for name, image, points in samples:
        scale = _panel_scale(image)
        canvas = np.ascontiguousarray(_resized(image, scale))
        if points is not None:
            # Dots, as rings would hide a dense crowd.
            radius_px = 3 if len(points) < 100 else 2 if len(points) < 400 else 1
            drawing.mark(canvas, (points + 0.5) * scale - 0.5, "dot", _TRUE, radius_px)
        words = f"{image.shape[1]} x {image.shape[0]} px" + ("" if points is None else f", {len(points):,} persons")
        panels.append(np.concatenate([drawing.caption(_PANEL_WIDTH_PX, 20, name, words),
                                      _widened(canvas, _PANEL_WIDTH_PX)]))
    columns = min(_SAMPLES_IN_A_ROW, len(panels))
    rows = [_side_by_side(panels[first : first + columns], columns, below_px=_GAP_PX)
            for first in range(0, len(panels), columns)]
    return np.concatenate([drawing.caption(rows[0].shape[1], 34, title, line), *rows])


def rounds_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Metric]) -> str:
    """The rounds as plain text: headings, units, one line per round; '-' if a round lacks a value.

    Args:
        rows: as in result.json: `round` (a number, or a word such as supervised), its `title`, and metrics by name.
        columns: the metrics to show, in order.
    """
    lines = [["round", *(column.heading for column in columns)], ["", *(column.unit for column in columns)]]
    for row in rows:
        title = row.get("title", "no adaptation" if row["round"] == 0 else "")
        lines.append([f"{row['round']} ({title})" if title else str(row["round"]),
                      *(figure(row.get(column.key), column) for column in columns)])
    return text_table(lines, align="<>", rule_after=2)


def figure(value: float | None, column: Metric) -> str:
    """A value as text; "-" if there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value * column.scale:.{column.digits}f}"


def held(columns: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The columns with a value in some row."""
    return [column for column in columns if any(column.key in row for row in rows)]


def _count_words(count: float, uncertainty: float | None, truth: float | None, interval: CountInterval | None) -> str:
    spread = "" if uncertainty is None or interval is not None else f" ± {uncertainty:.1f}"
    words = f"predicted {count:.1f}{spread} people"
    words += "" if interval is None else f"   ·   {interval}"
    return words if truth is None else f"{words}   ·   true {truth:g}   ·   error {count - truth:+.1f}"


def _density_bar(image: np.ndarray, density: np.ndarray, peak: float | None = None) -> Bar:
    height, width = (drawing.step_px(image.shape[axis], density.shape[axis]) for axis in (0, 1))
    cell = "pixel" if height == width == 1 else f"{width:.3g} x {height:.3g} px cell"
    peak = float(density.max()) if peak is None else peak
    return Bar(peak=peak, unit=f"people per {cell}", colours=drawing.heat_colours)


def _kept_mark(density: np.ndarray, keep: np.ndarray) -> Mark:
    total = float(density.sum())
    people = f", {float(density[keep.astype(bool)].sum()) / total:.1%} of the people" if total > 0 else ""
    return Mark(shape="box", colour=_KEPT, text=f"{np.mean(keep.astype(bool)):.1%} of the area{people}")


def _mark_heads(canvas: np.ndarray, points: np.ndarray, scale: float, shape: Any, colour: drawing.Colour, name: str,
                sizes: np.ndarray | None = None) -> Mark:
    """Marks the image's points on the canvas, as squares if sizes are known; returns their entry in the legend."""
    if points.ndim != 2 or points.shape[1] < 2 or (sizes is not None and sizes.shape != (len(points),)):
        raise ValueError(f"{name} points must be N x 2 or wider, and sizes as many, got {points.shape}, "
                         f"{None if sizes is None else sizes.shape}")
    places = (np.asarray(points[:, :2], np.float64) + 0.5) * scale - 0.5
    radius: Any = max(4, round(min(canvas.shape[:2]) / 110))
    if sizes is not None:
        shape, radius = "square", sizes * scale / 2
    drawing.mark(canvas, places, shape, colour, radius)
    return Mark(shape=shape, colour=colour, text=f"{name} ({len(points)})")


def _require_map(name: str, cells: np.ndarray) -> None:
    if cells.ndim != 2 or 0 in cells.shape or not np.isfinite(cells).all():
        raise ValueError(f"{name} must be a map (h, w) of finite numbers, got {cells.shape}")


def _require_image(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    return image


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    import cv2

    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _panel_scale(image: np.ndarray) -> float:
    """What brings an image to a panel's width, or a very high one to the most height."""
    height, width = _require_image(image).shape[:2]
    return min(_PANEL_WIDTH_PX / width, _MOST_PANEL_HEIGHT_PX / height)


def _widened(canvas: np.ndarray, width: int) -> np.ndarray:
    """The canvas with white at its right up to the width."""
    missing = max(width - canvas.shape[1], 0)
    return np.pad(canvas, ((0, 0), (0, missing), (0, 0)), constant_values=255) if missing else canvas


def _panel(heading: str, canvas: np.ndarray, bar: Bar | None, marks: Sequence[Mark]) -> np.ndarray:
    width = _PANEL_WIDTH_PX
    return np.concatenate([drawing.caption(width, 26, heading), _widened(canvas, width),
                           drawing.legend(width, 21, bar, marks)])


def _side_by_side(panels: Sequence[np.ndarray], columns: int, *, below_px: int = 0) -> np.ndarray:
    """A white row with at most `columns` panels, and white below."""
    width = columns * _PANEL_WIDTH_PX + (columns - 1) * _GAP_PX
    row = np.full((max(map(len, panels)) + below_px, width, 3), 255, np.uint8)
    for place, panel in enumerate(panels):
        left = place * (_PANEL_WIDTH_PX + _GAP_PX)
        row[: len(panel), left : left + _PANEL_WIDTH_PX] = panel
    return row
