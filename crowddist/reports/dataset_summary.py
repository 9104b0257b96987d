"""What a data set holds, for a person to read: sizes and counts of its images, and a sheet of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from crowddist import storage
from crowddist.data.manifest import Manifest
from crowddist.data.shard_codec import decode, decode_scene, num_persons
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError

RANGE_STARTS = (0, 1, 10, 25, 50, 100, 250, 500, 1000, 2500)
"""Persons at which the bars of the histogram begin; the last has no end. ours."""
NOUNS = {"images": "images", "labels": "pseudo-labels", "predictions": "predictions"}
"""What samples are called, by the kind of their data set."""
BAR_WIDTH = 40
"""Characters of the longest bar."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A data set's facts."""

    url: str
    manifest: Manifest
    sizes: dict[tuple[int, int], int]
    """(height, width) in px -> how many images have it, most of them first; empty for pseudo-labels."""
    counts: np.ndarray
    """(N,) persons of each sample in order; empty where the data set is unlabelled."""

    def lines(self) -> list[str]:
        """The facts in words, with a histogram of the counts."""
        manifest = self.manifest
        num_bytes = sum(shard.num_bytes for shard in manifest.shards)
        noun = NOUNS[manifest.kind]
        lines = [
            f"{manifest.name} ({manifest.split}): {manifest.num_samples:,} {noun}, {len(manifest.shards)} shards, "
            f"{num_bytes / 1e6:,.1f} MB",
            f"at {self.url}, written by {manifest.converter}, digest {manifest.digest[:12]}",
        ]
        if self.sizes:
            usual = [f"{width} x {height} px ({number:,})" for (height, width), number in list(self.sizes.items())[:3]]
            more = f" and {len(self.sizes) - 3} more" if len(self.sizes) > 3 else ""
            lines.append(f"sizes: {', '.join(usual)}{more}")
        if not len(self.counts):
            return [*lines, "unlabelled"]
        low, middle, high = np.quantile(self.counts, [0, 0.5, 1])
        lines.append(f"persons: {self.counts.sum():,.0f}; an image {low:,.0f} to {high:,.0f}, mean "
                     f"{self.counts.mean():,.1f}, median {middle:,.1f}")
        return [*lines, *histogram(self.counts)]


def describe(url: str, *, watch: Callable[[Sequence[int]], Iterable[int]] = iter) -> Description:
    """Reads what every sample of a data set tells of itself, and no pixels.

    Args:
        url: of the shards.
        watch: wraps the samples' numbers on their way, to show progress.

    Raises:
        FileNotFoundError, InputError: there is no data set, or it is damaged.
    """
    reader = ShardReader(url)
    sizes: Counter[tuple[int, int]] = Counter()
    counts = []
    for index in watch(range(len(reader))):
        key, members = reader.read(index, ("json", "points.npy", "density.npy"))
        scene = decode_scene(key, members)
        if "height" in scene and "width" in scene:
            sizes[scene["height"], scene["width"]] += 1
        persons = num_persons(members)
        if persons is not None:
            counts.append(persons)
    return Description(url=reader.url, manifest=reader.manifest, sizes=dict(sizes.most_common()),
                       counts=np.asarray(counts))


def histogram(counts: np.ndarray, starts: Sequence[int] = RANGE_STARTS) -> list[str]:
    """A line for each range of counts between the least and the most: range, number of images, and a bar.

    Args:
        counts: (N,) persons >= 0, N >= 1.
        starts: persons at which the ranges begin, in ascending order, from 0 on.
    """
    names = [f"{low:,}" if low == high else f"{low:,} to {high:,}"
             for low, high in zip(starts, [start - 1 for start in starts[1:]], strict=False)]
    names.append(f"{starts[-1]:,} and more")
    numbers = np.bincount(np.searchsorted(starts, np.floor(counts), side="right") - 1, minlength=len(starts))
    shown = range(int(np.flatnonzero(numbers)[0]), int(np.flatnonzero(numbers)[-1]) + 1)
    width = max(len(names[place]) for place in shown)
    bars = -(-numbers * BAR_WIDTH // numbers.max())  # no image is too few for a bar
    return [f"{names[place]:>{width}}  {numbers[place]:>6,}  {'#' * bars[place]}".rstrip() for place in shown]


def samples_of(description: Description, number: int) -> list[int]:
    """Samples for a sheet: evenly spread over the images in the order of their counts, or as they come where there are
    none.
    """
    total = description.manifest.num_samples
    order = np.argsort(description.counts, kind="stable") if len(description.counts) == total else np.arange(total)
    places = np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(int))
    return [int(index) for index in order[places]]


def write_sheet(description: Description, place: str, *, number: int = 12) -> str:
    """Writes a PNG of some images with their heads, the emptiest first.

    Args:
        place: path or URL of the picture.
        number: of images, >= 1; fewer where the data set has fewer.

    Returns:
        URL of the picture.

    Raises:
        InputError: the set holds pseudo-labels or predictions.
    """
    import cv2

    from crowddist.reports.sheets import samples_sheet

    if description.manifest.kind != "images":
        raise InputError(f"{description.url} holds {NOUNS[description.manifest.kind]}, which are no images; leave the "
                         "sheet out")
    reader = ShardReader(description.url, description.manifest)
    samples = [decode(*reader.read(index)) for index in samples_of(description, number)]
    heading = f"{description.manifest.name} ({description.manifest.split})"
    picture = samples_sheet([(sample.key, sample.image, sample.points) for sample in samples], title=heading)
    _, png = cv2.imencode(".png", picture[:, :, ::-1])
    url = storage.normalise(place)
    storage.write_bytes(url, png.tobytes())
    return url
