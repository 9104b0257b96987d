"""Denser crops: the people of another place of the same image, laid among those of a crop (sparse to dense).

Both places are the same rows of the image, so heads have the sizes that fit there, and light, blur and grain are the
same. The other place is mirrored: its people are not the crop's once more.

Source of the idea: images that are shifted over themselves, Xu et al., L2HCount, arXiv 2503.12935. How people are laid
among others is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crowddist.data.transforms import Window, flip_points, scaled_size

# All of these are ours; lengths are in sizes of the head.
HEAD = (0.65, 0.8)
"""Half axes of a head."""
SIDES, BODY_END, BUST_END = 1.1, 7.5, 3.0
"""Half the width of a body, and its end below the head's centre: of a body that a mask of persons cuts out, and of one
without a mask. The legs of that one stay away: what is around them is ground of the other place."""
HEAD_FIRST = 1.3
"""A head is before bodies that are less than this much nearer: people stand so that heads are seen."""
SEAM_PX = (0.7, 1.5)
"""Blur of the seam with masks, and without."""
BEHIND_ALL = 1e-3
"""Nearness of a person of the mask whose head is not in the crop."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A crop with its labels."""

    pixels: np.ndarray
    """(H, W, 3) uint8."""
    heads: np.ndarray
    """M x 3 float32 x, y, size in px, all inside; M x 2 where sizes are unknown and nothing is laid over it."""
    mask: np.ndarray | None
    """(H, W) uint8, 1 = person; None if the data set has no masks."""


def denser(layer: Layer, cut: Callable[[Window], Layer], window: Window, size: tuple[int, int],
           rng: np.random.Generator) -> Layer:
    """The crop with the people of another place of its image; the crop itself where that shows no more people.

    Args:
        layer: the crop.
        cut: gives the crop of a window of the image.
        window: of the crop, in the image.
        size: (height, width) of the whole image, px.
    """
    other = cut(other_window(window, size, layer.pixels.shape, rng))
    upper = Layer(pixels=other.pixels[:, ::-1], heads=flip_points(other.heads, other.pixels.shape[1]),
                  mask=None if other.mask is None else other.mask[:, ::-1])
    laid = lay_among(layer, upper)
    return laid if len(laid.heads) > len(layer.heads) else layer


def other_window(window: Window, size: tuple[int, int], crop: tuple[int, ...], rng: np.random.Generator) -> Window:
    """A window of the same rows anywhere in the image. In an image narrower than the crop it is where the mirrored
    image lies on the image.
    """
    top, left, height, width = window
    resized = scaled_size(size, crop[0] / height, crop[1] / width)[1]
    if resized <= crop[1]:
        return top, size[1] - left - width, height, width
    return top, int(rng.integers(resized - crop[1] + 1)) * size[1] / resized, height, width


def lay_among(lower: Layer, upper: Layer) -> Layer:
    """Puts the people of one crop among those of another of equal shape; the nearer one hides the farther one.

    Whose head is larger is nearer. Each pixel shows one of the crops, and a head stays where its centre shows its own.
    """
    import cv2

    before, behind = nearness(upper), nearness(lower)
    taken = before > behind
    sigma = SEAM_PX[0] if upper.mask is not None else SEAM_PX[1]
    alpha = cv2.GaussianBlur(taken.astype(np.float32), (0, 0), sigma)[..., None]
    pixels = np.rint(lower.pixels + alpha * (upper.pixels.astype(np.float32) - lower.pixels)).astype(np.uint8)
    heads = [part.heads[shown[tuple(np.rint(part.heads[:, 1::-1]).astype(int).T)]]
             for part, shown in ((lower, ~taken), (upper, taken))]
    mask = None if lower.mask is None or upper.mask is None else np.where(taken, upper.mask, lower.mask)
    return Layer(pixels=pixels, heads=np.concatenate(heads), mask=mask)


def nearness(layer: Layer) -> np.ndarray:
    """(H, W) float32: the size of the nearest person's head in each pixel, px, times HEAD_FIRST where that is the head;
    0 where nobody is.
    """
    import cv2

    heads, bodies = np.zeros((2, *layer.pixels.shape[:2]), np.float32)
    end = BUST_END if layer.mask is None else BODY_END
    for x, y, size in layer.heads[np.argsort(layer.heads[:, 2], kind="stable")].tolist():
        place, axes = (round(x), round(y)), (round(HEAD[0] * size), round(HEAD[1] * size))
        cv2.ellipse(heads, place, axes, 0, 0, 360, HEAD_FIRST * size, -1)
        cv2.rectangle(bodies, (round(x - SIDES * size), round(y + axes[1] / 2)),
                      (round(x + SIDES * size), round(y + end * size)), size, -1)
    near = np.maximum(heads, bodies)
    return near if layer.mask is None else np.where(layer.mask > 0, np.maximum(near, BEHIND_ALL), 0)
