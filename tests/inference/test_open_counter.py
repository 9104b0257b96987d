"""A counter is found by a run's folder, a checkpoint, or a name; a device by PyTorch's words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import crowddist
from crowddist import storage
from crowddist.errors import InputError
from crowddist.inference import open_counter


def test_no_counter_says_how_to_get_one() -> None:
    with pytest.raises(InputError, match=r"--model runs/demo.*crowddist adapt quickstart --run-name demo"):
        open_counter.find_counter("")


def test_a_counter_that_comes_with_the_package_has_a_name(tmp_path: Path, tiny_checkpoint: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "crowddist"
    home.mkdir()
    shutil.copy(storage.local_file(tiny_checkpoint), home / "small.pt")
    monkeypatch.setattr(crowddist, "__file__", str(home / "__init__.py"))
    monkeypatch.setattr(open_counter, "PACKAGED", {"small": "small.pt"})
    assert open_counter.find_counter("small") == open_counter.find_counter("") == storage.normalise(home / "small.pt")
    assert open_counter.find_counter(tmp_path / "x.pt") == storage.normalise(tmp_path / "x.pt")
    assert open_counter.open_counter("small", device="cpu", zooms=(1.0,)).zooms == (1.0,)


def test_devices() -> None:
    assert open_counter.choose_device("cpu") == "cpu"
    assert open_counter.choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "", "cpu0"):
        with pytest.raises(InputError, match=f"no device is called {name!r}; choose auto"):
            open_counter.choose_device(name)
    for name in ("cuda:99", "cpu:1", "meta"):
        with pytest.raises(InputError, match=f"this machine has no device {name}; choose auto or cpu"):
            open_counter.choose_device(name)
