"""How rough the images of data sets are where nobody is: python -m tests.benchmarks.high_frequency DATA ...

The standard deviation of what a blur of 1 px removes from grey levels, in patches of 32 px without people, of images
whose longest side is 512 px: the quartiles over all patches. DATA as for --source. Of composites two rows are shown:
theirs, and that of the photographs they were made of, in the same places.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import tyro

from crowddist.data.config import parse_data
from crowddist.data.denser import BODY_END
from crowddist.data.prepare import prepare
from crowddist.data.regions import find_region
from crowddist.data.sample import Sample
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import known_sizes
from crowddist.data.transforms import resize_pixels, scaled_size
from crowddist.inference.crowd_maps import crowd_maps
from crowddist.randomness import hash_order

LONGEST_PX, PATCH_PX, BLUR_PX = 512, 32, 1.0
ASIDE = 1.5
"""Half the width of a person, and what is left free above the head's centre, in sizes of the head."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    data: tyro.conf.Positional[tuple[str, ...]]
    """Labelled data sets, as for --source."""
    images: int = 60
    """Images of each, chosen by a hash."""
    storage: str = "runs"
    """Where data is converted, rendered and composed."""


def person_free_spreads(sample: Sample) -> np.ndarray:
    """(N,) standard deviations, grey levels, of the patches without people that lie in the sample's region."""
    size = scaled_size(sample.image.shape[:2], *[LONGEST_PX / max(sample.image.shape[:2])] * 2)
    grey = cv2.cvtColor(resize_pixels(sample.image, size), cv2.COLOR_RGB2GRAY).astype(np.float32)
    high = grey - cv2.GaussianBlur(grey, (0, 0), BLUR_PX)
    barred = np.zeros(sample.image.shape[:2], np.uint8)
    if sample.mask is not None:
        barred |= sample.mask
    else:
        for x, y, head in sample.heads.tolist():
            cv2.rectangle(barred, (int(x - ASIDE * head), int(y - ASIDE * head)),
                          (int(x + ASIDE * head), int(y + BODY_END * head)), 1, -1)
    if sample.region is not None:
        barred[~sample.region] = 1
    free = cv2.resize(barred * 255, size[::-1], interpolation=cv2.INTER_AREA) == 0
    rows, columns = (side // PATCH_PX for side in size)

    def patches(pixels: np.ndarray) -> np.ndarray:
        cut = pixels[: rows * PATCH_PX, : columns * PATCH_PX].reshape(rows, PATCH_PX, columns, PATCH_PX)
        return cut.transpose(0, 2, 1, 3).reshape(rows * columns, -1)

    return patches(high)[patches(free).all(1)].std(1)


def described(spreads: Iterable[np.ndarray]) -> str:
    """The quartiles over the patches of several images."""
    joined = np.concatenate(list(spreads))
    return f"{' / '.join(f'{part:.2f}' for part in np.quantile(joined, (0.25, 0.5, 0.75)))} of {len(joined):,} patches"


def main(options: Options) -> None:
    """Prints a row or two for each data set."""
    for text in options.data:
        spec = parse_data(text)
        reader = ShardReader(prepare(spec, options.storage, role="source", say=print, crowd_maps=crowd_maps).url)
        chosen = sorted(hash_order(len(reader), 0, "roughness")[: options.images].tolist())
        samples = [decode(*reader.read(index)) for index in chosen]
        samples = [replace(sample, sizes=known_sizes(sample)) for sample in samples]
        if spec.background is None:
            samples = [sample if (place := find_region(sample)) is None else replace(sample, region=place.pixels)
                       for sample in samples]
        print(f"{text}: {described(map(person_free_spreads, samples))}, {len(samples)} images")
        if spec.background is not None:
            target = prepare(spec.background, options.storage, role="target", say=lambda line: None)
            photographs = (_photograph(ShardReader(target.url), sample) for sample in samples)
            print(f"its photographs: {described(map(person_free_spreads, photographs))}")


def _photograph(photographs: ShardReader, composite: Sample) -> Sample:
    """The composite without its people: the photograph, where the composite shows nobody's own."""
    found = decode(*photographs.read(photographs.index_of(composite.scene["background"]), ("jpg", "png")))
    image = resize_pixels(found.image, composite.image.shape[:2])
    return replace(composite, image=image, mask=None)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
