"""The search of thresholds as a part of an adaptation: before each round's labels, with the newest counter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crowddist import storage
from crowddist.config import RunConfig, SearchConfig, from_json
from crowddist.errors import InputError
from crowddist.inference.jobs import Job, LabelJob, PredictJob
from crowddist.launch.local import LocalLauncher
from crowddist.methods.thresholds import own_values, search_space, with_values
from crowddist.pipeline import adapt
from crowddist.run import checkpoint
from crowddist.run.record import run_folder
from crowddist.search.threshold_search import best_trial
from crowddist.search.trial_values import Listed, Plan, trial_values
from crowddist.search.trials import Search, run_trials_here
from crowddist.tracking.tracker import MlflowTracker, NullTracker

LEAST = "self_supervision.min_certainty"


def silent(line: str) -> None:
    del line


def searching(config: RunConfig, objective: Any = "agreement", **changes: Any) -> RunConfig:
    """The configuration with a search of four trials."""
    return replace(config, search=SearchConfig(objective=objective, trials=4, **changes))


class Watching(LocalLauncher):
    """Records its jobs, counts its trials, and can die at a given trial."""

    def __init__(self, config: RunConfig, *, dies_at: int = -1) -> None:
        super().__init__(config)
        self.sources: list[LabelJob] = []
        self.num_trials, self.dies_at, self.images = 0, dies_at, list[str]()

    def run(self, job: Job) -> list[Any]:
        if isinstance(job, LabelJob):
            self.sources.append(job)
        else:
            self.images += [job.images_url] if isinstance(job, PredictJob) else []
        return super().run(job)

    def run_trials(self, search: Search, plan: Plan) -> None:
        """Runs a search's trials."""
        for point in (point for batch in plan.batches(search.row) for point in batch if search.row(point) is None):
            if self.num_trials == self.dies_at:
                raise KeyboardInterrupt
            self.num_trials += 1
            run_trials_here(search, Listed(values=[point]))


@pytest.mark.parametrize("method", ["self_supervision", *(pytest.param(method, marks=pytest.mark.slow)
                                                         for method in ("bi_knowledge", "combined"))])
def test_every_round_is_labelled_with_what_its_search_finds(tiny_config: RunConfig, tiny_source: str,
                                                            method: Any) -> None:
    """The best trial's values are those of the labels, of the training and of its checkpoints, which count with them
    from then on.
    """
    config = searching(replace(tiny_config, method=method), "proxy", labelled=tiny_source)
    launcher, said = Watching(config), list[str]()
    result = adapt(config, launcher, NullTracker(), run_trials=launcher.run_trials, say=said.append)
    rows = [row for row in result["rounds"] if any(name.startswith("thresholds/") for name in row)]
    assert (len(rows) == len(launcher.sources) == 2
            and launcher.num_trials == 16), "as many to see how well the objective ranks them"
    for row, source in zip(rows, launcher.sources, strict=True):
        found = storage.read_json(storage.join(run_folder(config), row["stage"], "search.json"))
        best = best_trial(found["trials"])
        values = {name: best[name] for name in own_values(config)}
        assert found["best"] == best and len(found["trials"]) == 4 and all("map" in trial for trial in found["trials"])
        assert [{name: trial[name] for name in values}
                for trial in found["trials"]] == [pytest.approx(one) for one in trial_values(config, 4)]
        assert dict(source.thresholds) == values and source.predictions_url == ""
        assert {f"thresholds/{name}": value for name, value in values.items()} == {
            name: value for name, value in row.items() if name.startswith("thresholds/")
        }
        assert own_values(from_json(checkpoint.load(row["checkpoint"])["config"])) == pytest.approx(values)
    first = from_json(checkpoint.load(result["rounds"][0]["checkpoint"])["config"])
    assert own_values(first) == own_values(config), "no search comes before the row without adaptation"
    assert sum("searching thresholds by proxy" in line for line in said) == 2
    assert (["proxies" in images for images in launcher.images] == [True, False] * 2
            and config.target not in launcher.images)
    assert all(-1 <= row["search/rank_correlation"] <= 1 and row["search/regret"] >= 0 and row["search/mae"] > 0
               for row in rows)


@pytest.mark.slow
def test_labels_from_kept_predictions_are_those_of_the_networks(tiny_config: RunConfig, tmp_path: Path) -> None:
    """To the byte; the networks see the target once a round, not twice."""
    config = searching(replace(tiny_config, method="combined"))
    launcher = Watching(config)
    result = adapt(config, launcher, NullTracker(), run_trials=launcher.run_trials, say=silent)
    assert [source.predictions_url != "" for source in launcher.sources] == [True, True]
    folder, rounds = run_folder(config), result["rounds"]
    before = {row["stage"]: earlier["checkpoint"] for earlier, row in pairwise(rounds)}
    assert [source.checkpoint_url for source in launcher.sources] == [before["labels-1"], before["labels-2"]]
    for name, source in zip(("labels-1", "labels-2"), launcher.sources, strict=True):
        again = (tmp_path / "again" / name / "labels").as_uri()
        LocalLauncher(config).run(replace(source, labels_url=again, predictions_url=""))
        ours = sorted(storage.local_folder(storage.join(folder, name, "labels")).glob("*.tar"))
        assert len(ours) == 10
        for path in ours:
            assert path.read_bytes() == (storage.local_folder(again) / path.name).read_bytes(), path.name


@pytest.mark.slow
def test_a_run_that_dies_in_a_search_repeats_no_trial(tiny_config: RunConfig, tmp_path: Path) -> None:
    """It ends with the bits of an unbroken one."""
    config = searching(tiny_config)
    unbroken = adapt(replace(config, storage=str(tmp_path / "unbroken")), LocalLauncher(config), NullTracker(),
                     say=silent)
    for dies_at in (2, 10):
        config = replace(config, storage=str(tmp_path / f"dies at {dies_at}"))
        first, second = Watching(config, dies_at=dies_at), Watching(config)
        with pytest.raises(KeyboardInterrupt):
            adapt(config, first, NullTracker(), run_trials=first.run_trials, say=silent)
        resumed = adapt(config, second, NullTracker(), run_trials=second.run_trials, say=silent)
        assert first.num_trials == dies_at and second.num_trials == 16 - dies_at
        for ours, theirs in zip(resumed["rounds"], unbroken["rounds"], strict=True):
            volatile = ("checkpoint", "train/seconds")
            assert {name: value for name, value in ours.items() if name not in volatile} == {
                name: value for name, value in theirs.items() if name not in volatile
            }, dies_at


@pytest.mark.slow
def test_trials_are_children_of_their_rounds(tiny_config: RunConfig, tmp_path: Path) -> None:
    """In MLflow: thresholds as parameters, scores as metrics; tracked twice, they are there once."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = searching(replace(tiny_config, self_supervision=replace(tiny_config.self_supervision, rounds=1)))
    for _ in range(2):
        adapt(config, LocalLauncher(config), MlflowTracker(uri), say=silent)
    client = MlflowClient(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'", order_by=["tags.trial ASC"])
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert client.get_run(parent).data.tags["round"] == "2" and len(runs) == 4
    found = storage.read_json(storage.join(run_folder(config), "labels-1", "search.json"))
    for run, trial in zip(runs, found["trials"], strict=True):
        assert (run.info.status == "FINISHED"
                and run.data.params[LEAST] == f"{trial[LEAST]:.6g}")
        assert (run.data.metrics["score"] == pytest.approx(trial["score"])
                and LEAST not in run.data.metrics)


def test_what_cannot_be_searched_is_refused_at_once(tiny_config: RunConfig, make_images: Callable[..., str],
                                                    tmp_path: Path) -> None:
    config = searching(replace(tiny_config, method="source_only"))
    with pytest.raises(InputError, match="source_only makes no labels that a threshold decides"):
        adapt(config, LocalLauncher(config), NullTracker(), say=silent)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("tiny/*.json"))
    for changes, message in (
        ({"objective": "proxy"}, "the objective proxy needs labelled images"),
        ({"objective": "none", "labelled": "x"}, "the objective none reads no labels"),
        ({"trials": 1}, "trials must be at least 2"),
        ({"objective": "best"}, "objective is 'best'; choose one of none, agreement"),
    ):
        with pytest.raises(InputError, match=message):
            SearchConfig(**changes)  # type: ignore[arg-type]
    unlabelled = make_images(tmp_path / "unlabelled", count=2, labelled=False)
    config = searching(tiny_config, "labelled", labelled=unlabelled)
    with pytest.raises(InputError, match="has no labels; give a labelled data set"):
        adapt(config, LocalLauncher(config), NullTracker(), say=silent)


def test_the_search_space_is_settings_of_the_method(tiny_config: RunConfig) -> None:
    """A user can set every searched threshold by the same name."""
    for method in ("self_supervision", "bi_knowledge", "combined"):
        config = replace(tiny_config, method=method)  # type: ignore[arg-type]
        for parameter in search_space(config):
            for share in (0.0, 0.5, 1.0):
                value = parameter.at(share)
                assert own_values(with_values(config, {parameter.name: value}))[parameter.name] == pytest.approx(value)
