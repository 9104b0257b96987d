"""The adaptation from data to result: train, label, train again, evaluate. The page to read first."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import crowddist
from crowddist import storage, tracking
from crowddist.config import RunConfig, to_json, without_weights
from crowddist.data.config import DataSpec, parse_data
from crowddist.data.prepare import Prepared, Role, prepare
from crowddist.engine import StageData, read_done
from crowddist.errors import InputError
from crowddist.methods.table import build_method

if TYPE_CHECKING:
    import numpy as np

    from crowddist.launcher import Launcher
    from crowddist.methods.base import Stage
    from crowddist.tracking import Tracker

RESULT = "result.json"
CONFIG = "config.json"
DATA = "data.json"
TRACKING = "mlflow.json"
MODEL = "crowd-counter"
"""The name that final counters are registered under."""
FREE_TO_CHANGE = ("storage", "num_workers", "num_labellers", "launcher", "threads", "tracking_uri", "experiment")
"""What a run may be resumed with differently: it decides where and how fast, not what is computed."""


def adapt(config: RunConfig, launcher: Launcher, tracker: Tracker, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs an adaptation to its end, or takes it up where it was left, and returns what `result.json` holds.

    Every stage is a folder below the run's; what is done is skipped, so a run may be killed at any moment and started again.
    The tracker is started once the input is known to be good: a mistake leaves neither a failed run nor a name that is taken.

    Raises:
        InputError: bad data, a run of that name with another configuration or other data, or a second driver on the same run.
    """
    started = time.time()
    folder = run_folder(config)
    with storage.exclusive(folder):
        _require_same_config(config, folder)
        stages = _plan(config, begun=storage.exists(storage.join(folder, CONFIG)))
        data = {role: prepare(spec, config.storage, role=role, say=say, skip_bad=config.skip_bad) for role, spec in _specs(config).items()}
        _claim(config, folder, data)
        with _tracked(config, folder, tracker):
            for role, prepared in data.items():
                tracker.data(role, prepared.manifest.name, prepared.url, prepared.manifest.digest)
            run = _Run(config, folder, {role: prepared.url for role, prepared in data.items()}, launcher, tracker, say)
            rounds = run.all_rounds(stages)
            run.show_summary(rounds)
            result = {
                "run": run_name(config),
                "recipe": config.recipe,
                "method": config.method,
                "seed": config.seed,
                "version": crowddist.__version__,
                "rounds": rounds,
                "final": rounds[-1],
                "stopped": run.stopped,
                "checkpoint": run.checkpoint,
                "model": tracker.register(storage.local_file(run.checkpoint), name=MODEL),
                "data": {role: prepared.summary() for role, prepared in data.items()},
                "seconds_this_start": round(time.time() - started, 1),
            }
            storage.write_json(storage.join(folder, RESULT), result)
            tracker.artifact(RESULT, result)
        return result


def run_name(config: RunConfig) -> str:
    """The run's name: as given, or the recipe's."""
    return config.run_name or config.recipe


def run_folder(config: RunConfig) -> str:
    """URL of the run's folder."""
    return storage.join(storage.normalise(config.storage), run_name(config))


def _plan(config: RunConfig, *, begun: bool) -> tuple[Stage, ...]:
    """The method's stages. Where the run begins, weights that cannot be had are found out now; one that was begun has its checkpoints."""
    return build_method(without_weights(config) if begun else config).plan()


def _specs(config: RunConfig) -> dict[Role, DataSpec]:
    texts: dict[Role, str] = {"source": config.source, "target": config.target, "evaluation": config.evaluation}
    return {role: parse_data(text) for role, text in texts.items() if text}


def _require_same_config(config: RunConfig, folder: str) -> None:
    """A run that was begun computes what this configuration says."""
    mine = json.loads(to_json(config))
    recorded = _recorded(folder, CONFIG, mine)
    differ = sorted(name for name in {*mine, *recorded} if name not in FREE_TO_CHANGE and mine.get(name) != recorded.get(name))
    if differ:
        raise InputError(
            f"run {run_name(config)} exists with another configuration (it differs in {', '.join(differ)}): "
            f"choose another --run-name, or remove {folder}"
        )


def _claim(config: RunConfig, folder: str, data: Mapping[Role, Prepared]) -> None:
    """Records configuration and data of a run that begins; one that was begun goes on with the data it has seen."""
    mine: dict[str, str] = {role: prepared.manifest.digest for role, prepared in data.items()}
    recorded = _recorded(folder, DATA, mine)
    changed = [role for role in mine if mine[role] != recorded.get(role)]
    if changed:
        raise InputError(
            f"the data of run {run_name(config)} changed since it began ({', '.join(changed)}): "
            f"choose another --run-name, or remove {folder}"
        )
    for name, content in ((CONFIG, json.loads(to_json(config))), (DATA, mine)):
        if not storage.exists(storage.join(folder, name)):
            storage.write_json(storage.join(folder, name), content)


def _recorded(folder: str, name: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    url = storage.join(folder, name)
    return storage.read_json(url) if storage.exists(url) else otherwise


def _tracked(config: RunConfig, folder: str, tracker: Tracker) -> AbstractContextManager[Tracker]:
    return tracking.run(
        tracker,
        experiment=config.experiment or config.recipe,
        run_name=run_name(config),
        config=dataclasses.asdict(config),
        tags={"recipe": config.recipe, "method": config.method},
        state_url=storage.join(folder, TRACKING),
    )


class _Run:
    """One adaptation under way."""

    def __init__(
        self,
        config: RunConfig,
        folder: str,
        urls: Mapping[str, str],
        launcher: Launcher,
        tracker: Tracker,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.folder, self.urls = config, folder, urls
        self.launcher, self.tracker, self.say = launcher, tracker, say
        self.checkpoint, self.labels_url, self.stopped = "", "", ""

    def all_rounds(self, stages: Sequence[Stage]) -> list[dict[str, Any]]:
        """Every stage in turn; the rows of the result."""
        rows: list[dict[str, Any]] = []
        for group in _groups(stages):
            labels: dict[str, float] = {}
            if group[0].needs_labels:
                labels = self._label(group[0])
                if self._settled(labels):
                    self.stopped = f"labels changed by {labels['labels/change']:.1%} before {group[0].title}: settled"
                    self.say(self.stopped)
                    break
            self._train(group)
            for stage in group:
                done = read_done(storage.join(self.folder, stage.name))
                assert done is not None  # the launcher returned, so the stage is done
                self.checkpoint = done["checkpoint"]
                rows.append(self._finish_round(stage, labels, seconds=done["seconds"]))
        return rows

    def _settled(self, labels: Mapping[str, float]) -> bool:
        return labels.get("labels/change", float("inf")) < self.config.self_supervision.stop_change

    def _train(self, group: Sequence[Stage]) -> None:
        from crowddist.progress import following

        stages = [
            StageData(
                stage=stage,
                folder=storage.join(self.folder, stage.name),
                urls=dict(self.urls),
                labels_url=self.labels_url if stage.needs_labels else "",
                initial=self.checkpoint if index == 0 else "",
            )
            for index, stage in enumerate(group)
        ]
        if all(read_done(data.folder) for data in stages):
            self.say(f"{' and '.join(stage.name for stage in group)}: done before")
            return
        with following(stages, self.tracker, self.say):
            self.launcher.train(stages)

    def _label(self, stage: Stage) -> dict[str, float]:
        """Pseudo-labels of the whole target by the newest counter; returns their metrics."""
        from crowddist.data.shards import ShardReader
        from crowddist.labels import label_change, publish_labels

        url = storage.join(self.folder, stage.name, "labels")
        previous, self.labels_url = self.labels_url, url
        done = read_done(url)
        if done is not None:
            return done["metrics"]
        started = time.time()
        self.say(f"{stage.name}: labelling the target")
        records = self.launcher.label(self.checkpoint, self.urls["target"], url)
        metrics = publish_labels(url, ShardReader(self.urls["target"]), records, name=f"{run_name(self.config)}-{stage.name}")
        change = label_change(previous, url) if previous else math.inf
        if math.isfinite(change):  # it is not where the labels before saw nobody
            metrics["labels/change"] = change
        storage.write_json(
            storage.join(url, "DONE.json"),
            {"stage": f"{stage.name}/labels", "metrics": metrics, "seconds": round(time.time() - started, 1)},
        )
        self.say(f"{stage.name}: labels hold {metrics['labels/kept_mass']:.0%} of the persons counted, "
                 f"{metrics['labels/mean_count']:.1f} persons an image")
        return metrics

    def _finish_round(self, stage: Stage, labels: Mapping[str, float], *, seconds: float) -> dict[str, Any]:
        """Evaluates a stage's counter where there is labelled data, and tracks its figures and pictures."""
        from crowddist.evaluate import image_rows, summarise
        from crowddist.pictures import round_pictures

        url = storage.join(self.folder, stage.name, "evaluation.json")
        if storage.exists(url):
            return storage.read_json(url)
        metrics: dict[str, float] = dict(labels)
        rows: list[dict[str, Any]] = []
        truths: dict[str, np.ndarray] = {}
        if "evaluation" in self.urls:
            results = self.launcher.evaluate(self.checkpoint, self.urls["evaluation"])
            truths = {result.key: result.truth for result in results}
            metrics |= summarise(results)
            rows = image_rows(results)
            storage.write_json(storage.join(self.folder, stage.name, "images.json"), rows)
            self.tracker.table(stage.num_round, "images", rows)
        shown = self.urls.get("evaluation", self.urls["target"])
        pictures = round_pictures(self.checkpoint, shown, self.folder, stage, truths)
        for name, picture in pictures.items():
            self.tracker.picture(stage.num_round, name, picture)
        metrics["train/seconds"] = seconds
        self.tracker.round_result(stage.num_round, metrics)
        row = {"round": stage.num_round, "stage": stage.name, "title": stage.title, **metrics, "checkpoint": self.checkpoint}
        storage.write_json(url, row)
        if "target/mae" in row:
            self.say(f"{stage.title}: target MAE {row['target/mae']:.2f}, rmse {row['target/rmse']:.2f}")
        return row

    def show_summary(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Learning curves and the error by round, tracked beside the last round's pictures."""
        from crowddist.pictures import summary_pictures

        for name, picture in summary_pictures(rows, self.folder).items():
            # No key of a sample holds a slash, so no image is called like that.
            self.tracker.picture(rows[-1]["round"], f"summary/{name}", picture)


def _groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Consecutive stages that one start of the trainer can run: a stage that needs labels begins a new group."""
    groups: list[list[Stage]] = []
    for stage in stages:
        if stage.needs_labels or not groups:
            groups.append([stage])
        else:
            groups[-1].append(stage)
    return groups
