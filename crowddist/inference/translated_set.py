"""Translation of a data set: a unit of images in, a shard of translated ones with the same labels out, and the set
published at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.images import JPEG_QUALITY
from crowddist.data.shard_codec import Member
from crowddist.data.shards import Manifest, ShardReader, decode, publish_manifest, write_shard
from crowddist.data.stream import pixels_only, to_tensor, whole_image
from crowddist.inference.predictor import Predictor
from crowddist.inference.units import whole_set


def translate_image(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """An image of the source as the target would show it, in as many pixels: (H, W, 3) uint8.

    It is translated at the size that whole images are counted at, in one piece, because what is done in one place
    depends on all others (instance normalisation). Where that is another size than its own, the change is resized and
    added, so that the image stays as sharp as it was (ours): counters take fine grain that they were not trained on for
    heads.
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
    """Translates every image of a unit of work once: writes one shard, then its record; an existing record is returned
    as it is.

    Args:
        unit: indexes of the images, consecutive.
        skip: those of them that workers died over.

    Returns:
        The record: the shard as a manifest tells of it (`shard`; None where all images are skipped), `change`, the
        sum over the images of their mean change in grey levels, and `skipped`, the keys of those skipped.
    """
    import simplejpeg

    name = f"translated-{unit.start:06d}-{unit.stop:06d}"
    record_url = storage.join(url, f"{name}.done.json")
    if storage.exists(record_url):
        return storage.read_json(record_url)
    change = 0.0
    shown = [index for index in unit if index not in skip]

    def samples() -> Iterator[tuple[str, dict[str, Member]]]:
        nonlocal change
        for index in shown:
            key, members = images.read(index)
            image = decode(key, pixels_only(members)).image
            translated = translate_image(predictor, image)
            change += float(np.abs(translated.astype(np.int16) - image).mean())
            data = simplejpeg.encode_jpeg(translated, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444")
            yield key, {"jpg": data, **{extension: member
                                        for extension, member in members.items() if extension not in ("jpg", "png")}}

    info = asdict(write_shard(url, f"{name}.tar", samples())) if shown else None
    record = {"shard": info, "change": change, "skipped": [images.read(index, ())[0] for index in skip]}
    storage.write_json(record_url, record)
    return record


def publish_translation(url: str, images: ShardReader, records: list[dict[str, Any]]) -> dict[str, float]:
    """Writes the manifest of a whole translated set, which is labelled as the images are. Returns: the translation's
    metrics.

    Raises:
        ValueError: there are not as many translated images as images.
    """
    shards, _ = whole_set(url, images, records, "translated images")
    num_translated = sum(shard.num_samples for shard in shards)
    metrics = {"translation/change_levels": sum(record["change"] for record in records) / max(num_translated, 1)}
    source = images.manifest
    manifest = Manifest(
        name=f"{source.name}-translated",
        split=source.split,
        kind="images",
        labelled=source.labelled,
        shards=shards,
        statistics={**source.statistics, **metrics, "translated_from": source.digest},
        converter="translation",
    )
    publish_manifest(url, manifest)
    return metrics
