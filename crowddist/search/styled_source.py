"""The proxy of a target that nobody has labelled: labelled images of the source, shown in the style of the target's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from crowddist import storage
from crowddist.data.images import JPEG_QUALITY
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shards import ShardReader, ShardWriter, decode
from crowddist.data.stream import pixels_only
from crowddist.inference.units import open_pixels
from crowddist.ops.style import match_histograms, swap_amplitude
from crowddist.process.progress_bar import watched
from crowddist.randomness import generator

SEED = 0
"""Of which image of the target shows its style to which of the source."""


def in_the_style_of(target_url: str, source_url: str, work: str, *, say: Callable[[str], None]) -> str:
    """The labelled images of a data set, each with the colours and the coarse light of some image of the target; made
    now unless it is there.

    First the histograms are matched, then the lowest frequencies exchanged, see `ops.style`. Of the target nothing but
    pixels is read.

    Args:
        source_url: labelled images that the counter was not trained on.
        work: the folder of all runs; the set lies in its `data` folder.

    Returns:
        Its URL.

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
        with ShardWriter(url, name=f"{source.manifest.name}-as-{target.manifest.name}"[:100],
                         split=source.manifest.split,
                         # which says whether images count whole
                         labelled=source.manifest.labelled, converter=source.manifest.converter,
                         statistics={"shown_as": target.manifest.digest}) as writer:
            for index in watched(range(len(source))):
                writer.add(*_styled(source, index, target))
    return url


def _styled(source: ShardReader, index: int, target: ShardReader) -> tuple[str, dict]:
    import simplejpeg

    key, members = source.read(index)
    image = decode(key, pixels_only(members)).image
    style = open_pixels(target, int(generator(SEED, "style", key).integers(len(target)))).image
    shown = swap_amplitude(match_histograms(image, style), style)
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(shown), quality=JPEG_QUALITY, colorspace="RGB",
                                  colorsubsampling="444")
    return key, {"jpg": data, **{name: member for name, member in members.items() if name not in ("jpg", "png")}}
