"""Part of the check that asks whether one process reads images as fast as a step eats them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from reporting import Bench, Part, interleaved, ratio

from crowddist.data import transforms
from crowddist.data.config import STRIDE, StreamConfig
from crowddist.data.stream import cell_density, collate

NUM_HEADS = 300


def loading(bench: Bench, part: Part) -> None:
    """Images a second: decoding a full-HD JPEG in several ways, also on the GPU, and cutting training crops of it in
    one process, as a stream does and as a plain data set does; how many readers a training step needs.

    A stream of a run decodes by simplejpeg, which is a little faster than OpenCV (docs/results.md), and keeps decoded
    images in memory: `crop` is what an image costs then, `decode and crop` what it costs at its first sight.
    """
    height, width = (120, 160) if bench.tiny else (1080, 1920)
    crop_px, rng = (64, np.random.default_rng(0)) if bench.tiny else (512, np.random.default_rng(0))
    files = [_photograph(height, width, rng) for _ in range(2 if bench.tiny else 8)]
    config = StreamConfig(image_size=width, crop_size=crop_px)
    heads = rng.uniform(0, [width - 1, height - 1], (NUM_HEADS, 2)).astype(np.float32)
    part.note(mean_file_kb=round(float(np.mean([len(data) for data in files])) / 1000), decoders={})

    def opencv() -> list[Any]:
        return [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) for data in files]

    decoded = opencv()
    decoders: dict[str, Callable[[], list[Any]]] = {"OpenCV": opencv, "Pillow": lambda: [_by_pillow(data)
                                                                                        for data in files]}
    raw = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
    kinds = {"torchvision": "cpu", **({"nvJPEG": str(bench.device)} if bench.on_gpu else {})}
    for name, device in kinds.items():
        def by_torchvision(device: str = device) -> list[Any]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer versions advise another package
                return torchvision.io.decode_jpeg(raw, device=device)  # type: ignore[return-value]

        try:
            shown = by_torchvision()[0].permute(1, 2, 0).cpu().numpy().astype(np.float32)
        except (RuntimeError, AttributeError) as problem:  # built without it, or without its library
            part.figures["decoders"][name] = f"not here: {str(problem).splitlines()[0][:150]}"
            continue
        decoders[name] = by_torchvision
        part.check(f"mean difference of a pixel, {name} against OpenCV", float(np.abs(shown - decoded[0]).mean()), 3.0)
    rounds = 2 if bench.tiny else 5
    times = interleaved(bench, decoders, rounds=rounds, repeats=1)
    part.figures["decoders"] |= {name: round(len(files) / float(np.median(found)), 1) for name, found in times.items()}

    def crop(image: np.ndarray) -> dict[str, Any]:
        window = transforms.draw_window(image.shape[:2], config, rng)
        pixels = transforms.crop_pixels(image, window, config.crop, transforms.draw_softness(config, rng))
        cells = (crop_px // STRIDE, crop_px // STRIDE)
        places = transforms.crop_points(heads, window, config.crop)
        return {"key": "made", "draw": 0, "density": cell_density(places, cells, config),
                "image": transforms.add_noise(transforms.jitter_colours(pixels, config, rng), config, rng)}

    ways: dict[str, Callable[[], Any]] = {
        "crop": lambda: collate([crop(image) for image in decoded]),
        "decode and crop": lambda: collate([crop(image) for image in opencv()]),
        "plain": lambda: torch.stack([_plain_crop(data, crop_px, rng) for data in files]),
    }
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        times = interleaved(bench, ways, rounds=rounds, repeats=1)
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    rates = {name: len(files) / float(np.median(found)) for name, found in times.items()}
    part.note(images_per_s_of_one_process={name: round(rate, 1) for name, rate in rates.items()},
              plain_against_ours=ratio(times["plain"], times["decode and crop"]),
              processes_that_a_step_needs={name: {way: round(eaten / rates[way], 2) for way in ways}
                                           for name, eaten in bench.eats.items()})


def _photograph(height: int, width: int, rng: np.random.Generator) -> bytes:
    """A JPEG with the detail of a photograph: noise of several grains."""
    image = np.zeros((height, width, 3), np.float32)
    for grain in (2, 8, 40):
        small = rng.standard_normal((height // grain + 1, width // grain + 1, 3)).astype(np.float32)
        image += 18 * cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(128 + image, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def _by_pillow(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _plain_crop(data: bytes, crop_px: int, rng: np.random.Generator) -> torch.Tensor:
    """As a plain data set has it: Pillow, the whole image to a normalised tensor, then the crop, maybe mirrored."""
    whole = torchvision.transforms.functional.to_tensor(_by_pillow(data).copy())
    whole = torchvision.transforms.functional.normalize(whole, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    top, left = (int(rng.integers(0, side - crop_px + 1)) for side in whole.shape[1:])
    part = whole[:, top : top + crop_px, left : left + crop_px]
    return part.flip(2) if rng.random() < 0.5 else part
