"""Files that are damaged at random: each is read, or refused in one line that names it."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from crowddist.config import RunConfig, from_json, to_json
from crowddist.data.images import read_image, store_image
from crowddist.data.manifest import Manifest
from crowddist.data.shard_codec import decode, encode
from crowddist.errors import InputError

ROWS, COLUMNS = np.mgrid[0:40, 0:56]
IMAGE = Image.fromarray(np.stack([COLUMNS * 4, ROWS * 6, ROWS + COLUMNS], 2).astype(np.uint8))


def encoded(kind: str, image: Image.Image = IMAGE, **options) -> bytes:  # type: ignore[no-untyped-def]
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


DEEP = cv2.imencode(".png", np.dstack([np.asarray(IMAGE)] * 2)[..., :4].astype(np.uint16) * 16)[1].tobytes()
SEEDS = [
    encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", restart_marker_rows=1)[:-2],
    encoded("JPEG", IMAGE.convert("CMYK")), encoded("PNG"), DEEP, encoded("PNG", IMAGE.quantize(8)), encoded("WEBP"),
    encoded("BMP"), encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", save_all=True, append_images=[IMAGE]),
    encoded("PPM"), b"P5\n16 8\n4095\n" + bytes(256),
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    torn = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        # Half of the damage to the head, where sizes and counts are.
        place = rng.randrange(min(len(torn), rng.choice((160, len(torn)))))
        match rng.randrange(5):
            case 0 | 1:
                torn[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            case 2:
                torn[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
            case 3:
                torn[place:place] = rng.randbytes(rng.randrange(1, 12))
            case 4:
                del torn[place : place + rng.randrange(1, 40)]
    return bytes(torn)


@pytest.mark.timeout(120)
def test_damaged_images_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    rng, path, num_read = random.Random(0), tmp_path / "a.jpg", 0
    for number in range(len(SEEDS) * 25):
        path.write_bytes(damaged(SEEDS[number % len(SEEDS)], rng))
        try:
            if number % 2:
                pixels, _ = read_image(path)
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            else:
                store_image(path, upright=False, max_size=32)
            num_read += 1
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert 0 < num_read < len(SEEDS) * 25


def manifest() -> dict[str, object]:
    shard = {"name": "a.tar", "num_samples": 1, "num_bytes": 9, "sha256": "0" * 64, "persons": 1.0}
    return {"format": "crowddist data set", "name": "a", "split": "b", "kind": "images", "labelled": True,
            "shards": [shard], "statistics": {}, "converter": "c", "version": 1}


def test_records_with_a_wrong_value_are_read_or_refused() -> None:
    values = (None, [], {}, -1, 1e308, "", True, "x\0y", [1], 10**30, float("nan"), {"a": 1})
    for change in values:
        for name in manifest():
            with pytest.raises(InputError) if name == "shards" else _either():
                Manifest.from_json(manifest() | {name: change})
        for name in ("name", "num_samples", "num_bytes", "sha256", "persons"):
            with _either():
                Manifest.from_json(manifest() | {"shards": [{**manifest()["shards"][0], name: change}]})  # type: ignore[index]
    config = json.loads(to_json(RunConfig(recipe="r", source="/a", target="/b")))
    rng = random.Random(0)
    for _ in range(400):
        torn = json.loads(json.dumps(config))
        owner = torn
        while isinstance(owner[name := rng.choice(list(owner))], dict) and owner[name] and rng.random() < 0.8:
            owner = owner[name]
        owner[name] = rng.choice(values)
        with _either():
            from_json(json.dumps(torn))


class _either:
    """Allows an InputError of one line."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, InputError) and "\n" not in str(error)


def test_an_arrays_torn_head_is_damage() -> None:
    """NumPy reads it as Python, and tries again word by word where that fails."""
    data = encode("points.npy", np.zeros((4, 2), np.float32)).replace(b"False, 's", b"False( 's")
    good = encoded("PNG", Image.new("RGB", (9, 9)))
    with pytest.raises(InputError, match=r"points\.npy is damaged"):
        decode("a", {"png": good, "points.npy": data})
