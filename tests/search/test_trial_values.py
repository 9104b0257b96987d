"""What the trials of a search are, and that a search which goes on by its scores is the same whenever it is asked
again.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crowddist.config import RunConfig, SearchConfig
from crowddist.errors import InputError
from crowddist.launch.local import LocalLauncher
from crowddist.methods.thresholds import own_values, search_space, with_values
from crowddist.search.threshold_search import cached_predictions, search_thresholds
from crowddist.search.trial_values import BATCH, Listed, Suggested, Values, make_plan, trial_values, tried
from crowddist.search.trials import run_trials_here


def searching(config: RunConfig, algorithm: Any, trials: int) -> RunConfig:
    return replace(config, search=SearchConfig(objective="agreement", algorithm=algorithm, trials=trials))


def peak(values: Mapping[str, float]) -> float:
    """0 at one point of the space, lower elsewhere."""
    wanted = {"bi_knowledge.confidence": 0.4, "bi_knowledge.localiser_threshold": 0.5, "bi_knowledge.merge_px": 9,
              "bi_knowledge.density_range": 0.3}
    return -sum(abs(value - wanted[name]) / (10 if name == "bi_knowledge.merge_px" else 1)
                for name, value in values.items())


class Rows:
    """Rows of finished trials, scored by a function of the values."""

    def __init__(self, score: Any = peak) -> None:
        self.score, self.known = score, dict[tuple[tuple[str, float], ...], dict[str, float]]()

    def run(self, values: Values) -> None:
        self.known[tuple(sorted(values.items()))] = {**values, "score": self.score(values)}

    def __call__(self, values: Mapping[str, float]) -> dict[str, float] | None:
        return self.known.get(tuple(sorted(values.items())))


def done(plan: Suggested, score: Any = peak, *, backwards: bool = False) -> list[Values]:
    """All values of a plan, each batch tried from its beginning or from its end."""
    rows = Rows(score)
    for batch in plan.batches(rows):
        for values in reversed(batch) if backwards else batch:
            rows.run(values)
    return tried(plan, rows)


@pytest.fixture
def plan(tiny_config: RunConfig) -> Suggested:
    plan = make_plan(searching(replace(tiny_config, method="bi_knowledge"), "optuna", 40))
    assert isinstance(plan, Suggested)
    return plan


def test_suggestions_follow_from_the_seed_and_the_scores(plan: Suggested) -> None:
    values = done(plan)
    assert (len(values) == 40 and values[0] == plan.own
            and done(plan, backwards=True) == values), "in whatever order a batch ends"
    assert done(replace(plan, seed=1)) != values
    other = done(plan, lambda point: -peak(point))
    assert (other[: 1 + BATCH] == values[: 1 + BATCH]
            and other[-BATCH:] != values[-BATCH:]), "as soon as there is something to go by"
    for parameter in plan.space:
        tried_values = [point[parameter.name] for point in values[1:]]
        assert parameter.low <= min(tried_values) < max(tried_values) <= parameter.high
        assert parameter.scale != "whole" or all(value == round(value) for value in tried_values)


def test_suggestions_come_nearer_than_even_ones(plan: Suggested, tiny_config: RunConfig) -> None:
    """Over five seeds, of 40 trials each, of a function with one peak."""
    best = [max(map(peak, done(replace(plan, seed=seed)))) for seed in range(5)]
    assert sorted(best)[2] > max(map(peak, trial_values(replace(tiny_config, method="bi_knowledge"), 40)))


def test_a_plan_goes_on_where_it_was_left(plan: Suggested) -> None:
    """No trial is repeated; a batch comes only after the batch before is done."""
    whole, rows = done(plan), Rows()
    for values in whole[:12]:
        rows.run(values)
    assert tried(plan, rows) == whole[:12]
    rows.known.pop(tuple(sorted(whole[4].items())))
    assert tried(plan, rows) == [*whole[:4],
                                 *whole[5 : 1 + BATCH]], "what comes behind depends on the one that is missing"
    batches = plan.batches(rows)
    assert [len(next(batches)) for _ in range(2)] == [1, BATCH]
    with pytest.raises(ValueError, match="depend on one that is not done"):
        next(batches)


def test_own_values_outside_of_the_space_are_tried_too(plan: Suggested) -> None:
    outside = replace(plan, own={**plan.own, "bi_knowledge.merge_px": 40.0})
    assert done(outside)[0]["bi_knowledge.merge_px"] == 40.0


def test_one_parameter_is_tried_at_even_steps(tiny_config: RunConfig) -> None:
    least = [values["self_supervision.min_certainty"] for values in trial_values(tiny_config, 5)]
    assert least == pytest.approx([tiny_config.self_supervision.min_certainty, 0.0, 0.3, 0.6, 0.9])
    assert len(trial_values(tiny_config, 2)) == 2 and len(trial_values(tiny_config, 1)) == 1


def test_several_fill_the_space(tiny_config: RunConfig) -> None:
    """Of 64 points every quarter of every range holds 16, but for one or two; the same for every call, and more trials
    begin with the fewer.
    """
    config = replace(tiny_config, method="bi_knowledge")
    values = trial_values(config, 65)
    assert (values[0] == own_values(config) and values == trial_values(config, 65)
            and trial_values(config, 9) == values[:9])
    for parameter in search_space(config):
        shares = [(point[parameter.name] - parameter.low) / (parameter.high - parameter.low) for point in values[1:]]
        counts = [sum(quarter / 4 <= share < (quarter + 1) / 4 for share in shares) for quarter in range(4)]
        spare = 6 if parameter.scale == "whole" else 2
        assert all(abs(count - 16) <= spare for count in counts), (parameter.name, counts)
        assert min(shares) >= 0 and max(shares) <= 1
    assert all(with_values(config, point) for point in values)


def test_even_values_are_a_list(tiny_config: RunConfig) -> None:
    plan = make_plan(searching(tiny_config, "even", 5))
    assert plan.number == 5 and list(plan.batches(Rows())) == [trial_values(tiny_config, 5)]
    assert isinstance(plan, Listed) and tried(plan, Rows(lambda values: 0.0)) == []


def test_an_algorithm_whose_package_is_not_there_is_refused(tiny_config: RunConfig,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package optuna: install crowddist\[optuna\], or choose even"):
        make_plan(searching(tiny_config, "optuna", 4))
    make_plan(searching(tiny_config, "even", 4))


def test_a_search_by_suggestions_on_cached_predictions(tiny_config: RunConfig, tiny_checkpoint: str, tiny_target: str,
                                                       tmp_path: Path) -> None:
    """Every trial has a row; the same search again tries nothing, a longer one only the additional trials."""
    launcher, tries = LocalLauncher(tiny_config), list[int]()

    def search(number: int) -> list[dict[str, float]]:
        said = list[str]()
        config = replace(searching(tiny_config, "optuna", number), storage=str(tmp_path))
        found = search_thresholds(config, tiny_checkpoint, {"target": tiny_target}, launcher, run_trials_here,
                                  say=said.append)
        tries.append(len(list((tmp_path / "data" / "searches").rglob("*.json"))))
        assert (found["own"] == found["trials"][0]
                and found["best"]["score"] == max(trial["score"] for trial in found["trials"]))
        return found["trials"]

    cached_predictions(launcher, tiny_checkpoint, tiny_target, str(tmp_path), say=str)
    first, again, longer = search(12), search(12), search(1 + 2 * BATCH)
    assert first == again == longer[:12] and tries == [12, 12, 1 + 2 * BATCH]
    assert own_values(tiny_config).items() <= first[0].items()
    assert len({trial[search_space(tiny_config)[0].name] for trial in longer}) == len(longer)
