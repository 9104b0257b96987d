"""Opens a counter for people who name it: a run, a checkpoint, a file of ONNX, or one that comes with the package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crowddist import storage
from crowddist.errors import InputError
from crowddist.inference.intervals import LEVEL
from crowddist.storage.run_folder import PACKAGED, find_checkpoint

if TYPE_CHECKING:
    from crowddist.inference.base_predictor import BasePredictor

ONNX = ".onnx"
"""Ending of the files that `crowddist export` writes."""


def find_counter(place_or_name: str | os.PathLike[str]) -> str:
    """URL of a counter's checkpoint or file of ONNX, see `find_checkpoint`; "" is the counter that comes with the
    package.
    """
    return find_checkpoint(os.fspath(place_or_name) or next(iter(PACKAGED)))


def choose_device(name: str) -> str:
    """A device of PyTorch by its name: cpu, cuda, cuda:1, mps; "auto" is the GPU where there is one, else the CPU.

    Raises InputError for what is none, or is not there.
    """
    import torch

    from crowddist.run.engine import default_device

    if name == "auto":
        return default_device()
    try:
        kind, index = torch.device(name).type, torch.device(name).index or 0
    except (RuntimeError, TypeError):
        raise InputError(f"no device is called {name!r}; choose auto, cpu, cuda, or cuda:1 for a second GPU") from None
    there = {"cpu": index == 0, "cuda": index < torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        raise InputError(f"this machine has no device {name}; choose auto or cpu")
    return name


def open_counter(place_or_name: str | os.PathLike[str], *, device: str = "auto", image_size: int | None = None,
                 zooms: Sequence[float] | None = None, one_pass: bool = False, level: float = LEVEL) -> BasePredictor:
    """The predictor of a counter, see `Predictor.from_checkpoint`, by the names of `find_counter` and `choose_device`;
    of a file of `crowddist export` see `OnnxPredictor.from_file`.

    Raises FileNotFoundError, InputError as these do.
    """
    url = find_counter(place_or_name)
    if url.endswith(ONNX):
        from crowddist.inference.onnx_predictor import OnnxPredictor

        if one_pass:
            raise InputError(f"{storage.shown(url)} counts by all its masks; leave out one_pass, or name the run")
        return OnnxPredictor.from_file(url, image_size=image_size, zooms=zooms, device=device, level=level)
    from crowddist.inference.predictor import Predictor

    return Predictor.from_checkpoint(url, image_size=image_size, zooms=zooms, device=choose_device(device),
                                     one_pass=one_pass, level=level)
