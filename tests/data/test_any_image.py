"""Images as callers have them: the same picture in every form has the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crowddist.data.any_image import any_pixels
from crowddist.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RGB[..., 0]
THREE = np.repeat(GREY[..., None], 3, axis=2)


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.dtype == np.uint8 and found.shape == wanted.shape and bool((found == wanted).all())


def test_places(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for place in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").as_uri()):
        assert same(any_pixels(place), RGB)
    assert same(any_pixels((tmp_path / "a.png").read_bytes()), RGB)
    for data, message in ((b"", "the image: the file is empty"), (b"bytes", "the image: not an image")):
        with pytest.raises(InputError, match=message):
            any_pixels(data)


def test_arrays() -> None:
    assert same(any_pixels(RGB), RGB) and same(any_pixels(RGB / 255), RGB)
    assert same(any_pixels(GREY), THREE) and same(any_pixels(GREY[..., None]), THREE)
    assert same(any_pixels(np.dstack([RGB, np.full((20, 30), 255, np.uint8)])), RGB)
    clear = any_pixels(np.dstack([RGB, np.tile(np.array([0, 255], np.uint8), (20, 15))]))
    assert (clear[:, ::2] == 255).all() and (clear[:, 1::2] == RGB[:, 1::2]).all(), "on white"


def test_bits_tell_the_white_of_sixteen() -> None:
    """12 bits of a dark scene: by its numbers alone it would be taken for one of 10."""
    dark = np.array([[0, 1000], [500, 1023]], np.uint16)
    assert any_pixels(dark, bits=12)[..., 0].tolist() == [[0, 62], [31, 64]]  # round(value * 255 / 4095)
    assert any_pixels(dark)[..., 0].tolist() == [[0, 249], [125, 255]]
    assert any_pixels(dark, bits=16)[..., 0].tolist() == [[0, 4], [2, 4]]
    with pytest.raises(InputError, match="an image of 8 bits has numbers of at most 255, got 1023"):
        any_pixels(dark, bits=8)
    for image, bits in ((RGB, 12), (dark, 0), (dark, 17), (dark, "12")):
        with pytest.raises(InputError, match="bits are those of an image of uint16, 1 to 16"):
            any_pixels(image, bits=bits)


def test_pillow() -> None:
    assert same(any_pixels(Image.fromarray(RGB)), RGB) and same(any_pixels(Image.fromarray(GREY)), THREE)
    assert same(any_pixels(Image.fromarray(RGB).convert("RGBA")), RGB)
    palette = Image.fromarray(RGB).convert("P")
    assert same(any_pixels(palette), np.asarray(palette.convert("RGB")))
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert deep.mode == "I;16" and same(any_pixels(deep), THREE)
    turned = Image.fromarray(RGB)
    turned.getexif()[274] = 6
    assert same(any_pixels(turned), np.rot90(RGB, -1))
    assert same(any_pixels(Image.fromarray((GREY / 255).astype(np.float32))), THREE)
    assert same(any_pixels(Image.fromarray(GREY.astype(np.int32))), THREE)
    with pytest.raises(InputError, match="no known white"):
        any_pixels(Image.fromarray(np.full((20, 30), 1e9, np.float32)))
    with pytest.raises(InputError, match="too thin"):
        any_pixels(Image.new("L", (9000, 8)))


def test_a_damaged_pillow_image_is_one_line(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:600])
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(InputError, match=r"a\.png cannot be read"):
        any_pixels(opened)


def test_tensors_with_channels_first_or_last() -> None:
    tensor = torch.from_numpy(RGB.copy())
    assert same(any_pixels(tensor), RGB) and same(any_pixels(tensor.permute(2, 0, 1)), RGB)
    assert same(any_pixels(tensor.permute(2, 0, 1) / 255), RGB)
    assert same(any_pixels((tensor / 255).double().requires_grad_()), RGB)
    assert same(any_pixels(torch.from_numpy(GREY.copy())), THREE)
    assert same(any_pixels(torch.from_numpy(GREY.copy())[None]), THREE)
    halves = any_pixels(tensor.permute(2, 0, 1).float().div(255).bfloat16())
    assert np.abs(halves.astype(int) - RGB).max() <= 2
    with pytest.raises(InputError, match=r"\(2, 3, 20, 30\); give the images of a batch one by one"):
        any_pixels(torch.zeros(2, 3, 20, 30))
    with pytest.raises(InputError, match="does not tell where the channels are"):
        any_pixels(torch.zeros(3, 20, 4))
    with pytest.raises(InputError, match="numbers from 0 to 1, got -1 to -1"):
        any_pixels(torch.full((3, 20, 30), -1.0))


@pytest.mark.parametrize("image", [None, 7, [1, 2], {"image": 1}])
def test_anything_else_is_named(image: object) -> None:
    with pytest.raises(InputError, match=f"an image cannot be {type(image).__name__}; give a path, a file's bytes"):
        any_pixels(image)
