from __future__ import annotations

import numpy as np
import pytest

from crowddist.reports.drawing import (
    Bar,
    Mark,
    caption,
    chosen,
    heat_colours,
    heated,
    legend,
    mark,
    spread_colours,
    step_px,
    stretched,
)


@pytest.mark.parametrize(
    ("image_px", "cells", "expected"),
    [(1024, 128, 8), (1023, 128, 8), (1017, 128, 8), (400, 400, 1), (480, 64, 7.5), (12, 2, 8)]
)
def test_a_cell_covers_whole_pixels_where_it_can(image_px, cells, expected):
    assert step_px(image_px, cells) == expected


def test_stretched_cells_lie_over_their_pixels_also_at_a_cut_border():
    cells = np.arange(6, dtype=np.float32).reshape(2, 3)
    # 12 x 20 px in cells of 8: the second row and the third column are cut in half.
    expected = np.kron(cells, np.ones((8, 8)))[:12, :20]
    for scale in (1, 3):
        canvas = np.zeros((12 * scale, 20 * scale, 3), np.uint8)
        assert (stretched(cells, (12, 20, 3), canvas, smooth=False) == np.kron(expected, np.ones((scale, scale)))).all()
    smooth = stretched(cells, (12, 20, 3), np.zeros((12, 20, 3), np.uint8), smooth=True)
    assert smooth.shape == (12, 20) and smooth[0, 0] == 0 and smooth.max() <= 5


def test_colours_tell_more_from_less():
    level = np.linspace(0, 1, 11, dtype=np.float32)[None]
    for colours in (heat_colours, spread_colours):
        rgb = colours(level)
        assert rgb.shape == (1, 11, 3) and rgb.dtype == np.uint8 and len(np.unique(rgb[0], axis=0)) == 11
    # Blue at the one end and red at the other; the spread ends in yellow.
    assert heat_colours(level)[0, 0].argmax() == 2 and heat_colours(level)[0, -1].argmax() == 0
    assert spread_colours(level)[0, -1, 1] > 200


def test_heat_leaves_low_values_clear_and_shows_a_tenth_of_the_peak():
    canvas = np.full((8, 24, 3), (100, 100, 100), np.uint8)
    bar = Bar(peak=1.0, unit="people", colours=heat_colours)
    painted = heated(canvas, np.array([[0.005, 0.1, 1.0]], np.float32), (8, 24, 3), bar).astype(int)
    assert (painted[:, :4] == 100).all()
    assert np.abs(painted[4, 12] - 100).max() > 40 and np.abs(painted[4, 20] - 100).max() > 40


def test_chosen_cells_are_tinted_and_the_rest_dark():
    painted = chosen(np.full((8, 16, 3), 100, np.uint8), np.array([[True, False]]), (8, 16, 3), (0, 200, 0))
    assert (painted[:, :8] == (70, 130, 70)).all() and (painted[:, 8:] == 30).all()


def test_marks_are_centred_and_coloured():
    for shape in ("ring", "cross"):
        canvas = np.full((41, 41, 3), 50, np.uint8)
        mark(canvas, np.array([[20.0, 12.0]]), shape, (255, 0, 255), 6)
        rows, columns = np.nonzero((canvas != 50).any(axis=2))
        assert abs((rows.min() + rows.max()) / 2 - 12) <= 0.5 and abs((columns.min() + columns.max()) / 2 - 20) <= 0.5
        strength = canvas.astype(int)[..., 0] - canvas[..., 1]
        assert strength.max() > 100 and (strength[np.abs(np.arange(41) - 12) > 8] == 0).all()
        assert (canvas[12, 20] == 50).all() == (shape == "ring")
    # Far outside nothing is drawn and nothing breaks.
    mark(canvas, np.array([[-500.0, 9000.0]]), "ring", (255, 0, 255), 6)


def test_strips_are_as_wide_as_told_and_nothing_is_cut():
    long = "a name of a file that somebody made far too long for the picture.jpg"
    for width in (300, 900):
        strip = caption(width, 30, long, "line")
        assert strip.shape[1] == width and (strip[:, -2:] == 255).all() and (strip < 128).any()
        bar = Bar(peak=0.25, unit=long[:20], colours=heat_colours)
        row = legend(width, 30, bar, [Mark(shape="cross", colour=(255, 0, 0), text="true (12)")])
        assert row.shape[1] == width and (row[:, -2:] == 255).all() and ((row[..., 0] > 200) & (row[..., 1] < 60)).any()
    assert caption(300, 30, "", "line").shape[0] < caption(300, 30, "title", "line").shape[0]


def test_squares_have_the_sizes_of_their_heads():
    canvas = np.full((80, 120, 3), 100, np.uint8)
    mark(canvas, np.array([[30.0, 40.0], [90.0, 40.0]]), "square", (0, 255, 0), np.array([10.0, 20.0]))
    for x, radius in ((30, 10), (90, 20)):
        for edge in ((40 - radius, x), (40 + radius, x), (40, x - radius), (40, x + radius)):
            assert canvas[edge][1] > 200 > canvas[edge][0] + 100, edge
        assert (canvas[40 - radius + 4 : 40 + radius - 3, x - radius + 4 : x + radius - 3]
                == 100).all(), "what is inside is left as it is"
