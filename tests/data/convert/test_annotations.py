"""Readers of annotation files, and the checks of points and boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from crowddist.data.convert.annotations import (
    as_rows,
    read_json_object,
    read_lines,
    read_mat_info,
    read_mat_points,
    read_raw_mask,
)
from crowddist.data.convert.points import box_centres, check_boxes, check_points
from crowddist.errors import InputError

PLACE = Path("GT_IMG_1.mat")


def cell_of(value):
    outer = np.empty((1, 1), object)
    outer[0, 0] = value
    return outer


def save(tmp_path, **variables):
    scipy.io.savemat(tmp_path / "a.mat", variables)
    return tmp_path / "a.mat"


def test_points_inside_are_kept_to_the_last_digit():
    points = np.array([[0, 0], [0.25, 1.5], [47.75, 31.75], [0, 31.9]])
    stored, num_clipped, num_repeated = check_points(points, (32, 48), PLACE)
    np.testing.assert_array_equal(stored, points.astype(np.float32))
    assert stored.dtype == np.float32 and (num_clipped, num_repeated) == (0, 0)


def test_points_less_than_a_pixel_outside_are_clipped():
    stored, num_clipped, _ = check_points(np.array([[-0.99, 3], [48.99, 32], [5, -0.01], [3, 3]]), (32, 48), PLACE)
    np.testing.assert_array_equal(stored, [[0, 3], [47, 31], [5, 0], [3, 3]])
    assert num_clipped == 3


@pytest.mark.parametrize("x", [-1.0, -50, 49.0, 1e9])
def test_points_a_pixel_outside_are_refused(x):
    with pytest.raises(InputError, match=r"GT_IMG_1.mat: point 2 of 2, x, y = .* lies outside the image of 48 x 32 px"):
        check_points(np.array([[3, 3], [x, 5]]), (32, 48), PLACE)
    with pytest.raises(InputError, match="outside"):
        check_points(np.array([[3, 3], [5, x if x < 0 else x - 16]]), (32, 48), PLACE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_points_that_are_no_numbers_are_refused(value):
    with pytest.raises(InputError, match=r"GT_IMG_1.mat: point 1 of 2 is .* not a pair of numbers"):
        check_points(np.array([[3, value], [5, 5]]), (32, 48), PLACE)


def test_rounding_to_float32_cannot_leave_the_frame():
    points = np.array([[np.nextafter(48, 0), np.nextafter(32, 0)], [np.nextafter(0, -1), 0]])
    stored, _, _ = check_points(points, (32, 48), PLACE)
    assert (stored >= 0).all() and (stored < [48, 32]).all()


def test_repeated_points_are_kept_and_counted():
    points = np.array([[1, 2], [3, 4], [1, 2], [1, 2], [1, 3]])
    stored, _, num_repeated = check_points(points, (32, 48), PLACE)
    assert len(stored) == 5 and num_repeated == 2


def test_no_points():
    stored, num_clipped, num_repeated = check_points(np.zeros((0, 2)), (32, 48), PLACE)
    assert stored.shape == (0, 2) and stored.dtype == np.float32 and (num_clipped, num_repeated) == (0, 0)


def test_boxes_inside_are_kept_to_the_last_digit():
    boxes = np.array([[0, 0, 48, 32], [3.3, 4.7, 0.1, 1e-3], [47, 31, 1, 1]])
    stored, num_cut = check_boxes(boxes, (32, 48), PLACE)
    np.testing.assert_array_equal(stored, boxes.astype(np.float32))
    assert stored.dtype == np.float32 and num_cut == 0
    np.testing.assert_allclose(box_centres(stored), [[23.5, 15.5], [2.85, 4.2005], [47, 31]], rtol=1e-6)
    stored, num_cut = check_boxes(np.zeros((0, 4)), (32, 48), PLACE)
    assert stored.shape == (0, 4) and box_centres(stored).shape == (0, 2) and num_cut == 0


def test_boxes_that_leave_the_frame_are_cut_while_their_centre_lies_inside():
    boxes = np.array([[-0.5, 3, 4, 5], [40, 20, 15, 23.9], [-10, -10, 70, 50], [-4, 2, 8, 4], [1, 1, 2, 2]])
    stored, num_cut = check_boxes(boxes, (32, 48), PLACE)
    np.testing.assert_array_equal(stored, np.float32([[0, 3, 3.5, 5], [40, 20, 8, 12], [0, 0, 48, 32], [0, 2, 4, 4],
                                                      [1, 1, 2, 2]]))
    assert num_cut == 4
    centres = box_centres(stored)
    assert (centres > -0.5).all() and (centres < [47.5, 31.5]).all()


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([-5, 3, 8, 4], r"\(-5, 3, 8, 4\), has its centre outside the image of 48 x 32 px"),
        ([44, 3, 8, 4], r"\(44, 3, 8, 4\), has its centre outside"),
        ([3, 30, 4, 4.5], "has its centre outside"),
        ([1e300, 3, 1e300, 4], "has its centre outside"),
        ([3, 3, 0, 4], "has no area"),
        ([3, 3, 4, -2], "has no area"),
        ([3, 3, 4, 1e-60], "has no area"),
        ([3, np.nan, 4, 4], r"\(3, nan, 4, 4\), is not four finite numbers"),
        ([3, 3, np.inf, 4], "is not four finite numbers"),
        ([-np.inf, 3, np.inf, 4], "is not four finite numbers"),
    ],
)
def test_boxes_that_cannot_be_are_named(box, reason):
    boxes = np.array([[1, 1, 4, 4], [np.nan] * 4, box])
    message = rf"GT_IMG_1.mat: box 3 of 3, left, top, width, height = .*{reason}"
    with pytest.raises(InputError, match=message) as caught:
        check_boxes(boxes, (32, 48), PLACE, np.array([False, True, False]))
    assert "\n" not in str(caught.value)
    stored, _ = check_boxes(boxes, (32, 48), PLACE, np.array([False, True, True]))
    np.testing.assert_array_equal(stored, [[1, 1, 4, 4]])


POINTS = np.array([[1.5, 2], [3, 4.25]])


@pytest.mark.parametrize(
    "value",
    [
        {"location": POINTS}, cell_of({"location": POINTS}), cell_of({"location": POINTS, "number": 2}),
        cell_of(cell_of({"location": POINTS})), {"number": 2, "location": POINTS.astype(np.float32)},
        {"location": (POINTS * 4).astype(np.int32)}],
)
def test_mat_layouts_that_are_read(tmp_path, value):
    found = read_mat_info(save(tmp_path, image_info=value, other=1))
    factor = 4 if found.max() > 5 else 1
    np.testing.assert_array_equal(found, POINTS * factor)
    assert found.dtype == np.float64


@pytest.mark.parametrize("empty", [np.zeros((0, 2)), np.zeros((0, 0)), []])
def test_mat_without_heads(tmp_path, empty):
    assert read_mat_info(save(tmp_path, image_info={"location": empty})).shape == (0, 2)
    assert read_mat_info(save(tmp_path, image_info=cell_of({"location": empty, "number": 0}))).shape == (0, 2)


@pytest.mark.parametrize(
    "variables",
    [
        {"annPoints": POINTS},
        {"image_info": {"points": POINTS}},
        {"image_info": {"location": np.zeros((2, 3))}},
        {"image_info": {"location": np.zeros(4)}},
        {"image_info": {"location": "text"}},
        {"image_info": {"location": POINTS + 1j}},
        {"image_info": cell_of("x")},
        {"image_info": np.array([[cell_of(1), cell_of(2)]], object)},
        {"image_info": {"location": cell_of(cell_of(np.zeros((2, 3))))}},
    ],
)
def test_wrong_mat_layouts_are_refused(tmp_path, variables):
    with pytest.raises(InputError, match=r"a\.mat: wrong layout: image_info.location must be N x 2"):
        read_mat_info(save(tmp_path, **variables))


def test_a_number_that_contradicts_the_points(tmp_path):
    with pytest.raises(InputError, match="its `number` is 3, but it holds 2 points"):
        read_mat_info(save(tmp_path, image_info=cell_of({"location": POINTS, "number": 3})))


def test_a_variable_of_points(tmp_path):
    np.testing.assert_array_equal(read_mat_points(save(tmp_path, annPoints=POINTS, other=1), "annPoints"), POINTS)
    assert read_mat_points(save(tmp_path, annPoints=(POINTS * 4).astype(np.uint16)), "annPoints").dtype == np.float64
    assert read_mat_points(save(tmp_path, annPoints=np.zeros((0, 0))), "annPoints").shape == (0, 2)
    for variables in ({"points": POINTS}, {"annPoints": np.zeros((3, 3))}, {"annPoints": "text"},
                      {"annPoints": {"location": POINTS}}):
        with pytest.raises(InputError, match=r"a\.mat: wrong layout: annPoints must be N x 2 numbers, got"):
            read_mat_points(save(tmp_path, **variables), "annPoints")


def test_lines_of_a_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa b \r\n\n \u2028c\x0b1\xe9\n\n \n".encode() + b"\xff\n\n")
    assert read_lines(path) == ["a b", "", "c\x0b1é", "", "", "\udcff"]
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.txt: the file is empty"):
        read_lines(path)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.txt: the annotation is missing"):
        read_lines(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: b"hello", "not a MATLAB file"),
        (lambda data: data[:150], "not a MATLAB file"),
        (lambda data: data[:-20], "not a MATLAB file"),
        (lambda data: b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600), "not a MATLAB file"),
    ],
)
def test_damaged_mat_files_are_named(tmp_path, damage, reason):
    path = save(tmp_path, image_info={"location": POINTS})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"a\.mat: .*{reason}"):
        read_mat_info(path)
    with pytest.raises(InputError, match=rf"a\.mat: .*{reason}"):
        read_mat_points(path, "image_info")
    path.unlink()
    with pytest.raises(InputError, match=r"a\.mat: the annotation is missing"):
        read_mat_info(path)
    path.mkdir()
    with pytest.raises(InputError, match=r"a\.mat: cannot be read"):
        read_mat_info(path)


@pytest.mark.parametrize(
    "value",
    [None, "text", [[1, 2], [3]], [1, 2], [[1, 2, 3]], [["a", "b"]], {"a": 1}, [[1, None]], [[True, False]], [[[1, 2]]],
     [[10**400, 1]]],
)
def test_values_that_are_no_points(value):
    with pytest.raises(InputError, match="wrong layout: roi must be N x 2 numbers"):
        as_rows(value, PLACE, "roi")


def test_values_that_are_points():
    np.testing.assert_array_equal(as_rows([[1, 2], [3.5, 4]], PLACE, "roi"), [[1, 2], [3.5, 4]])
    assert as_rows([], PLACE, "roi").shape == (0, 2)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "[" * 100_000])
def test_bad_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json: "):
        read_json_object(tmp_path / "a.json")


def test_raw_masks_take_the_size_of_the_image(tmp_path):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "m.raw").write_bytes(mask.tobytes())
    np.testing.assert_array_equal(read_raw_mask(tmp_path / "m.raw", (3, 4)), mask)
    with pytest.raises(InputError, match=r"m.raw: 12 bytes, a mask of 5 x 3 px has 15"):
        read_raw_mask(tmp_path / "m.raw", (3, 5))
