"""Translation of a data set: turns units of images into shards of translated images with the same labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from crowddist.data.shard_codec import Member
from crowddist.data.shards import Manifest, ShardReader, decode, publish_manifest
from crowddist.data.stream import pixels_only, to_tensor, whole_image
from crowddist.inference.predictor import Predictor
from crowddist.inference.units import whole_set, with_image, write_unit


def translate_image(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """A source image in the target's style, (H, W, 3) uint8 of the same size.

    Translates the image in one piece, at the size that whole images are counted at: instance normalisation makes every
    place depend on all others. Where that is not the image's own size, the change is resized and added, so that the
    image stays as sharp as it was (ours): counters mistake fine grain that they were not trained on for heads.
    """
    import cv2

    seen = whole_image(image, predictor.image_size) if predictor.image_size else image
    shown = predictor.method.translate(to_tensor(seen).to(predictor.device))[0].permute(1, 2, 0).cpu().numpy()
    change = shown * 255 - seen
    if seen.shape != image.shape:
        shrinks = image.size < seen.size
        change = cv2.resize(change, image.shape[1::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.clip(np.rint(image + change), 0, 255).astype(np.uint8)


def translate_unit(predictor: Predictor, images: ShardReader, unit: range, url: str,
                   skip: Collection[int] = ()) -> dict[str, Any]:
    """Translates every image of a unit, see `write_unit`. Returns: the record, `shard` with the fields of a `ShardInfo`
    and `change`, the sum over the images of their mean change in grey levels.
    """
    change = 0.0

    def samples(shown: Sequence[int]) -> Iterator[tuple[str, dict[str, Member]]]:
        nonlocal change
        for index in shown:
            key, members = images.read(index)
            image = decode(key, pixels_only(members)).image
            translated = translate_image(predictor, image)
            change += float(np.abs(translated.astype(np.int16) - image).mean())
            yield key, with_image(members, translated)

    return write_unit(url, "translated", images, unit, skip, samples,
                      lambda info: {"shard": info and asdict(info), "change": change})


def publish_translation(url: str, images: ShardReader, records: list[dict[str, Any]]) -> dict[str, float]:
    """Writes the manifest of a whole translated set, labelled as the images are. Returns: the translation's metrics.

    Raises:
        ValueError: the translated images are not as many as the images.
    """
    shards, _ = whole_set(url, images, records, "translated images")
    num_translated = sum(shard.num_samples for shard in shards)
    metrics = {"translation/change_levels": sum(record["change"] for record in records) / max(num_translated, 1)}
    source = images.manifest
    publish_manifest(url, Manifest(
        name=f"{source.name}-translated", split=source.split, kind="images", labelled=source.labelled, shards=shards,
        statistics={**source.statistics, **metrics, "translated_from": source.digest},
        converter=source.converter,  # training asks it whether images count whole
    ))
    return metrics
