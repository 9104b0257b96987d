"""Counting from Python: `crowddist.load` gives a counter, its `count` a result."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from crowddist.data.any_image import AnyImage, any_image
from crowddist.data.images import NOTES
from crowddist.data.zones.files import Zones, as_zones
from crowddist.data.zones.zone import OutlinedZones, PlacedZones, ZoneSet
from crowddist.errors import InputError
from crowddist.inference.intervals import LEVEL
from crowddist.inference.open_counter import open_counter
from crowddist.process.safe_text import readable

if TYPE_CHECKING:
    import PIL.Image

    from crowddist.inference.base_predictor import BasePredictor, ImagePrediction

BATCH = 8
"""Images that `count_many` reads ahead: equally large neighbours among them go through the networks together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CountResult:
    """What a counter finds in one image."""

    count: float
    """Persons."""
    low: float | None
    """The true count lies between `low` and `high`, persons, in a share `level` of images like those that the counter
    was trained on; None where the counter has no intervals."""
    high: float | None
    level: float | None
    """Above 0 and below 1; None without an interval."""
    uncertainty: float
    """Standard deviation of the count over the ensemble's members, persons; 0 without an ensemble."""
    points: np.ndarray
    """(M, 3) float32: x, y of heads in px of the upright image, pixel j having its centre at j; and a score, 0 to 1.
    Their number is not the count: where people are small or hidden the density tells more."""
    head_sizes: np.ndarray | None
    """(M,) float32: sides of the heads' squares, px; None where the counter gives none."""
    density: np.ndarray
    """(h, w) float32 persons per cell, cells of equal size over the whole image; the sum is the count."""
    image: np.ndarray = field(repr=False)
    """(H, W, 3) uint8 RGB: what was counted."""
    zones: Mapping[str, float] = field(default_factory=dict)
    """Persons in each zone, by its name; {} where none were asked for."""
    outlined: OutlinedZones | None = field(default=None, repr=False)
    """Where these zones lie in the image."""
    notes: tuple[str, ...] = ()
    """What was doubtful about the image, e.g. that it was put on white, in words."""

    def plot(self, *, title: str = "") -> PIL.Image.Image:
        """The density as a heat map over the image, the heads, the zones, and the count above; its longer side has 960
        to 1920 px. `numpy.asarray` makes an array of it.
        """
        import PIL.Image
        import PIL.PngImagePlugin

        from crowddist.inference.intervals import CountInterval
        from crowddist.reports.sheets import overlay
        from crowddist.reports.zone_drawing import drawn_zones

        interval = (None if self.low is None or self.high is None or self.level is None
                    else CountInterval(low=self.low, high=self.high, level=self.level))
        picture = PIL.Image.fromarray(overlay(
            self.image, self.density, count=self.count, uncertainty=self.uncertainty, interval=interval,
            points=self.points, sizes=self.head_sizes, title=readable(title),
            zones=drawn_zones(self.outlined, self.zones) if self.outlined else ()))
        # Saved as a PNG beside photographs it is known as ours, see `OWN_TEXT`.
        signed = PIL.PngImagePlugin.PngInfo()
        signed.add_text("Software", "crowddist")
        picture.encoderinfo = {"pnginfo": signed}
        return picture

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists: all but the density and the image, whose `height` and `width` are told; `zones` and
        `notes` only where there are some.
        """
        height, width = self.image.shape[:2]
        return {"count": self.count, "low": self.low, "high": self.high, "level": self.level,
                "uncertainty": self.uncertainty, "height": height, "width": width, "points": self.points.tolist(),
                "head_sizes": None if self.head_sizes is None else self.head_sizes.tolist(),
                **({"zones": dict(self.zones)} if self.zones else {}),
                **({"notes": list(self.notes)} if self.notes else {})}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict())

    def to_supervision(self) -> Any:
        """The heads as `supervision.Detections`: squares round them where the counter gives sizes, else boxes without
        an extent, whose centre (`Position.CENTER`) is the head. Raises InputError where supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise InputError("supervision is not installed; pip install supervision") from None
        centres = self.points[:, :2] + np.float32(0.5)  # boxes are told by the edges of pixels
        half = np.float32(0.0) if self.head_sizes is None else self.head_sizes[:, None] / 2
        return supervision.Detections(
            xyxy=np.concatenate([centres - half, centres + half], axis=1), confidence=self.points[:, 2].copy(),
            class_id=np.zeros(len(self.points), int),
            data={"class_name": np.full(len(self.points), "head")})


class CrowdCounter:
    """A counter, ready to count; `load` makes one.

    Threads may share it: one counts at a time, the others wait. For more at once, load one in each process.
    """

    def __init__(self, predictor: BasePredictor) -> None:
        self.predictor = predictor
        """What counts, for what this class does not offer."""
        self._lock = threading.Lock()

    @property
    def about_intervals(self) -> str:
        """Where the counts' intervals come from, or why there are none; a line."""
        return "no intervals" if self.predictor.intervals is None else self.predictor.intervals.told

    def count(self, image: AnyImage, *, zones: Zones = None, bits: int | None = None) -> CountResult:
        """Counts one image of any size.

        Args:
            image: a path, an address (file://, s3://, http(s)://), a PIL image, a NumPy array or a PyTorch tensor, see
                `crowddist.data.any_image.any_pixels`.
            zones: parts of the image that are counted too: a file, path or URL, or polygons by name, K x 2 x, y in px;
                see `crowddist.data.zones.files.as_zones`.
            bits: of a uint16 array, whose white is 2^bits - 1; None: told by its numbers.

        Raises:
            InputError: it is none of these, cannot be read, nothing is left of it at the size it is counted at, or the
                zones are wrong or lie outside it.
        """
        zone_set = as_zones(zones)
        pixels, notes = self._read(image, zone_set, bits)
        with self._lock:
            found = self.predictor.predict(pixels)
        return as_result(found, pixels, self._placed(zone_set, found, pixels), notes)

    def count_many(self, images: Iterable[AnyImage], *, zones: Zones = None, batch: int = BATCH,
                   bits: int | None = None) -> Iterator[CountResult]:
        """Counts images in their order, each as it comes: a result before the next `batch` images are read.

        Args:
            images: of the kinds that `count` takes, also mixed.
            zones: of all images, as `count` takes them.
            batch: images that are read, and where equally large counted, at once. The counts are those of `count` but
                for rounding.

        Raises:
            InputError: as `count`, with the image's number, from 0.
        """
        if not isinstance(batch, int | np.integer) or batch < 1:
            raise InputError(f"batch must be at least 1, a whole number, got {batch!r}")
        zone_set, numbered = as_zones(zones), enumerate(_several(images))
        at_once = min(batch, 2**31)
        while read := [self._numbered(number, image, zone_set, bits) for number, image in islice(numbered, at_once)]:
            with self._lock:
                found = list(self.predictor.predict_views([pixels for pixels, _ in read]))
            for each, (pixels, notes) in zip(found, read, strict=True):
                yield as_result(each, pixels, self._placed(zone_set, each, pixels), notes)

    def _numbered(self, number: int, image: AnyImage, zones: ZoneSet | None,
                  bits: int | None) -> tuple[np.ndarray, tuple[str, ...]]:
        try:
            return self._read(image, zones, bits)
        except InputError as error:
            raise InputError(f"image {number}: {error}") from None

    def _read(self, image: AnyImage, zones: ZoneSet | None,
              bits: int | None) -> tuple[np.ndarray, tuple[str, ...]]:
        """The pixels of an image that can be counted, and that its zones fit; and notes on it."""
        pixels, notes = any_image(image, bits=bits)
        pixels = self.predictor.checked(pixels)
        if zones is not None:
            zones.outlined((pixels.shape[0], pixels.shape[1]))
        return pixels, notes

    def _placed(self, zones: ZoneSet | None, found: ImagePrediction, pixels: np.ndarray) -> PlacedZones | None:
        return None if zones is None else zones.on((pixels.shape[0], pixels.shape[1]), seen=found.size,
                                                   cells=found.density.shape, stride=self.predictor.stride)


def _several(images: Any) -> Iterable[AnyImage]:
    """The images, which may be one array of all. Raises InputError for what looks like one image: its rows, or the
    letters of its path, would be counted.
    """
    shape = tuple(getattr(images, "shape", ()))
    one = len(shape) == 3 and (shape[-1] in (1, 3, 4) or (not isinstance(images, np.ndarray) and shape[0] in (1, 3, 4)))
    if one or isinstance(images, str | os.PathLike | bytes) or not isinstance(images, Iterable):
        raise InputError(f"count_many takes several images, got {f'the shape {shape}' if one else repr(images)[:80]}; "
                         "give a list of them, or one to count")
    return images


def load(place_or_name: str | os.PathLike[str] = "", *, device: str = "auto", image_size: int | None = None,
         zooms: Sequence[float] | None = None, one_pass: bool = False, level: float = LEVEL) -> CrowdCounter:
    """A counter, ready to count.

    Args:
        place_or_name: the folder of a run that has ended, one of its checkpoint files, or a file of `crowddist export`,
            which is run without PyTorch; path or URL. "" or "rendered": the counter that comes with crowddist, which
            only saw rendered crowds.
        device: of PyTorch: cpu, cuda, cuda:1, mps; auto: the GPU where there is one.
        image_size: images are resized to this longest side, px; 0: not resized, large ones are seen in tiles; None: as
            in training. Counts at another size than in training are off, and have no interval.
        zooms: sizes, relative to `image_size`, that an image is counted at; they are merged place by place. None: those
            that the run evaluated at; (1,): one, which is fastest.
        one_pass: count by the mean of the ensemble's masks: faster, without an uncertainty and an interval.
        level: share of images like the source's whose true count lies in its interval, above 0 and below 1.

    Raises:
        InputError, FileNotFoundError: there is no such counter or device, or a value is out of its range.
    """
    return CrowdCounter(open_counter(place_or_name, device=device, image_size=image_size, zooms=zooms,
                                     one_pass=one_pass, level=level))


def as_result(found: ImagePrediction, pixels: np.ndarray, zones: PlacedZones | None = None,
              notes: Iterable[str] = ()) -> CountResult:
    """A predictor's finding in an image, (H, W, 3) uint8 RGB, as a result, with the persons in each zone, and what was
    doubtful about the image, names of `NOTES`.
    """
    interval = found.interval
    low, high, level = (interval.low, interval.high, interval.level) if interval else (None, None, None)
    return CountResult(count=found.count, low=low, high=high, level=level, uncertainty=found.uncertainty,
                       points=found.points, head_sizes=found.sizes, density=found.density, image=pixels,
                       zones=zones.counts(found.density) if zones else {}, outlined=zones,
                       notes=tuple(NOTES[note] for note in notes))
