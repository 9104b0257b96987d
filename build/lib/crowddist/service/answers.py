"""What is made of a counted image: a dictionary, and a picture."""

from __future__ import annotations

import base64
import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from crowddist.api import as_result
from crowddist.data.safe_decode import encode_png
from crowddist.process.safe_text import readable
from crowddist.service.schema import Format

if TYPE_CHECKING:
    from crowddist.data.zones.zone import PlacedZones, ZoneSet
    from crowddist.inference.base_predictor import ImagePrediction

logger = logging.getLogger(__name__)


class Answers:
    """Makes answers, of one counter and one set of zones. Threads may share it.

    Args:
        zones: None: there are none.
        stride: side of a density's cell, px of the image as the network saw it.
    """

    def __init__(self, zones: ZoneSet | None, stride: int) -> None:
        self._zones, self._stride = zones, stride
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def make(self, found: ImagePrediction, pixels: np.ndarray, form: Format) -> dict[str, Any] | bytes:
        """`CountResult.to_dict`, with `overlay_png` for `both`; or the picture's PNG.

        Raises:
            InputError: the zones do not fit the image.
        """
        result = as_result(found, pixels, self._placed(found, (pixels.shape[0], pixels.shape[1])))
        picture = b"" if form is Format.json else encode_png(np.asarray(result.plot()))
        if form is Format.png:
            return picture
        answer = result.to_dict()
        if picture:
            answer["overlay_png"] = base64.b64encode(picture).decode()
        return answer

    def _placed(self, found: ImagePrediction, size: tuple[int, int]) -> PlacedZones | None:
        if self._zones is None:
            return None
        with self._lock:  # a set keeps its last answer
            placed = self._zones.on(size, seen=found.size, cells=found.density.shape, stride=self._stride)
            for note in {*placed.notes} - self._told:
                self._told.add(note)
                logger.warning("%s", readable(note))
        return placed

