"""Zones on a picture: their borders, names and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crowddist.data.zones.zone import OutlinedZones
from crowddist.reports.drawing import Colour, font

# ours: each can be read on white, as lines of a chart, and on the dark box of a label (contrast of 3 and more), is none
# of the heat map's blue, yellow and red, and the colour-blind can tell neighbours apart.
COLOURS: tuple[Colour, ...] = ((230, 60, 170), (60, 150, 60), (150, 110, 235), (225, 115, 0), (0, 150, 170),
                               (160, 130, 100))
"""The zones', in their order, on pictures and in charts; more of them repeat it."""


@dataclass(frozen=True, kw_only=True)
class DrawnZone:
    """A zone of an image and its count."""

    name: str
    count: float | None = None
    """Persons; None: not told."""
    outlines: Sequence[np.ndarray]
    """Polygons, K x 2 x, y in px of the image, from its left and top edge."""


def drawn_zones(zones: OutlinedZones, counts: Mapping[str, float] | None = None) -> list[DrawnZone]:
    """Zones to draw, with their counts by name, where there are some."""
    return [DrawnZone(name=name, count=counts[name] if counts else None, outlines=outlines)
            for name, outlines in zip(zones.names, zones.outlines, strict=True)]


def draw_zones(canvas: np.ndarray, zones: Sequence[DrawnZone], scale: float, size_px: int, *,
               fill: float = 0.0) -> None:
    """Draws each zone's border with its name and count on an RGB picture of the image; labels stay inside it.

    Args:
        canvas: (H, W, 3) uint8, changed.
        scale: px of the canvas for one of the image.
        size_px: height of the letters.
        fill: how opaque the zones are painted, 0 to 1.
    """
    import cv2

    # Pixel j of the canvas has its centre at j for OpenCV.
    borders = [[np.round(outline * scale - 0.5).astype(np.int32)[:, None] for outline in zone.outlines]
               for zone in zones]
    for number, lines in enumerate(borders if fill else ()):
        painted = canvas.copy()
        cv2.fillPoly(painted, lines, COLOURS[number % len(COLOURS)])  # all at once, so that holes stay
        canvas[:] = cv2.addWeighted(painted, fill, canvas, 1 - fill, 0)
    for number, lines in enumerate(borders):
        for thickness, paint in ((6, (0, 0, 0)), (4, (255, 255, 255)), (2, COLOURS[number % len(COLOURS)])):
            cv2.polylines(canvas, lines, True, paint, thickness, cv2.LINE_AA)
    for number, zone in enumerate(zones):  # after all borders, so that none crosses a label
        largest = max(zone.outlines, key=lambda outline: float(np.ptp(outline, axis=0).prod()))
        x, y = largest[np.lexsort((largest[:, 0], largest[:, 1]))[0]] * scale  # its topmost corner
        text = zone.name if zone.count is None else f"{zone.name} {zone.count:.1f}"
        _label(canvas, text, (float(x), float(y)), COLOURS[number % len(COLOURS)], size_px)


def _label(canvas: np.ndarray, text: str, place: tuple[float, float], colour: Colour, size_px: int) -> None:
    """Text on a dark box below and to the right of a place, moved into the picture."""
    from PIL import Image, ImageDraw

    letters = font(size_px, True)
    pad = size_px // 3
    height = min(round(size_px * 1.2) + 2 * pad, canvas.shape[0])
    width = min(round(letters.getlength(text)) + 2 * pad, canvas.shape[1])
    left = min(max(round(place[0]) + 3, 0), canvas.shape[1] - width)
    top = min(max(round(place[1]) + 3, 0), canvas.shape[0] - height)
    box = Image.new("RGB", (width, height), (20, 20, 25))
    ImageDraw.Draw(box).text((pad, height / 2), text, fill=colour, font=letters, anchor="lm")
    canvas[top : top + height, left : left + width] = np.asarray(box)
