"""The count by least confidence: against a judgement for each threshold, and what it never opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowddist.config import RunConfig
from crowddist.data import shard_codec
from crowddist.data.sample import Seen
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import cell_density
from crowddist.inference.prediction_cache import read_predictions
from crowddist.inference.predictor import Predictor, judge
from crowddist.methods.base import Method
from crowddist.methods.build import build_method
from crowddist.methods.parts.detecting import confidence_weight
from crowddist.methods.settings.bi_knowledge import CONFIDENCE
from crowddist.methods.thresholds import search_space, trial_values, with_values
from crowddist.search.threshold_search import search_thresholds
from crowddist.search.trial_values import make_plan
from tests.search.test_threshold_search import local, saved, silent

SIZE = (150, 202)
THRESHOLDS = np.linspace(0.25, 0.6, 36)
"""Steps of a hundredth, so that float32 rounds some of them up and some down."""


def crowd(method: Method, *, spread: bool = True) -> Seen:
    """Heads of all confidences that overlap, say the same twice, lie at every border and beyond the last cell, and are
    as sure as a threshold.
    """
    rng, stride = np.random.default_rng(5), method.output_stride
    cells = (-(-SIZE[0] // stride), -(-SIZE[1] // stride))
    places = rng.uniform([0, 0], [SIZE[1] - 1, SIZE[0] - 1], (70, 2))
    places = np.concatenate([places, places[:10] + 1.5, [[-0.5, -0.5], [203.5, 151.5], [203.5, 60], [100, 151.5]]])
    scores = rng.uniform(0.05, 1, len(places))
    scores[20 : 20 + len(THRESHOLDS)] = THRESHOLDS
    sizes = rng.uniform(4, 30, len(places))
    density = (rng.random(cells) * 60 / np.prod(cells)).astype(np.float32)
    doubt = (density * rng.random(cells) * spread).astype(np.float32)
    return Seen(size=SIZE, density=density, spread=doubt, member_counts=np.array([50.0, 70.0]),
                transformed=np.zeros((0, 4), np.float32),
                detections=np.column_stack([places, sizes, scores]).astype(np.float32))


def counted(method: Method, seen: Seen, thresholds: Any) -> list[float]:
    """The counts, one judgement a threshold."""
    configs = [with_values(method.config, {CONFIDENCE: float(threshold)}) for threshold in thresholds]
    return [float(judge(method.with_config(config), seen, (300, 404)).density.sum(dtype=np.float64))
            for config in configs]


def configured(config: RunConfig, method: Any, **settings: Any) -> RunConfig:
    return replace(config, method=method, bi_knowledge=replace(config.bi_knowledge, **settings))


@pytest.mark.parametrize(("method", "settings"), [
    ("bi_knowledge", {"fusion": "confidence"}),
    ("bi_knowledge", {"fusion": "confidence", "weight_exponent": 0.3, "sigma_px": 9.0, "enlarge": 2.0,
                      "nms_share": 0.0}),
    ("bi_knowledge", {"fusion": "confidence", "weight_exponent": 3.0, "sigma_of_size": 0.3, "nms_share": 0.4}),
    ("combined", {"weight_exponent": 1.0, "nms_share": 0.4}),
    ("combined", {"weight_exponent": 2.5, "nms_share": 0.0}),
])
def test_one_pass_counts_as_a_judgement_for_each_threshold(tiny_config: RunConfig, method: Any,
                                                           settings: dict[str, Any]) -> None:
    networks = build_method(configured(tiny_config, method, **settings))
    for spread in (True, False):
        seen = crowd(networks, spread=spread)
        swept = networks.count_by_confidence(seen, THRESHOLDS)
        assert swept is not None and swept == pytest.approx(counted(networks, seen, THRESHOLDS), rel=2e-6)
        assert len(set(swept.round(4))) > (30 if settings.get("nms_share") == 0
                                           else 10), "most steps leave out a detection that nothing else hides"


def test_where_nobody_is_detected_the_regression_counts(tiny_config: RunConfig) -> None:
    networks = build_method(configured(tiny_config, "bi_knowledge", fusion="confidence"))
    seen = replace(crowd(networks), detections=np.zeros((0, 4), np.float32))
    assert networks.count_by_confidence(seen, THRESHOLDS) == pytest.approx(float(seen.density.sum(dtype=np.float64)))


@pytest.mark.parametrize("place", [(-0.5, -0.5), (203.5, 151.5), (203.5, 60.0), (100.2, 151.5), (60.0, 70.0)])
def test_a_window_of_the_weight_is_that_of_its_kernel(tiny_config: RunConfig, place: tuple[float, float]) -> None:
    """Also of a head that the detector, whose cells are larger, sees beyond the last cell of the density: what the pass
    depends on.
    """
    head, stream = np.array([[*place, 20.0, 0.5]], np.float32), replace(tiny_config.stream, sigma_px=4.0)
    drawn, weight = cell_density(head[:, :3], (75, 101), stream, 2), confidence_weight(head, (75, 101), stream, 2)
    assert (drawn > 0).any() and ((drawn > 0) == (weight > 0)).all()


def search(url: str, target: str, work: Path, **options: Any) -> dict[str, Any]:
    config = Predictor.from_checkpoint(url).method.config
    given = {"objective": "agreement", "target_url": target, "work": str(work), "say": silent, **options}
    return search_thresholds(local(), url, make_plan(config, "even", 4), **given)


@pytest.mark.parametrize("method", ["bi_knowledge", "combined"])
def test_a_search_says_how_the_count_depends_on_it(
    tiny_config: RunConfig, tiny_target: str, tiny_evaluation: str, tmp_path: Path, method: Any,
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the other values of the best trial, which is none that it began with; of a large set on those images that the
    search looks at.
    """
    monkeypatch.setattr("crowddist.search.trials.MOST_IMAGES", 4)
    url = saved(configured(tiny_config, method, confidence=0.3, fusion="confidence"), tmp_path / "networks")
    best = trial_values(Predictor.from_checkpoint(url).method.config, 4)[2]
    monkeypatch.setattr("crowddist.search.threshold_search.best_trial", lambda trials: trials[2])
    found = search(url, tiny_target, tmp_path, evaluation_url=tiny_evaluation)
    networks = Predictor.from_checkpoint(url).method
    networks = networks.with_config(with_values(networks.config, best))
    confidence = next(parameter for parameter in search_space(networks.config) if parameter.name == CONFIDENCE)
    rows = found["sweep"]
    assert [row[CONFIDENCE] for row in rows] == pytest.approx(np.linspace(confidence.low, confidence.high, 50))
    images, evaluation = list(read_predictions(found["predictions"]))[::3], ShardReader(tiny_evaluation)
    errors = []
    for index in (0, 2, 4):
        sample = decode(*evaluation.read(index))
        assert sample.points is not None
        seen = next(networks_see(url, sample.image))
        errors.append(np.abs(np.array(counted(networks, seen, [row[CONFIDENCE] for row in rows])) - len(sample.points)))
    counts = np.mean([counted(networks, cached.seen, [row[CONFIDENCE] for row in rows]) for cached in images], axis=0)
    assert [row["mean_count"] for row in rows] == pytest.approx(counts, rel=1e-5)
    assert [row["mae"] for row in rows] == pytest.approx(np.mean(errors, axis=0), rel=1e-4)
    assert len(set(counts.round(4))) > 5, "the count does depend on it"


def networks_see(url: str, image: np.ndarray) -> Any:
    """What the counter says of an image, asked anew, down to the least confidence of all."""
    predictor = Predictor.from_checkpoint(url)
    lowest = with_values(predictor.method.config, {CONFIDENCE: 0.1})
    return predictor.with_config(lowest).see([image], predictor.method.label_views())


def test_without_an_evaluation_no_label_is_opened(
    tiny_config: RunConfig, make_images: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_images(tmp_path / "labelled", count=3)
    url = saved(configured(tiny_config, "combined", confidence=0.3), tmp_path / "networks")
    known = search(url, target, tmp_path, evaluation_url=target)

    def trap(data: bytes) -> np.ndarray:
        raise AssertionError("a label was opened")

    for name in ("points.npy", "mask.png"):
        monkeypatch.setitem(shard_codec._DECODERS, name, trap)
    found = search(url, target, tmp_path)
    assert found["sweep"] == [{name: value for name, value in row.items() if name != "mae"} for row in known["sweep"]]
    assert all(row["mae"] > 0 for row in known["sweep"])
    with pytest.raises(AssertionError, match="a label was opened"):
        search(url, target, tmp_path, evaluation_url=target)


@pytest.mark.parametrize(("method", "fusion"),
                         [("bi_knowledge", "heads"), ("bi_knowledge", "none"), ("self_supervision", "confidence")])
def test_where_no_pass_is_exact_there_is_none(tiny_config: RunConfig, tiny_target: str, tmp_path: Path, method: Any,
                                              fusion: str) -> None:
    url = saved(configured(tiny_config, method, fusion=fusion, confidence=0.3), tmp_path / "networks")
    networks = Predictor.from_checkpoint(url).method
    assert networks.count_by_confidence(crowd(networks), THRESHOLDS) is None
    assert "sweep" not in search(url, tiny_target, tmp_path)
