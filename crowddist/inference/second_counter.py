"""A second counter's opinion of the target: labels are the mean of two counters that learnt from different images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from crowddist import storage
from crowddist.data.sample import Seen
from crowddist.data.shards import ShardReader
from crowddist.data.transforms import crop_mass
from crowddist.errors import InputError
from crowddist.inference.prediction_cache import CachedPrediction, decode_prediction
from crowddist.inference.predictor import Predictor
from crowddist.ops.views import average_counters
from crowddist.storage.run_folder import SECOND, find_checkpoint

if TYPE_CHECKING:
    from crowddist.methods.base import Method


def missing(method: Method, folder: str) -> bytes | None:
    """The second counter's checkpoint, as `read` gives it, unless the run's folder holds it already."""
    return None if storage.exists(storage.join(folder, SECOND)) else read(method)


def read(method: Method) -> bytes | None:
    """The checkpoint of the second counter that a method's labels need; None: they need none. Raises InputError where
    it is missing or cannot be read.
    """
    if not method.second_counter or not any(stage.needs_labels for stage in method.plan()):
        return None
    try:
        place = find_checkpoint(method.second_counter)
        Predictor.from_checkpoint(place)
        return storage.read_bytes(place)
    except FileNotFoundError:
        raise InputError(f"self_supervision.second_counter: nothing at {method.second_counter}; give rendered, or a "
                         "run's folder or checkpoint") from None
    except InputError as error:
        raise InputError(f"self_supervision.second_counter: {error}") from None


class SecondOpinions:
    """What a second counter saw in the images of a data set.

    Args:
        url: its cached predictions of them, see `prediction_cache`.
    """

    def __init__(self, url: str) -> None:
        self._shards = ShardReader(url)
        self._keys = set(self._shards.keys())

    def beside(self, key: str, seen: Seen, extent: tuple[float, float]) -> Seen:
        """What both counters see together, in the cells of the first: the mean of their densities, and the heads and
        zooms of the first. Images that the second was not shown, because workers died over them, stay as they are.

        Args:
            key: of the image.
            seen: by the first counter.
            extent: (height, width) of the image in cells of the first counter; the last ones may reach beyond it.
        """
        if key not in self._keys:
            return seen
        return averaged(seen, extent, decode_prediction(*self._shards.read(self._shards.index_of(key))))


def averaged(seen: Seen, extent: tuple[float, float], other: CachedPrediction) -> Seen:
    """See `SecondOpinions.beside`."""
    second, shape = other.seen, (seen.density.shape[0], seen.density.shape[1])
    height, width = (side * theirs / ours for side, ours, theirs in zip(shape, extent, other.extent, strict=True))

    def moved(values: np.ndarray) -> np.ndarray:
        return crop_mass(values, (0.0, 0.0, height, width), shape, other.extent)

    # A certainty is no mass: the mean over the area of a cell.
    certain = moved(second.certainty) / moved(np.ones_like(second.certainty))
    density, spread, certainty = average_counters((seen.density, moved(second.density)),
                                                  (seen.spread, moved(second.spread)), (seen.certainty, certain))
    counts = np.array([part.density.sum(dtype=np.float64) for part in (seen, second)])
    uncertainty = np.sqrt(np.mean([part.member_counts.std() ** 2 for part in (seen, second)]) + counts.var())
    # Two synthetic members with the deviation of both, as for several zooms.
    return replace(seen, density=density, spread=spread, zoom_certainty=certainty,
                   member_counts=np.array([-uncertainty, uncertainty]))
