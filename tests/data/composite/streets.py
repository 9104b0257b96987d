"""Pictures of an empty street and of one camera, for the tests of composites."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image

from crowddist.data.composite.backgrounds import Background
from crowddist.data.shards import ShardReader, ShardWriter

SIZE = (120, 160)


def street(seed: int = 0, level: int = 110) -> np.ndarray:
    """(120, 160, 3): rough ground of one colour under a bright sky."""
    rng = np.random.default_rng(seed)
    picture = np.full((*SIZE, 3), level, np.float32) + rng.normal(0, 3, (*SIZE, 1))
    picture[:20] += 60
    return np.clip(picture, 0, 255).astype(np.uint8)


def coded(picture: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(picture).save(stream, "JPEG" if options else "PNG", **options)
    return stream.getvalue()


def empty_street(**changes) -> Background:
    cells = (15, 20)
    fields = {"key": "street", "pixels": street(), "empty": np.ones(cells, bool),
              "crowded": np.zeros(cells, bool), "walked": np.ones(cells, bool)}
    return Background(**{**fields, **changes})


def image_set(folder: Path, pictures: list[np.ndarray]) -> ShardReader:
    with ShardWriter(folder, name="camera", split="all", labelled=False, converter="test") as writer:
        for number, picture in enumerate(pictures):
            writer.add(f"frame_{number}", {"png": coded(picture), "json": {"height": picture.shape[0],
                                                                          "width": picture.shape[1]}})
    return ShardReader(folder)


def frames(count: int = 12, level: int = 110) -> list[np.ndarray]:
    """Frames of one camera: the same street, a dark block that walks by, and grain."""
    plain, found = street(level=level).astype(np.float32), []
    for number in range(count):
        frame = plain + np.random.default_rng(number).normal(0, 2, plain.shape)
        frame[60:90, 12 * number:12 * number + 12] = level / 3
        found.append(np.clip(frame, 0, 255).astype(np.uint8))
    return found
