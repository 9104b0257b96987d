"""The proxy for a target without labels: labelled source images in the style of the target's images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from crowddist import storage
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shards import ShardReader, ShardWriter, decode
from crowddist.data.stream import pixels_only
from crowddist.inference.units import open_pixels, with_image
from crowddist.ops.style import match_histograms, swap_amplitude
from crowddist.process.progress_bar import watched
from crowddist.randomness import generator

SEED = 0
"""Seed of the choice of a target image for each source image."""


def in_the_style_of(target_url: str, source_url: str, work: str, *, say: Callable[[str], None]) -> str:
    """URL of a copy of labelled images, each in the colours and the coarse light of some target image; made unless it
    is there.

    Matches the histograms first, then exchanges the lowest frequencies, see `ops.style`. Reads only pixels of the
    target.

    Args:
        source_url: labelled images that the counter was not trained on.
        work: the folder of all runs; the copy lies in its `data` folder.

    Raises:
        InputError: another process makes the same set, or the source has no labels.
    """
    source, target = ShardReader(source_url), ShardReader(target_url)
    name = hashlib.sha256(f"{source.manifest.digest} {target.manifest.digest}".encode()).hexdigest()[:24]
    url = storage.join(storage.normalise(work), "data", "proxies", name)
    with storage.exclusive(url):
        if storage.exists(storage.join(url, FILE_NAME)):
            return url
        say(f"showing {len(source)} labelled images in the style of the target")
        given, name = source.manifest, f"{source.manifest.name}-as-{target.manifest.name}"[:100]
        with ShardWriter(url, name=name, split=given.split, labelled=given.labelled,
                         converter=given.converter,  # an evaluation asks it whether images count whole
                         statistics={"shown_as": target.manifest.digest}) as writer:
            for index in watched(range(len(source))):
                key, members = source.read(index)
                image = decode(key, pixels_only(members)).image
                style = open_pixels(target, int(generator(SEED, "style", key).integers(len(target)))).image
                writer.add(key, with_image(members, swap_amplitude(match_histograms(image, style), style)))
    return url
