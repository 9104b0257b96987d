"""Configuration of the data: where it comes from and how crops are cut from it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from crowddist.errors import InputError

RAW_FORMATS = ("gcc", "shanghaitech", "ucf_qnrf", "ucf_cc_50", "worldexpo10", "jhu_crowd", "nwpu_crowd", "wider_face",
               "crowd_human")
"""Data sets in a layout of their own, in the order of help; each is a module of `data.convert`."""
Look = Literal["broad", "source", "target"]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """One data set of a run: a place, or raw data that the run converts first. `parse_data` reads it from a line."""

    format: str
    """What it is; a `place` holds shards, or else images without labels."""
    place: str = ""
    """Path or URL; empty for the renderer."""
    split: str = "all"
    """Which part of it, as its format names them (shanghaitech: train, val, all, test); `all` is the format's
    default."""
    look: Look = "source"
    """Renderer: which of its looks."""
    num_images: int = 0
    """Renderer: how many images."""
    height_px: int = 540
    """Renderer: height of the images, which are 16:9."""
    seed: int = 0
    """Renderer: of the drawing."""


def parse_data(text: str) -> DataSpec:
    """Reads what `--source`, `--target` and `--evaluation` are given.

    `PATH_OR_URL` (shards, or a folder of images), `renderer:LOOK:NUM_IMAGES[:SEED[:HEIGHT_PX]]`, `folder:PATH`, or
    `FORMAT:PATH[:SPLIT]`, FORMAT one of `RAW_FORMATS`. `$NAME` in a path is filled in from the environment when the run
    begins.

    Raises:
        InputError: anything else.
    """
    head, _, rest = text.partition(":")
    if head == "renderer":
        return _parse_renderer(text, rest.split(":"))
    if head in RAW_FORMATS:
        path, colon, split = rest.rpartition(":")
        if not colon or "/" in split:
            path, split = rest, "all"
        _require_place(path, text)
        return DataSpec(format=head, place=path, split=split or "all")
    if head == "folder":
        _require_place(rest, text)
        return DataSpec(format="folder", place=rest)
    _require_place(text, text)
    return DataSpec(format="place", place=text)


def parse_share(text: str) -> tuple[Fraction, DataSpec]:
    """Reads what `--more-sources` is given, `SHARE DATA`: a share of the crops above 0 and below 1 (0.2 or 1/5), and a
    data set as `parse_data` reads it.

    Raises:
        InputError: anything else.
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


def _require_place(place: str, text: str) -> None:
    if not place:
        raise InputError(f"data set {text!r} names no place; give a folder, a URL, or FORMAT:PATH")


def _parse_renderer(text: str, parts: list[str]) -> DataSpec:
    looks = get_args(Look)
    numbers = [int(part) for part in parts[1:] if part.isdecimal()]
    if parts[0] not in looks or not 1 <= len(numbers) == len(parts) - 1 <= 3 or numbers[0] < 1:
        raise InputError(f"not a rendered data set: {text!r}; give renderer:LOOK:NUM_IMAGES[:SEED[:HEIGHT_PX]], LOOK "
                         f"one of {', '.join(looks)}")
    fields = dict(zip(("num_images", "seed", "height_px"), numbers, strict=False))
    return DataSpec(format="renderer", look=parts[0], **fields)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How samples become crops, at training, labelling and evaluation."""

    image_size: int = 768
    """Images are resized to this longest side, px."""
    crop_size: int = 256
    """Side of a training crop, px; a multiple of 8. With bi_knowledge, `bi_knowledge.crop_size` stands in its place."""
    scale_jitter: tuple[float, float] = (0.3, 1.2)
    """Range of the random scale on top of `image_size`."""
    colour_jitter: float = 0.3
    """Largest relative change of brightness, contrast and saturation, 0 to 1."""
    grey_share: float = 0.1
    """Share of the crops turned grey (ShanghaiTech A holds grey images), 0 to 1."""
    soft_share: float = 0.5
    """Share of the crops made as soft as photographs of fewer pixels are, 0 to 1: cameras differ in sharpness."""
    noisy_share: float = 0.0
    """Share of the crops with noise as sensors in the dark have it, 0 to 1: what is grainy is else counted where the
    source is clean."""
    sigma_px: float = 6.0
    """Standard deviation of a head's Gaussian in px of the crop (ours). With bi_knowledge, `bi_knowledge.sigma_px`
    stands in its place."""
    sigma_of_size: float = 0.0
    """Where it is not 0, each head's Gaussian has this times the head's size instead (Eq. 1 of MM 2020); with
    bi_knowledge, its own."""
    cache_bytes: int = 2 * 2**30
    """Decoded images kept in memory by each reader."""
    num_readers: int = 0
    """Reader processes beside each training worker; 0 reads in the worker itself."""
    scenes: str = ""
    """Scene regularisation: which images of `--source` are read. SHA, SHB, UCF_CC_50, UCF-QNRF or WorldExpo'10 as
    published for GCC, or a JSON file of any of levels, hours, counts, ratios (each [lowest, highest]) and weathers (a
    list of codes); empty: all."""

    def __post_init__(self) -> None:
        if self.crop_size % 8 or self.crop_size < 32:
            raise InputError(f"crop_size must be a multiple of 8 and at least 32, got {self.crop_size}")
        if self.image_size < 32:
            raise InputError(f"image_size must be at least 32 px, got {self.image_size}")
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise InputError(f"scale_jitter must be two positive numbers, the smaller first, got {self.scale_jitter}")
        if not 0 <= self.colour_jitter < 1:
            raise InputError(f"colour_jitter lies in [0, 1), got {self.colour_jitter}")
        for name in ("grey_share", "soft_share", "noisy_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} lies in [0, 1], got {getattr(self, name)}")
        if self.cache_bytes < 0 or self.num_readers < 0:
            raise InputError(f"cache_bytes and num_readers must not be negative, got {self.cache_bytes} and "
                             f"{self.num_readers}")
        if self.sigma_px <= 0 or self.sigma_of_size < 0:
            raise InputError(f"sigma_px must be positive and sigma_of_size not negative, got {self.sigma_px} and "
                             f"{self.sigma_of_size}")
