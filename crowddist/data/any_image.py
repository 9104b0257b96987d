"""Images as callers have them: places, files' bytes, PIL images, NumPy arrays, PyTorch tensors."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from crowddist.data.images import read_image_bytes
from crowddist.data.pixels import as_pixels, to_rgb
from crowddist.data.safe_decode import require_shape
from crowddist.data.user_files import read_place
from crowddist.errors import InputError

if TYPE_CHECKING:
    import PIL.Image
    import torch

    AnyImage: TypeAlias = str | os.PathLike[str] | bytes | PIL.Image.Image | np.ndarray | torch.Tensor
else:
    AnyImage = Any

_CHANNELS = (1, 3, 4)


def any_pixels(image: AnyImage, *, bits: int | None = None) -> np.ndarray:
    """The pixels of `any_image`."""
    return any_image(image, bits=bits)[0]


def any_image(image: AnyImage, *, bits: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(H, W, 3) uint8 RGB of an image, and what was doubtful about it: names of `crowddist.data.images.NOTES`.

    - a path, or an address as of `find_user_files`: turned upright by its rotation tag;
    - the bytes of an image file: likewise;
    - a PIL image of any mode: likewise;
    - a NumPy array, grey (H, W) or (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4): uint8; uint16; floats from 0 to 1;
    - a PyTorch tensor likewise, its channels first (C, H, W) or last (H, W, C): the end with 1, 3 or 4 of them. Not
      normalised by a mean.

    What is transparent is put on white.

    Args:
        bits: of a uint16 array or tensor, 1 to 16: its white is 2^bits - 1; None: told by its numbers, as of files.

    Raises:
        InputError: the image is none of these, or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_place(image)
    if isinstance(image, bytes):
        return read_image_bytes(image)
    if (pillow := sys.modules.get("PIL.Image")) is not None and isinstance(image, pillow.Image):
        pixels, notes = _of_pillow(image)
        return pixels, tuple(notes)
    if (pytorch := sys.modules.get("torch")) is not None and isinstance(image, pytorch.Tensor):
        image = _of_tensor(image)
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image cannot be {type(image).__name__}; give a path, a file's bytes, a PIL image, a "
                         "NumPy array or a PyTorch tensor")
    image = np.asarray(image)  # of its subclasses: np.matrix has two dimensions for ever
    if bits is not None:
        image = _to_eight(image, bits)
    pixels, notes = as_pixels(image)
    return pixels, tuple(notes)


def _of_pillow(image: PIL.Image.Image) -> tuple[np.ndarray, list[str]]:
    import PIL.ImageOps

    require_shape(image.height, image.width)
    try:
        upright = PIL.ImageOps.exif_transpose(image)  # decodes it, where nobody has
        if upright.mode in ("I", "F"):
            return to_rgb(np.asarray(upright))
        if upright.mode.startswith("I;16"):
            values = np.asarray(upright).astype(np.uint16)
        else:
            alpha = {"A", "a"} & set(upright.getbands()) or "transparency" in upright.info
            values = np.asarray(upright.convert("RGBA" if alpha else "RGB"))
    except InputError:
        raise
    except Exception as error:  # of any decoder
        name = getattr(image, "filename", "") or "the image"
        raise InputError(f"{name} cannot be read: {' '.join(str(error).split())}") from None
    return as_pixels(values)


def _of_tensor(image: torch.Tensor) -> np.ndarray:
    """The tensor as an array with its channels last."""
    shape = tuple(image.shape)
    try:
        # NumPy has no bfloat16.
        values = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
    except (RuntimeError, TypeError) as error:  # of sparse and quantised ones, and of those without numbers (meta)
        raise InputError(f"an image cannot be a tensor of {image.layout} on {image.device}: "
                         f"{' '.join(str(error).split())[:200]}; give a dense one of uint8") from None
    if len(shape) == 4:
        raise InputError(f"an image cannot have the shape {shape}; give the images of a batch one by one to count_many")
    first, last = len(shape) == 3 and shape[0] in _CHANNELS, len(shape) == 3 and shape[2] in _CHANNELS
    if first and last:
        raise InputError(f"the shape {shape} does not tell where the channels are; give (H, W, C) as a NumPy array")
    return np.ascontiguousarray(values.transpose(1, 2, 0)) if first else values


def _to_eight(image: np.ndarray, bits: int) -> np.ndarray:
    if image.dtype != np.uint16 or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise InputError(f"bits are those of an image of uint16, 1 to 16; got {bits!r} and {image.dtype}")
    white = 2**bits - 1
    if image.size and image.max() > white:
        raise InputError(f"an image of {bits} bits has numbers of at most {white}, got {image.max()}")
    return np.round(image * (255 / white)).astype(np.uint8)
