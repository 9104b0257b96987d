"""Drawing on pictures: colours of maps, marks at points, and strips of text that explain them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Colour = tuple[int, int, int]
INK: Colour = (25, 25, 30)
FAINT: Colour = (105, 105, 115)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A scale of colours in a legend, from 0 to `peak`."""

    peak: float
    """The value of the last colour."""
    unit: str
    colours: Callable[[np.ndarray], np.ndarray]
    """(h, w) levels in [0, 1] -> (h, w, 3) RGB."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An entry of a legend: a sign and its meaning."""

    shape: Literal["ring", "square", "cross", "box", ""]
    colour: Colour = INK
    text: str


def heat_colours(level: np.ndarray) -> np.ndarray:
    """(h, w, 3) RGB of (h, w) levels in [0, 1]: blue, green, yellow, red."""
    import cv2

    # ours: the square root shows a single head beside a dense crowd; 0.12 skips the end that is black on a dark street.
    return cv2.applyColorMap(np.round((0.12 + 0.88 * np.sqrt(level)) * 255).astype(np.uint8),
                             cv2.COLORMAP_TURBO)[..., ::-1]


def spread_colours(level: np.ndarray) -> np.ndarray:
    """(h, w, 3) RGB of (h, w) levels in [0, 1]: violet to yellow, unlike a density."""
    import cv2

    return cv2.applyColorMap(np.round((0.15 + 0.85 * np.sqrt(level)) * 255).astype(np.uint8),
                             cv2.COLORMAP_PLASMA)[..., ::-1]


def step_px(image_px: int, cells: int) -> float:
    """Pixels of a cell's side; a network's last cell may reach over the border of the image."""
    for stride in (1, 2, 4, 8, 16, 32):
        if math.ceil(image_px / stride) == cells:
            return stride
    return image_px / cells


def stretched(cells: np.ndarray, image_shape: Sequence[int], canvas: np.ndarray, *, smooth: bool) -> np.ndarray:
    """A map (h, w) of an image resized to `canvas`, which shows that image: each cell covers its pixels."""
    import cv2

    full = []
    for axis in (0, 1):
        covered = cells.shape[axis] * step_px(image_shape[axis], cells.shape[axis]) / image_shape[axis]
        full.append(max(round(covered * canvas.shape[axis]), canvas.shape[axis]))
    large = cv2.resize(cells.astype(np.float32), (full[1], full[0]),
                       interpolation=cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)
    return large[: canvas.shape[0], : canvas.shape[1]]


def heated(canvas: np.ndarray, cells: np.ndarray, image_shape: Sequence[int], bar: Bar) -> np.ndarray:
    """The map's colours over the greyed canvas, more opaque for higher values."""
    import cv2

    level = np.zeros(canvas.shape[:2], np.float32)
    if bar.peak > 0:
        level = np.clip(stretched(cells, image_shape, canvas, smooth=True) / bar.peak, 0, 1)
    # ours: a tenth of the peak is clearly visible, and values below a hundredth stay transparent.
    opacity = np.clip((level - 0.01) * (0.65 / 0.09), 0, 0.65)
    colours = np.ascontiguousarray(bar.colours(level))
    grey = cv2.transform(canvas, np.eye(3) * 0.2 + 0.8 / 3)  # four fifths of the mean of its channels
    return cv2.blendLinear(grey, colours, 1 - opacity, opacity)


def chosen(canvas: np.ndarray, keep: np.ndarray, image_shape: Sequence[int], colour: Colour) -> np.ndarray:
    """The canvas, tinted in cells where `keep` is true, and dark elsewhere."""
    import cv2

    inside = stretched(keep, image_shape, canvas, smooth=False)[..., None] > 0.5
    tinted = cv2.transform(canvas, np.column_stack([np.full((3, 3), 0.7 / 3), 0.3 * np.array(colour)]))
    return np.where(inside, tinted, cv2.transform(canvas, np.full((3, 3), 0.3 / 3)))


def mark(
    canvas: np.ndarray, points: np.ndarray, shape: Literal["ring", "square", "cross", "dot"], colour: Colour,
    radius_px: int | np.ndarray
) -> None:
    """Draws marks at points (x, y) in pixels of the canvas: rings and squares with a dark rim, visible on any
    background, crosses that fit inside, or dots.

    Args:
        radius_px: one for all marks, or one for each; half the side of a square.
    """
    import cv2

    radii = np.broadcast_to(np.round(radius_px).astype(int), len(points)).tolist()
    for (x, y), radius in zip(np.round(points).astype(int).tolist(), radii, strict=True):
        if shape == "ring":
            cv2.circle(canvas, (x, y), radius, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.circle(canvas, (x, y), radius, colour, 1, cv2.LINE_AA)
        elif shape == "square":
            corners = ((x - radius, y - radius), (x + radius, y + radius))
            cv2.rectangle(canvas, *corners, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.rectangle(canvas, *corners, colour, 1, cv2.LINE_AA)
        elif shape == "dot":
            cv2.circle(canvas, (x, y), radius, colour, -1, cv2.LINE_AA)
        else:
            cv2.drawMarker(canvas, (x, y), colour, cv2.MARKER_TILTED_CROSS, 2 * radius - 2, 2, cv2.LINE_AA)


@lru_cache(maxsize=32)
def font(size_px: int, bold: bool = False) -> FreeTypeFont:
    """Matplotlib's font, read from its files without an import of matplotlib; Pillow's lacks signs we need."""
    from PIL import ImageFont

    spec = find_spec("matplotlib")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0], "mpl-data", "fonts", "ttf")
    return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size_px)


def caption(width: int, size_px: int, title: str, line: str = "") -> np.ndarray:
    """A white strip with a bold title and a line below; long texts become smaller, empty ones take no room."""
    from PIL import Image, ImageDraw

    parts = [(text, bold) for text, bold in ((title, True), (line, False)) if text]
    pad, line_px = size_px // 2, round(size_px * 1.4)
    sheet = Image.new("RGB", (width, len(parts) * line_px + 2 * pad), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (text, bold) in enumerate(parts):
        shown, fitting = _fitting(text, size_px, bold, width - 2 * pad)
        draw.text((pad, pad + (index + 0.5) * line_px), shown, fill=INK, font=font(fitting, bold), anchor="lm")
    return np.array(sheet)


def _fitting(text: str, size_px: int, bold: bool, width: int) -> tuple[str, int]:
    """A text and size that fit: first with smaller letters, then with fewer."""
    # ours: text below 11 px is not readable.
    while size_px > 11 and font(size_px, bold).getlength(text) > width:
        size_px -= 1
    while len(text) > 1 and font(size_px, bold).getlength(text) > width:
        text = text[:-2] + "…"
    return text, size_px


def legend(width: int, size_px: int, bar: Bar | None, marks: Sequence[Mark]) -> np.ndarray:
    """A white strip that explains colours and marks in one row, with smaller text if needed."""
    from PIL import Image, ImageDraw

    texts = [entry.text for entry in marks] + ([] if bar is None else ["0", f"{bar.peak:.2g}", bar.unit])
    row_px, bar_px = round(size_px * 2.2), width // 6
    while size_px > 9 and bar_px + sum(font(size_px).getlength(text) + 2.5 * size_px for text in texts) > width:
        size_px -= 1
    sheet = Image.new("RGB", (width, row_px), "white")
    draw = ImageDraw.Draw(sheet)
    pad, middle, x = size_px // 2, row_px // 2, size_px // 2

    def write(text: str, colour: Colour) -> int:
        draw.text((x, middle), text, fill=colour, font=font(size_px), anchor="lm")
        return x + round(font(size_px).getlength(text)) + pad

    if bar is not None:
        x = write("0", INK)
        ramp = bar.colours(np.linspace(0, 1, bar_px, dtype=np.float32)[None].repeat(size_px, 0))
        sheet.paste(Image.fromarray(np.ascontiguousarray(ramp)), (x, middle - size_px // 2))
        x += bar_px + pad
        x = write(f"{bar.peak:.2g}", INK)
        x = write(bar.unit, FAINT) + 2 * pad
    for entry in marks:
        if entry.shape:
            sheet.paste(Image.fromarray(_sign(entry, size_px)), (x, middle - size_px // 2))
            x += size_px + pad
        x = write(entry.text, INK) + pad
    return np.array(sheet)


def _sign(entry: Mark, size_px: int) -> np.ndarray:
    """A mark of the legend, on grey so that white is visible."""
    sign = np.full((size_px, size_px, 3), entry.colour if entry.shape == "box" else (120, 120, 120), np.uint8)
    if entry.shape in ("ring", "square", "cross"):
        mark(sign, np.array([[size_px / 2, size_px / 2]]), entry.shape, entry.colour, max(4, round(size_px * 0.32)))
    return sign
