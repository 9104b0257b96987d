"""Geometry and colour: pixels, points, masks and pseudo-labels move together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from crowddist.data.config import StreamConfig

PAD_VALUE = 114
"""Grey of pixels outside the image (ours): near the mean of street photographs."""
LARGEST_SOFTNESS = 2.0
"""Largest factor by which a crop loses resolution (ours): heads of 5 px stay visible."""
LARGEST_NOISE = 12.0
"""Largest standard deviation of a crop's noise, in grey levels of 255 (ours)."""
ERASED_AREA = (0.02, 0.4)
"""Smallest and largest part of a crop that is erased. P (Zhong et al., AAAI 2020)."""
ERASED_ASPECT = 0.3
"""Smallest height over width of an erased patch; the largest is its inverse. P."""
Window = tuple[float, float, float, float]
"""(top, left, height, width) as edges, in px of an image or in cells of a map: pixel j covers [j, j + 1)."""


def resize_points(points: np.ndarray, scale_x: float, scale_y: float) -> np.ndarray:
    """Moves points N x 2 x, y with a resized image; pixel j covers [j - 0.5, j + 0.5)."""
    scale = np.array([scale_x, scale_y], dtype=np.float64)
    return ((points + 0.5) * scale - 0.5).astype(np.float32)


def resize_boxes(boxes: np.ndarray, scale_x: float, scale_y: float) -> np.ndarray:
    """Moves boxes N x 4 left, top, width, height (edges; pixel j covers [j, j + 1)) with a resized image."""
    return (boxes * np.array([scale_x, scale_y, scale_x, scale_y])).astype(np.float32)


def flip_points(points: np.ndarray, width: int) -> np.ndarray:
    """Mirrors points left to right in an image of `width` px. The first column is x in px; others stay."""
    flipped = points.copy()
    flipped[:, 0] = width - 1 - flipped[:, 0]
    return flipped


def crop_points(points: np.ndarray, window: Window, size: tuple[int, int]) -> np.ndarray:
    """Moves points into a window that is cut out and resized to `size`; drops those outside.

    Args:
        points: N x 2 x, y in px of the image, or N x 3 with the heads' sizes in px.
        size: (height, width) of the crop, px.

    Returns:
        M x 2 or M x 3 in px of the crop, inside [0, width - 1] x [0, height - 1].
    """
    top, left, height, width = window
    scale_y, scale_x = size[0] / height, size[1] / width
    x = (points[:, 0] + 0.5 - left) * scale_x
    y = (points[:, 1] + 0.5 - top) * scale_y
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    moved = np.stack([x[inside] - 0.5, y[inside] - 0.5], axis=1)
    sizes = points[inside, 2:] * np.sqrt(scale_y * scale_x)
    return np.concatenate([np.clip(moved, 0, [size[1] - 1, size[0] - 1]), sizes], axis=1).astype(np.float32)


def resize_pixels(image: np.ndarray, size: tuple[int, int], box: tuple[float, ...] | None = None) -> np.ndarray:
    """Resizes an image, or a window of it, to (height, width) px; filters against aliasing when it shrinks.

    Training crops and whole images are all resized here, once: a counter that trains on softer crops than the images
    that it counts takes their fine grain for heads.

    Args:
        image: (H, W, 3) or (H, W) uint8.
        size: (height, width) of the result, px.
        box: (top, left, bottom, right) of the window as edges in px, inside the image; None: all of it. A window of the
            resized image equals the resized window, except for the rounding of grey levels.
    """
    import PIL.Image

    if image.shape[:2] == size and box is None:
        return image
    top, left, bottom, right = box or (0, 0, *image.shape[:2])
    shrinks = size[0] * size[1] < (bottom - top) * (right - left)
    # Pillow resizes a window alone, in a quarter of the time that OpenCV needs for the whole image.
    resample = PIL.Image.Resampling.HAMMING if shrinks else PIL.Image.Resampling.BILINEAR
    return np.asarray(PIL.Image.fromarray(image).resize((size[1], size[0]), resample, (left, top, right, bottom)))


def crop_pixels(image: np.ndarray, window: Window, size: tuple[int, int], softness: float = 1.0) -> np.ndarray:
    """Cuts out a window and resizes it; pixels outside the image are `PAD_VALUE`, or 0 in a mask.

    Args:
        image: (H, W, 3) or mask (H, W), uint8.
        window: rounded to whole pixels of the resized image, as `draw_window` draws it.
        size: (height, width) of the result, px.
        softness: >= 1; the crop is first made this many times smaller and then enlarged, like a photograph with fewer
            pixels.
    """
    import cv2

    top, left, height, width = window
    scale_y, scale_x = size[0] / height, size[1] / width
    resized = scaled_size(image.shape[:2], scale_y, scale_x)
    first_row, first_column = round(top * scale_y), round(left * scale_x)
    rows = (max(first_row, 0), min(first_row + size[0], resized[0]))
    columns = (max(first_column, 0), min(first_column + size[1], resized[1]))
    if rows[0] >= rows[1] or columns[0] >= columns[1]:
        return np.full((*size, *image.shape[2:]), PAD_VALUE if image.ndim == 3 else 0, np.uint8)
    pixel_y, pixel_x = image.shape[0] / resized[0], image.shape[1] / resized[1]
    box = (rows[0] * pixel_y, columns[0] * pixel_x, min(rows[1] * pixel_y, image.shape[0]),
           min(columns[1] * pixel_x, image.shape[1]))
    shape = (rows[1] - rows[0], columns[1] - columns[0])
    if softness > 1:
        inside = resize_pixels(resize_pixels(image, scaled_size(shape, 1 / softness, 1 / softness), box), shape)
    else:
        inside = resize_pixels(image, shape, box)
    above, before = rows[0] - first_row, columns[0] - first_column
    below, after = size[0] - above - shape[0], size[1] - before - shape[1]
    border = (PAD_VALUE,) * 3 if image.ndim == 3 else 0
    return cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_CONSTANT, value=border)


def scaled_size(size: tuple[int, ...], scale_y: float, scale_x: float) -> tuple[int, int]:
    """(height, width) times the scales, in whole pixels, each at least 1."""
    return max(round(size[0] * scale_y), 1), max(round(size[1] * scale_x), 1)


def crop_mass(grid: np.ndarray, window: Window, size: tuple[int, int],
              extent: tuple[float, float] | None = None) -> np.ndarray:
    """Cuts a window out of a map of persons per cell and redistributes it over new cells; keeps persons exactly.

    The map is constant inside each cell, so each new cell is an exact integral, whatever the window.

    Args:
        grid: (h, w) persons per cell.
        window: in cells; it may reach beyond the map, where there are no persons.
        size: (height, width) of the result in cells.
        extent: (height, width) of the image in cells if the last cells reach beyond it: their persons lie inside the
            image. None: all cells lie inside.

    Returns:
        (height, width) float32; the sum is the number of persons inside the window.
    """
    grid, window, extent = _touched(grid, window, extent)
    rows, columns = _overlaps(grid.shape, window, size, extent)
    inside_rows, inside_columns = _overlaps(grid.shape, (0, 0, *grid.shape), (1, 1), extent)
    return ((rows / inside_rows) @ grid.astype(np.float32) @ (columns / inside_columns).T).astype(np.float32)


def covered_area(chosen: np.ndarray, window: Window, size: tuple[int, int],
                 extent: tuple[float, float] | None = None) -> np.ndarray:
    """Area of chosen cells, (h, w) bool, inside each new cell of a window, in old cells: (height, width) float32. Other
    arguments as for `crop_mass`.
    """
    chosen, window, extent = _touched(chosen, window, extent)
    rows, columns = _overlaps(chosen.shape, window, size, extent)
    return (rows @ chosen.astype(np.float32) @ columns.T).astype(np.float32)


def _touched(grid: np.ndarray, window: Window,
             extent: tuple[float, float] | None) -> tuple[np.ndarray, Window, tuple[float, float]]:
    """The part of the map that the window touches; window and extent of the image relative to that part."""
    top, left, height, width = window
    first_row, first_column = (min(max(math.floor(start), 0), cells)
                               for start, cells in zip((top, left), grid.shape, strict=True))
    last_row, last_column = (max(math.ceil(end), 0) for end in (top + height, left + width))
    ends = extent or grid.shape
    part = grid[first_row:last_row, first_column:last_column]
    # A cell cut by the window, but not by the image's border, still counts as a whole cell of the image.
    return part, (top - first_row, left - first_column, height, width), (ends[0] - first_row, ends[1] - first_column)


def _overlaps(cells: tuple[int, ...], window: tuple[float, ...], size: tuple[int, int],
              ends: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, each (new, old): length of each old cell, up to the image's end, inside each new one."""

    def along(axis: int) -> np.ndarray:
        edges = window[axis] + window[axis + 2] * np.arange(size[axis] + 1) / size[axis]
        old = np.arange(cells[axis])
        upper = np.minimum(edges[1:, None], np.minimum(old[None, :] + 1, ends[axis]))
        return np.clip(upper - np.maximum(edges[:-1, None], old[None, :]), 0, None).astype(np.float32)

    return along(0), along(1)


def draw_window(size: tuple[int, int], config: StreamConfig, rng: np.random.Generator) -> Window:
    """Draws a crop of the image at a random scale: its window in px of the image.

    The crop's edges are whole pixels of the resized image. An image smaller than the crop lies anywhere inside it.
    """
    scale = config.image_size / max(size) * rng.uniform(*config.scale_jitter)
    resized = scaled_size(size, scale, scale)
    spare = [extent - side for extent, side in zip(resized, config.crop, strict=True)]
    top, left = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in spare)
    pixel_y, pixel_x = (old / new for old, new in zip(size, resized, strict=True))
    return top * pixel_y, left * pixel_x, config.crop[0] * pixel_y, config.crop[1] * pixel_x


def draw_softness(config: StreamConfig, rng: np.random.Generator) -> float:
    """Draws a softness for `crop_pixels`: 1 (sharp), or 1 to LARGEST_SOFTNESS for `config.soft_share` of the crops."""
    softness = rng.uniform(1.0, LARGEST_SOFTNESS)
    return softness if rng.random() < config.soft_share else 1.0


def jitter_colours(image: np.ndarray, config: StreamConfig, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, contrast and saturation at random, sometimes to grey. (H, W, 3) uint8 -> the same."""
    import cv2

    brightness, contrast, saturation = rng.uniform(1 - config.colour_jitter, 1 + config.colour_jitter, size=3)
    if rng.random() < config.grey_share:
        saturation = 0.0
    # One 3x4 matrix: saturation mixes with the luminance, contrast scales around mid grey, brightness scales all.
    luminance = np.array([0.299, 0.587, 0.114])
    mix = saturation * np.eye(3) + (1 - saturation) * luminance[None, :]
    matrix = brightness * contrast * mix
    offset = brightness * 128.0 * (1 - contrast)
    return cv2.transform(image, np.hstack([matrix, np.full((3, 1), offset)]).astype(np.float32))


def draw_patch(cells: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a patch to erase: top, left, height and width, in cells of a map of (height, width) `cells`.

    Source: random erasing (Zhong et al., AAAI 2020, Algorithm 1); ours: whole cells, the aspect even in its logarithm,
    and a side that is longer than the crop is cut to it, not drawn again.
    """
    area = rng.uniform(*ERASED_AREA) * cells[0] * cells[1]
    aspect = ERASED_ASPECT ** rng.uniform(-1, 1)
    height, width = (min(max(round(math.sqrt(part)), 1), most)
                     for part, most in zip((area * aspect, area / aspect), cells, strict=True))
    return int(rng.integers(cells[0] - height + 1)), int(rng.integers(cells[1] - width + 1)), height, width


def add_noise(image: np.ndarray, config: StreamConfig, rng: np.random.Generator) -> np.ndarray:
    """Adds noise of random strength to `config.noisy_share` of the crops. (H, W, 3) uint8 -> the same."""
    if not config.noisy_share or rng.random() >= config.noisy_share:
        return image
    noise = rng.uniform(0, LARGEST_NOISE) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
