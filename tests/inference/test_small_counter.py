"""A counter in a small file counts as the one it was made of, to about a thousandth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from crowddist import storage
from crowddist.config import from_json
from crowddist.errors import InputError
from crowddist.inference.intervals import Calibration, read_calibration, write_calibration
from crowddist.inference.predictor import Predictor
from crowddist.inference.small_counter import write_small_counter
from crowddist.run import checkpoint


def test_it_counts_alike_in_half_the_bytes(tiny_checkpoint: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    content = checkpoint.load(tiny_checkpoint)
    whole.write_bytes(storage.read_bytes(tiny_checkpoint))
    size = from_json(content["config"]).stream.image_size
    kept = Calibration(scores=tuple(range(1, 30)), image_size=size, zooms=(1.0,), data="some", digest="ab")
    write_calibration(str(whole), kept)
    small = tmp_path / "small.pt"
    assert write_small_counter(str(whole), str(small)) == small.stat().st_size
    networks = sum(tensor.nbytes for tensor in content["method"]["networks"].values())
    assert small.stat().st_size < 0.75 * networks  # of a tiny network much is names and statistics
    assert read_calibration(str(small)) == kept
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    first, second = (Predictor.from_checkpoint(str(path)).predict(image) for path in (whole, small))
    assert second.count == pytest.approx(first.count, rel=5e-3) and second.interval is not None
    np.testing.assert_allclose(second.density, first.density, atol=5e-3 * float(first.density.max()))
    stored = checkpoint.load(str(small))
    assert stored["method"]["optimizers"] == {} and from_json(stored["config"]).run_name == ""
    assert {tensor.dtype for tensor in stored["method"]["networks"].values()
            if tensor.ndim > 1 and tensor.is_floating_point()} == {torch.float16}


def test_it_ends_on_pt(tiny_checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends on \.pt"):
        write_small_counter(tiny_checkpoint, str(tmp_path / "small.bin"))
    assert not list(tmp_path.iterdir())
