"""Masksembles: fixed binary masks over channels, the members of an ensemble in one network."""

from __future__ import annotations

import math

import numpy as np

LARGEST_SCALE = 1e4
"""Upper end of the bisection: masks of this scale hardly ever overlap. ours."""
LARGEST_NUM_DRAWS = 100_000
"""Draws before giving up; tens are usual, because the expected width is the wanted one. ours."""


def make_masks(channels: int, num_masks: int, scale: float, seed: int) -> np.ndarray:
    """Binary masks over channels, one a member of the ensemble; a larger scale makes them overlap less.

    Source: Durasov et al., CVPR 2021, Sec. 3, as in their library (C): each mask has m ones among int(m * s) positions,
    unused positions are dropped, and masks are redrawn until the remaining width is the expected m * s * (1 - (1 -
    1/s)^M). A bisection on s makes that width exactly `channels`; m follows from `scale`. Ours: our own seeded
    generator, and m is at least channels / num_masks, so that the masks can cover all channels.

    Args:
        channels: channels C of the masks, >= 1
        num_masks: masks M, >= 1
        scale: s, >= 1, finite; 1 gives masks of ones (one model), a large scale disjoint masks (independent models)
        seed: equal seeds give equal masks, whatever else draws random numbers

    Returns:
        (num_masks, channels) bool; all rows have equally many ones, and every channel is in some mask.

    Raises:
        ValueError: channels or num_masks is less than 1, or scale is not a finite number >= 1.
    """
    if channels < 1 or num_masks < 1 or not (math.isfinite(scale) and scale >= 1):
        raise ValueError(f"make_masks needs channels >= 1, num_masks >= 1 and scale >= 1, got {channels}, {num_masks} "
                         f"and {scale}")
    if scale == 1 or num_masks == 1:
        return np.ones((num_masks, channels), bool)
    ones = max(int(channels / _expected_width(1, num_masks, scale)), -(-channels // num_masks))
    num_positions = max(int(ones * _scale_for_width(channels, ones, num_masks)), channels)
    generator = np.random.default_rng(seed)
    for _ in range(LARGEST_NUM_DRAWS):
        drawn = np.stack([generator.choice(num_positions, ones, replace=False) for _ in range(num_masks)])
        used, columns = np.unique(drawn, return_inverse=True)
        if len(used) == channels:
            masks = np.zeros((num_masks, channels), bool)
            masks[np.arange(num_masks)[:, None], columns.reshape(drawn.shape)] = True
            return masks
    raise ValueError(f"no {num_masks} masks of scale {scale} cover exactly {channels} channels in {LARGEST_NUM_DRAWS} "
                     "draws")


def _expected_width(ones: int, num_masks: int, scale: float) -> float:
    """Expected number of positions that at least one mask uses."""
    return ones * scale * (1 - (1 - 1 / scale) ** num_masks)


def _scale_for_width(channels: int, ones: int, num_masks: int) -> float:
    """The scale with expected width `channels`; the width rises with the scale from m to m * M."""
    low, high = 1.0, LARGEST_SCALE
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        # Half a channel more, because the width is rounded down.
        low, high = (middle, high) if _expected_width(ones, num_masks, middle) < channels + 0.5 else (low, middle)
    return high
