"""The check of points and boxes: a few bad ones are dropped and told, many stop with the likely cause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowddist.data.convert.points import box_centres, check_boxes, check_points
from crowddist.errors import InputError

PLACE = Path("GT_IMG_1.mat")


def counted(doubts):
    return {doubt.kind: doubt.number for doubt in doubts if doubt.number}


def crowd(number, size=(32, 48)):
    """Points inside an image, no two alike."""
    return np.random.default_rng(number).uniform(2, np.array(size[::-1]) - 2, (number, 2))


def test_points_inside_are_kept_to_the_last_digit():
    points = np.array([[0, 0], [0.25, 1.5], [47.75, 31.75], [0, 31.9]])
    stored, doubts = check_points(points, (32, 48), PLACE)
    np.testing.assert_array_equal(stored, points.astype(np.float32))
    assert stored.dtype == np.float32 and doubts == []


def test_points_less_than_a_pixel_outside_are_moved_to_the_border():
    stored, doubts = check_points(np.array([[-0.99, 3], [48.99, 32], [5, -0.01], [3, 3]]), (32, 48), PLACE)
    np.testing.assert_array_equal(stored, [[0, 3], [47, 31], [5, 0], [3, 3]])
    assert counted(doubts) == {"num_clipped_points": 3}


@pytest.mark.parametrize("point", [(-1.0, 5), (-50, 5), (49.0, 5), (1e9, 5), (5, -1.0), (5, 33.0), (1e300, -1e300)])
def test_a_point_a_pixel_outside_is_dropped_and_told(point):
    stored, doubts = check_points(np.array([[3, 3], point, [7, 8]]), (32, 48), PLACE)
    np.testing.assert_array_equal(stored, [[3, 3], [7, 8]])
    kind, number, reason = doubts[0]
    assert (kind, number) == ("num_outside_points", 1)
    assert [doubt.kind for doubt in doubts[1:]] == ["num_swapped_images"] * ("swapped" in reason)
    assert reason.startswith(f"point 2 of 3, x, y = ({point[0]:g}, {point[1]:g}): outside the image of 48 x 32 px")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_point_that_is_no_number_is_dropped_and_told(value):
    stored, doubts = check_points(np.array([[3, value], [5, 5]]), (32, 48), PLACE)
    assert stored.tolist() == [[5, 5]] and counted(doubts) == {"num_invalid_points": 1}
    assert doubts[0].reason == f"point 1 of 2, x, y = (3, {value:g}): not a pair of numbers"


@pytest.mark.parametrize(("heads", "bad", "taken"), [
    (3, 3, True), (4, 4, False), (20, 3, True), (20, 4, False), (50, 5, True), (50, 6, False), (99, 9, True),
    (100, 1, True), (100, 2, False), (121, 1, True), (199, 1, True), (199, 2, False), (200, 2, True), (2550, 25, True),
    (2550, 26, False)])
@pytest.mark.parametrize("value", [500.0, np.nan])
def test_many_bad_points_are_no_slips(heads, bad, taken, value):
    points = crowd(heads)
    points[-bad:, 0] = value
    if taken:
        stored, doubts = check_points(points, (32, 48), PLACE)
        assert len(stored) == heads - bad and sum(counted(doubts).values()) == bad
    else:
        with pytest.raises(InputError, match=rf"GT_IMG_1\.mat: {bad} of {heads} cannot be taken, too many for slips: "
                                             rf"point {heads - bad + 1} of {heads}, x, y = "):
            check_points(points, (32, 48), PLACE)


@pytest.mark.parametrize(("change", "rotation", "cause"), [
    (lambda points: points[:, ::-1], 1, "with x and y swapped they fit: swap the two columns of the labels"),
    (lambda points: points * 2, 1, "the labels seem to be made on an image of another size; give that image"),
    (lambda points: points * 2, 3, "another size; .*; the image has the rotation tag 3"),
    (lambda points: points - [200, 0], 1, "the labels seem to belong to another image$"),
    (lambda points: points[:, ::-1], 6, "they fit the image turned upright, as its rotation tag 6 says: turn the"),
    (lambda points: points[:, ::-1], 3, "with x and y swapped they fit")])
def test_the_likely_cause_of_many_points_outside_is_named(change, rotation, cause):
    points = crowd(150, (60, 160))
    with pytest.raises(InputError, match=cause) as caught:
        check_points(change(points), (60, 160), PLACE, rotation)
    assert "\n" not in str(caught.value)


def test_what_is_no_number_is_not_laid_to_the_size_of_the_image():
    points = crowd(20)
    points[:5] = np.nan
    with pytest.raises(InputError) as caught:
        check_points(points, (32, 48), PLACE)
    assert str(caught.value) == ("GT_IMG_1.mat: 5 of 20 cannot be taken, too many for slips: point 1 of 20, x, y = "
                                 "(nan, nan) and others: not a pair of numbers")
    points[19] = [99, 5]
    with pytest.raises(InputError, match=r"not a pair of numbers$"):
        check_points(points, (32, 48), PLACE)
    points[:5], points[5:12] = [3, np.nan], [99, 5]
    with pytest.raises(InputError, match="outside the image of 48 x 32 px; the points reach to"):
        check_points(points, (32, 48), PLACE)


@pytest.mark.parametrize(("turned", "cause"), [
    (False, "they fit the image turned upright, as its rotation tag 6 says"),
    (True, "they fit the image as it is stored, without its rotation tag 6: remove the tag")])
def test_points_that_fit_the_image_the_other_way_round(turned, cause):
    points = crowd(150, (160, 60))
    with pytest.raises(InputError, match=cause):
        check_points(points, (60, 160), PLACE, 6, turned)


def test_a_few_points_outside_have_a_hint_only_where_it_cures_all():
    points = crowd(8, (60, 60))
    whole = np.vstack([points, [[10, 120]]])
    (_, _, reason), swapped = check_points(whole, (80, 160), PLACE)[1]
    assert swapped == ("num_swapped_images", 1, "")
    assert reason.endswith("outside the image of 160 x 80 px; with x and y swapped they fit: swap the two "
                           "columns of the labels")
    ((_, _, reason),) = check_points(np.vstack([crowd(120, (60, 60)), [[-60, 40]]]), (80, 160), PLACE)[1]
    assert reason.endswith("x, y = (-60, 40): outside the image of 160 x 80 px")


def test_shares_of_the_size_are_no_pixels():
    with pytest.raises(InputError, match=r"all 3 points lie within the first pixel of the image of 48 x 32 px; they "
                                         r"look like shares of its width and height"):
        check_points(np.array([[0.25, 0.5], [0.75, 0.1], [0, 1]]), (32, 48), PLACE)
    with pytest.raises(InputError, match="all 2 points lie within the first pixel"):
        check_points(np.array([[0.25, 0.5], [0.75, 0.1]]), (32, 48), PLACE)
    stored, doubts = check_points(np.array([[0.25, 0.5]]), (32, 48), PLACE)
    assert len(stored) == 1 and counted(doubts) == {"num_corner_points": 1}
    assert len(check_points(np.array([[0, 1], [1, 0], [1, 1]]), (32, 48), PLACE)[0]) == 3
    assert len(check_points(np.array([[0.25, 0.5], [0.75, 0.1], [0, 7]]), (32, 48), PLACE)[0]) == 3


def test_a_third_column_is_left_out_and_told():
    stored, doubts = check_points(np.array([[1, 2, 31.1], [3, 4, np.nan]]), (32, 48), PLACE)
    assert stored.tolist() == [[1, 2], [3, 4]] and counted(doubts) == {"num_extra_columns": 1}


def test_rounding_to_float32_cannot_leave_the_frame():
    points = np.array([[np.nextafter(48, 0), np.nextafter(32, 0)], [np.nextafter(0, -1), 0]])
    stored, _ = check_points(points, (32, 48), PLACE)
    assert (stored >= 0).all() and (stored < [48, 32]).all()


def test_repeated_points_are_kept_and_counted():
    points = np.array([[1, 2], [3, 4], [1, 2], [1, 2], [1, 3]])
    stored, doubts = check_points(points, (32, 48), PLACE)
    assert len(stored) == 5 and counted(doubts) == {"num_repeated_points": 2}


def test_no_points():
    stored, doubts = check_points(np.zeros((0, 2)), (32, 48), PLACE)
    assert stored.shape == (0, 2) and stored.dtype == np.float32 and doubts == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=12), st.sampled_from([1, 3, 6]))
def test_any_numbers_end_inside_the_frame_or_in_one_line(numbers, rotation):
    points = np.array(numbers, np.float64).reshape(-1, 2)
    try:
        stored, doubts = check_points(points, (32, 48), PLACE, rotation)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert ((stored >= 0) & (stored < [48, 32])).all()
    told = counted(doubts)
    assert len(stored) + told.get("num_outside_points", 0) + told.get("num_invalid_points", 0) == len(points)


def test_boxes_inside_are_kept_to_the_last_digit():
    boxes = np.array([[0, 0, 48, 32], [3.3, 4.7, 0.1, 1e-3], [47, 31, 1, 1]])
    stored, doubts = check_boxes(boxes, (32, 48), PLACE)
    np.testing.assert_array_equal(stored, boxes.astype(np.float32))
    assert stored.dtype == np.float32 and counted(doubts) == {}
    np.testing.assert_allclose(box_centres(stored), [[23.5, 15.5], [2.85, 4.2005], [47, 31]], rtol=1e-6)
    stored, doubts = check_boxes(np.zeros((0, 4)), (32, 48), PLACE)
    assert stored.shape == (0, 4) and box_centres(stored).shape == (0, 2) and counted(doubts) == {}


def test_boxes_that_leave_the_frame_are_cut_while_their_centre_lies_inside():
    boxes = np.array([[-0.5, 3, 4, 5], [40, 20, 15, 23.9], [-10, -10, 70, 50], [-4, 2, 8, 4], [1, 1, 2, 2]])
    stored, doubts = check_boxes(boxes, (32, 48), PLACE)
    np.testing.assert_array_equal(stored, np.float32([[0, 3, 3.5, 5], [40, 20, 8, 12], [0, 0, 48, 32], [0, 2, 4, 4],
                                                      [1, 1, 2, 2]]))
    assert counted(doubts) == {"num_cut_boxes": 4}
    centres = box_centres(stored)
    assert (centres > -0.5).all() and (centres < [47.5, 31.5]).all()


@pytest.mark.parametrize(("box", "kind"), [
    ([-5, 3, 8, 4], "num_outside_boxes"), ([44, 3, 8, 4], "num_outside_boxes"), ([3, 30, 4, 4.5], "num_outside_boxes"),
    ([1e300, 3, 1e300, 4], "num_outside_boxes"), ([1e30, 3, 1e30, 4], "num_outside_boxes"),
    ([3, 3, 0, 4], "num_invalid_boxes"), ([3, 3, 4, -2], "num_invalid_boxes"), ([3, 3, 4, 1e-60], "num_invalid_boxes"),
    ([3, np.nan, 4, 4], "num_invalid_boxes"), ([3, 3, np.inf, 4], "num_invalid_boxes"),
    ([-np.inf, 3, np.inf, 4], "num_invalid_boxes")])
def test_a_box_that_cannot_be_is_dropped_and_told_and_many_stop(box, kind):
    boxes = np.array([[1, 1, 4, 4], [np.nan] * 4, box])
    stored, doubts = check_boxes(boxes, (32, 48), PLACE, np.array([False, True, False]))
    np.testing.assert_array_equal(stored, [[1, 1, 4, 4]])
    assert counted(doubts) == {kind: 1, "num_left_out_boxes": 1}
    assert doubts[0].reason.startswith("box 3 of 3, left, top, width, height = (")
    with pytest.raises(InputError, match=r"GT_IMG_1\.mat: 4 of 5 cannot be taken, too many for slips: box 2 of 5"):
        check_boxes(np.array([[1, 1, 4, 4], *[box] * 4]), (32, 48), PLACE)
