"""Zones and their place on an image: what is checked, and the persons in each."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from crowddist.data.regions import cell_shares
from crowddist.errors import InputError, require_choice
from crowddist.ops.regions import FARTHEST_PX, centred_pixels, self_crossing

WHOLE = "all"
"""Name of the whole image in tables; no zone may have it."""
UNITS = ("px", "share")
MAX_ZONES = 256
"""ours: a mask of eight bits has no more."""
MAX_CORNERS, MAX_CORNERS_OF_ALL = 5000, 20_000
"""ours: of a zone, where every side is compared with every other, and of all zones of an image: these take seconds."""
ALIKE = 0.01
"""ours: sides' ratios so close are the same view, as a camera's 1920 x 1088 and 1920 x 1080."""
WHY_NO_INTERVALS = "no intervals of zones: a counter's errors are measured on whole images"
"""For people, where a table has empty cells."""
_LONGEST_NAME = 80


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A part of an image: a polygon, or pixels of a mask."""

    name: str
    polygon: np.ndarray | None = None
    """K x 2: x, y of its corners, from the image's left and top edge, in the set's unit."""
    pixels: np.ndarray | None = None
    """(H, W) bool."""


@dataclass(frozen=True, kw_only=True)
class OutlinedZones:
    """Zones on images of one size."""

    names: tuple[str, ...]
    outlines: tuple[tuple[np.ndarray, ...], ...]
    """One or more polygons a zone, K x 2 x, y in px from the image's left and top edge, holes too; for drawing."""
    areas: tuple[float, ...]
    """The part of the image's pixels that lies in each zone, above 0, at most 1."""
    covered: float
    """The part that lies in any zone: less than the sum of `areas` where zones overlap."""
    notes: tuple[str, ...]
    """What was doubtful: one line each."""


@dataclass(frozen=True, kw_only=True)
class PlacedZones(OutlinedZones):
    """Zones on images of one size, for density maps of one shape."""

    shares: np.ndarray
    """(Z, h, w) float32, 0 to 1: the part of each cell that lies in each zone."""

    def counts(self, density: np.ndarray) -> dict[str, float]:
        """Persons in each zone: the sum of the density (h, w) inside it; zones that overlap share persons."""
        sums = (self.shares * density).sum(axis=(1, 2), dtype=np.float64)
        return dict(zip(self.names, sums.tolist(), strict=True))


class ZoneSet:
    """Checked zones of one camera.

    Args:
        zones: one or more.
        unit: of the polygons: pixels, or shares of the image's width and height.
        size: (height, width) of the image that they were drawn on, px; None: not known.
        place: the file, for messages.
        notes: what was doubtful about it, one line each.

    Raises:
        InputError: naming the zone, for a name that is missing, used twice or not fit for a table, and for what is no
            polygon, or one that crosses itself.
    """

    def __init__(self, zones: Sequence[Zone], *, unit: Literal["px", "share"] = "px",
                 size: tuple[int, int] | None = None, place: str = "zones", notes: Sequence[str] = ()) -> None:
        require_choice(f"{place}: unit", unit, UNITS)
        self.unit, self.size, self.place, self.notes = unit, size, place, tuple(notes)
        if not 0 < len(zones) <= MAX_ZONES:
            raise InputError(f"{place}: {len(zones)} zones; there must be 1 to {MAX_ZONES}")
        names = [_checked_name(zone.name, place) for zone in zones]
        if repeated := [name for name, number in Counter(names).items() if number > 1]:
            raise InputError(f"{place}: {names.count(repeated[0])} zones are called {repeated[0]!r}; give each a name "
                             "of its own")
        checked, left = [], MAX_CORNERS_OF_ALL
        for name, zone in zip(names, zones, strict=True):
            if zone.pixels is None:
                polygon = _checked_polygon(zone, name, unit, place, left)
                zone, left = Zone(name=name, polygon=polygon), left - len(polygon)
            checked.append(zone)
        self.zones = tuple(checked)
        self.names = tuple(names)
        self._outlined: tuple[tuple[int, int], OutlinedZones] | None = None
        self._placed: tuple[Any, PlacedZones] | None = None

    def outlined(self, size: tuple[int, int]) -> OutlinedZones:
        """The zones on images of `size` (height, width) px; the last answer is kept, for images of one size.

        Raises:
            InputError: a zone lies outside the image, or was drawn on one of another shape.
        """
        kept = self._outlined  # threads may share the zones
        if kept is None or kept[0] != size:
            self._outlined = kept = (size, self._outline(size))
        return kept[1]

    def on(self, size: tuple[int, int], *, seen: tuple[int, int], cells: tuple[int, ...], stride: int) -> PlacedZones:
        """The zones on images of `size` (height, width) px, for their density maps; the last answer is kept.

        Args:
            seen: (height, width) of the image as the network saw it, px.
            cells: (h, w) of its density map.
            stride: side of a cell, px of the image as the network saw it.

        Raises:
            InputError: as `outlined`.
        """
        key, kept = (size, seen, cells, stride), self._placed
        if kept is None or kept[0] != key:
            outlined, (scale, _) = self.outlined(size), self._scale(size)
            shares = [cell_shares(_pixels(zone, size, scale), seen, cells, stride) for zone in self.zones]
            self._placed = kept = (key, PlacedZones(**vars(outlined), shares=np.stack(shares)))
        return kept[1]

    def num_inside(self, points: np.ndarray, size: tuple[int, int]) -> dict[str, int]:
        """How many points lie in each zone on images of `size` (height, width) px.

        Args:
            points: N x 2 or wider: x, y in px, pixel j having its centre at j.

        Raises:
            InputError: as `outlined`.
        """
        self.outlined(size)
        scale, _ = self._scale(size)
        columns, rows = (np.clip(np.floor(points[:, axis] + 0.5), 0, size[1 - axis] - 1).astype(np.int64)
                         for axis in (0, 1))
        return {name: int(_pixels(zone, size, scale)[rows, columns].sum())
                for name, zone in zip(self.names, self.zones, strict=True)}

    def _outline(self, size: tuple[int, int]) -> OutlinedZones:
        scale, notes = self._scale(size)
        outlines, areas, anywhere = [], [], np.zeros(size, bool)
        for zone, name in zip(self.zones, self.names, strict=True):
            polygon, pixels = None if zone.polygon is None else zone.polygon * scale, _pixels(zone, size, scale)
            if not pixels.any():
                outside = polygon is not None and not _touches(polygon, size)
                raise InputError(f"{self.place}: the zone {name!r} {'lies outside' if outside else 'holds no pixel of'}"
                                 f" the image of {_words(size)}; draw it on an image of this camera")
            if polygon is not None and (over := _overhang(polygon, size)) > 0:
                notes.append(f"{self.place}: the zone {name!r} reaches {over:.0f} px beyond the image of "
                             f"{_words(size)}; it ends at the border")
            outlines.append((polygon,) if polygon is not None else _contours(pixels))
            areas.append(float(pixels.mean()))
            anywhere |= pixels
        return OutlinedZones(names=self.names, outlines=tuple(outlines), areas=tuple(areas),
                             covered=float(anywhere.mean()), notes=tuple(notes))

    def _scale(self, size: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
        """What x and y of the polygons are multiplied by on an image of `size`, and notes."""
        if self.unit == "share":
            return np.array(size[::-1], np.float64), []
        if self.size is None or self.size == size:
            return np.ones(2), []
        drawn = self.size
        if abs(drawn[0] * size[1] - drawn[1] * size[0]) > ALIKE * drawn[1] * size[0]:
            raise InputError(f"{self.place}: the zones were drawn on an image of {_words(drawn)}, this one has "
                             f"{_words(size)}; draw them on an image of this camera")
        note = f"{self.place}: zones drawn on {_words(drawn)} are scaled to {_words(size)}"
        return np.array([size[1] / drawn[1], size[0] / drawn[0]]), [note]


def _checked_name(name: object, place: str) -> str:
    text = unicodedata.normalize("NFC", name).strip() if isinstance(name, str) else ""
    if not text or not text.isprintable() or len(text) > _LONGEST_NAME or text[0] in "=+-@":
        raise InputError(f"{place}: not the name of a zone: {str(name)[:100]!r}; give 1 to {_LONGEST_NAME} printable "
                         "characters that do not begin with = + - @, which spreadsheets take for formulas")
    if text == WHOLE:
        raise InputError(f"{place}: no zone may be called {WHOLE!r}, which means the whole image")
    return text


def _checked_polygon(zone: Zone, name: str, unit: str, place: str, most: int) -> np.ndarray:
    """A polygon's corners, without those that repeat the one before. Raises InputError for what is no polygon, and for
    more corners than `most`, which the other zones have left.
    """
    try:
        corners = np.asarray(zone.polygon, np.float64)
        sound = corners.ndim == 2 and corners.shape[1] == 2 and bool((np.abs(corners) <= FARTHEST_PX).all())
    except (TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise InputError(f"{place}: the corners of the zone {name!r} must be pairs of numbers x, y, got "
                         f"{str(zone.polygon)[:80]!r}")
    if unit == "share" and ((corners < 0) | (corners > 1)).any():
        raise InputError(f"{place}: the zone {name!r} has corners beyond 0 and 1, but shares of the image were said; "
                         "write \"unit\": \"px\" for pixels")
    corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
    if not 3 <= len(corners) <= MAX_CORNERS:
        raise InputError(f"{place}: the zone {name!r} has {len(corners)} different corners; a polygon has 3 to "
                         f"{MAX_CORNERS}")
    if len(corners) > most:
        raise InputError(f"{place}: its zones have more than {MAX_CORNERS_OF_ALL} corners together; leave out those "
                         "that no eye would miss")
    if crossing := self_crossing(corners):
        first, second, (x, y) = crossing
        raise InputError(f"{place}: the zone {name!r} crosses itself: its sides {first + 1} and {second + 1} meet at "
                         f"x, y = ({x:.4g}, {y:.4g}); put the corners in order along its border")
    return corners


def _pixels(zone: Zone, size: tuple[int, int], scale: np.ndarray) -> np.ndarray:
    """A zone's pixels of an image of `size`; (H, W) bool. A mask's image has the same ratio of sides, which
    `ZoneSet._scale` made sure of.
    """
    import cv2

    if zone.polygon is not None:
        return centred_pixels(zone.polygon * scale, size)
    assert zone.pixels is not None
    if zone.pixels.shape == size:
        return zone.pixels
    return cv2.resize(zone.pixels.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


def _contours(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
    import cv2

    found, _ = cv2.findContours(pixels.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return tuple(contour[:, 0].astype(np.float64) + 0.5 for contour in found)


def _overhang(polygon: np.ndarray, size: tuple[int, int]) -> float:
    """How far a polygon reaches beyond the image, px; 0 for less than a pixel, which is a slip of drawing."""
    most = float(max(-polygon.min(), (polygon - np.array(size[::-1])).max()))
    return most if most >= 1 else 0.0


def _touches(polygon: np.ndarray, size: tuple[int, int]) -> bool:
    return bool((polygon.max(axis=0) > 0).all() and (polygon.min(axis=0) < np.array(size[::-1])).all())


def _words(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} px"
