"""The search of thresholds without Ray: its cache, its trials' rows, and the labels that it never opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.data import shard_codec
from crowddist.data.shards import ShardReader, decode
from crowddist.data.transforms import resize_points
from crowddist.errors import InputError
from crowddist.inference.predictor import Predictor
from crowddist.inference.pseudo_labels import label_unit
from crowddist.launch.base import arithmetic
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.methods.thresholds import own_values, with_values
from crowddist.models.config import CounterConfig
from crowddist.models.initialisation import init_kaiming
from crowddist.ops.density import density_map
from crowddist.ops.localization import mean_average_precision
from crowddist.run import checkpoint
from crowddist.search.threshold_search import best_trial, cached_predictions, ranking, recorded_config, trial_table
from crowddist.search.trial_values import trial_values
from crowddist.search.trials import Search, Trials, scored

LEAST = "self_supervision.min_certainty"
"""The tiny counter's lies between 0.67 and 0.71."""


def local() -> LocalLauncher:
    return LocalLauncher(RunConfig(recipe="tiny", source="source", target="target", launcher="local", threads=1))


class Unused(LocalLauncher):
    """Fails when it has to run the networks: all predictions must be cached."""

    def run(self, *arguments: Any) -> Any:
        raise AssertionError("the cache should have been used")


def trials_of(checkpoint_url: str, predictions: str, folder: Path, labelled: str = "") -> Trials:
    rows = (folder / "rows").as_uri()
    return Trials(Search(checkpoint_url=checkpoint_url, predictions_url=predictions, labelled_url=labelled,
                         folder=rows))


def silent(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def predictions(tiny_checkpoint: str, tiny_target: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return cached_predictions(local(), tiny_checkpoint, tiny_target, str(tmp_path_factory.mktemp("work")), say=silent)


@pytest.fixture(scope="module")
def labelled(tiny_checkpoint: str, tiny_evaluation: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return cached_predictions(local(), tiny_checkpoint, tiny_evaluation, str(tmp_path_factory.mktemp("work")),
                              say=silent)


def saved(config: RunConfig, folder: Path) -> str:
    """Checkpoint of untrained networks with many detections on any image."""
    torch.manual_seed(3)
    method = build_method(config)
    for name, network in method.networks().named_children():
        if name != "semantics":
            init_kaiming(network)
    return checkpoint.save(folder.as_uri(), 1, {"method": method.state_dict(), "config": to_json(config)})


def seen_plainly(url: str, images_url: str) -> list[Any]:
    """Every image and its fresh prediction."""
    predictor, images = Predictor.from_checkpoint(url), ShardReader(images_url)
    shown = [decode(*images.read(index)) for index in range(len(images))]
    return list(zip(shown, predictor.predict_views([one.image for one in shown], predictor.method.label_views()),
                    strict=True))


def test_agreement_equals_the_naive_sums(tiny_checkpoint: str, tiny_target: str, predictions: str,
                                         tmp_path: Path) -> None:
    """One counter, no second opinion: share of persons kept less share of spread kept."""
    trials = trials_of(tiny_checkpoint, predictions, tmp_path)
    for least in (0.68, 0.695, 0.68):
        kept_persons = persons = kept_spread = spread = kept_cells = cells = 0.0
        for _, said in seen_plainly(tiny_checkpoint, tiny_target):
            keep = said.certainty >= least
            for row in range(keep.shape[0]):
                for column in range(keep.shape[1]):
                    person, doubt = float(said.density[row, column]), float(said.spread[row, column])
                    persons, spread, cells = persons + person, spread + doubt, cells + 1
                    if keep[row, column]:
                        kept_persons, kept_spread, kept_cells = (kept_persons + person, kept_spread + doubt,
                                                                 kept_cells + 1)
        assert trials.run({LEAST: least}) == pytest.approx({
            LEAST: least,
            "score": kept_persons / persons - kept_spread / spread,
            "kept_mass": kept_persons / persons,
            "kept_cells": kept_cells / cells,
            "relative_spread": kept_spread / kept_persons,
            "mean_count": persons / 10,
        })


def test_errors_equal_the_naive_sums(tiny_checkpoint: str, tiny_evaluation: str, labelled: str, tmp_path: Path) -> None:
    """With labels: localisation, less the error of the count, and what is kept of the persons, less what is kept of the
    density's error.
    """
    row = trials_of(tiny_checkpoint, labelled, tmp_path, tiny_evaluation).run({LEAST: 0.69})
    count_error = true_persons = persons = error = kept_persons = kept_error = 0.0
    found, truths = [], []
    for sample, said in seen_plainly(tiny_checkpoint, tiny_evaluation):
        assert sample.points is not None
        places = (resize_points(sample.points, said.size[1] / 96, said.size[0] / 72) + 0.5) / 8 - 0.5
        truth = density_map(np.clip(places, 0, [11, 8]), said.density.shape, 6.0 / 8)
        keep = said.certainty >= 0.69
        wrong = np.abs(said.density.astype(float) - truth)
        count_error, true_persons = count_error + abs(said.count
                                                      - len(sample.points)), true_persons + len(sample.points)
        persons, kept_persons = persons + said.density.sum(), kept_persons + said.density[keep].sum()
        error, kept_error = error + wrong.sum(), kept_error + wrong[keep].sum()
        found.append(said.points)
        truths.append(sample.points)
    precision = mean_average_precision(found, truths)
    assert row["mae"] == pytest.approx(count_error / 5, rel=1e-5) and row["map"] == pytest.approx(precision)
    assert row["kept_error"] == pytest.approx(kept_error / error, rel=1e-4)
    wanted = precision - count_error / true_persons + kept_persons / persons - kept_error / error
    assert row["score"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("method", ["bi_knowledge", "combined"])
def test_a_trial_says_what_labels_made_with_it_say(tiny_config: RunConfig, tiny_target: str, tmp_path: Path,
                                                   method: Any) -> None:
    """Persons kept and counted equal those of a whole set of labels made with these thresholds."""
    config = replace(tiny_config, method=method, bi_knowledge=replace(tiny_config.bi_knowledge, confidence=0.3))
    url = saved(config, tmp_path / "networks")
    trials = trials_of(url, cached_predictions(local(), url, tiny_target, str(tmp_path), say=silent), tmp_path)
    images = ShardReader(tiny_target)
    for number, values in enumerate(trial_values(config, 3)):
        row = trials.run(values)
        networks = Predictor.from_checkpoint(url)
        networks.method = networks.method.with_config(with_values(config, values))
        record = label_unit(networks, images, range(10), (tmp_path / f"round-{number}" / "labels").as_uri())
        assert row["mean_count"] == pytest.approx(record["persons"] / 10, rel=1e-5)
        assert -2 < row["score"] < 2 and 0 < row["disagreement"] <= 1
        if method == "combined":  # patches are drawn by the round's name, which a trial has none of
            assert row["kept_mass"] == pytest.approx(record["kept_persons"] / record["persons"], rel=1e-4)
            assert row["kept_cells"] == pytest.approx(record["kept_cells"] / record["cells"], rel=1e-6)


def test_what_only_selects_concludes_nothing_anew(tiny_checkpoint: str, predictions: str, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    trials = trials_of(tiny_checkpoint, predictions, tmp_path)
    usual = trials.run({LEAST: 0.69})

    def trap(*arguments: Any) -> None:
        raise AssertionError("nothing has changed that is concluded from")

    monkeypatch.setattr("crowddist.search.trials.judge", trap)
    assert 0 < usual["kept_cells"] < 1
    assert [trials.run({LEAST: least})["kept_cells"] for least in (0.2, 0.8)] == [1, 0]


def test_of_a_large_data_set_a_part_is_looked_at(tiny_checkpoint: str, tiny_target: str, predictions: str,
                                                 tmp_path: Path, monkeypatch: Any) -> None:
    """At most four of ten images: every third, from the first on."""
    monkeypatch.setattr("crowddist.search.trials.MOST_IMAGES", 4)
    said = [found.count for _, found in seen_plainly(tiny_checkpoint, tiny_target)]
    assert trials_of(tiny_checkpoint, predictions,
                     tmp_path).run({LEAST: 0.69})["mean_count"] == pytest.approx(np.mean(said[::3]))


def test_a_trial_that_is_done_is_not_done_again(tiny_checkpoint: str, predictions: str, tmp_path: Path) -> None:
    trials = trials_of(tiny_checkpoint, predictions, tmp_path)
    first = trials.run({LEAST: 0.69})
    (row,) = (tmp_path / "rows").glob("*.json")
    row.write_text(row.read_text().replace(str(first["score"]), "0.125"))
    assert trials.run({LEAST: 0.69}) == {**first, "score": 0.125}


def test_the_cache_is_used_again_and_never_for_others(
    predictions: str, tiny_checkpoint: str, tiny_target: str, tiny_evaluation: str, tmp_path: Path
) -> None:
    work = str(storage.local_folder(predictions).parents[2])
    unused = Unused(local().config)
    assert cached_predictions(unused, tiny_checkpoint, tiny_target, work, say=silent) == predictions
    other = tmp_path / "other.pt"
    other.write_bytes(storage.read_bytes(tiny_checkpoint) + b" ")
    for counter, data in ((other.as_uri(), tiny_target), (tiny_checkpoint, tiny_evaluation)):
        with pytest.raises(AssertionError):
            cached_predictions(unused, counter, data, work, say=silent)
    unused.arithmetic = arithmetic("cpu", 2)
    with pytest.raises(AssertionError):  # two threads add up in another order
        cached_predictions(unused, tiny_checkpoint, tiny_target, work, say=silent)


def test_labels_of_the_target_are_never_opened(
    tiny_checkpoint: str, tmp_path: Path, make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make_images(tmp_path / "labelled", count=3)

    def trap(data: bytes) -> np.ndarray:
        raise AssertionError("a label of the target was opened")

    for name in ("points.npy", "mask.png"):
        monkeypatch.setitem(shard_codec._DECODERS, name, trap)
    trials = trials_of(tiny_checkpoint, cached_predictions(local(), tiny_checkpoint, target, str(tmp_path), say=silent),
                       tmp_path)
    assert 0 < trials.run({LEAST: 0.69})["kept_mass"] < 1


def test_a_counter_without_thresholds_is_refused(tmp_path: Path, tiny_config: RunConfig) -> None:
    content = {"method": {}, "config": to_json(replace(tiny_config, method="source_only"))}
    with pytest.raises(InputError, match="source_only makes no labels that a threshold decides"):
        recorded_config(checkpoint.save(tmp_path.as_uri(), 1, content))
    assert recorded_config(checkpoint.save(tmp_path.as_uri(), 2,
                                           {**content, "config": to_json(tiny_config)})) == tiny_config


SUMS = {"images": 2.0, "persons": 20.0, "kept_persons": 10.0, "spread": 4.0, "kept_spread": 1.0, "cells": 100.0,
        "kept_cells": 30.0}


def test_scores_by_hand() -> None:
    assert scored({}, SUMS)["score"] == pytest.approx(0.5 - 0.25)
    second = {"apart": 3.0, "said": 30.0}
    assert scored({}, SUMS | second)["score"] == pytest.approx(0.5 - 0.25 - 0.1)
    errors = {"true_persons": 25.0, "count_error": 5.0, "error": 8.0, "kept_error": 2.0, "map": 0.6}
    row = scored({"a.b": 1.0}, SUMS | errors)
    assert (row["score"] == pytest.approx(0.6 - 0.2 + 0.5 - 0.25) and row["mae"] == 2.5 and row["mean_count"] == 10
            and row["a.b"] == 1)


def test_predictions_that_nothing_can_be_told_from(make_checkpoint: Callable[..., str], tiny_target: str,
                                                   tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sees nobody"):
        scored({}, SUMS | {"persons": 0.0})
    nobody = SUMS | {"persons": 0.0, "kept_persons": 0.0}
    assert scored({}, nobody
                  | {"apart": 30.0, "said": 30.0})["score"] == -1, "but with another threshold a part sees somebody"
    errors = {"true_persons": 25.0, "count_error": 25.0, "error": 8.0, "kept_error": 2.0, "map": 0.0}
    score = scored({}, nobody | errors)["score"]
    assert score == pytest.approx(-1 - 0.25), "an answer like any other, where it can be held against the truth"
    one_view = SelfSupervisionConfig(label_views=(1.0,))  # several would be an ensemble
    alone = make_checkpoint(tmp_path / "alone", counter=CounterConfig(ensemble="none"), self_supervision=one_view)
    predictions = cached_predictions(local(), alone, tiny_target, str(tmp_path), say=silent)
    with pytest.raises(InputError, match="have no spread: it has no ensemble"):
        trials_of(alone, predictions, tmp_path).run({LEAST: 0.69})
    assert scored({}, SUMS
                  | {"spread": 0.0, "kept_spread": 0.0, "apart": 3.0, "said": 30.0})["score"] == pytest.approx(-0.1)


def test_a_region_of_interest_is_refused(tiny_checkpoint: str, make_images: Callable[..., str], tmp_path: Path) -> None:
    data = make_images(tmp_path / "roi", count=1, facts=[{"roi": [[0, 0], [50, 0], [50, 50]]}])
    predictions = cached_predictions(local(), tiny_checkpoint, data, str(tmp_path), say=silent)
    with pytest.raises(InputError, match="has a region of interest"):
        trials_of(tiny_checkpoint, predictions, tmp_path, data)
    manifest = tmp_path / "roi" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"converter": "test"', '"converter": "gcc 1"'))
    assert trials_of(tiny_checkpoint, predictions, tmp_path,
                     data).run({LEAST: 0.69})["mae"] > 0, "but for GCC's, which count whole"


def test_a_ranking_by_hand() -> None:
    """Scores rank the trials 2, 3, 1; in truth 1, 2, 3: squared differences of 1, 1 and 4, a rank correlation of 1 - 6
    * 6 / 24.
    """
    trials = [{"a.b": 0.1, "score": 0.5}, {"a.b": 0.2, "score": 0.7}, {"a.b": 0.3, "score": 0.2}]
    truths = [{"a.b": 0.1, "score": 0.1, "mae": 9.0}, {"a.b": 0.2, "score": 0.3, "mae": 5.0},
              {"a.b": 0.3, "score": 0.4, "mae": 7.0}]
    assert ranking(trials, truths) == pytest.approx({
        "rank_correlation": -0.5, "regret": 0.1, "own_regret": 0.3, "mae": 5.0, "own_mae": 9.0, "best_mae": 5.0,
        "mae_rank_correlation": 0.5,
    })
    alike = [{**truth, "mae": 4.0} for truth in truths]
    assert "mae_rank_correlation" not in ranking(trials, alike)
    assert ranking([{**trial, "score": 1.0} for trial in trials], truths)["rank_correlation"] == 0
    with pytest.raises(ValueError, match="same values"):
        ranking(trials, truths[::-1])


def test_the_best_trial_and_the_table(tiny_config: RunConfig) -> None:
    """The configured trial is first and wins a tie; the table always shows it."""
    assert best_trial([{"score": 0.2}, {"score": 0.3}, {"score": 0.3}])["score"] == 0.3
    own = {**own_values(tiny_config), "score": 0.1}
    assert best_trial([own, {LEAST: 0.2, "score": 0.1}]) is own
    heading, *rows = trial_table([own, {LEAST: 0.2, "score": 0.3}, {LEAST: 0.4, "score": 0.2}], most=1).splitlines()
    assert (heading == "min certainty  score"
            and rows == ["        0.200  0.300  <- best", "        0.700  0.100  <- as configured"])
