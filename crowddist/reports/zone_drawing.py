"""Zones on a picture: their borders, names and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crowddist.reports.drawing import Colour, font

# ours: none is common in the heat map's middle, and the colour-blind can tell neighbours apart.
COLOURS: tuple[Colour, ...] = ((255, 255, 255), (255, 120, 210), (120, 235, 255), (255, 200, 60), (190, 160, 255),
                               (150, 255, 150))


@dataclass(frozen=True, kw_only=True)
class DrawnZone:
    """A zone of an image and its count."""

    name: str
    count: float
    """Persons."""
    outlines: Sequence[np.ndarray]
    """Polygons, K x 2 x, y in px of the image, from its left and top edge."""


def draw_zones(canvas: np.ndarray, zones: Sequence[DrawnZone], scale: float, size_px: int) -> None:
    """Draws each zone's border with its name and count on an RGB picture of the image; labels stay inside it.

    Args:
        canvas: (H, W, 3) uint8, changed.
        scale: px of the canvas for one of the image.
        size_px: height of the letters.
    """
    import cv2

    for number, zone in enumerate(zones):
        colour = COLOURS[number % len(COLOURS)]
        # Pixel j of the canvas has its centre at j for OpenCV.
        lines = [np.round(outline * scale - 0.5).astype(np.int32)[:, None] for outline in zone.outlines]
        for thickness, paint in ((4, (0, 0, 0)), (2, colour)):
            cv2.polylines(canvas, lines, True, paint, thickness, cv2.LINE_AA)
    for number, zone in enumerate(zones):  # after all borders, so that none crosses a label
        largest = max(zone.outlines, key=lambda outline: float(np.ptp(outline, axis=0).prod()))
        x, y = largest[np.lexsort((largest[:, 0], largest[:, 1]))[0]] * scale  # its topmost corner
        _label(canvas, f"{zone.name} {zone.count:.1f}", (float(x), float(y)), COLOURS[number % len(COLOURS)], size_px)


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
