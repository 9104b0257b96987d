"""Zones on an image: persons in each by hand and naively, and what is refused or told."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.data.zones.files import make_zones
from crowddist.data.zones.zone import Zone, ZoneSet
from crowddist.errors import InputError

WHOLE_IMAGE = [[0, 0], [32, 0], [32, 16], [0, 16]]


def placed(zones: ZoneSet, size=(16, 32), seen=None, stride=8):  # type: ignore[no-untyped-def]
    seen = seen or size
    return zones.on(size, seen=seen, cells=(-(-seen[0] // stride), -(-seen[1] // stride)), stride=stride)


def test_persons_by_hand() -> None:
    """Cells of 8 px: the zone holds all of one cell, half of the next and a quarter of those below."""
    density = np.array([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]], np.float32)
    zones = make_zones({"gate": [[8, 0], [20, 0], [20, 4], [8, 4]], "right": [[16, 0], [32, 0], [32, 16], [16, 16]],
                        "whole": WHOLE_IMAGE})
    found = placed(zones).counts(density)
    assert found == {"gate": 2 * 0.5 + 4 * 0.25, "right": 4 + 8 + 64 + 128, "whole": 255}


def test_a_cell_that_reaches_beyond_the_image_counts_whole() -> None:
    """20 px wide in cells of 8: the last cell's persons lie in its first 4 px."""
    zones = make_zones({"last": [[16, 0], [20, 0], [20, 8], [16, 8]],
                        "half of it": [[18, 0], [20, 0], [20, 8], [18, 8]]})
    density = np.array([[1.0, 1.0, 6.0]], np.float32)
    assert placed(zones, (8, 20)).counts(density) == {"last": 6, "half of it": 3}


@pytest.mark.parametrize("seed", range(5))
def test_zones_that_part_the_image_sum_to_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, seen = (int(rng.integers(20, 90)), int(rng.integers(20, 90))), (int(rng.integers(9, 50)), 48)
    density = rng.random((-(-seen[0] // 8), -(-seen[1] // 8))).astype(np.float32)
    middle, (height, width) = rng.uniform(0.2, 0.8, 2) * size[::-1], size
    border = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    parts = make_zones({f"{side}": [middle, border[side], border[side - 3]] for side in range(4)})
    labels = rng.integers(0, 5, size)
    masks = ZoneSet([Zone(name=f"{value}", pixels=labels == value) for value in range(5)], size=size)
    for zones in (parts, masks):
        found = placed(zones, size, seen).counts(density)
        assert sum(found.values()) == pytest.approx(density.sum(dtype=np.float64), rel=1e-5)
        assert min(found.values()) > 0


@pytest.mark.parametrize("seed", range(3))
def test_persons_against_single_pixels(seed: int) -> None:
    """Each cell's persons shared out to its pixels, and those inside added up one by one."""
    rng = np.random.default_rng(seed)
    size, seen, stride = (30, 44), (15, 22), 4
    density = rng.random((4, 6)).astype(np.float32)
    polygon = [[3.2, 1.1], [40.5, 6.3], [28.9, 27.7], [9.4, 22.8]]
    inside = placed(make_zones({"a": polygon}), size, seen, stride).counts(density)["a"]
    pixels = np.array([[_holds(polygon, x + 0.5, y + 0.5) for x in range(44)] for y in range(30)])
    expected = 0.0
    for row in range(4):  # of 8 px of the image, the last 6
        for column in range(6):
            cell = pixels[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            expected += density[row, column] * cell.mean()
    assert inside == pytest.approx(expected, rel=1e-5)


def _holds(polygon: list[list[float]], x: float, y: float) -> bool:
    """Convex, clockwise on the screen."""
    return all((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) >= 0
               for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True))


def test_shares_fit_any_image_and_pixels_those_of_their_shape() -> None:
    half = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
    density = np.array([[1.0, 2.0, 4.0, 8.0]], np.float32)
    for size in ((8, 32), (80, 320), (6, 24)):
        zones = make_zones({"left": half}, unit="share")
        assert placed(zones, size, (8, 32)).counts(density) == {"left": 3}
    left = Zone(name="left", polygon=np.array([[0, 0], [8, 0], [8, 4], [0, 4]]))
    zones = ZoneSet([left], size=(4, 16), place="z.json")
    larger = placed(zones, (8, 32))
    assert larger.counts(density) == {"left": 3}
    assert larger.notes == ("z.json: zones drawn on 16 x 4 px are scaled to 32 x 8 px",)
    assert not placed(zones, (4, 16), (8, 32)).notes
    mask = np.zeros((4, 16), bool)
    mask[:, :8] = True
    drawn = ZoneSet([Zone(name="m", pixels=mask)], size=(4, 16))
    assert placed(drawn, (8, 32)).counts(density) == {"m": 3}
    for refused in (zones, drawn):
        with pytest.raises(InputError, match="drawn on an image of 16 x 4 px, this one has 32 x 16 px"):
            placed(refused, (16, 32))


def test_a_zone_ends_at_the_border_with_a_note_or_lies_outside() -> None:
    found = placed(make_zones({"a": [[16, -9], [50, -9], [50, 16], [16, 16]]}))
    assert found.counts(np.ones((2, 4), np.float32)) == {"a": 4}
    assert found.notes == ("zones: the zone 'a' reaches 18 px beyond the image of 32 x 16 px; it ends at the border",)
    assert not placed(make_zones({"a": [[16, -0.5], [32.5, 0], [32, 16], [16, 16]]})).notes
    with pytest.raises(InputError, match="the zone 'a' lies outside the image of 32 x 16 px"):
        placed(make_zones({"a": [[33, 0], [50, 0], [50, 16]]}))
    with pytest.raises(InputError, match="the zone 'a' holds no pixel of the image"):
        placed(make_zones({"a": [[3.6, 3.6], [4.2, 3.6], [4.2, 4.2]]}))


@pytest.mark.parametrize(("name", "polygon", "words"), [
    ("gate", [[0, 0], [4, 4], [4, 0], [0, 4]], r"'gate' crosses itself: its sides 1 and 3 meet at x, y = \(2, 2\)"),
    ("gate", [[0, 0], [4, 4], [4, 4], [0, 0]], "'gate' has 2 different corners; a polygon has 3 to"),
    ("gate", [[0, 0], [4, float("nan")], [4, 4]], "corners of the zone 'gate' must be pairs of numbers"),
    ("gate", [[0, 0], [4, 0], [4, 1e9]], "must be pairs"),
    ("gate", "abc", "must be pairs"),
    ("gate", [[0, 0, 1]] * 3, "must be pairs"),
    ("", WHOLE_IMAGE, "not the name of a zone: ''"),
    ("a\nb", WHOLE_IMAGE, "not the name of a zone"),
    ("=SUM(A1)", WHOLE_IMAGE, "spreadsheets take for formulas"),
    ("all", WHOLE_IMAGE, "which means the whole image"),
    (7, WHOLE_IMAGE, "not the name of a zone: '7'"),
])
def test_what_is_no_zone_is_refused(name, polygon, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=words) as told:
        make_zones({name: polygon})
    assert "\n" not in str(told.value)


def test_names_are_used_once_and_there_is_a_zone() -> None:
    zones = [Zone(name=name, polygon=np.array(WHOLE_IMAGE)) for name in ("caf\u00e9", "cafe\u0301 ")]
    with pytest.raises(InputError, match="2 zones are called 'caf\u00e9'"):
        ZoneSet(zones)
    with pytest.raises(InputError, match="0 zones"):
        ZoneSet([])
    with pytest.raises(InputError, match="unit is 'percent'; choose one of px, share"):
        make_zones({"a": WHOLE_IMAGE}, unit="percent")
    with pytest.raises(InputError, match="beyond 0 and 1"):
        make_zones({"a": [[0, 0], [1, 0], [1, 1.2]]}, unit="share")


def test_a_closing_corner_is_no_corner() -> None:
    (zone,) = make_zones({"a": [*WHOLE_IMAGE, WHOLE_IMAGE[0]]}).zones
    assert zone.polygon is not None and len(zone.polygon) == 4


def test_areas_outlines_and_holes() -> None:
    zones = make_zones({"left": [[0, 0], [8, 0], [8, 16], [0, 16]], "top": [[0, 0], [32, 0], [32, 4], [0, 4]]})
    found = zones.outlined((16, 32))
    assert found.areas == (0.25, 0.25) and found.covered == 0.25 + 0.25 - 8 * 4 / (16 * 32)
    ring = np.ones((16, 32), bool)
    ring[4:12, 8:24] = False
    found = ZoneSet([Zone(name="ring", pixels=ring)], size=(16, 32)).outlined((16, 32))
    assert len(found.outlines[0]) == 2 and found.areas == (0.75,), "the hole is drawn too"
