"""Values of `--source`, `--target` and `--evaluation`: read, or refused in one line."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from crowddist.data.config import RAW_FORMATS, DataSpec, StreamConfig, parse_data, parse_share
from crowddist.data.convert.formats import FORMATS
from crowddist.errors import InputError


@pytest.mark.parametrize("text", ["/photos", "photos of my camera", "file:///photos/a%20b", "s3://bucket/shards",
                                  "$DATA/photos", "my:photos", "./renderer"])
def test_a_place_is_named_by_its_path(text: str) -> None:
    assert parse_data(text) == DataSpec(format="place", place=text)


@pytest.mark.parametrize(("text", "fields"), [
    ("renderer:source:12", {"look": "source", "num_images": 12}),
    ("renderer:target:3:7", {"look": "target", "num_images": 3, "seed": 7}),
    ("renderer:broad:1000:0:180", {"look": "broad", "num_images": 1000, "seed": 0, "height_px": 180}),
])
def test_a_rendered_data_set_is_named_in_one_line(text: str, fields: dict[str, Any]) -> None:
    assert parse_data(text) == DataSpec(format="renderer", **fields)


@pytest.mark.parametrize(("text", "place", "split"), [
    ("folder:/photos", "/photos", "all"),
    ("folder:file:///photos", "file:///photos", "all"),
    ("shanghaitech:/data/part_A", "/data/part_A", "all"),
    ("shanghaitech:/data/part_A:val", "/data/part_A", "val"),
    ("shanghaitech:/data/part_A:", "/data/part_A", "all"),
    ("shanghaitech:file:///data/part_A", "file:///data/part_A", "all"),
    ("shanghaitech:file:///data/part_A:train", "file:///data/part_A", "train"),
    ("gcc:$DATA/gcc:camera-test", "$DATA/gcc", "camera-test"),
    ("ucf_qnrf:/data/UCF-QNRF_ECCV18:val", "/data/UCF-QNRF_ECCV18", "val"),
    ("ucf_cc_50:/data/cc50:fold-3-test", "/data/cc50", "fold-3-test"),
    ("worldexpo10:/data/expo:val", "/data/expo", "val"),
    ("nwpu_crowd:/data/nwpu:test", "/data/nwpu", "test"),
    ("wider_face:/data/wider", "/data/wider", "all"),
    ("shanghaitech:/data/2024-01-01T10:00:00", "/data/2024-01-01T10:00:00", "all"),
    ("shanghaitech:/data/2024-01-01T10:00:00:train", "/data/2024-01-01T10:00:00", "train"),
])
def test_raw_data_is_named_by_format_place_and_split(text: str, place: str, split: str) -> None:
    assert parse_data(text) == DataSpec(format=text.partition(":")[0], place=place, split=split)


def test_a_misspelt_format_is_told() -> None:
    for text, near in (("cocoo:/x", "coco"), ("shangaitech:/d:train", "shanghaitech"), ("render:broad:5", "renderer")):
        with pytest.raises(InputError, match=f"no format is called .*, perhaps you meant {near}: {near}:"):
            parse_data(text)


@pytest.mark.parametrize("text, share",
                         [("0.2 renderer:broad:5", Fraction(1, 5)), (" 1/3  renderer:broad:5 ", Fraction(1, 3))])
def test_a_share_of_a_data_set(text: str, share: Fraction) -> None:
    assert parse_share(text) == (share, DataSpec(format="renderer", look="broad", num_images=5))
    assert parse_share("0.5 my photos") == (Fraction(1, 2), DataSpec(format="place", place="my photos"))


@pytest.mark.parametrize("text", ["renderer:broad:5", "0.2", "0.2 ", "0 /photos", "1 /photos", "-0.1 /photos",
                                  "1/0 /photos", "nan /photos", "half /photos"])
def test_no_share_of_a_data_set_is_refused(text: str) -> None:
    with pytest.raises(InputError,
                       match=r'give "SHARE DATA", e\.g\. "0\.2 renderer:broad:200", the share above 0 and below 1'):
        parse_share(text)


def test_the_names_of_raw_data_are_those_of_the_converters() -> None:
    assert {*RAW_FORMATS, "folder"} == set(FORMATS) and all(name == form.name for name, form in FORMATS.items())


@pytest.mark.parametrize("text", ["", "folder:", "shanghaitech", "shanghaitech:", "gcc:", "gcc::train", "wider_face:"])
def test_a_data_set_without_a_place_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names no place; give a folder, a URL, or FORMAT:PATH"):
        parse_data(text)


@pytest.mark.parametrize(
    "rest",
    ["", ":", ":source", ":source:", ":source:0", ":source:-3", ":source:3.5", ":source:many", ":moon:3",
     ":source:3:4:180:9", ":source:3::180"],
)
def test_a_rendered_data_set_that_cannot_be_drawn_is_refused(rest: str) -> None:
    message = r"give renderer:LOOK:NUM_IMAGES\[:SEED\[:HEIGHT_PX\]\], LOOK one of broad, wide, source, target"
    with pytest.raises(InputError, match=message) as caught:
        parse_data(f"renderer{rest}")
    assert repr(f"renderer{rest}") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"crop_size": 100}, "multiple of 8"), ({"crop_size": 24}, "at least 32"),
     ({"crop_width": 100}, "crop_width must be a multiple of 8 and at least 32, or 0, got 100"),
     ({"crop_width": 24}, "at least 32"),
     ({"image_size": 31}, "image_size must be at least 32 px, got 31"),
     ({"scale_jitter": (1.6, 0.6)}, "the smaller first"), ({"scale_jitter": (0.0, 1.0)}, "two positive numbers"),
     ({"colour_jitter": 1.0}, "colour_jitter"), ({"grey_share": -0.1}, "grey_share"),
     ({"denser_share": 1.1}, "denser_share"),
     ({"sigma_px": 0.0}, "sigma_px must be positive")],
)
def test_crops_that_cannot_be_cut_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreamConfig(**changes)
