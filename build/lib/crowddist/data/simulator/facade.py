"""House fronts: flat textures of buildings in a row, with windows, shops, signs, awnings, and their glow at night."""

from __future__ import annotations

import cv2
import numpy as np

from crowddist.data.simulator.noise import linear

TEXELS_PER_M = 14  # ours: resolution of the textures

_WALLS = ((0.72, 0.66, 0.56), (0.62, 0.6, 0.58), (0.58, 0.42, 0.34), (0.78, 0.76, 0.72), (0.5, 0.46, 0.42),
          (0.66, 0.55, 0.44), (0.44, 0.47, 0.5), (0.36, 0.34, 0.33))
_SIGNS = ((0.75, 0.1, 0.1), (0.1, 0.25, 0.6), (0.9, 0.75, 0.1), (0.1, 0.45, 0.25), (0.9, 0.9, 0.88), (0.1, 0.1, 0.1),
          (0.85, 0.4, 0.1), (0.6, 0.1, 0.4))


def _scribble(rng: np.random.Generator, image: np.ndarray, box: tuple[int, int, int, int], colour) -> None:
    """Marks that look like lettering from afar, in place."""
    x0, y0, x1, y1 = box
    letter = max((y1 - y0) * 0.55, 2)
    x = x0 + letter * 0.5
    while x < x1 - letter:
        for _ in range(3):
            a = (int(x + rng.uniform(0, letter * 0.7)), int(rng.uniform(y0 + letter * 0.3, y1 - letter * 0.3)))
            b = (int(x + rng.uniform(0, letter * 0.7)), int(rng.uniform(y0 + letter * 0.3, y1 - letter * 0.3)))
            cv2.line(image, a, b, colour, max(1, int(letter * 0.14)), cv2.LINE_AA)
        x += letter * rng.uniform(0.85, 1.2)


def _shops(rng: np.random.Generator, colour: np.ndarray, glow: np.ndarray, span: tuple[int, int], floor: int) -> None:
    """Shop windows, signs and awnings along the street, `floor` texels high, in place."""
    bottom = colour.shape[0]
    lintel = bottom - int(floor * 0.72)
    x = span[0]
    while x < span[1]:
        end = min(x + int(rng.uniform(4, 10) * TEXELS_PER_M), span[1])
        glass = linear(rng.uniform(0.1, 0.35) + rng.normal(0, 0.03, 3))
        cv2.rectangle(colour, (x + 6, lintel), (end - 6, bottom - 4), glass.tolist(), -1)
        for _ in range(int((end - x) / 9)):
            left, top = int(rng.uniform(x + 6, max(end - 14, x + 7))), bottom - int(rng.uniform(0.15, 0.68) * floor)
            goods = linear(np.clip(rng.uniform(0.1, 0.7) + rng.normal(0, 0.1, 3), 0.03, 1)).tolist()
            wide, high = int(rng.uniform(2, 12)), int(rng.uniform(3, 20))
            cv2.rectangle(colour, (left, top), (left + wide, top + high), goods, -1)
        for post in range(x + 6, end - 4, int(rng.uniform(1.2, 2.6) * TEXELS_PER_M)):
            cv2.line(colour, (post, lintel), (post, bottom), linear((0.2, 0.2, 0.2)).tolist(), 2)
        shine = (linear((1.0, 0.88, 0.65)) * rng.uniform(0.1, 0.9)).tolist()
        cv2.rectangle(glow, (x + 6, lintel), (end - 6, bottom - 4), shine, -1)
        sign = np.array(_SIGNS[rng.integers(len(_SIGNS))]) * rng.uniform(0.7, 1.05)
        box = (x + 3, bottom - int(floor * rng.uniform(0.98, 1.1)), end - 3, bottom - int(floor * 0.74))
        cv2.rectangle(colour, box[:2], box[2:], linear(np.clip(sign, 0, 1)).tolist(), -1)
        _scribble(rng, colour, box, linear((0.93, 0.92, 0.85) if sign.mean() < 0.5 else (0.15, 0.1, 0.1)).tolist())
        if rng.random() < 0.6:
            cv2.rectangle(glow, box[:2], box[2:], (linear(np.clip(sign, 0, 1)) * 0.8).tolist(), -1)
            _scribble(rng, glow, box, (1.0, 1.0, 0.9))
        if rng.random() < 0.25:
            awning = linear(rng.uniform(0.2, 0.8, 3)).tolist()
            y = bottom - int(floor * 0.62)
            cv2.rectangle(colour, (x + 4, y - 12), (end - 4, y + 3), awning, -1)
            for stripe in range(x + 4, end - 8, 10):
                cv2.rectangle(colour, (stripe, y - 12), (stripe + 4, y + 3), linear((0.9, 0.9, 0.88)).tolist(), -1)
        x = end


def _windows(rng: np.random.Generator, colour: np.ndarray, glow: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Rows of windows of one house in `box` (left, top, right, bottom), in place."""
    left, top, right, bottom = box
    storey, bay = rng.uniform(2.8, 4.0) * TEXELS_PER_M, rng.uniform(1.6, 4.0) * TEXELS_PER_M
    wide, high = bay * rng.uniform(0.4, 0.85), storey * rng.uniform(0.45, 0.75)
    glass, frame = rng.uniform(0.12, 0.4), linear(rng.choice([0.25, 0.6, 0.85])).item()
    ledge = rng.random() < 0.6
    for y in np.arange(bottom - storey, top + storey * 0.3, -storey):
        if ledge:
            cv2.rectangle(colour, (left, int(y + storey * 0.9)), (right, int(y + storey * 0.95)), [frame] * 3, -1)
        for x in np.arange(left + (bay - wide) / 2, right - wide, bay):
            a, b = (int(x), int(y)), (int(x + wide), int(y + high))
            shade = linear(np.clip(glass + rng.normal(0, 0.06) + np.array([-0.02, 0.0, 0.04]), 0.03, 0.9))
            cv2.rectangle(colour, a, b, shade.tolist(), -1)
            if rng.random() < 0.4:
                cv2.rectangle(colour, a, (b[0], int(y + high * rng.uniform(0.2, 0.8))),
                              linear(rng.uniform(0.35, 0.7) * np.array([1, 0.97, 0.9])).tolist(), -1)
            cv2.rectangle(colour, a, b, [frame] * 3, 1)
            cv2.line(colour, (int(x + wide / 2), a[1]), (int(x + wide / 2), b[1]), [frame] * 3, 1)
            if rng.random() < 0.35:
                cv2.rectangle(glow, a, b, (linear((1.0, 0.85, 0.6)) * rng.uniform(0.1, 0.7)).tolist(), -1)


def house_row(rng: np.random.Generator, length_m: float, height_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Houses in a row, the street below: linear colour (h, w, 3), glow (h, w, 3), cover (h, w) in {0, 1}, float32."""
    shape = (int(height_m * TEXELS_PER_M), int(length_m * TEXELS_PER_M))
    colour, glow, cover = (np.zeros(size, np.float32) for size in ((*shape, 3), (*shape, 3), shape))
    x = 0
    while x < shape[1]:
        end = min(x + int(rng.uniform(8, 28) * TEXELS_PER_M), shape[1])
        top = int(shape[0] * rng.choice([0.0, rng.uniform(0, 0.7)]))
        wall = linear(np.clip(np.array(_WALLS[rng.integers(len(_WALLS))]) + rng.normal(0, 0.04, 3), 0.15, 0.9))
        colour[top:, x:end] = wall
        cover[top:, x:end] = 1
        floor = int(min(rng.uniform(3.5, 5.0) * TEXELS_PER_M, shape[0] - top))
        _windows(rng, colour, glow, (x + 8, top + 10, end - 8, shape[0] - int(floor * 1.15)))
        colour[top:top + 6, x:end] = wall * rng.uniform(0.5, 1.3)
        colour[top:, x:x + 2] = wall * 0.5
        if rng.random() < 0.85:
            _shops(rng, colour, glow, (x, end), floor)
        if rng.random() < 0.3 and end - x > 90 and shape[0] - top > floor + 80:
            y = int(rng.uniform(top + 8, shape[0] - floor - 60))
            board = (int(x + (end - x) * 0.2), y, int(x + (end - x) * 0.7), y + int(rng.uniform(25, 50)))
            paint = linear(_SIGNS[rng.integers(len(_SIGNS))]).tolist()
            cv2.rectangle(colour, board[:2], board[2:], paint, -1)
            _scribble(rng, colour, board, linear((0.95, 0.93, 0.85)).tolist())
            cv2.rectangle(glow, board[:2], board[2:], (linear(rng.uniform(0.2, 1, 3)) * 0.7).tolist(), -1)
        x = end
    noise = rng.standard_normal((shape[0] // 3, shape[1] // 3)).astype(np.float32)
    rough = cv2.resize(noise, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    colour *= np.clip(1 + 0.08 * rough, 0.6, 1.4)[..., None]
    return colour, glow, cover
