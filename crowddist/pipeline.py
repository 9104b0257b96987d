"""The adaptation from data to result: train, label, train again, evaluate. The page to read first."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import crowddist
from crowddist import storage
from crowddist.config import RunConfig
from crowddist.data.config import parse_share
from crowddist.data.prepare import prepare
from crowddist.data.scenes import SceneRule, find_rule, kept_samples
from crowddist.data.shards import ShardReader
from crowddist.methods.build import build_method
from crowddist.methods.thresholds import own_values
from crowddist.reports.terminal_summary import round_note, run_note
from crowddist.run import checkpoint
from crowddist.run.engine import StageData, read_done
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
from crowddist.search.trial_values import make_plan
from crowddist.storage.run_folder import (
    CHECKPOINTS,
    CONFIG,
    DONE,
    EVALUATION,
    IMAGES,
    JOINED,
    LABELS,
    RESULT,
    SEARCH,
    TRACKING,
    TRANSLATED,
)
from crowddist.tracking.tracker import tracked_run

if TYPE_CHECKING:
    from crowddist.inference.metrics import ImageResult
    from crowddist.launch.base import Launcher
    from crowddist.methods.base import Method, Stage
    from crowddist.tracking.tracker import Tracker

MODEL = "crowd-counter"
"""The name that final counters are registered under."""


def adapt(
    config: RunConfig, launcher: Launcher, tracker: Tracker, *, say: Callable[[str], None] = print, report: bool = False
) -> dict[str, Any]:
    """Runs an adaptation to its end, or takes it up where it was left, and returns what `result.json` holds.

    Args:
        report: whether to write `report.html` beside it, see `html_report.write_report`.

    Every stage is a folder below the run's; what is done is skipped, so a run may be killed at any moment and started
    again. The tracker is started once the input is known to be good: a mistake leaves neither a failed run nor a name
    that is taken.

    Raises:
        InputError: bad data, a run of that name with another configuration or other data, or a second driver on the
            same run.
    """
    started = time.time()
    folder = run_folder(config)
    with storage.exclusive(folder):
        require_same_config(config, folder)
        if storage.exists(storage.join(folder, RESULT)):
            say(f"run {run_name(config)} has ended before: nothing is computed again; another --run-name begins a new "
                "one")
        if config.search.objective != "none":
            make_plan(config, config.search.algorithm, config.search.trials)  # what cannot be searched is refused
        method = _method(config, begun=storage.exists(storage.join(folder, CONFIG)))
        masked = {stream.data for stage in method.plan() for stream in stage.streams.values() if stream.masks}
        data = {
            name: prepare(spec, config.storage, role=role, say=say, skip_bad=config.skip_bad, masks=role in masked)
            for name, (role, spec) in data_specs(config).items()
        }
        scenes = find_rule(config.stream.scenes) if config.stream.scenes and "source" in data else None
        if scenes is not None:
            source = ShardReader(data["source"].url)
            say(f"source: rule {scenes.name} keeps {len(kept_samples(source, scenes)):,} of {len(source):,} images")
        claim_run(config, folder, data, scenes)
        limit = density_limit(config, method, folder, data, scenes)
        if limit is not None:
            say(f"source: its densest cell holds {limit:.3f} persons; where the counter says more, nobody is counted")
        with _tracked(config, folder, tracker):
            for name, prepared in data.items():
                tracker.data(name, prepared.manifest.name, prepared.url, prepared.manifest.digest)
            run = _Run(config, method, folder, {name: prepared.url for name, prepared in data.items()}, scenes, limit,
                       launcher, tracker, say)
            rounds = run.all_rounds()
            run.show_summary(rounds)
            result = {
                "run": run_name(config),
                "recipe": config.recipe,
                "method": config.method,
                "seed": config.seed,
                "version": crowddist.__version__,
                "code": code_versions(),
                "rounds": rounds,
                "final": rounds[-1],
                "stopped": run.stopped,
                "skipped": {role: sorted(keys) for role, keys in run.skipped.items()},
                "checkpoint": run.checkpoint,
                "model": tracker.register(storage.local_file(run.checkpoint), name=MODEL),
                "data": {name: prepared.summary() for name, prepared in data.items()},
                "seconds_this_start": round(time.time() - started, 1),
            }
            storage.write_json(storage.join(folder, RESULT), result)
            tracker.artifact(RESULT, result)
            tracker.describe(None, run_note(result))
            if report:
                from crowddist.reports.html_report import write_report
                from crowddist.storage.run_folder import REPORT

                tracker.artifact(REPORT, storage.read_bytes(write_report(folder, say=say)).decode())
        return result


def _method(config: RunConfig, *, begun: bool) -> Method:
    """The method. Where the run begins, weights that cannot be had are found out now; one that was begun has its
    checkpoints.
    """
    return build_method(config, weights="none" if begun else "all")


def _tracked(config: RunConfig, folder: str, tracker: Tracker) -> AbstractContextManager[Tracker]:
    return tracked_run(
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
        method: Method,
        folder: str,
        urls: Mapping[str, str],
        scenes: SceneRule | None,
        density_limit: float | None,
        launcher: Launcher,
        tracker: Tracker,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.method, self.folder, self.urls = config, method, folder, urls
        self.scenes, self.density_limit = scenes, density_limit
        self.launcher, self.tracker, self.say = launcher, tracker, say
        self.checkpoint, self.labels_url, self.stopped = "", "", ""
        self.thresholds: dict[str, float] = {}
        """What the newest search has found, by name."""
        self.skipped: dict[str, set[str]] = {}
        """Name of a data set -> keys of its images that are skipped because workers died over them."""

    def all_rounds(self) -> list[dict[str, Any]]:
        """Every round of the method's plan in turn; the rows of the result. Labels that change less than its
        `stop_change` end the rounds.
        """
        rows: list[dict[str, Any]] = []
        plan = self.method.plan()
        rounds = [list(members) for _, members in itertools.groupby(plan, key=lambda stage: stage.num_round)]
        for stages in _starts(plan):
            made: dict[str, float] = {}
            first = stages[0]
            if first.needs_labels:
                made = self._label(first)
                if made.get("labels/change", math.inf) < self.method.stop_change:
                    self.stopped = f"labels changed by {made['labels/change']:.1%} before {first.title}: settled"
                    self.say(self.stopped)
                    break
            if first.needs_translation:
                made = self._translate([stage for stage in plan if stage.num_round == first.num_round
                                        and not stage.needs_translation])
            self._train(stages)
            rows += [self._finish_round(members, made) for members in rounds if members[-1] in stages]
        return rows

    def _train(self, stages: Sequence[Stage]) -> None:
        from crowddist.tracking.curve_follower import following

        chains: dict[str, list[StageData]] = {}
        for stage in stages:
            chain = chains.setdefault(stage.trains, [])
            chain.append(
                StageData(
                    stage=stage,
                    folder=storage.join(self.folder, stage.name),
                    urls=dict(self.urls),
                    labels_url=self.labels_url if stage.needs_labels else "",
                    initial="" if chain or stage.fresh else self.checkpoint,
                    scenes=self.scenes,
                    shares={name: parse_share(text)[0] for name, text in more_sources(self.config)},
                    thresholds=self.thresholds,
                    density_limit=self.density_limit,
                )
            )
        if all(read_done(data.folder) for chain in chains.values() for data in chain):
            self.say(f"{' and '.join(stage.name for stage in stages)}: done before")
            return
        with following([data for chain in chains.values() for data in chain], self.tracker, self.say):
            self.launcher.train(list(chains.values()))

    def _label(self, stage: Stage) -> dict[str, float]:
        """Pseudo-labels of the whole target by the newest counter; returns their metrics."""
        from crowddist.inference.jobs import LabelJob
        from crowddist.inference.pseudo_labels import label_change, publish_labels
        from crowddist.inference.units import skipped_in

        url = storage.join(self.folder, stage.round_name, LABELS)
        previous, self.labels_url = self.labels_url, url
        done = read_done(url)
        found = self._search(stage)
        if done is not None:
            self._note_skipped("target", done.get("skipped", ()))
            return done["metrics"]
        started = time.time()
        self.say(f"{stage.round_name}: labelling the target")
        known = found["predictions"] if found.get("objective") == "agreement" else ""
        job = LabelJob(checkpoint_url=self.checkpoint, images_url=self.urls["target"], labels_url=url,
                       thresholds=self.thresholds, predictions_url=known)
        records = self.launcher.run(job)
        metrics = publish_labels(url, ShardReader(self.urls["target"]), records,
                                 name=f"{run_name(self.config)}-{stage.round_name}")
        metrics |= {f"thresholds/{name}": value for name, value in self.thresholds.items()}
        metrics |= {f"search/{name}": value for name, value in found.get("ranking", {}).items()}
        change = (label_change(previous, url, self.method.settling_px // self.method.output_stride) if previous
                  else math.inf)
        if math.isfinite(change):  # it is not where the labels before saw nobody
            metrics["labels/change"] = change
        storage.write_json(
            storage.join(url, DONE),
            {"stage": f"{stage.round_name}/labels", "metrics": metrics, "skipped": skipped_in(records),
             "seconds": round(time.time() - started, 1)},
        )
        self._note_skipped("target", skipped_in(records))
        self.say(f"{stage.round_name}: labels hold {metrics['labels/kept_mass']:.0%} of the persons counted, "
                 f"{metrics['labels/mean_count']:.1f} persons an image")
        return metrics

    def _search(self, stage: Stage) -> dict[str, Any]:
        """What a search of thresholds for a round's labels finds with the newest counter, see `search_thresholds`; {}
        where none is asked for.
        """
        from crowddist.search.threshold_search import search_thresholds

        search, url = self.config.search, storage.join(self.folder, stage.round_name, SEARCH)
        if search.objective == "none":
            return {}
        if storage.exists(url):
            found = storage.read_json(url)
        else:
            self.say(f"{stage.round_name}: searching thresholds by {search.objective}")
            found = search_thresholds(
                self.launcher,
                self.checkpoint,
                make_plan(self.config, search.algorithm, search.trials),
                objective=search.objective,
                labelled_url=self.urls.get("search", ""),
                evaluation_url=self.urls.get("evaluation", ""),
                target_url=self.urls["target"],
                work=self.config.storage,
                say=lambda line: self.say(f"{stage.round_name}: {line}"),
            )
            storage.write_json(url, found)
        self.tracker.trials(stage.num_round, found["trials"])
        self.thresholds = {name: found["best"][name] for name in own_values(self.config)}
        told = ", ".join(f"{name.rpartition('.')[2]} {value:.3g}" for name, value in self.thresholds.items())
        self.say(f"{stage.round_name}: {told}; score {found['best']['score']:.3f}, as configured "
                 f"{found['own']['score']:.3f}")
        return found

    def _translate(self, stages: Sequence[Stage]) -> dict[str, float]:
        """The whole source as the networks show it that these stages have trained; returns the translation's
        metrics.
        """
        from crowddist.inference.jobs import TranslateJob
        from crowddist.inference.translated_set import publish_translation
        from crowddist.inference.units import skipped_in

        stage = stages[-1]
        url = storage.join(self.folder, stage.round_name, TRANSLATED)
        self.urls = {**self.urls, "translated": url}
        done = read_done(url)
        if done is not None:
            self._note_skipped("source", done.get("skipped", ()))
            return done["metrics"]
        started = time.time()
        self.say(f"{stage.round_name}: translating the source")
        trained = self._whole_checkpoint(stages, storage.join(self.folder, stage.name, JOINED))
        records = self.launcher.run(TranslateJob(checkpoint_url=trained, images_url=self.urls["source"],
                                                 translated_url=url))
        metrics = publish_translation(url, ShardReader(self.urls["source"]), records)
        facts = {"stage": f"{stage.round_name}/translated", "metrics": metrics, "skipped": skipped_in(records)}
        storage.write_json(storage.join(url, DONE), {**facts, "seconds": round(time.time() - started, 1)})
        self._note_skipped("source", skipped_in(records))
        self.say(f"{stage.round_name}: the source has changed by {metrics['translation/change_levels']:.1f} of 255 "
                 "grey levels")
        return metrics

    def _note_skipped(self, name: str, keys: Iterable[str]) -> None:
        """Notes images of a data set that are skipped because workers died over them."""
        new = set(keys) - self.skipped.get(name, set())
        if new:
            self.skipped[name] = self.skipped.get(name, set()) | new
            self.say(f"{name}: {', '.join(sorted(new))} skipped: workers died over {'it' if len(new) == 1 else 'them'}")

    def _whole_checkpoint(self, stages: Sequence[Stage], folder: str) -> str:
        """URL of a checkpoint of all networks after these stages of a round, which are done; joined in `folder` where
        no stage left one.
        """
        # The last stage of each chain holds what the chain trained.
        last = {stage.trains: self._done(stage)["checkpoint"] for stage in stages}
        if list(last) == [""]:
            return last[""]
        return checkpoint.join(folder, [*filter(None, [self.checkpoint]), *last.values()], stage=stages[0].round_name)

    def _done(self, stage: Stage) -> dict[str, Any]:
        """What a stage that the launcher has returned from says of itself."""
        return read_done(storage.join(self.folder, stage.name)) or {}

    def _finish_round(self, stages: Sequence[Stage], made: Mapping[str, float]) -> dict[str, Any]:
        """Evaluates what a round trained where there is labelled data, and tracks its figures and pictures.

        Args:
            made: metrics of the labels, or of the translation, that it trained on.
        """
        from crowddist.inference.jobs import EvaluateJob
        from crowddist.inference.metrics import image_rows, summarise
        from crowddist.reports.round_pictures import round_pictures, translation_picture

        stage, place = stages[0], storage.join(self.folder, stages[0].round_name)
        self.checkpoint = self._whole_checkpoint(stages, storage.join(place, CHECKPOINTS))
        url = storage.join(place, EVALUATION)
        if storage.exists(url):
            row = storage.read_json(url)
            self._note_skipped("evaluation", row.get("skipped", ()))
            return row
        metrics: dict[str, float] = {}
        rows: list[dict[str, Any]] = []
        skipped: list[str] = []
        by_key: dict[str, ImageResult] = {}
        if "evaluation" in self.urls:
            job = EvaluateJob(checkpoint_url=self.checkpoint, images_url=self.urls["evaluation"])
            results: list[ImageResult] = [result for record in self.launcher.run(job) for result in record]
            by_key = {result.key: result for result in results}
            images = ShardReader(self.urls["evaluation"])
            skipped = sorted(set(images.keys()) - set(by_key)) if len(results) < len(images) else []
            self._note_skipped("evaluation", skipped)
            metrics |= summarise(results)
            rows = image_rows(results)
            storage.write_json(storage.join(place, IMAGES), rows)
            self.tracker.table(stage.num_round, "images", rows)
        shown = next(role for role in ("evaluation", "target", "labelled_target") if role in self.urls)
        pictures = round_pictures(self.checkpoint, self.urls[shown], self.folder, stage, by_key,
                                  skip=self.skipped.get(shown, ()))
        if any(member.needs_translation for member in stages):
            pictures["summary/translation"] = translation_picture(self.urls, self.folder,
                                                                  skip=self.skipped.get("source", ()))
        for name, picture in pictures.items():
            self.tracker.picture(stage.num_round, name, picture)
        metrics |= made
        metrics["train/seconds"] = round(sum(self._done(member)["seconds"] for member in stages), 1)
        self.tracker.describe(stage.num_round, round_note(stage.title, metrics, run_name(self.config)),
                              {"title": stage.title})
        self.tracker.round_result(stage.num_round, metrics)
        names = [stage.name for stage in stages]
        row = {"round": stage.num_round, "stage": stage.round_name, "stages": names, "title": stage.title, **metrics,
               "checkpoint": self.checkpoint}
        if skipped:
            row["skipped"] = skipped
        storage.write_json(url, row)
        if "target/mae" in row:
            self.say(f"{stage.title}: target MAE {row['target/mae']:.2f}, rmse {row['target/rmse']:.2f}")
        return row

    def show_summary(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Learning curves and the error by round, tracked beside the last round's pictures."""
        from crowddist.reports.round_pictures import summary_pictures

        for name, picture in summary_pictures(rows, self.folder).items():
            # No key of a sample holds a slash, so no image is called like that.
            self.tracker.picture(rows[-1]["round"], f"summary/{name}", picture)


def _starts(stages: Sequence[Stage]) -> list[list[Stage]]:
    """The stages that one start of the trainer can run: one that waits for something else than those before it begins a
    new start.
    """
    starts: list[list[Stage]] = []
    for stage in stages:
        if starts and not _waits(stage, starts[-1][-1]):
            starts[-1].append(stage)
        else:
            starts.append([stage])
    return starts


def _waits(stage: Stage, before: Stage) -> bool:
    """Whether a stage can only start when more is done than training the networks that it goes on with: labels, a
    translation, other networks.
    """
    new_round = stage.num_round != before.num_round
    return (new_round and (stage.needs_labels or stage.trains
                           != before.trains)) or (stage.needs_translation and not before.needs_translation)
