from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from crowddist.inference.intervals import CountInterval
from crowddist.inference.metrics import Metric
from crowddist.reports import sheets
from crowddist.reports.charts import curves, pixels, rounds_chart
from crowddist.reports.sheets import overlay, round_sheet, rounds_table, samples_sheet, translation_sheet

ROWS = [
    {"round": 0, "target/mae": 31.24, "target/rmse": 155.1},
    {"round": 1, "title": "labels", "target/mae": 22.5, "target/rmse": float("nan"), "labels/kept_mass": 0.834},
    {"round": "supervised", "target/mae": 9.96, "target/rmse": 20.0, "labels/kept_mass": None},
]


def street(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), (90, 120, 100), np.uint8)


def one_head(height: int, width: int, row: int, column: int) -> np.ndarray:
    cells = np.zeros((math.ceil(height / 8), math.ceil(width / 8)), np.float32)
    cells[row, column] = 1.0
    return cells


def redness(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(int) - picture[..., 2]


def photograph_rows(picture: np.ndarray) -> np.ndarray:
    """The rows of an overlay that are not white strips: their left border is no white."""
    return np.flatnonzero((picture[:, 0] != 255).any(axis=1))


@pytest.mark.parametrize(
    ("height", "width", "drawn"),
    [(300, 400, (720, 960)), (1080, 1920, (1080, 1920)), (75, 101, (713, 960)), (3000, 4000, (1440, 1920))],
)
def test_heat_lies_on_the_cell_it_stands_for(height, width, drawn):
    rows, columns = math.ceil(height / 8), math.ceil(width / 8)
    row, column = rows // 3, 2 * columns // 3
    picture = overlay(street(height, width), one_head(height, width, row, column), count=1.0)
    inside = picture[photograph_rows(picture)]
    assert picture.dtype == np.uint8 and inside.shape == (*drawn, 3) and picture.shape[1] == drawn[1]
    y, x = np.unravel_index(redness(inside).argmax(), inside.shape[:2])
    scale = drawn[1] / width
    assert abs((y + 0.5) / scale - (row + 0.5) * 8) <= 4 and abs((x + 0.5) / scale - (column + 0.5) * 8) <= 4
    # Elsewhere the image is greyed and nothing else; the strips above and below are white at their border.
    assert (inside[-1, -1] == inside[0, 0]).all() and np.ptp(inside[0, 0].astype(int)) < 10
    assert photograph_rows(picture)[0] > 20 and len(picture) - photograph_rows(picture)[-1] > 20


def test_an_empty_map_draws_no_heat():
    picture = overlay(street(300, 400), np.zeros((38, 50), np.float32), count=0.0)
    inside = picture[photograph_rows(picture)]
    assert (inside == inside[0, 0]).all()


def test_words_and_marks_change_only_their_places():
    image, cells = street(300, 400), np.zeros((38, 50), np.float32)
    plain = overlay(image, cells, count=12.0, title="a")
    bare = overlay(image, cells, count=12.0, title="a", captioned=False)
    assert len(bare) < len(plain) and np.array_equal(bare, plain[len(plain) - len(bare):]), "all but the strip above"
    rows = photograph_rows(plain)
    interval = CountInterval(low=9.0, high=15.0, level=0.9)
    for other in ({"count": 13.0}, {"count": 12.0, "uncertainty": 2.0}, {"count": 12.0, "truth": 11.0},
                  {"count": 12.0, "interval": interval}):
        picture = overlay(image, cells, title="a", **other)
        changed = np.flatnonzero((picture != plain).any(axis=(1, 2)))
        assert changed.size and changed[-1] < rows[0]
    marked = overlay(image, cells, count=12.0, title="a", points=np.array([[100.0, 50.0, 0.9]]))
    y, x = np.nonzero((marked != plain).any(axis=2)[rows])
    # The point's pixel (100, 50) is drawn 2.4 times as large.
    assert (x.min() + x.max()) / 2 == pytest.approx(240.7,
                                                    abs=1) and (y.min() + y.max()) / 2 == pytest.approx(120.7, abs=1)
    assert 8 <= np.ptp(x) <= 20


def sheet(image: np.ndarray, **other) -> np.ndarray:
    cells = one_head(*image.shape[:2], 2, 3)
    facts = {"density": cells, "spread": cells * 0.1, "keep": np.ones(cells.shape, bool), "points": np.zeros((0, 4)),
             "count": 1.0}
    return round_sheet(image, **facts | other)


def test_sheet_has_five_panels_of_one_image():
    image = street(300, 400)
    keep = np.ones((38, 50), bool)
    keep[:, :25] = False
    picture = sheet(image, keep=keep, points=np.array([[200.0, 150.0]]), true_points=np.array([[300.0, 150.0]]),
                    title="street")
    assert picture.dtype == np.uint8 and picture.shape[1] == 5 * 480 + 4 * 16
    top = int(np.flatnonzero((picture[:, ::496] != 255).any(axis=2).all(axis=1))[0])
    panels = [picture[top : top + 360, 496 * panel : 496 * panel + 480].astype(int) for panel in range(5)]
    assert (panels[0] == image[0, 0]).all()
    # Where the head is: row 2, column 3 of cells of 8 px, at a scale of 1.2; the two maps differ in their colours.
    assert np.abs(np.array(np.unravel_index(redness(panels[1]).argmax(), (360, 480))) - (24, 33.6)).max() <= 5
    assert (panels[1][23, 33] != panels[2][23, 33]).any() and (panels[2][23, 33] != panels[2][200, 200]).any()
    # Green where cells are kept, dark where not.
    assert panels[3][:, :239].max() < 50 and (panels[3][:, 241:, 1] > panels[3][:, 241:, 0] + 30).all()
    middle, right = panels[4][180, 234:248], panels[4][174:188, 360]
    assert (middle.max() > 200 and (right[:, 0] - right[:, 1]).max() > 100
            and np.ptp(panels[4][50:100], axis=(0, 1)).max() == 0)


def test_sheet_of_an_image_without_people():
    image = street(90, 160)
    empty = np.zeros((12, 20), np.float32)
    picture = sheet(image, density=empty, spread=empty, keep=np.zeros((12, 20), bool), count=0.0)
    assert picture.shape[1] == 2464


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": np.zeros(3)}, r"density must be a map .* got \(3,\)"),
        ({"spread": np.full((2, 2), np.nan)}, "spread must be a map"),
        ({"points": np.zeros(4)}, "points must be N x 2"),
    ],
)
def test_what_is_no_map_or_point_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        sheet(street(90, 160), **change)


def test_a_translation_sheet_has_a_row_an_image():
    colours = ((200, 30, 30), (30, 30, 200), (30, 200, 30))
    source, translated, target = (np.full((120, 240, 3), colour, np.uint8) for colour in colours)
    tall = np.full((480, 240, 3), colours[2], np.uint8)
    picture = translation_sheet([source, source], [translated, translated], [tall])
    assert picture.dtype == np.uint8 and picture.shape[1] == 3 * 480 + 2 * 16
    # Twice as large: the first row is as high as the tall image of the target, the second has none.
    heading = picture.shape[0] - (960 + 16) - (240 + 16)
    for column, colour in enumerate(colours):
        first = picture[heading : heading + 240, 496 * column : 496 * column + 480]
        second = picture[heading + 976 : heading + 976 + 240, 496 * column : 496 * column + 480]
        assert (first == colour).all() and (second == (colour if column < 2 else 255)).all()
    assert (picture[heading + 240 : heading + 960, :480] == 255).all() and (picture[heading + 240 : heading + 960, 992:]
                                                                            == colours[2]).all()
    with pytest.raises(ValueError,
                       match="as many images of the source as translated ones are needed, at least one, got 1 and 2"):
        translation_sheet([source], [source, source], [])
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        translation_sheet([], [], [target])


def test_what_is_no_image_is_refused():
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="image must be"):
            overlay(image, np.zeros((2, 2)), count=0.0)


def test_charts():
    lines = {"source": [(step, 1.0 / (1 + step)) for step in range(50)], "round 1": [(3, 0.5)], "later": []}
    picture = pixels(curves(lines, title="Curves", label="loss"))
    assert (picture.dtype == np.uint8 and picture.shape == (648, 1152, 3)
            and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50)
    # Points in another order are the same curve.
    assert (pixels(curves({**lines, "source": lines["source"][::-1]}, title="Curves", label="loss")) == picture).all()
    assert (pixels(curves({**lines, "source": lines["source"][:9]}, title="Curves", label="loss")) != picture).any()
    with pytest.raises(ValueError, match="no curve to draw"):
        curves({"later": []}, title="Curves", label="loss")
    chart = pixels(rounds_chart(ROWS[:2]))
    assert chart.shape == (432, 768, 3) and (chart != pixels(rounds_chart(ROWS[:1]))).any()
    with pytest.raises(ValueError, match="no round has the metric target/mae"):
        rounds_chart([{"round": 0, "target/map": 0.5}])


def test_table_to_the_letter():
    columns = [
        Metric(key="target/mae", heading="MAE", unit="people", digits=1),
        Metric(key="target/rmse", heading="rmse", unit="people", digits=2),
        Metric(key="labels/kept_mass", heading="kept", unit="%", digits=0, scale=100),
    ]
    assert rounds_table(ROWS, columns).splitlines() == [
        "round                 MAE    rmse  kept",
        "                   people  people     %",
        "-----------------  ------  ------  ----",
        "0 (no adaptation)    31.2  155.10     -",
        "1 (labels)           22.5       -    83",
        "supervised           10.0   20.00     -",
    ]
    assert rounds_table([], columns[:1]).splitlines() == ["round     MAE", "       people", "-----  ------"]


def test_overlay_of_a_real_photograph():
    import cv2

    data = Path(os.environ.get("CROWDDIST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    file = data / "shanghaitech/part_B_final/train_data/images/IMG_150.jpg"
    if not file.exists():
        pytest.skip(f"no ShanghaiTech images at {data}; set CROWDDIST_DATA")
    image = cv2.imread(str(file))[..., ::-1]
    picture = overlay(image, one_head(*image.shape[:2], 40, 60), count=1.0, truth=99, title=file.name)
    inside = picture[photograph_rows(picture)]
    assert inside.shape == image.shape
    # Far from the head the photograph can be recognised: its brightness is all there.
    assert np.corrcoef(inside[500:].mean(axis=2).ravel(), image[500:].mean(axis=2).ravel())[0, 1] > 0.999


def test_importing_draws_nothing_in():
    import subprocess
    import sys

    code = ("import sys, crowddist.reports.sheets; print([name for name in ('matplotlib', 'cv2', 'PIL') if name in "
            "sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert sheets.__doc__


def test_heads_of_known_size_are_squares_in_the_overlay_and_on_the_sheet() -> None:
    image, density = np.full((480, 960, 3), 90, np.uint8), np.zeros((60, 120), np.float32)
    points, sizes = np.array([[200.0, 100.0, 0.9], [600.0, 300.0, 0.5]]), np.array([40.0, 80.0])
    rings = overlay(image, density, count=2.0, points=points)
    squares = overlay(image, density, count=2.0, points=points, sizes=sizes)
    changed = np.argwhere((rings != squares).any(2))
    assert np.ptp(changed[:, 1]) >= 400 + (40
                                           + 80) / 2 - 2, "from the left edge of the one to the right edge of the other"
    frame = {"density": density, "spread": density, "keep": density > 0, "count": 2.0}
    assert (round_sheet(image, points=points, sizes=sizes, **frame) != round_sheet(image, points=points, **frame)).any()
    with pytest.raises(ValueError, match="sizes as many"):
        overlay(image, density, count=2.0, points=points, sizes=sizes[:1])


@pytest.mark.parametrize("size", [(512, 8), (8, 512), (64, 20)])
def test_pictures_of_strips_are_neither_huge_nor_without_words(size: tuple[int, int]) -> None:
    image, cells = street(*size), one_head(*size, 0, 0)
    pictures = [overlay(image, cells, count=1.0, points=np.array([[3.0, 4, 1]]), title="a long name of a file"),
                samples_sheet([("a", image, np.array([[3.0, 4]]))] * 4, title="t"),
                translation_sheet([image], [image], [image]),
                round_sheet(image, density=cells, spread=cells, keep=cells > 0, points=np.zeros((0, 3)), count=1.0)]
    for picture in pictures:
        assert picture.shape[1] > 300 and picture.shape[0] < 4000 and (picture != 255).any()
