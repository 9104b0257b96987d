"""Paints people into a photograph: contact shadows, figures from far to near, the photograph's own blur and grain."""

from __future__ import annotations

import cv2
import numpy as np

from crowddist.data.composite.match import Appearance
from crowddist.data.simulator.crowd import Crowd
from crowddist.data.simulator.light import Light
from crowddist.data.simulator.paint import Poses, lit_pixels, placed_pixels, warp
from crowddist.data.simulator.puppets import CLOSE_SCALE, close_puppet
from crowddist.data.simulator.sensor import tone
from crowddist.data.simulator.solids import PIXELS_PER_M

# All of these are ours.
CLOSE_PX_PER_M = 1.15 * PIXELS_PER_M  # larger people are drawn from the close puppets
FIGURE_BLUR_PX = 0.55  # of a figure as it is painted, by its resampling
SHADOW = 0.5  # part of the light that a contact shadow takes
_GREY = np.array([[0.299, 0.587, 0.114]], np.float32)


def paint_people(image: np.ndarray, crowd: Crowd, poses: Poses, light: Light, look: Appearance, squash: np.ndarray, *,
                 seed: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image with people, (H, W, 3) uint8 RGB, and (H, W) int32 ids: 0 photograph, n + 1 person n.

    Args:
        image: (H, W, 3) uint8 RGB.
        light: direction and colours of the sun and the sky; their strength is taken from `look`.
        squash: (N,) height over width of a circle on the ground at each person, above 0 to 1.
        seed: of the puppets.
    """
    size = image.shape[:2]
    layer, ids = np.zeros((*size, 4), np.float32), np.zeros(size, np.int32)
    level_light = light.sky_colour + light.sun_colour * light.sun[1]
    light_unit = level_light @ _GREY[0]
    for index in np.argsort(-poses.depth, kind="stable"):
        column, row = np.clip(poses.foot[index] * 0.5 + poses.head[index] * 0.5, 0, [size[1] - 1, size[0] - 1])
        # The photograph's light has the sky's share and the sun's share of the drawn light.
        gain = look.light[int(row), int(column)] / light_unit
        _lay_figure(layer, ids, crowd, poses, int(index), light, gain, seed)
    mixing = np.eye(4)
    mixing[:3, :3] = (np.eye(3) * look.saturation + (1 - look.saturation) * _GREY) * (1 - look.black)
    mixing[:3, 3] = look.black  # times alpha: the layer is premultiplied
    layer = _soften(cv2.transform(layer, mixing.astype(np.float32)), look.softness_px)
    alpha = np.ascontiguousarray(layer[..., 3])
    left = (1 - SHADOW * contact_shadow(size, poses, squash)) * (1 - alpha)
    ground = cv2.multiply(image, cv2.merge([left] * 3), dtype=cv2.CV_32F)
    grain = cv2.multiply(_grain(rng, size), cv2.merge([alpha * look.grain] * 3))
    people = cv2.scaleAdd(cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB), 255, grain)
    return cv2.add(ground, people, dtype=cv2.CV_8U), ids  # rounded, and cut to 0 to 255


def contact_shadow(size: tuple[int, int], poses: Poses, squash: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: how far feet and bodies keep the light of the sky off the ground."""
    half = (-(-size[0] // 2), -(-size[1] // 2))
    tight, wide = np.zeros(half, np.float32), np.zeros(half, np.float32)
    for layer, reach_m, strength in ((wide, 0.5, 0.5), (tight, 0.24, 1.0)):
        for (x, y), scale, flat in zip(poses.foot / 2, poses.scale / 2, squash, strict=True):
            if -200 < x < half[1] + 200 and -200 < y < half[0] + 200:
                axes = (round(max(reach_m * scale, 0.8) * 8), round(max(reach_m * scale * flat, 0.5) * 8))
                cv2.ellipse(layer, (round(x * 8), round(y * 8)), axes, 0, 0, 360, strength, -1, cv2.LINE_8, 3)
    typical = float(np.median(poses.scale)) / 2 if len(poses.scale) else 1.0
    both = np.maximum(cv2.GaussianBlur(tight, (0, 0), max(0.05 * typical, 0.7)),
                      cv2.GaussianBlur(wide, (0, 0), max(0.15 * typical, 1.0)))
    return np.asarray(cv2.resize(both, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _lay_figure(layer: np.ndarray, ids: np.ndarray, crowd: Crowd, poses: Poses, index: int, light: Light,
                gain: np.ndarray, seed: int) -> None:
    """Warps one figure, lit and in display values, to its place in the premultiplied (H, W, 4) layer, in place."""
    item, scale, resolution = poses.figures[index], float(poses.scale[index]), 1
    if scale > CLOSE_PX_PER_M:
        # The same puppet: the head's label is where the figure of the pose has it.
        item, resolution = close_puppet(seed, int(crowd.elevation[index]), int(crowd.variant[index])), CLOSE_SCALE
    level = min(max(int(np.floor(np.log2(resolution * CLOSE_PX_PER_M / max(scale, 1e-3)))), 0), 4)
    covered, lit = lit_pixels(item, level, crowd, index, light, (light.sky_colour * gain).astype(np.float32),
                              (light.sun_colour * gain).astype(np.float32))
    alpha = lit[3]
    lit[:3] = tone(np.maximum(lit[:3] / np.maximum(alpha, 0.05), 0)) * alpha
    placed = warp(placed_pixels(covered, lit, item, level), poses.basis[index] * 2**level / resolution,
                  poses.foot[index], np.array(item.foot) / 2**level, layer.shape)
    if placed:
        patch, (left, top) = placed
        box = (slice(top, top + len(patch)), slice(left, left + patch.shape[1]))
        through = 1 - patch[..., 3]
        layer[box] = cv2.add(cv2.multiply(layer[box], cv2.merge([through] * 4)), patch)
        ids[box][patch[..., 3] > 0.5] = index + 1


def _soften(layer: np.ndarray, softness_px: np.ndarray) -> np.ndarray:
    """The layer with the blur of each place: a mixture of two blurs, the least and the most of the image."""
    wanted = np.sqrt(np.maximum(softness_px**2 - FIGURE_BLUR_PX**2, 0))
    low, high = float(wanted.min()), float(wanted.max())
    blurred = [cv2.GaussianBlur(layer, (0, 0), sigma) if sigma > 0.2 else layer for sigma in (low, high)]
    if high - low < 0.1:
        return blurred[0]
    part = cv2.merge([(wanted - low) / (high - low)] * 4)
    return cv2.add(blurred[0], cv2.multiply(cv2.subtract(blurred[1], blurred[0]), part))


def _grain(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float32 of standard deviation about 1: the same in all colours but for coarser spots of colour."""
    luma = rng.standard_normal(size, dtype=np.float32)
    spots = cv2.resize(rng.standard_normal((size[0] // 2 + 1, size[1] // 2 + 1, 3), dtype=np.float32), size[::-1],
                       interpolation=cv2.INTER_LINEAR)
    return cv2.scaleAdd(spots, 0.4, cv2.merge([luma] * 3))
