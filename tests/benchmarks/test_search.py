"""The search of thresholds: a trial on cached predictions against asking the networks again, and Tune's own cost.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.config import StreamConfig
from crowddist.data.sample import Seen
from crowddist.inference.prediction_cache import CachedPrediction
from crowddist.inference.predictor import Predictor, judge
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.methods.thresholds import with_values
from crowddist.ops.density import density_map
from crowddist.recipes import mm2020_shb_to_sha
from crowddist.search.threshold_search import cached_predictions
from crowddist.search.trial_values import Listed, trial_values
from crowddist.search.trials import Search, image_sums
from tests.benchmarks.harness import compare

SIZE, NUM_IMAGES, NUM_HEADS = (544, 960), 4, 150
NUM_TRIALS = 8
"""Trials in a row, as a search runs them."""


def crowd(method: Any, index: int) -> Seen:
    """What trained networks say of an image: heads of a crowd, a density that shows them, and noise in all."""
    rng, stride = np.random.default_rng(index), method.output_stride
    cells = (SIZE[0] // stride, SIZE[1] // stride)
    places = rng.uniform([0, 0], [SIZE[1] - 1, SIZE[0] - 1], (NUM_HEADS, 2))
    density = density_map((places + 0.5) / stride - 0.5, cells, method.stream.sigma_px / stride)
    seen, peaks = places[rng.random(NUM_HEADS) < 0.7], np.rint(places / stride) * stride + (stride - 1) / 2
    detections = np.column_stack([seen, rng.uniform(10, 30, len(seen)),
                                  rng.uniform(0.25, 1, len(seen))]).astype(np.float32)
    transformed = np.column_stack([peaks.clip(0, [SIZE[1] - 1, SIZE[0] - 1]), rng.uniform(10, 30, NUM_HEADS),
                                   rng.uniform(0.1, 1, NUM_HEADS)])
    return Seen(size=SIZE, density=density, spread=0 * density, member_counts=np.array([density.sum()], np.float64),
                detections=detections,
                transformed=transformed.astype(np.float32))


@pytest.mark.benchmark
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("networks", "fusion", "goal"),
                         [("compact", "heads", 350), ("compact", "confidence", 350), ("published", "confidence", 500)])
def test_a_cached_trial_against_asking_the_networks_again(networks: str, fusion: Any, goal: float) -> None:
    torch.manual_seed(0)
    compact = RunConfig(recipe="benchmark", source="source", target="target", method="bi_knowledge", launcher="local",
                        stream=StreamConfig(image_size=960))
    usual = compact if networks == "compact" else mm2020_shb_to_sha()
    settings = replace(usual.bi_knowledge, fusion=fusion, boxes_steps=0, enlarge=1.0)
    config = replace(usual, stream=compact.stream, boxes="", bi_knowledge=settings)
    method, number = build_method(config, weights="none"), NUM_IMAGES if networks == "compact" else 1
    images = [np.random.default_rng(index).integers(0, 256, (*SIZE, 3), np.uint8) for index in range(number)]
    cached = [CachedPrediction(key=str(index), seen=crowd(method, index), size=SIZE) for index in range(number)]
    trials = itertools.cycle([method.with_config(with_values(config, values)) for values in trial_values(config, 33)])
    predictor = Predictor(method, image_size=960)
    assert predictor.predict(images[0]).density.shape == cached[0].seen.density.shape

    def run_trials() -> None:
        for tried in itertools.islice(trials, NUM_TRIALS):
            for one in cached:
                image_sums(tried, one, judge(tried, one.seen, one.size, labels=False))

    # The networks are asked once for all the trials.
    result = compare(lambda: [predictor.predict(image) for image in images], run_trials, rounds=15,
                     peer_share=1 / NUM_TRIALS)
    print(f"\n{NUM_TRIALS} trials on cached predictions of {number} images of 960x544 px, fusion by {fusion}; the "
          f"{networks} networks again / ours: {result}")
    assert result.ratio >= goal


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_32_trials_of_tune(private_ray: None, tiny_checkpoint: str, tiny_target: str, tmp_path: Path) -> None:
    """Actors that are kept against a function that Tune starts anew for each trial; wall time, Ray and the predictions
    are there before.
    """
    from ray import tune

    from crowddist.distributed.tune import run_trials
    from crowddist.search.trials import Trials

    local = LocalLauncher(RunConfig(recipe="tiny", source="source", target="target", launcher="local", threads=1))
    predictions = cached_predictions(local, tiny_checkpoint, tiny_target, str(tmp_path), say=print)

    def search(name: str) -> Search:
        return Search(checkpoint_url=tiny_checkpoint, predictions_url=predictions, folder=(tmp_path / name).as_uri())

    values = trial_values(Predictor.from_checkpoint(tiny_checkpoint).method.config, 32)
    theirs, ours = search("plain"), search("ours")

    def plain(config: dict[str, Any]) -> None:
        tune.report({"score": Trials(theirs).run(config["values"])["score"]})

    seconds = []
    for run in (
        lambda: run_trials(ours, Listed(values=values), num_at_once=2),
        lambda: tune.Tuner(plain, param_space={"values": tune.grid_search(values)},
                           tune_config=tune.TuneConfig(metric="score", mode="max", max_concurrent_trials=2),
                           run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0)).fit(),
    ):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    assert [ours.row(point) for point in values] == [theirs.row(point) for point in values]
    print(f"\n32 trials of Tune, two at a time: a function each {seconds[1]:.1f} s, actors that are kept "
          f"{seconds[0]:.1f} s, {seconds[1] / seconds[0]:.1f}x")
    assert seconds[1] >= 8 * seconds[0]
