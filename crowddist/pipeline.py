"""The adaptation from data to result: the ten steps of docs/architecture.md, round by round. The page to read first."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import crowddist
from crowddist import storage
from crowddist.config import RunConfig
from crowddist.data.config import parse_share
from crowddist.data.prepare import prepare
from crowddist.data.scenes import SceneRule, find_rule, kept_samples
from crowddist.data.shards import ShardReader
from crowddist.inference import second_counter
from crowddist.inference.calibrate import calibrate
from crowddist.inference.crowd_maps import crowd_maps
from crowddist.inference.intervals import read_calibration
from crowddist.inference.jobs import EvaluateJob, LabelJob, TranslateJob, ZoomJob
from crowddist.inference.metrics import ImageResult, image_rows, summarise
from crowddist.inference.pseudo_labels import label_change, publish_labels
from crowddist.inference.translated_set import publish_translation
from crowddist.inference.units import skipped_keys
from crowddist.inference.zoom_check import ZoomCheck, mean_disagreement
from crowddist.methods.build import build_method
from crowddist.methods.starts import starts
from crowddist.methods.thresholds import own_values
from crowddist.reports.round_pictures import round_pictures, summary_pictures, translation_picture
from crowddist.reports.terminal_summary import round_note, run_note
from crowddist.run.engine import StageData, read_done
from crowddist.run.finished import Finished
from crowddist.run.record import (
    claim_run,
    data_specs,
    density_limit,
    more_sources,
    require_same_config,
    run_folder,
    run_name,
)
from crowddist.run.repeat import code_versions
from crowddist.run.reuse import take_over
from crowddist.run.timeline import Timeline
from crowddist.search.threshold_search import cached_predictions, search_thresholds
from crowddist.search.trial_values import make_plan
from crowddist.search.trials import TrialRunner, run_trials_here
from crowddist.storage import run_folder as files
from crowddist.tracking.curve_follower import following
from crowddist.tracking.tracker import tracked_run

if TYPE_CHECKING:
    from crowddist.launch.base import Launcher
    from crowddist.methods.base import Method, Stage
    from crowddist.tracking.tracker import Tracker

MODEL = "crowd-counter"
"""The name that final counters are registered under."""


def adapt(
    config: RunConfig, launcher: Launcher, tracker: Tracker, *, run_trials: TrialRunner = run_trials_here,
    say: Callable[[str], None] = print, report: bool = False, reuse: bool = False
) -> dict[str, Any]:
    """Runs an adaptation to its end, or resumes it, and returns the content of `result.json`.

    Every stage is a folder in the run's folder. Finished ones are skipped, so a run may be killed at any moment and
    started again. The tracker starts only once the input is known to be good: a mistake leaves neither a failed run
    nor a name that is taken.

    Args:
        launcher: trains, and runs the networks over images.
        run_trials: runs the trials of a search of thresholds.
        report: also write `report.html`, see `html_report.write_report`.
        reuse: take stages over that another run of the storage has finished with the same inputs, see `run.reuse`. The
            result is the same; without it, or where no run has, they are trained.

    Raises:
        InputError: bad data, a run of that name with another configuration or other data, or a second driver on the
            same run.
    """
    started = time.time()
    folder, name = run_folder(config), run_name(config)
    storage.mark_as_ours(config.storage, fresh=True)  # the target may be the folder around it
    storage.mark_as_ours(folder)
    with storage.exclusive(folder):
        require_same_config(config, folder)
        if storage.exists(storage.join(folder, files.RESULT)):
            say(f"run {name} has ended before: nothing is computed again; another --run-name begins a new one")
        if config.search.objective != "none":
            make_plan(config)  # refuses what cannot be searched
        # A run that has begun has its checkpoints; a new one finds out now that weights are missing.
        method = build_method(config, weights="none" if storage.exists(storage.join(folder, files.CONFIG)) else "all")
        second = second_counter.missing(method, folder)

        # Step 1: the data sets.
        timeline = Timeline(folder, launcher.start_up_s, launcher.take_times)
        masked = {stream.data for stage in method.plan() for stream in stage.streams.values() if stream.masks}
        with timeline.step("data"):
            data = {
                used: prepare(spec, config.storage, role=role, say=say, skip_bad=config.skip_bad, masks=role in masked,
                              crowd_maps=crowd_maps)
                for used, (role, spec) in data_specs(config).items()
            }
        scenes = find_rule(config.stream.scenes) if config.stream.scenes and "source" in data else None
        if scenes is not None:
            source = ShardReader(data["source"].url)
            say(f"source: rule {scenes.name} keeps {len(kept_samples(source, scenes)):,} of {len(source):,} images")
        claim_run(config, folder, data, scenes)
        timeline.claim()
        if second is not None:  # the run can be taken up again, and all machines of a cluster find it
            storage.write_bytes(storage.join(folder, files.SECOND), second)
        if "calibration" not in data:
            say("counts get no intervals: the run has no held-out images of the source (--calibration)")
        with timeline.step("data"):
            limit = density_limit(config, method, folder, data, scenes)
        if limit is not None:
            say(f"source: its densest cell holds {limit:.3f} persons; where the counter says more, nobody is counted")

        # Steps 2 to 9, round by round, tracked (step 10).
        with tracked_run(tracker, experiment=config.experiment or config.recipe, run_name=name,
                         config=dataclasses.asdict(config), tags={"recipe": config.recipe, "method": config.method},
                         state_url=storage.join(folder, files.TRACKING)):
            for used, prepared in data.items():
                tracker.data(used, prepared.manifest.name, prepared.url, prepared.manifest.digest)
            run = _Run(config, method, folder, {used: prepared.url for used, prepared in data.items()}, scenes, limit,
                       launcher, run_trials, tracker, say, reuse, timeline)
            rounds = run.all_rounds()
            result = {
                "run": name, "recipe": config.recipe, "method": config.method, "seed": config.seed,
                "version": crowddist.__version__, "code": code_versions(),
                "rounds": rounds, "final": rounds[-2 if run.dropped else -1], "stopped": run.stopped,
                "skipped": {used: sorted(keys) for used, keys in run.finished.skipped.items()},
                "checkpoint": run.checkpoint,
                "model": tracker.register(storage.local_file(run.checkpoint), name=MODEL,
                                          calibration=read_calibration(run.checkpoint)),
                "data": {used: prepared.summary() for used, prepared in data.items()},
                "timeline": timeline.rows(),
                "seconds_this_start": round(time.time() - started, 1),
            }
            storage.write_json(storage.join(folder, files.RESULT), result)
            tracker.artifact(files.RESULT, result)
            tracker.describe(None, run_note(result))
            if report:
                from crowddist.reports.html_report import write_report

                tracker.artifact(files.REPORT, storage.read_bytes(write_report(folder, say=say)).decode())
        return result


@dataclass
class _Run:
    """One adaptation under way."""

    config: RunConfig
    method: Method
    folder: str
    urls: Mapping[str, str]
    scenes: SceneRule | None
    density_limit: float | None
    launcher: Launcher
    run_trials: TrialRunner
    tracker: Tracker
    say: Callable[[str], None]
    reuse: bool
    timeline: Timeline
    checkpoint: str = ""
    """URL of the newest counter that is kept."""
    labels_url: str = ""
    """URL of the newest pseudo-labels."""
    stopped: str = ""
    """Why the rounds ended early, or the last one is dropped."""
    dropped: bool = False
    """Whether the counter of the last round is dropped, and that of the round before kept."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """The newest search's values by name."""

    def __post_init__(self) -> None:
        self.finished = Finished(self.folder, self.say, self.timeline)
        self.zooms = ZoomCheck(self.method.drop_rise)

    def all_rounds(self) -> list[dict[str, Any]]:
        """All rounds of the method's plan; returns a row each. Labels that change less than the method's `stop_change`
        end the rounds, and so does a counter that labels have made worse: it is dropped, see `zoom_check`.
        """
        rows: list[dict[str, Any]] = []
        plan = self.method.plan()
        rounds = [list(members) for _, members in itertools.groupby(plan, key=lambda stage: stage.num_round)]
        for stages in starts(plan):
            made: dict[str, float] = {}
            first = stages[0]
            if first.needs_labels:
                made = self._label(first, self._search(first))
                if self._drops(rows, made.get("labels/zoom_disagreement", math.nan)):
                    break
                if made.get("labels/change", math.inf) < self.method.stop_change:
                    self.stopped = f"labels changed by {made['labels/change']:.1%} before {first.title}: settled"
                    self.say(self.stopped)
                    break
            if first.needs_translation:
                made = self._translate([stage for stage in plan if stage.num_round == first.num_round
                                        and not stage.needs_translation])
            self._train(stages)
            rows += [self._finish_round(members, made) for members in rounds if members[-1] in stages]
        else:
            if first.needs_labels:  # by the last counter there are no labels that would tell
                self._drops(rows, self._disagreement(rows[-1]["stage"]))
        for name, picture in summary_pictures(rows, self.folder).items():
            # No key of a sample holds a slash, so no image has this name.
            self.tracker.picture(rows[-1]["round"], f"summary/{name}", picture)
        return rows

    def _drops(self, rows: Sequence[Mapping[str, Any]], disagreement: float) -> bool:
        """Drops the newest counter, of the last of these rows, where labels have made it worse. Returns: whether."""
        if not self.zooms.is_worse(disagreement):
            return False
        newest, before = rows[-1], rows[-2]
        self.stopped = self.zooms.reason(disagreement, newest["title"], before["title"])
        self.dropped, self.checkpoint = True, before["checkpoint"]
        self.say(self.stopped)
        return True

    def _disagreement(self, stage: str) -> float:
        """The newest counter's, see `zoom_check`; NaN where there is nothing to compare it with."""
        def check() -> tuple[Sequence[str], dict[str, float]]:
            units = self.launcher.run(ZoomJob(checkpoint_url=self.checkpoint, images_url=self.urls["target"]))
            return [], {"disagreement": mean_disagreement(units)}

        if math.isnan(self.zooms.before) or not self.method.drop_rise:
            return math.nan
        return self.finished.once(f"{stage}/{files.ZOOMS}", "target", check)["disagreement"]

    def _train(self, stages: Sequence[Stage]) -> None:
        """Steps 2 to 6: the launcher fits the stages, those of other networks as chains of their own; without those
        that are taken over from other runs.
        """
        chains: dict[str, list[StageData]] = {}
        for stage in stages:
            chain = chains.setdefault(stage.trains, [])
            chain.append(StageData(
                stage=stage, folder=storage.join(self.folder, stage.name), urls=dict(self.urls),
                labels_url=self.labels_url if stage.needs_labels else "",
                initial="" if chain or stage.fresh else self.checkpoint,
                scenes=self.scenes, shares={name: parse_share(text)[0] for name, text in more_sources(self.config)},
                thresholds=self.thresholds, density_limit=self.density_limit,
            ))
        every = [data for chain in chains.values() for data in chain]
        if all(read_done(data.folder) for data in every):
            self.say(f"{' and '.join(stage.name for stage in stages)}: done before")
            self.timeline.trained(chains.values(), 0.0)
            return
        arithmetic = self.launcher.training_arithmetic(len(chains))
        ready = [take_over(chain, self.config, arithmetic=arithmetic, fresh=not self.reuse, say=self.say)
                 for chain in chains.values()]
        began = time.perf_counter()
        with following(every, self.tracker, self.say):
            if not all(read_done(data.folder) for data in every):
                self.launcher.train(ready)
        self.timeline.trained(chains.values(), time.perf_counter() - began)

    def _label(self, stage: Stage, found: Mapping[str, Any]) -> dict[str, float]:
        """Step 7: labels the whole target with the newest counter. Returns: the labels' metrics.

        Args:
            found: the result of the round's search, or {}.
        """
        name = f"{stage.round_name}/{files.LABELS}"
        previous, self.labels_url = self.labels_url, storage.join(self.folder, name)

        def label() -> tuple[Sequence[str], dict[str, float]]:
            self.say(f"{stage.round_name}: labelling the target")
            known = found["predictions"] if found.get("objective") == "agreement" else ""
            second = (cached_predictions(self.launcher, storage.join(self.folder, files.SECOND), self.urls["target"],
                                         self.config.storage, say=lambda line: self.say(f"second counter: {line}"))
                      if self.method.second_counter else "")
            records = self.launcher.run(LabelJob(
                checkpoint_url=self.checkpoint, images_url=self.urls["target"], labels_url=self.labels_url,
                thresholds=self.thresholds, predictions_url=known, second_url=second))
            metrics = publish_labels(self.labels_url, ShardReader(self.urls["target"]), records,
                                     name=f"{run_name(self.config)}-{stage.round_name}")
            metrics |= {f"thresholds/{name}": value for name, value in self.thresholds.items()}
            metrics |= {f"search/{name}": value for name, value in found.get("ranking", {}).items()}
            if previous:
                block_cells = self.method.settling_px // self.method.output_stride
                change = label_change(previous, self.labels_url, block_cells)
                if math.isfinite(change):  # infinite where the labels before held nobody
                    metrics["labels/change"] = change
            self.say(f"{stage.round_name}: labels hold {metrics['labels/kept_mass']:.0%} of the persons counted, "
                     f"{metrics['labels/mean_count']:.1f} persons an image")
            return skipped_keys(records), metrics

        return self.finished.once(name, "target", label)

    def _search(self, stage: Stage) -> dict[str, Any]:
        """Step 8: searches the thresholds of a round's labels with the newest counter. Returns: as `search_thresholds`;
        {} without a search.
        """
        url = storage.join(self.folder, stage.round_name, files.SEARCH)
        if self.config.search.objective == "none":
            return {}
        if storage.exists(url):
            found = storage.read_json(url)
        else:
            self.say(f"{stage.round_name}: searching thresholds by {self.config.search.objective}")
            with self.timeline.step(f"{stage.round_name}/search"):
                found = search_thresholds(self.config, self.checkpoint, self.urls, self.launcher, self.run_trials,
                                          say=lambda line: self.say(f"{stage.round_name}: {line}"))
            storage.write_json(url, found)
        self.tracker.trials(stage.num_round, found["trials"])
        self.thresholds = {name: found["best"][name] for name in own_values(self.config)}
        told = ", ".join(f"{name.rpartition('.')[2]} {value:.3g}" for name, value in self.thresholds.items())
        self.say(f"{stage.round_name}: {told}; score {found['best']['score']:.3f}, as configured "
                 f"{found['own']['score']:.3f}")
        return found

    def _translate(self, stages: Sequence[Stage]) -> dict[str, float]:
        """Translates the whole source with the networks that these stages trained. Returns: the translation's
        metrics.
        """
        last, source = stages[-1], self.urls["source"]
        name = f"{last.round_name}/{files.TRANSLATED}"
        url = storage.join(self.folder, name)
        self.urls = {**self.urls, "translated": url}

        def translate() -> tuple[Sequence[str], dict[str, float]]:
            self.say(f"{last.round_name}: translating the source")
            trained = self.finished.whole_checkpoint(stages, self.checkpoint,
                                                     storage.join(self.folder, last.name, files.JOINED))
            records = self.launcher.run(TranslateJob(checkpoint_url=trained, images_url=source, translated_url=url))
            metrics = publish_translation(url, ShardReader(source), records)
            self.say(f"{last.round_name}: the source has changed by {metrics['translation/change_levels']:.1f} of 255 "
                     "grey levels")
            return skipped_keys(records), metrics

        return self.finished.once(name, "source", translate)

    def _finish_round(self, stages: Sequence[Stage], made: Mapping[str, float]) -> dict[str, Any]:
        """Steps 9 and 10: evaluates the round's counter, where there is labelled data, and tracks metrics and pictures.
        Returns: the round's row.

        Args:
            made: metrics of the labels, or of the translation, that the round trained on.
        """
        stage, place = stages[0], storage.join(self.folder, stages[0].round_name)
        self.checkpoint = self.finished.whole_checkpoint(stages, self.checkpoint,
                                                         storage.join(place, files.CHECKPOINTS))
        with self.timeline.step(f"{stage.round_name}/evaluation"):
            uncounted = calibrate(self.launcher.run, self.checkpoint, self.urls.get("calibration", ""),
                                  self.method.stream, say=self.say)
        self.finished.note_skipped("calibration", uncounted)
        url = storage.join(place, files.EVALUATION)
        if storage.exists(url):
            row = storage.read_json(url)
            self.finished.note_skipped("evaluation", row.get("skipped", ()))
            return row
        with self.timeline.step(f"{stage.round_name}/evaluation"):
            metrics, by_key, skipped = self._evaluate(stage, place) if "evaluation" in self.urls else ({}, {}, [])
        with self.timeline.step(f"{stage.round_name}/pictures"):
            self._draw(stages, by_key)
        metrics |= made
        metrics["train/seconds"] = round(sum(self.finished.stage(member)["seconds"] for member in stages), 1)
        self.tracker.describe(stage.num_round, round_note(stage.title, metrics, run_name(self.config)),
                              {"title": stage.title})
        self.tracker.round_result(stage.num_round, metrics | self.timeline.metrics(stage.round_name))
        row = {"round": stage.num_round, "stage": stage.round_name, "stages": [member.name for member in stages],
               "title": stage.title, **metrics, "checkpoint": self.checkpoint}
        if skipped:
            row["skipped"] = skipped
        storage.write_json(url, row)
        if "target/mae" in row:
            self.say(f"{stage.title}: target MAE {row['target/mae']:.2f}, rmse {row['target/rmse']:.2f}")
        return row

    def _draw(self, stages: Sequence[Stage], by_key: Mapping[str, ImageResult]) -> None:
        """Draws and tracks the pictures of a round."""
        shown = next(role for role in ("evaluation", "target", "labelled_target") if role in self.urls)
        pictures = round_pictures(self.checkpoint, self.urls[shown], self.folder, stages[0], by_key,
                                  skip=self.finished.skipped.get(shown, ()))
        if any(member.needs_translation for member in stages):
            pictures["summary/translation"] = translation_picture(self.urls, self.folder,
                                                                  skip=self.finished.skipped.get("source", ()))
        for name, picture in pictures.items():
            self.tracker.picture(stages[0].num_round, name, picture)

    def _evaluate(self, stage: Stage, place: str) -> tuple[dict[str, float], dict[str, ImageResult], list[str]]:
        """Step 9: counts the evaluation's images. Returns: metrics, results by key, keys of skipped images."""
        images = ShardReader(self.urls["evaluation"])
        job = EvaluateJob(checkpoint_url=self.checkpoint, images_url=self.urls["evaluation"])
        results: list[ImageResult] = [result for record in self.launcher.run(job) for result in record]
        by_key = {result.key: result for result in results}
        skipped = sorted(set(images.keys()) - set(by_key)) if len(results) < len(images) else []
        self.finished.note_skipped("evaluation", skipped)
        metrics, rows = summarise(results), image_rows(results)
        storage.write_json(storage.join(place, files.IMAGES), rows)
        self.tracker.table(stage.num_round, "images", rows)
        return metrics, by_key, skipped
