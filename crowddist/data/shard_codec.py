"""The members of a sample: files that share its key. One table says how each kind is written and read."""

from __future__ import annotations

import functools
import io
import json
import math
from collections.abc import Callable, Mapping
from tokenize import TokenError
from typing import Any

import numpy as np

from crowddist.data.safe_decode import jpg_size, read_png
from crowddist.data.sample import Labels, Sample, Seen
from crowddist.errors import InputError

Member = bytes | np.ndarray | dict[str, Any]
_ARRAYS: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "points.npy": (np.float32, (None, 2)),
    **dict.fromkeys(("boxes.npy", "detections.npy", "doubtful.npy"), (np.float32, (None, 4))),
    **dict.fromkeys(("density.npy", "spread.npy"), (np.float16, (None, None))),
    **dict.fromkeys(("seen.density.npy", "seen.spread.npy"), (np.float32, (None, None))),
    **dict.fromkeys(("seen.heads.npy", "seen.peaks.npy"), (np.float32, (None, 4))),
    "seen.certainty.npy": (np.float32, (None, None)),
    "seen.counts.npy": (np.float64, (None,)),
}
"""Stored type and shape of each array; None is any length. `seen.*` are the arrays of a `Seen`."""
_BILEVEL = ("mask.png", "keep.png", "region.png")
_LONGEST_ARRAY_HEAD = 1024
"""Bytes of the header in NumPy's format; ours have 128."""
_DAMAGE = (ValueError, TypeError, EOFError, OverflowError, RecursionError, TokenError)
"""Errors of the decoders; RecursionError comes from endlessly nested brackets, TokenError from an array's torn head."""
LABEL_FACTS = ("count", "level", "scene_level")
"""Entries of a sample's json that come from annotations; an unlabelled set must not hold them."""


def encode(extension: str, value: Member) -> bytes:
    """The bytes of a member. Bytes stay as they are.

    Arrays: `points.npy` N x 2; `boxes.npy`, `detections.npy` and `doubtful.npy` N x 4 -> float32; `density.npy` and
    `spread.npy` (h, w) -> float16; `mask.png`, `keep.png` and `region.png` (h, w), nonzero -> 255; `seen.*.npy` as
    in `sample.Seen`. `json` takes a dict. Raises InputError for an unknown extension, a wrong type or shape, or a
    number that is not finite.
    """
    if extension not in _DECODERS:
        raise InputError(f"no member of a sample is called {extension!r}; known: {', '.join(_DECODERS)}")
    if isinstance(value, bytes):
        return value
    if extension == "json" and isinstance(value, dict):
        return _write_json(value)
    if extension in _ARRAYS and isinstance(value, np.ndarray):
        return _write_array(value, *_ARRAYS[extension])
    if extension in _BILEVEL and isinstance(value, np.ndarray):
        return _write_bilevel(value)
    raise InputError(f"member {extension} cannot be made of {type(value).__name__}; give bytes, an array or a dict, as "
                     "its kind has it")


def decode(key: str, members: dict[str, bytes], *, longest_px: float = math.inf) -> Sample:
    """Decodes a sample: an image, its annotations, and pseudo-labels if `density.npy` is among the members.

    Never unpickles anything. Raises InputError, with the names of sample and member, for unknown, damaged, missing or
    contradicting members.

    Args:
        longest_px: longest side that the caller needs, px. A JPEG that stays at least this large is decoded at 1/2, 1/4
            or 1/8 of its size, which takes less than half the time; all other fields, and `Sample.frame`, refer to the
            whole image.
    """
    values = _decode_members(key, members, longest_px)
    images = [extension for extension in ("jpg", "png") if extension in values]
    if len(images) != 1:
        raise InputError(f"sample {key}: one image is needed, jpg or png, got the members {', '.join(sorted(members))}")
    image, scene, mask = values[images[0]], values.get("json", {}), values.get("mask.png")
    size = jpg_size(members["jpg"]) if "jpg" in values else image.shape[:2]
    told = (scene.get("height", size[0]), scene.get("width", size[1]))
    if size != told:
        raise InputError(f"sample {key}: the image has {size} pixels, its json says {told}; convert the data again")
    if mask is not None and mask.shape != size:
        raise InputError(f"sample {key}: the image has {size} pixels, its mask {mask.shape}; convert the data again")
    region = values.get("region.png")
    if region is not None and (region.shape != size or not region.any()):
        raise InputError(f"sample {key}: the image has {size} pixels, its region of interest {region.shape} with "
                         f"{int(region.sum())} inside; convert the data again")
    points, boxes = values.get("points.npy"), values.get("boxes.npy")
    if boxes is not None and (points is None or len(points) != len(boxes)):
        told_points = "no points" if points is None else f"{len(points)} points"
        raise InputError(f"sample {key}: {len(boxes)} boxes but {told_points}, one each is needed; convert the data "
                         "again")
    return Sample(key=key, image=image, frame=None if size == image.shape[:2] else size, points=points, boxes=boxes,
                  mask=None if mask is None else mask.astype(np.uint8), region=region,
                  labels=_labels(key, values) if "density.npy" in values else None, scene=scene)


def decode_labels(key: str, members: dict[str, bytes]) -> Labels:
    """Decodes the pseudo-labels of a sample without any image. Raises InputError as `decode` does."""
    return _labels(key, _decode_members(key, members))


def decode_scene(key: str, members: dict[str, bytes]) -> dict[str, Any]:
    """Decodes the json of a sample; {} if there is none. Raises InputError as `decode` does."""
    return _decode_members(key, members).get("json", {})


def encode_seen(seen: Seen) -> dict[str, Member]:
    """The members that hold the predictions of one image exactly; `decode_seen` is the inverse."""
    arrays = {"density": seen.density, "spread": seen.spread, "counts": seen.member_counts, "heads": seen.detections,
              "peaks": seen.transformed, "certainty": seen.zoom_certainty}
    return {f"seen.{name}.npy": array for name, array in arrays.items() if array is not None}


def decode_seen(key: str, members: Mapping[str, bytes | memoryview]) -> Seen:
    """Decodes the predictions of a sample. The arrays are views of the given bytes, not copies. Raises InputError as
    `decode` does.
    """
    arrays: dict[str, Any] = {}
    for name in ("density", "spread", "counts", "heads", "peaks", "certainty"):
        member = f"seen.{name}.npy"
        if member not in members and name in ("density", "spread", "counts"):
            raise InputError(f"sample {key}: predictions need {member}; remove the data set and predict again")
        try:
            arrays[name] = _view_array(members[member], *_ARRAYS[member]) if member in members else None
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise InputError(f"sample {key}: member {member} is damaged: {reason}; predict again") from None
    facts = decode_scene(key, {"json": bytes(members.get("json", b"{}"))})
    size = facts.get("seen", (0, 0))
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size)):
        raise InputError(f"sample {key}: seen must be the view's height and width, got {size!r:.80}; predict again")
    zooms = facts.get("zooms", [])
    if not (isinstance(zooms, list) and all(isinstance(pair, list) and len(pair) == 2 and all(
            isinstance(number, int | float) for number in pair) for pair in zooms)):
        raise InputError(f"sample {key}: zooms must be pairs of a zoom and its count, got {zooms!r:.80}; predict again")
    return Seen(size=(size[0], size[1]), density=arrays["density"], spread=arrays["spread"],
                member_counts=arrays["counts"], detections=arrays["heads"], transformed=arrays["peaks"],
                zoom_certainty=arrays["certainty"], zoom_counts=dict(zooms))


def num_persons(members: dict[str, bytes]) -> float | None:
    """Number of annotated points, or else the sum of the density, or None if the members hold neither."""
    if "points.npy" in members:
        return float(len(_read_array(members["points.npy"], *_ARRAYS["points.npy"])))
    if "density.npy" in members:
        return float(_read_array(members["density.npy"], *_ARRAYS["density.npy"]).sum(dtype=np.float64))
    return None


def _decode_members(key: str, members: dict[str, bytes], longest_px: float = math.inf) -> dict[str, Any]:
    values = {}
    for extension, data in members.items():
        if extension not in _DECODERS:
            raise InputError(f"sample {key}: a member of the kind {extension!r} is never read; known: "
                             f"{', '.join(_DECODERS)}")
        try:
            values[extension] = _read_jpg(data, longest_px) if extension == "jpg" else _DECODERS[extension](data)
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise InputError(f"sample {key}: member {extension} is damaged: {reason}; convert or label again") from None
    return values


def _labels(key: str, values: dict[str, Any]) -> Labels:
    missing = [extension for extension in ("density.npy", "keep.png") if extension not in values]
    if missing:
        raise InputError(f"sample {key}: labels need density.npy and keep.png, {missing[0]} is missing; label again")
    density, scene, none = values["density.npy"], values.get("json", {}), np.zeros((0, 4), np.float32)
    for name in ("keep.png", "spread.npy"):
        if name in values and values[name].shape != density.shape:
            raise InputError(f"sample {key}: density has {density.shape} cells, {name} {values[name].shape}; label "
                             "again")
    return Labels(density=density, keep=values["keep.png"], detections=values.get("detections.npy", none),
                  doubtful=values.get("doubtful.npy", none), spread=values.get("spread.npy"),
                  extent=_extent(key, scene.get("extent", density.shape), density.shape),
                  windows=_windows(key, scene.get("windows", {})))


def _windows(key: str, told: Any) -> dict[str, np.ndarray]:
    """The patches to train on, by purpose, from the labels' json."""
    try:
        windows = {purpose: np.asarray(values, np.float64) for purpose, values in dict(told).items()}
    except (TypeError, ValueError, OverflowError):
        windows = {"": np.empty(0)}
    if not all(part.ndim == 2 and part.shape[1] == 4 and len(part) and np.isfinite(part).all()
               for part in windows.values()):
        raise InputError(f"sample {key}: windows must be lists of top, left, height, width by purpose; label again")
    return windows


def _extent(key: str, told: Any, cells: tuple[int, ...]) -> tuple[float, float]:
    """The image's (height, width) in cells, from the labels' json."""
    try:
        height, width = map(float, told)
        needed = (math.ceil(height), math.ceil(width))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"sample {key}: extent must be the image's height and width in cells, got {told!r}; label "
                         "again") from None
    if needed != cells:
        raise InputError(f"sample {key}: density has {cells} cells, its json says that the image covers {told}; label "
                         "again")
    return height, width


def _write_array(array: np.ndarray, dtype: type, shape: tuple[int | None, ...]) -> bytes:
    _check_shape(array, shape)
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise InputError(f"an array of {array.dtype}, or with NaN or infinite numbers, is not stored")
    with np.errstate(over="ignore"):
        narrow: np.ndarray = np.ascontiguousarray(array, dtype=dtype)
    if not np.isfinite(narrow).all():
        raise InputError(f"the largest number {np.abs(array).max():g} does not fit {np.dtype(dtype).name}")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, narrow, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _read_array(data: bytes, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """A copy; float16 becomes float32."""
    view = _view_array(data, dtype, shape)
    return view.astype(np.result_type(view, np.float32), order="C")


def _view_array(data: bytes | memoryview, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray:
    """A read-only view. Checks the header's size against the bytes first: NumPy would allocate whatever it says."""
    head = io.BytesIO(bytes(data[:_LONGEST_ARRAY_HEAD]))
    version = np.lib.format.read_magic(head)
    if version != (1, 0):
        raise InputError(f"arrays of the format {version} are not read")
    try:
        found, fortran, kind = np.lib.format.read_array_header_1_0(head)
    except Exception as error:  # NumPy's parser of heads raises many kinds, of ',<f4' SyntaxError
        raise InputError(f"its head is not an array's: {' '.join(str(error).split())[:100]}") from None
    if kind != np.dtype(dtype):
        raise InputError(f"numbers are {kind}, expected {np.dtype(dtype).name}")
    if min(found, default=0) < 0 or math.prod(found) * kind.itemsize != len(data) - head.tell():
        raise InputError(f"its head says {found} numbers, {len(data) - head.tell()} bytes follow")
    array = np.frombuffer(data, kind, offset=head.tell()).reshape(found, order="F" if fortran else "C")
    _check_shape(array, shape)
    return array


def _check_shape(array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    if array.ndim != len(shape) or any(want not in (None, got) for got, want in zip(array.shape, shape, strict=True)):
        raise InputError(f"shape is {array.shape}, expected {tuple('any' if want is None else want for want in shape)}")


def _write_bilevel(array: np.ndarray) -> bytes:
    import cv2

    _check_shape(array, (None, None))
    return cv2.imencode(".png", (array != 0).astype(np.uint8) * 255)[1].tobytes()


def _read_jpg(data: bytes, longest_px: float = math.inf) -> np.ndarray:
    import simplejpeg

    height, width = jpg_size(data)
    for divisor in (8, 4, 2):
        if max(height, width) / divisor >= longest_px:
            return simplejpeg.decode_jpeg(data, colorspace="RGB", min_height=height // divisor,
                                          min_width=width // divisor)
    return simplejpeg.decode_jpeg(data, colorspace="RGB")


def _write_json(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"json cannot hold this: {error}") from None


def _read_json(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise InputError(f"json holds {type(value).__name__}, expected an object")
    return value


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "jpg": _read_jpg,
    "png": read_png,
    "json": _read_json,
    **dict.fromkeys(_BILEVEL, lambda data: read_png(data, grey=True) != 0),
    **{name: functools.partial(_read_array, dtype=dtype, shape=shape) for name, (dtype, shape) in _ARRAYS.items()},
}
