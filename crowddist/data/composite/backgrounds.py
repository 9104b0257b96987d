"""The target's images as backgrounds: their certainly empty places, and medians of one camera's frames.

Opens pixels alone, no label.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from crowddist.data.sample import Sample
from crowddist.data.shard_codec import decode
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.randomness import hash_order

# All of these are ours.
LONGEST_PX = 1024  # larger images are shrunk: counters see none larger, and time grows with the pixels
CROWDED = 0.1
"""Persons in 3 x 3 cells, in any view, above which a place may hold somebody. On 60 images of ShanghaiTech B and a
counter from rendered crowds, 0.4 % of the heads lay in places called empty, which were 49 % of the area; 21 % of the
places farther than three cells from any head were left out. A counter from A, whose maps are more diffuse, called the
places of 6.7 % of the heads empty."""
MIN_FRAMES = 8  # of one camera: with fewer, somebody who stands still for a while stays in the median
MAX_FRAMES = 45  # in a median; more change nothing
MAX_MEDIANS = 4  # backgrounds of one camera, from its darkest frames to its brightest
STEADY_LEVELS = 12.0  # grey levels by which a still place may differ between frames
STEADY_SHARE = 0.6  # of a frame's places that must be still if the camera is
EMPTY_SHARE = 0.08  # of an image's area that must be empty for a background
BLACK_LEVEL = 6  # of 255: an image that hardly exceeds it, of a covered lens or a dead sensor, shows nobody
LEAST_SIDE_PX = 64  # the smallest person, with a head of 4 px, is 28 px tall
_SMALL = (64, 48)
ADVICE = ('name a counter that tells where nobody is: "composite:DATA?counter=rendered" takes the one that comes '
          "along, counter=RUN that of a run which has ended")


@dataclass(frozen=True, kw_only=True)
class Background:
    """An image without people, or the empty part of one."""

    key: str
    """Of the target's image, or of the first of the frames."""
    stored: tuple[ShardReader, int] | None = None
    """The target's shards and the image's number in them: it is read when it is needed, for a thousand photographs of 5
    MB would take 5 GB in each process. None where `pixels` are given."""
    pixels: np.ndarray | None = None
    """(H, W, 3) uint8, the median of frames."""
    empty: np.ndarray
    """(h, w) bool over the image, in cells of any size: nobody is there. Elsewhere people are unknown."""
    crowded: np.ndarray
    """(h, w) bool, where a counter found people; false everywhere for medians."""
    walked: np.ndarray
    """(h, w) bool, where people were seen to move in frames of one camera; true everywhere where that is unknown."""
    tables: dict[str, Any] = field(default_factory=dict)
    """The target's own JPEG: `qtables` and `subsampling` as Pillow takes them; {} for others."""

    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, its longest side at most LONGEST_PX."""
        if self.stored is None:
            assert self.pixels is not None
            return self.pixels
        return shrunk(read_image(*self.stored)[1])


def decode_image(data: bytes, longest_px: float = math.inf) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a JPEG or PNG out of a shard; a JPEG perhaps smaller, but at least `longest_px` long."""
    return _decoded(data, longest_px).image


def _decoded(data: bytes, longest_px: float) -> Sample:
    kind = "png" if data.startswith(b"\x89PNG") else "jpg"
    return decode("background", {kind: data}, longest_px=longest_px)


def shrunk(data: bytes) -> np.ndarray:
    """The image of `decode_image`, its longest side at most LONGEST_PX."""
    image = decode_image(data, LONGEST_PX)
    factor = LONGEST_PX / max(image.shape[:2])
    if factor >= 1:
        return image
    return cv2.resize(image, (round(image.shape[1] * factor), round(image.shape[0] * factor)),
                      interpolation=cv2.INTER_AREA)


def unfit(data: bytes) -> str:
    """Why nobody would be seen in an image of a shard, in a word or some; "" for images that serve."""
    sample = _decoded(data, max(_SMALL))
    height, width = sample.frame or sample.image.shape[:2]
    if min(height, width) * min(LONGEST_PX / max(height, width), 1) < LEAST_SIDE_PX:
        return f"too small or narrow (below {LEAST_SIDE_PX} px)"
    return "black" if is_black(sample.image) else ""


def is_black(image: np.ndarray) -> bool:
    """True for an image in which painted people would be black on black."""
    return float(np.percentile(image, 99)) <= BLACK_LEVEL


def read_image(reader: ShardReader, index: int) -> tuple[str, bytes]:
    """Key and encoded pixels of a sample; opens no other member."""
    key, members = reader.read(index, ("jpg", "png"))
    return key, next(iter(members.values()))


def chosen_images(reader: ShardReader, most: int, seed: int) -> list[int]:
    """At most `most` indexes of the target's images, by the seed, rising."""
    return sorted(hash_order(len(reader), seed, "composite")[:most].tolist())


def counted_backgrounds(reader: ShardReader, indexes: Sequence[int],
                        densities: Iterable[np.ndarray]) -> list[Background]:
    """Backgrounds of images in which a counter has looked for people.

    Args:
        densities: for each index (views, h, w) persons a cell, by different views of the image.

    Raises:
        InputError: in no image there is enough empty place, or people would be seen in none.
    """
    found, left_out = [], Counter[str]()
    for index, views in zip(indexes, densities, strict=True):
        key, data = read_image(reader, index)
        if reason := unfit(data):
            left_out[reason] += 1
            continue
        near = np.stack([cv2.boxFilter(view.astype(np.float32), -1, (3, 3), normalize=False,
                                       borderType=cv2.BORDER_CONSTANT) for view in views])
        crowded = near.max(0) > CROWDED
        # The next cells may show the rest of a head.
        empty = cv2.dilate(crowded.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
        if empty.mean() >= EMPTY_SHARE:
            found.append(Background(key=key, stored=(reader, index), empty=empty, crowded=crowded,
                                    walked=np.ones_like(empty), tables=jpeg_tables(data)))
        else:
            left_out[f"crowded (the counter finds less than {EMPTY_SHARE:.0%} of the area empty)"] += 1
    if not found:
        raise InputError(f"composites need places without people, and none of {len(indexes)} images of "
                         f"{reader.manifest.name} serves: {_listed(left_out)}; add images of emptier or lighter hours, "
                         "or take a rendered source (renderer:wide:1500)")
    return found


def camera_backgrounds(reader: ShardReader, indexes: Sequence[int]) -> list[Background]:
    """Medians of the frames of one fixed camera, which are empty where people moved on.

    Raises:
        InputError: the images are not frames of one fixed camera, or too few, or everything moves in them.
    """
    name = reader.manifest.name
    small, numbers, left_out = [], [], Counter[str]()
    seen: set[bytes] = set()
    for index in indexes:
        data = read_image(reader, index)[1]
        reason = unfit(data)
        if not reason:
            frame = decode_image(data, LONGEST_PX)
            digest = hashlib.sha256(frame.tobytes()).digest()
            # A stream that hangs repeats its last frame; who stands in that would stay.
            reason = "repeated" if digest in seen else ""
            seen.add(digest)
        if reason:
            left_out[reason] += 1
        else:
            small.append(_thumbnail(frame))
            numbers.append(index)
    if len(small) < MIN_FRAMES:
        raise too_few_frames(name, len(small), f" beside {_listed(left_out)}" if left_out else "")
    if not one_camera(small):
        raise InputError(f"{name} is not one fixed camera, or most of its view moves, so no median of its images is an "
                         f"empty place; {ADVICE}")
    order = sorted(range(len(small)), key=lambda number: (small[number].mean(), number))
    groups = [part for part in np.array_split(order, min(len(order) // (2 * MIN_FRAMES) or 1, MAX_MEDIANS))]
    found = []
    for group in groups:
        chosen = group[np.linspace(0, len(group) - 1, min(len(group), MAX_FRAMES)).round().astype(int)]
        background = _median(reader, [numbers[number] for number in chosen])
        if background.empty.mean() >= EMPTY_SHARE and not is_black(background.image()):
            found.append(background)
    if not found:
        raise InputError(f"everything moves in the frames of {name}, so their median shows no empty place; {ADVICE}")
    return found


def too_few_frames(name: str, number: int, beside: str = "") -> InputError:
    """The error of images without a counter that are fewer than MIN_FRAMES, with what is `beside` them."""
    return InputError(f"composites without a counter need at least {MIN_FRAMES} different frames of one fixed camera, "
                      f"{name} has {number}{beside}; add frames of other hours, or {ADVICE}")


def one_camera(frames: Sequence[np.ndarray]) -> bool:
    """True for frames of a camera that stands still: most of nearly each is the median of all, but for brightness.

    Args:
        frames: (h, w) float32 grey levels, small; of equal shape where the images are.
    """
    if len({frame.shape for frame in frames}) > 1:
        return False
    levelled = np.stack([frame - np.median(frame) for frame in frames])
    still = np.abs(levelled - np.median(levelled, axis=0)) < STEADY_LEVELS
    return bool(np.quantile(still.mean((1, 2)), 0.1) >= STEADY_SHARE)


def jpeg_tables(data: bytes) -> dict[str, Any]:
    """How a JPEG that is not shrunk was made; {} for others."""
    import PIL.Image
    import PIL.JpegImagePlugin

    if data.startswith(b"\x89PNG"):
        return {}
    image = PIL.Image.open(io.BytesIO(data), formats=("JPEG",))
    sampling = PIL.JpegImagePlugin.get_sampling(image)
    if max(image.size) > LONGEST_PX or (sampling < 0 and image.mode != "L"):
        return {}
    # A list, because Pillow passes over the second of two tables that are not numbered 0 and 1.
    tables = [list(table) for _, table in sorted(image.quantization.items())]  # type: ignore[attr-defined]
    return {"qtables": tables, "subsampling": max(sampling, 0)}


def _thumbnail(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = _SMALL if grey.shape[1] >= grey.shape[0] else _SMALL[::-1]
    return cv2.resize(grey, small, interpolation=cv2.INTER_AREA).astype(np.float32)


def _listed(numbers: Counter[str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in numbers.items())


def _median(reader: ShardReader, indexes: Sequence[int]) -> Background:
    key, first = read_image(reader, indexes[0])
    pictures = [shrunk(read_image(reader, index)[1]) for index in indexes]
    # A camera may have been set to another resolution meanwhile.
    frames = np.stack([picture if picture.shape == pictures[0].shape else
                       cv2.resize(picture, pictures[0].shape[1::-1], interpolation=cv2.INTER_AREA)
                       for picture in pictures])
    middle = np.empty(frames.shape[1:], np.uint8)
    for row in range(0, len(middle), 32):  # a strip at a time: the median needs a copy of all frames
        middle[row:row + 32] = np.median(frames[:, row:row + 32], axis=0)
    cells = (-(-frames.shape[1] // 8), -(-frames.shape[2] // 8))
    apart = np.zeros((len(frames), *cells), np.float32)
    grain, grey = [], cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY).astype(np.float32)
    for number, frame in enumerate(frames):
        difference = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) - grey
        difference -= np.median(difference)
        apart[number] = cv2.resize(np.abs(difference), cells[::-1], interpolation=cv2.INTER_AREA)
        grain.append(np.median(np.abs(difference)) * 1.4826)
    moved = apart > STEADY_LEVELS
    # Where half of the frames differ from their median, it is a mixture of people.
    empty = cv2.dilate((moved.mean(0) > 0.35).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    walked = cv2.dilate((moved.sum(0) >= 2).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if not walked.any():
        walked[:] = True
    # A median has no grain; that of the frames comes back.
    noise = np.random.default_rng(len(frames)).standard_normal(middle.shape[:2], dtype=np.float32)
    noisy = np.clip(np.rint(middle + float(np.median(grain)) * noise[..., None]), 0, 255).astype(np.uint8)
    return Background(key=key, pixels=noisy, empty=empty, crowded=np.zeros_like(empty), walked=walked,
                      tables=jpeg_tables(first))
