"""CounterConfig refuses what cannot be built, and needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crowddist.errors import InputError
from crowddist.models.config import CounterConfig


@pytest.mark.parametrize(("option", "value"), [
    ("backbone", "vgg19"), ("ensemble", "bagging"), ("weights", ""), ("weights", "imagenet"), ("num_masks", 0), ("mask_scale", 0.5),
    ("mask_scale", float("nan")), ("mask_scale", float("inf")), ("mask_seed", -1), ("dropout", 0.0), ("dropout", 1.0),
])
def test_a_wrong_option_is_named(option: str, value: object) -> None:
    with pytest.raises(InputError, match=option):
        CounterConfig(**{option: value})


def test_number_of_members() -> None:
    assert CounterConfig(num_masks=5).num_members == 5
    assert CounterConfig(num_masks=5, ensemble="dropout").num_members == 5
    assert CounterConfig(num_masks=5, ensemble="none").num_members == 1


def test_the_configuration_is_read_without_torch() -> None:
    code = "import sys, crowddist.models.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
