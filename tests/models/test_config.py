"""Networks' configurations refuse what cannot be built, and need no torch."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from crowddist.errors import InputError
from crowddist.models.backbones.table import BACKBONES, names_for
from crowddist.models.config import CounterConfig, DetectorConfig, LocaliserConfig, RegressorConfig


@pytest.mark.parametrize(("option", "value"), [
    ("backbone", "vgg19"), ("ensemble", "bagging"), ("weights", ""), ("weights", "imagenet"), ("num_masks", 0),
])
def test_a_wrong_option_is_named(option: str, value: object) -> None:
    with pytest.raises(InputError, match=option):
        CounterConfig(**{option: value})


NETWORKS = [
    (CounterConfig, "counter", "vgg16", "resnet152"), (RegressorConfig, "regressor", "vgg16", "resnet101"),
    (DetectorConfig, "detector", "resnet50", "vgg16"), (LocaliserConfig, "localiser", "vgg16", "efficientnet_lite0"),
]


@pytest.mark.parametrize(("kind", "network", "published", "other"), NETWORKS)
def test_a_wrong_backbone_or_wrong_weights_are_refused_in_one_line(
    kind: type, network: str, published: str, other: str
) -> None:
    for weights in ("none", "imagenet", "s3://bucket/weights.pth"):
        assert kind(backbone=published, weights=weights).weights == weights
    assert (kind().backbone, kind().weights) == ("compact", "none")
    names = names_for(network)  # type: ignore[arg-type]
    assert {"compact", published} <= set(names) and other not in names
    choices, pretrained = ", ".join(names), ", ".join(name for name in names if name != "compact")
    wrong = [
        ({"backbone": "vgg19"}, f"{network} backbone is 'vgg19'; choose one of {choices}"),
        ({"backbone": other}, f"{network} backbone is '{other}'; choose one of {choices}"),
        ({"backbone": published, "weights": ""}, f"{network} weights are empty"),
        ({"weights": ""}, f"{network} weights are empty"),
        ({"weights": "imagenet"}, f"the {network} backbone compact has no imagenet weights; "
                                  f"use weights none, or one of the backbones {pretrained}"),
    ]
    for options, message in wrong:
        with pytest.raises(InputError, match=f"{re.escape(message)}($|;)") as error:
            kind(**options)
        assert "\n" not in str(error.value)


def test_the_published_backbones_and_those_for_a_cpu_can_be_had() -> None:
    assert {"compact", "efficientnet_lite0", "vgg16", "vgg16_bn", "resnet50", "resnet101"} <= set(names_for("counter"))
    assert {"efficientnet_lite0", "vgg16_bn"} <= set(names_for("upsampling"))
    assert {"compact", "efficientnet_lite0", "vgg16"} <= set(names_for("regressor"))
    assert {"compact", "efficientnet_lite0", "resnet50", "resnet101"} <= set(names_for("detector"))
    assert set(names_for("localiser")) == {"compact", "vgg16"}


@pytest.mark.parametrize(("kind", "network"), [(kind, network) for kind, network, *_ in NETWORKS])
def test_every_backbone_of_every_network_takes_a_file_or_a_run(kind: type, network: str) -> None:
    for backbone in names_for(network):  # type: ignore[arg-type]
        for weights in ("weights.pth", "s3://bucket/runs/first"):
            assert kind(backbone=backbone, weights=weights).weights == weights
        if BACKBONES[backbone].weights is not None:
            assert kind(backbone=backbone, weights="imagenet").weights == "imagenet"


def test_number_of_members() -> None:
    assert CounterConfig(num_masks=5).num_members == 5
    assert CounterConfig(num_masks=5, ensemble="dropout").num_members == 5
    assert CounterConfig(num_masks=5, ensemble="none").num_members == 1


def test_the_configuration_is_read_without_torch() -> None:
    code = "import sys, crowddist.models.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
