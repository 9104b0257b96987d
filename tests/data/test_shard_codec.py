"""Members of a sample: decoding inverts encoding, and nothing else is decoded."""

from __future__ import annotations

import io
import os
import pickle

import cv2
import numpy as np
import pytest
import simplejpeg

from crowddist.data.shard_codec import decode, decode_labels, encode, num_persons
from crowddist.errors import InputError

SMOOTH = np.stack(
    [np.add.outer(np.arange(24), np.arange(40)), np.full((24, 40), 90),
     np.multiply.outer(np.arange(24), np.full(40, 5))], 2
).astype(np.uint8)
JPG = simplejpeg.encode_jpeg(SMOOTH, quality=98, colorsubsampling="444")
PNG = cv2.imencode(".png", SMOOTH[..., ::-1])[1].tobytes()
POINTS = np.array([[0, 0], [39, 23], [7.25, 3.5]])
BOXES = np.array([[0, 0, 1, 1], [38.5, 22.5, 1.5, 1.5], [4.3, 2, 7, 4.1]])
DENSITY = np.array([[0.1, 2.0, 0], [1000, 0, 0.5]])


class Bomb:
    def __reduce__(self):
        return os.system, ("touch unpickled",)


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def test_decode_gives_back_what_was_encoded():
    mask = SMOOTH[..., 0] > 20
    sample = decode(
        "k",
        {"png": PNG, "points.npy": encode("points.npy", POINTS), "boxes.npy": encode("boxes.npy", BOXES),
         "mask.png": encode("mask.png", mask),
         "json": encode("json", {"height": 24, "width": 40, "level": 3, "name": "ü"})},
    )
    assert sample.key == "k" and sample.labels is None
    np.testing.assert_array_equal(sample.image, SMOOTH)
    np.testing.assert_array_equal(sample.points, POINTS)
    np.testing.assert_array_equal(sample.boxes, BOXES.astype(np.float32))
    np.testing.assert_array_equal(sample.mask, mask.astype(np.uint8))
    assert sample.points.dtype == sample.boxes.dtype == np.float32 and sample.mask.dtype == np.uint8
    assert sample.scene == {"height": 24, "width": 40, "level": 3, "name": "ü"}


def test_jpg_pixels_are_those_of_an_independent_decoder():
    import PIL.Image

    expected = np.asarray(PIL.Image.open(io.BytesIO(JPG)))
    np.testing.assert_array_equal(decode("k", {"jpg": JPG}).image, expected)
    assert np.abs(expected.astype(int) - SMOOTH).max() < 12


@pytest.mark.parametrize(
    ("longest_px", "size"),
    [(np.inf, (241, 322)), (161.5, (241, 322)), (161, (121, 161)), (90, (121, 161)), (80.5, (61, 81)), (41, (61, 81)),
     (40, (31, 41)), (1, (31, 41))],
)
def test_a_large_jpg_is_decoded_at_the_part_of_its_size_that_is_asked_for(longest_px, size):
    rows, columns = np.mgrid[0:241, 0:322]
    pixels = np.stack([rows, columns / 2, 255 - rows], axis=2).astype(np.uint8)
    points, mask = np.array([[300, 20]], np.float32), np.ones((241, 322), np.uint8)
    members = {"jpg": simplejpeg.encode_jpeg(pixels, quality=95), "points.npy": encode("points.npy", points),
               "mask.png": encode("mask.png", mask),
               "json": encode("json", {"height": 241, "width": 322})}
    sample = decode("k", members, longest_px=longest_px)
    assert sample.image.shape == (*size, 3) and sample.frame == (None if size == (241, 322) else (241, 322))
    np.testing.assert_array_equal(sample.points, points)
    assert sample.mask.shape == (241, 322)
    part = round(241 / size[0])
    whole = cv2.copyMakeBorder(pixels, 0, size[0] * part - 241, 0, size[1] * part - 322, cv2.BORDER_REPLICATE)
    expected = cv2.resize(whole, size[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(sample.image.astype(int) - expected).mean() < 1.5
    with pytest.raises(InputError, match=r"has \(241, 322\) pixels, its json says \(121, 161\)"):
        decode("k", {**members, "json": encode("json", {"height": 121, "width": 161})}, longest_px=longest_px)
    with pytest.raises(InputError, match="jpg is damaged"):
        decode("k", {"jpg": members["jpg"][:300]}, longest_px=longest_px)


def test_grey_images_become_rgb():
    grey = SMOOTH[..., 0]
    for members in ({"jpg": simplejpeg.encode_jpeg(grey[..., None].copy(), colorspace="GRAY", quality=100)},
                    {"png": cv2.imencode(".png", grey)[1].tobytes()}):
        image = decode("k", members).image
        assert (image.shape == (24, 40, 3) and (image == image[..., :1]).all()
                and np.abs(image[..., 0].astype(int) - grey).max() <= 3)


def test_labels():
    members = {"density.npy": encode("density.npy", DENSITY), "keep.png": encode("keep.png", DENSITY > 0.2),
               "detections.npy": encode("detections.npy", np.array([[1, 2, 8, 0.5]])),
               "doubtful.npy": encode("doubtful.npy", np.array([[3, 4, 9, 0.2]]))}
    labels = decode("k", {"jpg": JPG, **members}).labels
    np.testing.assert_array_equal(labels.density, DENSITY.astype(np.float16).astype(np.float32))
    assert labels.density.dtype == np.float32 and labels.keep.dtype == bool
    np.testing.assert_array_equal(labels.keep, DENSITY > 0.2)
    np.testing.assert_array_equal(labels.detections, np.array([[1, 2, 8, 0.5]], np.float32))
    np.testing.assert_array_equal(labels.doubtful, np.array([[3, 4, 9, 0.2]], np.float32))
    alone = decode_labels("k", members)
    np.testing.assert_array_equal(alone.density, labels.density)
    assert labels.spread is None
    spread = decode_labels("k", {**members, "spread.npy": encode("spread.npy", DENSITY / 4)}).spread
    np.testing.assert_array_equal(spread, (DENSITY / 4).astype(np.float16).astype(np.float32))
    assert spread.dtype == np.float32
    assert labels.extent == DENSITY.shape
    told = [DENSITY.shape[0] - 0.5, DENSITY.shape[1] - 0.25]
    assert decode_labels("k", {**members, "json": encode("json", {"extent": told})}).extent == tuple(told)
    for wrong in ([DENSITY.shape[0] - 1.5, DENSITY.shape[1]], [1], "large"):
        with pytest.raises(InputError, match=r"sample k: .*label again"):
            decode_labels("k", {**members, "json": encode("json", {"extent": wrong})})
    for wrong in (b"[NaN, 1]", b"[Infinity, 1]"):
        with pytest.raises(InputError, match=r"sample k: extent must be"):
            decode_labels("k", {**members, "json": b'{"extent": ' + wrong + b"}"})
    del members["detections.npy"], members["doubtful.npy"]
    assert decode_labels("k", members).detections.shape == decode_labels("k", members).doubtful.shape == (0, 4)


def test_num_persons():
    points, density = encode("points.npy", POINTS), encode("density.npy", DENSITY)
    assert num_persons({"points.npy": points, "density.npy": density}) == 3
    assert num_persons({"density.npy": density}) == pytest.approx(1002.6, rel=1e-3)
    assert num_persons({"points.npy": encode("points.npy", np.zeros((0, 2)))}) == 0
    assert num_persons({"jpg": JPG}) is None


def test_equal_values_give_equal_bytes():
    assert encode("points.npy", POINTS) == encode("points.npy", np.asfortranarray(POINTS.astype(np.float32)))
    assert encode("json", {"a": 1, "b": 2}) == encode("json", {"b": 2, "a": 1})
    assert encode("mask.png", DENSITY > 0) == encode("mask.png", (DENSITY > 0).astype(np.uint8) * 255)


@pytest.mark.parametrize(
    ("extension", "value"),
    [("txt", b""), ("pkl", b""), ("pth", b""), ("jpg", SMOOTH), ("points.npy", np.zeros((3, 3))),
     ("points.npy", np.array([[np.nan, 0]])), ("points.npy", {}), ("boxes.npy", np.zeros((3, 2))),
     ("boxes.npy", np.zeros(4)), ("boxes.npy", np.array([[0, 0, 1, np.inf]])),
     ("boxes.npy", np.array([[0, 0, 1, 1e300]])), ("points.npy", np.array([["a", "b"]])),
     ("density.npy", np.full((2, 2), 1e6)), ("density.npy", np.zeros(3)), ("spread.npy", np.full((2, 2), np.inf)),
     ("detections.npy", np.zeros((1, 3))), ("doubtful.npy", np.zeros((1, 3))), ("mask.png", SMOOTH), ("json", [1]),
     ("json", np.zeros(3)), ("json", {"a": float("nan")}), ("json", {"a": object()})],
)
def test_what_cannot_be_stored_is_refused(extension, value):
    with pytest.raises(InputError):
        encode(extension, value)


@pytest.mark.parametrize("extension", ["pkl", "pyd", "pth", "pt", "npy", "npz", "txt", "points.pkl", "JPG", "cls", ""])
def test_no_member_outside_the_table_is_ever_decoded(tmp_path, monkeypatch, extension):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="never read"):
        decode("k", {"jpg": JPG, extension: pickle.dumps(Bomb())})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "extension", ["points.npy", "boxes.npy", "density.npy", "spread.npy", "detections.npy", "doubtful.npy", "json",
                  "mask.png", "keep.png"]
)
def test_nothing_is_unpickled_inside_known_members(tmp_path, monkeypatch, extension):
    monkeypatch.chdir(tmp_path)
    objects = np.empty((1, 2), object)
    objects[:] = Bomb()
    for data in (pickle.dumps(Bomb()), npy(objects, allow_pickle=True)):
        with pytest.raises(InputError, match=f"sample k: member {extension}"):
            decode("k", {"jpg": JPG, extension: data})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"points.npy": encode("points.npy", POINTS)},
        {"jpg": JPG, "png": PNG},
        {"jpg": b""},
        {"jpg": JPG[:-20]},
        {"jpg": PNG},
        {"png": b""},
        {"png": b"no"},
        {"jpg": JPG, "points.npy": npy(np.zeros((3, 2)))},
        {"jpg": JPG, "points.npy": npy(np.zeros((3, 3), np.float32))},
        {"jpg": JPG, "points.npy": encode("points.npy", POINTS)[:-1]},
        {"jpg": JPG, "points.npy": encode("points.npy", POINTS), "boxes.npy": npy(np.zeros((3, 4)))},
        {"jpg": JPG, "points.npy": encode("points.npy", POINTS), "boxes.npy": npy(np.zeros((3, 2), np.float32))},
        {"jpg": JPG, "points.npy": encode("points.npy", POINTS), "boxes.npy": encode("boxes.npy", BOXES)[:-1]},
        {"jpg": JPG, "points.npy": encode("points.npy", POINTS), "boxes.npy": encode("boxes.npy", BOXES[:2])},
        {"jpg": JPG, "boxes.npy": encode("boxes.npy", BOXES)},
        {"jpg": JPG, "json": b"[]"},
        {"jpg": JPG, "json": b"{"},
        {"jpg": JPG, "json": b"\xff"},
        {"jpg": JPG, "json": encode("json", {"height": 40, "width": 24})},
        {"jpg": JPG, "mask.png": encode("mask.png", DENSITY)},
        {"jpg": JPG, "density.npy": encode("density.npy", DENSITY)},
        {"jpg": JPG, "density.npy": encode("density.npy", DENSITY), "keep.png": encode("keep.png", DENSITY.T)},
        {"jpg": JPG, "density.npy": encode("density.npy", DENSITY), "keep.png": encode("keep.png", DENSITY),
         "spread.npy": encode("spread.npy", DENSITY.T)},
    ],
)
def test_damaged_missing_and_contradicting_members_name_the_sample(members):
    with pytest.raises(InputError, match="sample k"):
        decode("k", members)


def test_boxes_without_their_points_say_so():
    boxes, points = encode("boxes.npy", BOXES), encode("points.npy", POINTS[:2])
    with pytest.raises(InputError, match="sample k: 3 boxes but 2 points, one each is needed; convert the data again"):
        decode("k", {"jpg": JPG, "boxes.npy": boxes, "points.npy": points})
    with pytest.raises(InputError, match="sample k: 3 boxes but no points, one each is needed; convert the data again"):
        decode("k", {"jpg": JPG, "boxes.npy": boxes})
    none = {"boxes.npy": encode("boxes.npy", BOXES[:0]), "points.npy": encode("points.npy", POINTS[:0])}
    assert decode("k", {"jpg": JPG, **none}).boxes.shape == (0, 4)
    assert decode("k", {"jpg": JPG, "points.npy": points}).boxes is None
