"""Where data comes from, and how crops are cut from it."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from crowddist.errors import InputError, require_not_negative, require_positive

OWN_FORMATS = ("csv", "coco", "labelme", "cvat", "label_studio", "json", "npy", "mat")
"""Formats of one's own labels."""
RAW_FORMATS = ("gcc", "shanghaitech", "ucf_qnrf", "ucf_cc_50", "worldexpo10", "jhu_crowd", "nwpu_crowd", "wider_face",
               "crowd_human", *OWN_FORMATS)
"""Raw data sets and formats of one's own labels, in the order of the help text; each is a module of `data.convert`."""
STRIDE = 8
"""Side of a cell of the density map in px of the image, unless a network has other cells."""
Look = Literal["broad", "wide", "source", "target"]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """One data set of a run: a place, or raw data that the run converts first. `parse_data` reads it from a line.

    The renderer has `look`, `num_images`, `height_px` (its images are 16:9) and `seed`; composites have `background`,
    `num_images`, `seed`, `counter` and `heads`; all others have `place`.
    """

    format: str
    """One of `RAW_FORMATS`, "folder", "renderer", "composite", or "place": shards, or else images without labels."""
    place: str = ""
    """Path or URL."""
    split: str = "all"
    """Split by the format's own name (shanghaitech: train, val, all, test); "all" is the format's default."""
    look: Look = "source"
    num_images: int = 0
    height_px: int = 540
    seed: int = 0
    background: DataSpec | None = None
    """Images whose empty places hold the people of composites."""
    counter: str = ""
    """Composites: a run's folder or checkpoint, whose counter tells where nobody is; "": frames of one camera."""
    heads: tuple[float, float] | None = None
    """Composites: smallest and largest head, px; None: drawn for each image."""


def parse_data(text: str) -> DataSpec:
    """Reads a value of `--source`, `--target` or `--evaluation`.

    `PATH_OR_URL` (shards, or a folder of images), `renderer:LOOK:NUM_IMAGES[:SEED[:HEIGHT_PX]]`, `folder:PATH`,
    `composite:DATA[?OPTIONS]` with the images to put people into, or `FORMAT:PATH[:SPLIT]` with FORMAT from
    `RAW_FORMATS`. Raises InputError for anything else. `$NAME` in a path is expanded when the run begins.
    """
    head, _, rest = text.partition(":")
    if head == "renderer":
        return _parse_renderer(text, rest.split(":"))
    if head == "composite":
        return _parse_composite(text, rest)
    if head in RAW_FORMATS:
        path, colon, split = rest.rpartition(":")
        # A folder may be called by a time of day: splits begin with a letter.
        if not colon or "/" in split or split[:1].isdigit() or os.path.isdir(rest):
            path, split = rest, ""
        spec = DataSpec(format=head, place=path, split=split or "all")
    elif head == "folder":
        spec = DataSpec(format="folder", place=rest)
    else:
        near = difflib.get_close_matches(head, (*RAW_FORMATS, "folder", "renderer", "composite"), n=1, cutoff=0.75)
        if rest and near and "/" not in head and not rest.startswith("//") and not os.path.exists(text):
            raise InputError(f"no format is called {head!r}, perhaps you meant {near[0]}: {near[0]}:{rest}")
        spec = DataSpec(format="place", place=text)
    if not spec.place:
        raise InputError(f"data set {text!r} names no place; give a folder, a URL, or FORMAT:PATH")
    return spec


def parse_share(text: str) -> tuple[Fraction, DataSpec]:
    """Reads a `--more-sources` value, `SHARE DATA`: a share of the crops between 0 and 1 (0.2 or 1/5), and a data set
    as for `parse_data`. Raises InputError for anything else.
    """
    share, _, data = text.strip().partition(" ")
    try:
        part = Fraction(share)
    except (ValueError, ZeroDivisionError):
        part = Fraction(0)
    if not (0 < part < 1 and data.strip()):
        raise InputError(f'not a share of a data set: {text!r}; give "SHARE DATA", e.g. "0.2 renderer:broad:200", the '
                         'share above 0 and below 1')
    return part, parse_data(data.strip())


def _parse_renderer(text: str, parts: list[str]) -> DataSpec:
    looks = get_args(Look)
    numbers = [int(part) for part in parts[1:] if part.isdecimal()]
    if parts[0] not in looks or not 1 <= len(numbers) == len(parts) - 1 <= 3 or numbers[0] < 1:
        raise InputError(f"not a rendered data set: {text!r}; give renderer:LOOK:NUM_IMAGES[:SEED[:HEIGHT_PX]], LOOK "
                         f"one of {', '.join(looks)}")
    fields = dict(zip(("num_images", "seed", "height_px"), numbers, strict=False))
    return DataSpec(format="renderer", look=parts[0], **fields)  # type: ignore[arg-type]


def _parse_composite(text: str, rest: str) -> DataSpec:
    # A folder may have a question mark in its name.
    data, _, told = (rest, "", "") if os.path.exists(rest) else rest.partition("?")
    options = dict(option.partition("=")[::2] for option in told.split("&") if option)
    heads = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", options.get("heads", "5-50"))
    numbers = {name: options.get(name, start) for name, start in (("images", "1000"), ("seed", "0"))}
    wrong = options.keys() - {"counter", "heads", "images", "seed"} or [
        name for name, value in options.items() if not value] or [
        name for name, value in numbers.items() if not value.isdecimal()]
    if heads is None or not 2 <= float(heads[1]) < float(heads[2]) or wrong or int(numbers["images"]) < 1 or not data:
        raise InputError(f"not composites: {text!r}; give composite:DATA, the images to put people into, and after a ? "
                         "any of counter=RUN, images=NUMBER, seed=NUMBER and heads=LOW-HIGH (px), joined by &")
    background = parse_data(data)
    if background.format in ("renderer", "composite"):
        raise InputError(f"composites need photographs, got {data!r}; name a folder, shards or FORMAT:PATH")
    return DataSpec(format="composite", background=background, counter=options.get("counter", ""),
                    heads=(float(heads[1]), float(heads[2])) if "heads" in options else None,
                    num_images=int(numbers["images"]), seed=int(numbers["seed"]))


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How samples become crops, at training, labelling and evaluation."""

    image_size: int = 768
    """Longest side that images are resized to, px; at least 32."""
    zooms: tuple[float, ...] = (1.0,)
    """Sizes, relative to image_size, at which an image is counted, 0.1 to 4. Several are merged place by place by the
    ensemble's certainty; each costs its square of the time that 1 takes."""
    crop_size: int = 256
    """Side of a training crop, px; a multiple of 8, at least 32. bi_knowledge uses bi_knowledge.crop_size instead."""
    crop_width: int = 0
    """Width of a training crop whose height is crop_size, px; a multiple of 8, at least 32. 0: crops are square."""
    scale_jitter: tuple[float, float] = (0.3, 1.2)
    """Smallest and largest random scale of a training image, on top of image_size; above 0."""
    colour_jitter: float = 0.3
    """Largest relative change of brightness, contrast and saturation of training crops; from 0 to below 1."""
    grey_share: float = 0.1
    """Share of training crops turned grey, 0 to 1. Some data sets hold grey images, e.g. ShanghaiTech A."""
    soft_share: float = 0.5
    """Share of training crops blurred as if the camera had fewer pixels, 0 to 1. Cameras differ in sharpness."""
    noisy_share: float = 0.0
    """Share of training crops with added noise like that of sensors in the dark, 0 to 1. A counter that only sees clean
    images takes grain for heads."""
    denser_share: float = 0.0
    """Share of labelled training crops that get the people of another place of their image on top, 0 to 1, where that
    makes them denser. Crops of images with a region of interest stay as they are."""
    sigma_px: float = 6.0
    """Standard deviation of each head's Gaussian, px of the crop; above 0. bi_knowledge uses bi_knowledge.sigma_px
    instead."""
    sigma_of_size: float = 0.0
    """Standard deviation of each head's Gaussian as a multiple of the head's size (Eq. 1 of MM 2020); at least 0. 0:
    sigma_px for all heads. bi_knowledge uses bi_knowledge.sigma_of_size instead."""
    cache_bytes: int = 2 * 2**30
    """Memory for decoded images in each reader, bytes; at least 0."""
    num_readers: int = 0
    """Reader processes beside each training worker; 0: the worker itself reads."""
    scenes: str = ""
    """Scene regularisation: rule that selects the images of --source. One published for GCC (SHA, SHB, UCF_CC_50,
    UCF-QNRF, WorldExpo'10), or a JSON file with any of levels, hours, counts, ratios (each [lowest, highest]) and
    weathers (list of codes). Empty: all images."""

    def __post_init__(self) -> None:
        if self.crop_size % 8 or self.crop_size < 32:
            raise InputError(f"crop_size must be a multiple of 8 and at least 32, got {self.crop_size}")
        if self.crop_width and (self.crop_width % 8 or self.crop_width < 32):
            raise InputError(f"crop_width must be a multiple of 8 and at least 32, or 0, got {self.crop_width}")
        if self.image_size < 32:
            raise InputError(f"image_size must be at least 32 px, got {self.image_size}")
        require_zooms("zooms", self.zooms)
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise InputError(f"scale_jitter must be two positive numbers, the smaller first, got {self.scale_jitter}")
        if not 0 <= self.colour_jitter < 1:
            raise InputError(f"colour_jitter lies in [0, 1), got {self.colour_jitter}")
        for name in ("grey_share", "soft_share", "noisy_share", "denser_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} lies in [0, 1], got {getattr(self, name)}")
        require_positive(sigma_px=self.sigma_px)
        require_not_negative(sigma_of_size=self.sigma_of_size, cache_bytes=self.cache_bytes,
                             num_readers=self.num_readers)

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) of a training crop, px."""
        return self.crop_size, self.crop_width or self.crop_size


def require_zooms(name: str, zooms: tuple[float, ...]) -> None:
    """Raises InputError unless `zooms` are different relative sizes of an image that make sense."""
    if not zooms or len(set(zooms)) < len(zooms) or not all(0.1 <= zoom <= 4 for zoom in zooms):
        raise InputError(f"{name} must be one or more different sizes from 0.1 to 4, got "
                         f"{' '.join(f'{zoom:g}' for zoom in zooms) or 'none'}")
