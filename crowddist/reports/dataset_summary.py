"""Describes a data set: sizes and counts of its images, and a sheet of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from crowddist import storage
from crowddist.data.convert.doubts import notes
from crowddist.data.manifest import Manifest
from crowddist.data.safe_decode import encode_png
from crowddist.data.shard_codec import decode, decode_scene, num_persons
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError

RANGE_STARTS = (0, 1, 10, 25, 50, 100, 250, 500, 1000, 2500)
"""Least persons of each bar of the histogram; the last bar has no end. ours."""
NOUNS = {"images": "images", "labels": "pseudo-labels", "predictions": "predictions"}
"""Kind of a data set -> name of its samples."""
BAR_WIDTH = 40
"""Characters of the longest bar."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A data set's facts."""

    url: str
    manifest: Manifest
    sizes: dict[tuple[int, int], int]
    """(height, width) in px -> number of images, the most frequent first; empty for pseudo-labels."""
    counts: np.ndarray
    """(N,) persons of each sample in order; empty if the data set is unlabelled."""

    def lines(self) -> list[str]:
        """The facts as text, with a histogram of the counts."""
        manifest = self.manifest
        num_bytes = sum(shard.num_bytes for shard in manifest.shards)
        noun = NOUNS[manifest.kind]
        lines = [f"{manifest.name} ({manifest.split}): {manifest.num_samples:,} {noun}, {len(manifest.shards)} shards, "
                 f"{num_bytes / 1e6:,.1f} MB",
                 f"at {self.url}, written by {manifest.converter}, digest {manifest.digest[:12]}"]
        if self.sizes:
            usual = [f"{width} x {height} px ({number:,})" for (height, width), number in list(self.sizes.items())[:3]]
            more = f" and {len(self.sizes) - 3} more" if len(self.sizes) > 3 else ""
            lines.append(f"sizes: {', '.join(usual)}{more}")
        lines += [f"doubtful: {told}" for told in notes(manifest.statistics)]
        if not len(self.counts):
            return [*lines, "unlabelled"]
        low, middle, high = np.quantile(self.counts, [0, 0.5, 1])
        lines.append(f"persons: {self.counts.sum():,.0f}; an image {low:,.0f} to {high:,.0f}, mean "
                     f"{self.counts.mean():,.1f}, median {middle:,.1f}")
        return [*lines, *histogram(self.counts)]


def describe(url: str, *, watch: Callable[[Sequence[int]], Iterable[int]] = iter) -> Description:
    """Reads sizes and counts of all samples of the shards at `url`, without their pixels. Raises FileNotFoundError or
    InputError if the data set is missing or damaged. `watch` iterates over the samples' numbers, to show progress.
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


def histogram(counts: np.ndarray) -> list[str]:
    """One line per range of counts (N,), N >= 1, persons, from least to most: range, number of images, bar."""
    names = [f"{low:,}" if next_low == low + 1 else f"{low:,} to {next_low - 1:,}"
             for low, next_low in pairwise(RANGE_STARTS)]
    names.append(f"{RANGE_STARTS[-1]:,} and more")
    numbers, _ = np.histogram(counts, [*RANGE_STARTS, np.inf])
    shown = range(int(np.flatnonzero(numbers)[0]), int(np.flatnonzero(numbers)[-1]) + 1)
    width = max(len(names[place]) for place in shown)
    bars = -(-numbers * BAR_WIDTH // numbers.max())  # rounded up: a single image has a bar too
    return [f"{names[place]:>{width}}  {numbers[place]:>6,}  {'#' * bars[place]}".rstrip() for place in shown]


def samples_of(description: Description, number: int) -> list[int]:
    """Samples for a sheet: evenly spread over the images sorted by count, or in their order if they have no counts."""
    total = description.manifest.num_samples
    order = np.argsort(description.counts, kind="stable") if len(description.counts) == total else np.arange(total)
    places = np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(int))
    return [int(index) for index in order[places]]


def write_sheet(description: Description, place: str, *, number: int = 12) -> str:
    """Writes a PNG of up to `number` images with their heads, the emptiest first. Returns its URL.
    Raises InputError for pseudo-labels and predictions.
    """
    from crowddist.reports.sheets import samples_sheet

    if description.manifest.kind != "images":
        raise InputError(f"{description.url} holds {NOUNS[description.manifest.kind]}, which are no images; omit the "
                         "sheet")
    reader = ShardReader(description.url, description.manifest)
    samples = [decode(*reader.read(index)) for index in samples_of(description, number)]
    heading = f"{description.manifest.name} ({description.manifest.split})"
    total, labelled = description.manifest.num_samples, any(sample.points is not None for sample in samples)
    line = f"{len(samples):,} of {total:,} images" + ("; a dot is the label of a head" if labelled else "")
    picture = samples_sheet([(sample.key, sample.image, sample.points) for sample in samples], title=heading, line=line)
    url = storage.normalise(place)
    storage.write_bytes(url, encode_png(picture))
    return url
