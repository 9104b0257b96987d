"""A rendered data set on disk, in the layout of GCC."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import as_completed
from pathlib import Path

import cv2
import numpy as np

from crowddist.data.simulator.config import RendererConfig
from crowddist.data.simulator.render import RenderedImage, render_image
from crowddist.errors import InputError
from crowddist.process.host import code_digest
from crowddist.process.pool import process_pool

CODE = ("randomness.py", "data/simulator")
"""Source files that decide the bytes of rendered images."""

# The descriptive text of a .mat file. C: MAT-file format, level 5.
_MAT_HEADER = b"MATLAB 5.0 MAT-file".ljust(116)
PARTS = "parts"
"""Folder in an unfinished data set: what it is made of, and which parts of it are whole."""


def _write_image(folder: Path, rendered: RenderedImage) -> str:
    """Write the four files of one image; returns its index line: level hour weather folder name count, as in GCC."""
    import scipy.io

    place = folder / rendered.folder
    for kind in ("jpgs", "jsons", "mats", "segs"):
        (place / kind).mkdir(parents=True, exist_ok=True)
    height, width = rendered.mask.shape
    rows_columns = rendered.points[:, ::-1].astype(np.float64)
    _, encoded = cv2.imencode(".jpg", rendered.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, rendered.jpeg_quality])
    (place / "jpgs" / f"{rendered.name}.jpg").write_bytes(encoded.tobytes())
    facts = rendered.scene
    record = {"image_info": [[round(row, 2), round(column, 2)] for row, column in rows_columns.tolist()],
              "weather": facts["weather"], "timeInfo": [facts["hour"], facts["minute"]],
              "roi": [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]],
              "camera": {"number": facts["camera"], "height_m": facts["camera_height_m"],
                         "pitch": facts["camera_pitch"], "focal_px": facts["focal_px"]}}
    (place / "jsons" / f"{rendered.name}.json").write_text(json.dumps(record))
    matrix = io.BytesIO()
    scipy.io.savemat(matrix, {"image_info": {"location": rows_columns.reshape(-1, 2)}}, do_compression=True)
    # SciPy's header holds the time of writing, which would make equal data sets differ.
    (place / "mats" / f"{rendered.name}.mat").write_bytes(_MAT_HEADER + matrix.getvalue()[len(_MAT_HEADER):])
    (place / "segs" / f"{rendered.name}.raw").write_bytes(rendered.mask.tobytes())
    return (f"{facts['level']} {facts['hour']} {facts['weather']} {rendered.folder} {rendered.name} "
            f"{len(rendered.points)}")


def _write_images(folder: Path, config: RendererConfig, first: int, last: int) -> tuple[int, list[str]]:
    """Writes the images of a part, and then the file that tells that they are whole: their index lines."""
    cv2.setNumThreads(1)
    lines = [_write_image(folder, render_image(config, index)) for index in range(first, last)]
    whole = folder / PARTS / f"{first}.txt"
    unfinished = whole.with_suffix(".new")
    unfinished.write_text("\n".join(lines))
    unfinished.replace(whole)
    return first, lines


def _begun(partial: Path, config: RendererConfig) -> dict[int, list[str]]:
    """Makes the folder of an unfinished data set, or takes it up again. Returns the index lines of the parts that are
    whole, by their first image; none where other settings or other code began it.
    """
    job = hashlib.sha256(f"{config} {code_digest(CODE)}".encode()).hexdigest()
    parts = partial / PARTS
    if not (parts / "job").exists() or (parts / "job").read_text() != job:
        shutil.rmtree(partial, ignore_errors=True)
        parts.mkdir(parents=True)
        (parts / "job").write_text(job)
    return {int(whole.stem): whole.read_text().splitlines() for whole in parts.glob("*.txt")}


def write_dataset(folder: str | Path, config: RendererConfig, *, num_workers: int = 1,
                  progress: Callable[[int, int], None] | None = None) -> None:
    """Render all images of `config` into a new folder, in GCC's layout.

    The bytes do not depend on `num_workers` (processes; with more than one the caller's main module must be
    importable). `progress` is called with (images done, images in all), first with those that an earlier call left. The
    folder appears when it is complete: until then the images lie in `<folder>.partial`, where a call with the same
    settings goes on after an interruption. Raises InputError for a folder that exists and is not empty.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already and is not empty; give another folder or remove it")
    if num_workers < 1:
        raise InputError(f"num_workers must be at least 1, got {num_workers}")
    partial = folder.with_name(f"{folder.name}.partial")
    lines = _begun(partial, config)
    step = config.images_per_scene
    parts = [(first, min(first + step, config.num_images)) for first in range(0, config.num_images, step)
             if first not in lines]

    def show() -> None:
        if progress is not None:
            progress(sum(map(len, lines.values())), config.num_images)

    def keep(result: tuple[int, list[str]]) -> None:
        lines[result[0]] = result[1]
        show()

    show()

    if num_workers == 1:
        threads = cv2.getNumThreads()
        try:
            for first, last in parts:
                keep(_write_images(partial, config, first, last))
        finally:
            cv2.setNumThreads(threads)
    else:
        with process_pool(num_workers) as pool:
            for future in as_completed([pool.submit(_write_images, partial, config, first, last)
                                        for first, last in parts]):
                keep(future.result())
    (partial / "all.txt").write_text("".join(f"{line}\n" for first in sorted(lines) for line in lines[first]))
    shutil.rmtree(partial / PARTS)
    if folder.exists():
        folder.rmdir()
    os.replace(partial, folder)
