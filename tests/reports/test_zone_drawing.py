"""Zones on a picture: their borders lie where the zones do, and their labels stay in the picture."""

from __future__ import annotations

import numpy as np

from crowddist.reports.charts import counts_chart, pixels
from crowddist.reports.sheets import overlay, zones_overlay
from crowddist.reports.zone_drawing import COLOURS, DrawnZone, draw_zones


def test_a_border_lies_on_the_zone() -> None:
    canvas = np.full((200, 300, 3), 90, np.uint8)
    square = np.array([[50.0, 20.0], [100.0, 20.0], [100.0, 60.0], [50.0, 60.0]])
    draw_zones(canvas, [DrawnZone(name="a", count=1, outlines=(square,))], 2.0, 12)
    painted = (canvas == COLOURS[0]).all(axis=2)
    rows, columns = np.nonzero(painted)
    # Edges at 2 * 20 and 2 * 60 px from the top: pixel j covers j to j + 1, lines are two pixels wide.
    assert abs((rows.min() + rows.max() + 1) / 2 - 80) <= 1 and abs((columns.min() + columns.max() + 1) / 2 - 150) <= 1
    assert abs(np.ptp(rows) + 1 - 80) <= 3 and abs(np.ptp(columns) + 1 - 100) <= 3
    assert (canvas[:30] == 90).all() and (canvas[100:115, 150:190] == 90).all(), "outside and inside stay as they are"


def test_a_label_stays_in_the_picture() -> None:
    far = np.array([[280.0, 180.0], [500.0, 180.0], [500.0, 400.0]])
    for size_px in (12, 90):
        canvas = np.full((200, 300, 3), 90, np.uint8)
        draw_zones(canvas, [DrawnZone(name="Süd-Tor mit langem Namen", count=12.3, outlines=(far,))], 1.0, size_px)
        assert (canvas[150:, 100:] == (20, 20, 25)).all(axis=2).sum() > 50


def test_an_overlay_shows_zones_and_keeps_its_scale_of_colours() -> None:
    image, density = np.full((480, 960, 3), 90, np.uint8), np.zeros((60, 120), np.float32)
    density[20, 20] = 0.5
    plain = overlay(image, density, count=1.0)
    zone = DrawnZone(name="gate", count=0.5, outlines=(np.array([[500.0, 100], [900, 100], [900, 400]]),))
    shown = overlay(image, density, count=1.0, zones=[zone])
    changed = np.argwhere((plain != shown).any(axis=2))
    assert shown.shape == plain.shape and changed[:, 1].min() >= 490 and np.ptp(changed[:, 0]) >= 295
    assert (overlay(image, density, count=1.0, peak=0.5) == plain).all()
    weak = overlay(image, density, count=1.0, peak=50.0)
    assert (weak != plain).any() and weak.shape == plain.shape


def test_a_zone_has_one_colour_on_pictures_and_in_charts() -> None:
    lines = {name: [(0.0, height), (9.0, height)] for name, height in (("all", 9.0), ("a", 4.0), ("b", 5.0))}
    chart = pixels(counts_chart(lines, title="gate", peak=(0.0, 9.0)))
    canvas = np.full((200, 300, 3), 90, np.uint8)
    square = np.array([[10.0, 20.0], [60.0, 20.0], [60.0, 60.0], [10.0, 60.0]])
    zones = [DrawnZone(name=name, outlines=(square + 60 * number,)) for number, name in enumerate("ab")]
    draw_zones(canvas, zones, 1.0, 12)
    for picture in (chart, canvas):
        assert [bool((picture == colour).all(axis=2).any()) for colour in COLOURS[:3]] == [True, True, False]


def test_a_filled_zone_keeps_its_hole_and_the_rest() -> None:
    image = np.full((500, 960, 3), 90, np.uint8)
    outer, hole = (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)
                   for x0, y0, x1, y1 in ((300, 100, 800, 400), (450, 200, 600, 300)))
    picture = zones_overlay(image, [DrawnZone(name="ring", outlines=(outer, hole))], title="street.jpg", words="1 zone")
    body = picture[-500:]
    assert picture.shape[1] == 960 and len(picture) > 540
    assert (body[250, 500] == 90).all() and (body[450, 100] == 90).all() and (body[350, 500] != 90).any()
