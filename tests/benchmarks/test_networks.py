"""What pretrained encoders cost: a training step and a large image beside the compact counter's, and what folding and
one pass save.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from crowddist.config import RunConfig
from crowddist.data.sample import Batch
from crowddist.inference.predictor import Predictor
from crowddist.methods.base import Method
from crowddist.methods.build import build_method
from crowddist.models.backbones.efficientnet_lite import NormedConvolution
from crowddist.models.config import CounterConfig
from crowddist.models.folding import fold_norms
from crowddist.process.host import keep_freed_memory
from crowddist.recipes import renderer_to_shb, sha_to_shb, shb_to_sha
from crowddist.run.engine import LocalRuntime
from tests.benchmarks.harness import compare

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]
LITE0 = CounterConfig(backbone="efficientnet_lite0", weights="imagenet")
MOST_STEP, MOST_IMAGE, LEAST_FOLDED, MOST_STEP_MB, MOST_ZOOMS = 1.3, 1.5, 1.05, 3000, 4.0
"""The goals: of the compact counter's time, of it, of the unfolded network's time, MB, and of the time of one view."""
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"


def trained(counter: CounterConfig) -> Callable[[], dict[str, torch.Tensor]]:
    """A training step of 8 crops of 256 px, as `source_only` takes it."""
    torch.manual_seed(0)
    config = RunConfig(recipe="benchmark", source="source", target="target", method="source_only", launcher="local",
                       counter=replace(counter, orientation=False))
    method = build_method(config)
    (stage,) = method.plan()
    method.start(stage, LocalRuntime())
    generator = torch.Generator().manual_seed(0)
    batch = Batch(images=torch.rand(8, 3, 256, 256, generator=generator),
                  density=torch.rand(8, 1, 32, 32, generator=generator) / 20,
                  draws=torch.arange(8))
    return lambda: method.step(0, {"source": batch})


def asked(counter: CounterConfig, *, folded: bool = True, one_pass: bool = False) -> Callable[[], Any]:
    """What a counter says of an image of 1920 x 1080 px, in tiles."""
    torch.manual_seed(0)
    method: Method = build_method(RunConfig(recipe="benchmark", source="source", target="target", counter=counter))
    if folded:
        fold_norms(method.networks())
    method.networks().one_pass = one_pass
    predictor = Predictor(method, image_size=0)
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    return lambda: predictor.predict(image).density


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two densities are the same but for rounding."""
    return bool(np.abs(one - other).max() <= 1e-4 * np.abs(one).max())


@pytest.mark.parametrize("recipe", [shb_to_sha, sha_to_shb, renderer_to_shb])
def test_labelling_at_a_recipe_s_zooms_beside_one_view(recipe: Callable[[], RunConfig],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """One photograph of 1024 x 768 px, with all that merging costs; the goal of 4 is for the sizes people choose."""
    monkeypatch.setenv("CROWDDIST_DATA", "data")
    keep_freed_memory()
    torch.manual_seed(0)
    method = build_method(recipe())
    fold_norms(method.networks())
    predictor = Predictor(method, image_size=method.stream.image_size)
    image = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), np.uint8)
    found = compare(lambda: next(predictor.predict_views([image], method.label_views())).count,
                    lambda: next(predictor.predict_views([image], (1.0,))).count, rounds=7)
    print(f"\nzooms {method.label_views()} of {recipe.__name__} take {found.ratio:.2f} times one view's time: {found}")
    assert found.ratio <= MOST_ZOOMS


def test_a_training_step_beside_the_compact_counter_s() -> None:
    keep_freed_memory()
    found = compare(trained(LITE0), trained(CounterConfig()), rounds=7)
    print(f"\na training step of lite0 takes {found.ratio:.2f} times the compact counter's: {found}")
    assert found.ratio <= MOST_STEP


def test_a_large_image_beside_the_compact_counter_s() -> None:
    keep_freed_memory()
    found = compare(asked(LITE0), asked(CounterConfig()), rounds=5)
    print(f"\n1080p by all masks takes {found.ratio:.2f} times the compact counter's: {found}")
    assert found.ratio <= MOST_IMAGE


@pytest.mark.parametrize("counter", [LITE0, CounterConfig()], ids=["lite0", "compact"])
def test_folding(counter: CounterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer normalises every map by itself, as a network does that is not folded."""
    keep_freed_memory()
    unfolded, ours = asked(counter, folded=False), asked(counter)

    def normalised(layer: NormedConvolution, features: torch.Tensor) -> torch.Tensor:
        normed = layer.norm(layer._convolve(features, layer.conv.weight, None))
        return functional.relu6(normed, inplace=True) if layer.activated else normed

    def peer() -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(NormedConvolution, "forward", normalised)
            return unfolded()

    found = compare(peer, ours, rounds=5, agree=near)
    print(f"\nfolded: {found}")
    assert found.ratio >= (LEAST_FOLDED if counter is LITE0 else 1)


def test_one_pass_beside_all_masks() -> None:
    keep_freed_memory()
    found = compare(asked(LITE0), asked(LITE0, one_pass=True), rounds=5)
    print(f"\none pass: {found}")
    assert found.ratio > 1


def test_the_peak_memory_of_a_training_step() -> None:
    script = ("from tests.benchmarks.test_networks import *\nimport resource\nkeep_freed_memory()\nstep = "
              "trained(LITE0)\nfor _ in range(3): step()\n")
    shown = subprocess.run([sys.executable, "-c", script + PEAK], capture_output=True, text=True, check=True,
                           timeout=600).stdout
    print(f"\npeak memory: {shown.strip()} MB")
    assert int(shown.split()[-1]) < MOST_STEP_MB
