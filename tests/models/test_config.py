"""Networks' configurations refuse what cannot be built, and need no torch."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from crowddist.errors import InputError
from crowddist.models.config import CounterConfig, DetectorConfig, LocaliserConfig, RegressorConfig


@pytest.mark.parametrize(("option", "value"), [
    ("backbone", "vgg19"), ("ensemble", "bagging"), ("weights", ""), ("weights", "imagenet"), ("num_masks", 0), ("mask_scale", 0.5),
    ("mask_scale", float("nan")), ("mask_scale", float("inf")), ("mask_seed", -1), ("dropout", 0.0), ("dropout", 1.0),
])
def test_a_wrong_option_is_named(option: str, value: object) -> None:
    with pytest.raises(InputError, match=option):
        CounterConfig(**{option: value})


@pytest.mark.parametrize(("kind", "network", "published"), [
    (RegressorConfig, "regressor", "vgg16"), (DetectorConfig, "detector", "resnet50"), (LocaliserConfig, "localiser", "vgg16"),
])
def test_a_wrong_backbone_or_wrong_weights_are_refused_in_one_line(kind: type, network: str, published: str) -> None:
    for weights in ("none", "imagenet", "s3://bucket/weights.pth"):
        assert kind(backbone=published, weights=weights).weights == weights
    assert (kind().backbone, kind().weights) == ("compact", "none")
    wrong = [
        ({"backbone": "vgg19"}, f"{network} backbone is 'vgg19'; choose one of compact, {published}"),
        ({"backbone": "resnet101"}, f"choose one of compact, {published}"),
        ({"backbone": published, "weights": ""}, f"{network} weights are empty"),
        ({"weights": ""}, f"{network} weights are empty"),
        ({"weights": "imagenet"}, f"the compact {network} takes no weights imagenet; use weights none, or backbone {published}"),
    ]
    if network != "detector":  # nothing would read them
        message = f"the compact {network} takes no weights weights.pth; use weights none, or backbone {published}"
        wrong.append(({"weights": "weights.pth"}, message))
    for options, message in wrong:
        with pytest.raises(InputError, match=re.escape(message)) as error:
            kind(**options)
        assert "\n" not in str(error.value)


def test_the_compact_counter_takes_a_file() -> None:
    assert CounterConfig(weights="weights.pth").weights == "weights.pth"


def test_number_of_members() -> None:
    assert CounterConfig(num_masks=5).num_members == 5
    assert CounterConfig(num_masks=5, ensemble="dropout").num_members == 5
    assert CounterConfig(num_masks=5, ensemble="none").num_members == 1


def test_the_configuration_is_read_without_torch() -> None:
    code = "import sys, crowddist.models.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
