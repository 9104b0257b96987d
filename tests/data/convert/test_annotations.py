"""Readers of annotation files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from crowddist.data.convert.annotations import (
    as_points,
    as_rows,
    read_json_object,
    read_lines,
    read_mat_info,
    read_mat_points,
    read_raw_mask,
)
from crowddist.data.convert.matlab import read_variable
from crowddist.errors import InputError

PLACE = Path("GT_IMG_1.mat")


def cell_of(value):
    outer = np.empty((1, 1), object)
    outer[0, 0] = value
    return outer


def save(tmp_path, **variables):
    scipy.io.savemat(tmp_path / "a.mat", variables)
    return tmp_path / "a.mat"


POINTS = np.array([[1.5, 2], [3, 4.25]])


@pytest.mark.parametrize(
    "value",
    [
        {"location": POINTS}, cell_of({"location": POINTS}), cell_of({"location": POINTS, "number": 2}),
        cell_of(cell_of({"location": POINTS})), {"number": 2, "location": POINTS.astype(np.float32)},
        {"location": (POINTS * 4).astype(np.int32)}],
)
def test_mat_layouts_that_are_read(tmp_path, value):
    found, count = read_mat_info(save(tmp_path, image_info=value, other=1))
    factor = 4 if found.max() > 5 else 1
    np.testing.assert_array_equal(found, POINTS * factor)
    assert found.dtype == np.float64 and count in (None, 2)


@pytest.mark.parametrize("empty", [np.zeros((0, 2)), np.zeros((0, 0)), []])
def test_mat_without_heads(tmp_path, empty):
    assert read_mat_info(save(tmp_path, image_info={"location": empty}))[0].shape == (0, 2)
    points, count = read_mat_info(save(tmp_path, image_info=cell_of({"location": empty, "number": 0})))
    assert points.shape == (0, 2) and count == 0


@pytest.mark.parametrize(
    "variables",
    [
        {"annPoints": POINTS},
        {"image_info": {"points": POINTS}},
        {"image_info": {"location": np.zeros((2, 4))}},
        {"image_info": {"location": np.zeros(4)}},
        {"image_info": {"location": "text"}},
        {"image_info": {"location": POINTS + 1j}},
        {"image_info": cell_of("x")},
        {"image_info": np.array([[cell_of(1), cell_of(2)]], object)},
        {"image_info": {"location": cell_of(cell_of(np.zeros((2, 4))))}},
    ],
)
def test_wrong_mat_layouts_are_refused(tmp_path, variables):
    with pytest.raises(InputError, match=r"a\.mat: wrong layout: image_info.location must be N x 2"):
        read_mat_info(save(tmp_path, **variables))


@pytest.mark.parametrize(("number", "count"), [
    (3, 3), (np.zeros((0, 0)), None), (np.nan, None), (np.inf, None), (-1, None), (2.5, None), ("three", None),
    ("3", 3), ("9" * 5000, None), ([1, 2], None), (cell_of(cell_of(4)), 4), (1e300, None)])
def test_what_number_holds_is_told_if_it_is_a_count(tmp_path, number, count):
    points, told = read_mat_info(save(tmp_path, image_info=cell_of({"location": POINTS, "number": number})))
    assert told == count
    np.testing.assert_array_equal(points, POINTS)


def test_a_variable_of_points(tmp_path):
    np.testing.assert_array_equal(read_mat_points(save(tmp_path, annPoints=POINTS, other=1), "annPoints"), POINTS)
    assert read_mat_points(save(tmp_path, annPoints=(POINTS * 4).astype(np.uint16)), "annPoints").dtype == np.float64
    assert read_mat_points(save(tmp_path, annPoints=np.zeros((0, 0))), "annPoints").shape == (0, 2)
    assert read_mat_points(save(tmp_path, annPoints=np.ones((4, 3))), "annPoints").shape == (4, 3)
    for variables in ({"points": POINTS}, {"annPoints": np.zeros((3, 4))}, {"annPoints": "text"},
                      {"annPoints": {"location": POINTS}}):
        with pytest.raises(InputError, match=r"a\.mat: wrong layout: annPoints must be N x 2 numbers, got"):
            read_mat_points(save(tmp_path, **variables), "annPoints")


def test_what_a_mat_file_holds_instead_is_said(tmp_path):
    place = save(tmp_path, points=POINTS, note="mine")
    for read in (lambda: read_mat_points(place, "annPoints"), lambda: read_mat_info(place)):
        with pytest.raises(InputError, match="got nothing; the file holds points, note"):
            read()


def test_a_sparse_array_is_there_but_not_read(tmp_path):
    with pytest.raises(InputError, match="annPoints must be N x 2 numbers, got a sparse or complex array, an"):
        read_mat_points(save(tmp_path, annPoints=scipy.sparse.csc_matrix(POINTS)), "annPoints")


def test_a_null_is_one_point_that_is_no_number():
    rows = as_points([[3, 4], [5, None]], "a.json", "points")
    np.testing.assert_array_equal(rows, [[3, 4], [5, np.nan]])
    for rows in ([[3, {}]], [[3, "four"], [None, 5]], [[10**400, 3]]):
        with pytest.raises(InputError, match="points must be N x 2 numbers"):
            as_points(rows, "a.json", "points")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_lines_in_the_encodings_of_editors(tmp_path, encoding):
    place = tmp_path / "a.txt"
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    place.write_bytes(mark + "Straße 1\r\n2\r\n".encode(encoding))
    assert read_lines(place) == ["Straße 1", "2"]


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
        (lambda data: b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600),
         "not a MATLAB file that can be read: it was saved with -v7.3, as HDF5; load it in MATLAB and save it again"),
        (lambda data: b"\x89HDF\r\n\x1a\n" + bytes(600), "saved with -v7.3"),
        (lambda data: bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(600), "saved with -v7.3"),
        (lambda data: b"# Created by Octave 9.2.0\n# name: annPoints\n", "in Octave's own format; load it in"),
        (lambda data: b"Octave-1-L" + bytes(60), "in Octave's own format"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS, .* git lfs pull"),
        (lambda data: b"\n<!DOCTYPE html><html>", "a web page, not the file itself; download the file again"),
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
    [None, "text", [[1, 2], [3]], [1, 2], [[1, 2, 3]], [["a", "b"]], {"a": 1}, [[True, False]], [[[1, 2]]],
     [[10**400, 1]]],
)
def test_values_that_are_no_points(value):
    with pytest.raises(InputError, match="wrong layout: roi must be N x 2 numbers"):
        as_rows(value, PLACE, "roi")


def test_values_that_are_points():
    np.testing.assert_array_equal(as_rows([["1", 2], [" 3.5", "-4e0"]], PLACE, "roi"), [[1, 2], [3.5, -4]])
    np.testing.assert_array_equal(as_rows([[1, 2], [3.5, 4]], PLACE, "roi"), [[1, 2], [3.5, 4]])
    assert as_rows([], PLACE, "roi").shape == (0, 2)
    # A row of another length than most is a slip, of which the check of points tells.
    nan = float("nan")
    np.testing.assert_array_equal(as_rows([[1, 2], [3], [3.5, 4], [], [5, 6]], PLACE, "roi"),
                                  [[1, 2], [nan, nan], [3.5, 4], [nan, nan], [5, 6]])


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


@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "i4", "i2", "u2", "u1"])
def test_numbers_are_read_as_scipy_reads_them(tmp_path, version, packed, kind):
    values = np.arange(6).reshape(3, 2).astype(kind)
    scipy.io.savemat(tmp_path / "a.mat", {"before": "text", "annPoints": values, "after": 1}, format=version,
                     do_compression=packed and version == "5")
    found = read_mat_points(tmp_path / "a.mat", "annPoints")
    np.testing.assert_array_equal(found, scipy.io.loadmat(tmp_path / "a.mat")["annPoints"])


def test_nested_values_hand_worked(tmp_path):
    cells = np.empty((1, 3), object)
    cells[0] = ["three", POINTS, POINTS]
    path = save(tmp_path, cells=cells, pair=np.array([[(1, 2), (3, 4)]], [("a", object), ("b", object)]))
    data = path.read_bytes()
    text, first, second = read_variable(data, "cells")
    assert text == "three" and (first == POINTS).all() and (second == POINTS).all()
    pair = [(entry["a"].item(), entry["b"].item()) for entry in read_variable(data, "pair")]
    assert pair == [(1, 2), (3, 4)]
    assert read_variable(data, "none") is None


@pytest.mark.parametrize(("place", "value", "reason"), [
    (176, 24, "numbers of the unknown type 24"), (176, 0xFF, "numbers of the unknown type"),
    (160, 7, "an array of 7 x 2 numbers has 32 bytes"), (160, 0xFFFFFFFF, "an array has no sizes"),
    (132, 0x7FFFFFFF, "it ends early"), (180, 0x7FFFFFFF, "it ends early")])
def test_a_damaged_head_ends_in_one_line_and_not_the_process(tmp_path, place, value, reason):
    """SciPy's reader crashes on the first."""
    path = save(tmp_path, x=POINTS)
    data = bytearray(path.read_bytes())
    assert data[176:180] == struct.pack("<I", 9)  # double
    data[place : place + 4] = struct.pack("<I", value)
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.mat: not a MATLAB file that can be read: .*{reason}"):
        read_mat_points(path, "x")
