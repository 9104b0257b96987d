"""Heads that thresholds choose from: a detector's, and points read from a density. Which of them clears which, and who
stands near, no threshold changes, so it is found once an image and a trial of thresholds only compares numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crowddist.ops.merging import clearing_scores, near_points


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """All heads of an image that a threshold may keep, best score first; of equal ones detections first."""

    heads: np.ndarray
    """C x 4 float32 x, y, size in px and score, at most 1."""
    values: np.ndarray
    """(C,) float32, what thresholds are compared with: the scores as they were given, maybe above 1."""
    detected: np.ndarray
    """(C,) bool: a detection, or a point of the density."""
    clearing: np.ndarray
    """(C,) float32, for points the best score of the detections that clear it, 0 if there are none; for detections 0.
    """


class NumNear:
    """Counts the chosen candidates near each point. Keeps four bytes for each pair of neighbours."""

    def __init__(self, among: Candidates, radius_px: float) -> None:
        self._points = np.flatnonzero(~among.detected)
        places = among.heads[:, :2]
        self._near, self._bounds = near_points(places[self._points], radius_px, of=places)

    def __call__(self, chosen: np.ndarray) -> np.ndarray:
        """(C,) int64: how many candidates of `chosen`, (C,) bool, are near each point, without itself; 0 for
        detections.
        """
        counts = np.zeros(len(chosen), np.int64)
        total = np.concatenate([[0], np.cumsum(chosen[self._near])])
        counts[self._points] = np.diff(total[self._bounds]) - chosen[self._points]
        return counts


def candidates(detections: np.ndarray, points: np.ndarray, radius_px: np.ndarray) -> Candidates:
    """The candidates of an image.

    Args:
        detections: D x 4 x, y, size in px and score, each of another head.
        points: P x 4 likewise, of a density.
        radius_px: (D,) how far a detection clears points, px, see `clearing_scores`.
    """
    both = np.concatenate([detections, points])
    heads = both.copy()
    heads[:, 3] = np.minimum(heads[:, 3], 1)
    order = np.argsort(-heads[:, 3], kind="stable")
    clearing = np.zeros(len(both), np.float32)
    clearing[len(detections):] = clearing_scores(detections[:, [0, 1, 3]], points[:, :2], radius_px)
    return Candidates(heads=heads[order], values=both[order, 3], detected=order < len(detections),
                      clearing=clearing[order])
