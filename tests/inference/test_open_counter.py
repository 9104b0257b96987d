"""A counter is found by a run's folder, a checkpoint, or a name; a device by PyTorch's words."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import crowddist
from crowddist import storage
from crowddist.config import from_json
from crowddist.errors import InputError
from crowddist.inference import open_counter
from crowddist.methods.build import build_method
from crowddist.run import checkpoint
from crowddist.storage import run_folder


def test_a_counter_that_comes_with_the_package_has_a_name(tmp_path: Path, tiny_checkpoint: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(storage.local_file(tiny_checkpoint), tmp_path / "small.pt")
    for module in (open_counter, run_folder):
        monkeypatch.setattr(module, "PACKAGED", {"small": tmp_path / "small.pt"})
    assert open_counter.find_counter("small") == open_counter.find_counter("") == storage.normalise(
        tmp_path / "small.pt")
    assert open_counter.find_counter(tmp_path / "x.pt") == storage.normalise(tmp_path / "x.pt")
    assert open_counter.open_counter("small", device="cpu", zooms=(1.0,)).zooms == (1.0,)


def test_the_packaged_counter_is_whole() -> None:
    """It is small, has intervals and a card, knows no place of its maker, and starts another counter."""
    for path in run_folder.PACKAGED.values():
        assert path.stat().st_size < 10e6 and path.with_suffix(".md").stat().st_size > 1000
    counter = crowddist.load(device="cpu")
    found = counter.count(np.full((240, 320, 3), 128, np.uint8))
    assert found.low is not None and found.high is not None and found.low <= found.count <= found.high
    content = checkpoint.load(open_counter.find_counter(""))
    config = from_json(content["config"])
    assert "/tmp" not in content["config"] and config.recipe == "pretrain"
    started = build_method(replace(config, counter=replace(config.counter, weights="rendered"))).networks().state_dict()
    layers = {name: tensor.float() for name, tensor in content["method"]["networks"].items() if tensor.ndim > 1}
    assert len(layers) > 40 and all(torch.equal(tensor, started[name]) for name, tensor in layers.items())


def test_devices() -> None:
    assert open_counter.choose_device("cpu") == "cpu"
    assert open_counter.choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "", "cpu0"):
        with pytest.raises(InputError, match=f"no device is called {name!r}; choose auto"):
            open_counter.choose_device(name)
    for name in ("cuda:99", "cpu:1", "meta"):
        with pytest.raises(InputError, match=f"this machine has no device {name}; choose auto or cpu"):
            open_counter.choose_device(name)
