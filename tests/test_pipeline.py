"""The pipeline: whole adaptations by each method, what they leave, and what they refuse."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.inference.predictor import Predictor
from crowddist.launch.local import LocalLauncher
from crowddist.methods.base import Stage, Stream
from crowddist.methods.starts import starts
from crowddist.models.config import CounterConfig
from crowddist.models.counter import build_counter
from crowddist.pipeline import adapt
from crowddist.run import checkpoint
from crowddist.run.record import run_folder
from crowddist.storage.run_folder import intervals_url
from crowddist.tracking.tracker import NullTracker


def run(config: RunConfig) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    return adapt(config, LocalLauncher(config), NullTracker(), say=lines.append), lines


def final_networks(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    return checkpoint.load(result["checkpoint"])["method"]["networks"]


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The weights that differ between two results."""
    ours, theirs = final_networks(one), final_networks(other)
    assert ours.keys() == theirs.keys()
    return [name for name, value in ours.items() if not torch.equal(value, theirs[name])]


def test_an_adaptation_leaves_everything_behind(tiny_config: RunConfig, all_pictures: None) -> None:
    result, _ = run(tiny_config)
    folder = storage.local_folder(run_folder(tiny_config))
    assert json.loads((folder / "result.json").read_text()) == result
    assert [row["stage"] for row in result["rounds"]] == ["source", "orientation", "labels-1", "labels-2"]
    assert ([row["round"] for row in result["rounds"]] == [0, 1, 2, 3]
            and result["rounds"][0]["title"] == "no adaptation")
    for row in result["rounds"]:
        assert (row["target/mae"] >= 0 and row["target/rmse"] >= row["target/mae"] - 1e-9
                and row["target/num_images"] == 5)
        assert len(list((folder / "pictures").glob(f"*/round-{row['round']}.png"))) == 5
        assert (folder / row["stage"] / "DONE.json").exists() and (folder / row["stage"] / "images.json").exists()
    assert result["final"] == result["rounds"][-1] and 0 < result["final"]["labels/certainty"] < 1
    assert result["final"]["labels/change"] >= 0 and "labels/change" not in result["rounds"][2]
    again, lines = run(tiny_config)
    assert again["rounds"] == result["rounds"] and any("done before" in line for line in lines)
    assert lines[0] == "run tiny has ended before: nothing is computed again; another --run-name begins a new one"


def test_bi_knowledge_leaves_the_table_of_its_parts_and_whole_checkpoints(tiny_config: RunConfig,
                                                                          all_pictures: None) -> None:
    config = replace(tiny_config, method="bi_knowledge")
    result, _ = run(config)
    folder = storage.local_folder(run_folder(config))
    assert [row["stage"] for row in result["rounds"]] == ["source", "cycle-1", "cycle-2"]
    for row in result["rounds"]:
        for part in ("regression", "detection", "transformed", "points"):
            assert row[f"target/{part}_rmse"] >= row[f"target/{part}_mae"] - 1e-9 >= -1e-9
        assert 0 <= row["target/map"] <= 1 and 0 <= row["target/detection_map"] <= 1 and "target/f1_8px" in row
        assert len(list((folder / "pictures").glob(f"*/round-{row['round']}.png"))) == 5
        # Each stage keeps what it trains; the round's checkpoint joins them.
        whole = checkpoint.load(row["checkpoint"])["method"]["networks"]
        for name in row["stages"]:
            done = json.loads((folder / name / "DONE.json").read_text())
            own = checkpoint.load(done["checkpoint"])["method"]
            assert own["trained"] == name.rpartition("/")[2]
            assert (all(torch.equal(value, whole[key]) for key, value in own["networks"].items())
                    and len(own["networks"]) < len(whole))
    refused = r"the checkpoint of a detector alone counts nothing; give the one that result\.json names"
    with pytest.raises(InputError, match=refused):
        Predictor.from_checkpoint(json.loads((folder / "source" / "detector" / "DONE.json").read_text())["checkpoint"])
    again, lines = run(config)
    assert again["rounds"] == result["rounds"] and any("done before" in line for line in lines)


def test_translation_leaves_a_translated_source_that_any_method_can_train_on(tiny_config: RunConfig,
                                                                             all_pictures: None) -> None:
    from crowddist.data.shards import ShardReader, verify

    config = replace(tiny_config, method="translation")
    result, lines = run(config)
    folder = storage.local_folder(run_folder(config))
    assert [(row["stage"], row["title"])
            for row in result["rounds"]] == [("source", "no adaptation"), ("translation", "translation")]
    assert (result["final"]["stages"] == ["translation/translator", "translation/counter"]
            and result["final"]["translation/change_levels"] > 0)
    assert (any("translating the source" in line for line in lines)
            and any("of 255 grey levels" in line for line in lines))
    assert (folder / "pictures"
            / "translation.png").exists() and len(list((folder / "pictures").glob("*/round-1.png"))) == 5
    curve = [json.loads(line)
             for line in (folder / "translation" / "translator" / "curve.jsonl").read_text().splitlines()]
    losses = {"loss", "cycle_loss", "structure_loss", "adversarial_loss", "discriminator_loss",
              "discriminator_accuracy"}
    assert all(losses < set(point) for point in curve) and [point["step"] for point in curve] == [2, 4]
    # The round's checkpoint joins the counter with the translator that it came from; the counter went on from the
    # source's.
    source, final = (checkpoint.load(row["checkpoint"])["method"]["networks"] for row in result["rounds"])
    done = json.loads((folder / "translation" / "translator" / "DONE.json").read_text())
    translator = checkpoint.load(done["checkpoint"])["method"]["networks"]
    assert source.keys() == final.keys() and all(torch.equal(value, final[name]) for name, value in translator.items())
    statistics = {name for name in source if "running" in name}
    assert statistics and all(torch.equal(source[name], final[name]) for name in statistics)
    assert any(not torch.equal(source[name], final[name]) for name in source if name.startswith("counter."))
    translated = folder / "translation" / "translated"
    assert verify(translated).labelled and ShardReader(translated).keys() == ShardReader(config.source).keys()
    again, lines = run(config)
    assert again["rounds"] == result["rounds"] and any("done before" in line for line in lines)
    others = replace(config, method="source_only", source=translated.as_uri(), run_name="others",
                     train=replace(config.train, steps=2))
    assert run(others)[0]["data"]["source"]["name"] == "tiny-translated"


@pytest.mark.slow
def test_a_counter_of_the_translated_source_may_begin_anew(tiny_config: RunConfig) -> None:
    settings = replace(tiny_config.translation, fresh=True)
    config = replace(tiny_config, method="translation", translation=settings)
    result, _ = run(config)
    source, final = (checkpoint.load(row["checkpoint"])["method"]["networks"] for row in result["rounds"])
    name = next(name for name in source if "running_mean" in name)
    assert not torch.equal(source[name], final[name])
    done = json.loads((storage.local_folder(run_folder(config)) / "translation" / "counter" / "DONE.json").read_text())
    assert checkpoint.load(done["checkpoint"])["samples_seen"] == {"translated": 16}


def test_stages_start_together_where_they_wait_for_nothing_else() -> None:
    def stage(name: str, num_round: int, *, trains: str = "", labels: bool = False, data: Any = "source",
              fresh: bool = False) -> Stage:
        return Stage(name=name, steps=1, streams={"a": Stream(data=data, batch_size=1, labels=labels)}, title="",
                     num_round=num_round, trains=trains, fresh=fresh)

    def started(*stages: Stage) -> list[str]:
        return [" ".join(one.name for one in members) for members in starts(stages)]

    labelled = [stage(f"{name}{number}", number, labels=True, data="target") for number in (2, 3) for name in "ab"]
    assert started(stage("source", 0), stage("alignment", 1), *labelled) == ["source alignment", "a2 b2", "a3 b3"]
    anew = stage("orientation", 1, fresh=True)
    assert started(stage("source", 0), anew, stage("on", 2)) == ["source", "orientation on"]
    own = [stage("regressor", 0, trains="r"), stage("detector", 0, trains="d"), stage("both", 1, trains="r"),
           stage("more", 2, trains="r")]
    assert started(*own) == ["regressor detector",
                            "both more"], "a round that trains other networks than the one before waits for all of them"
    translated = [stage("translator", 1, trains="t"), stage("counter", 1, trains="c", data="translated"),
                  stage("on", 2, trains="c", data="translated")]
    assert started(stage("source", 0), *translated) == ["source", "translator", "counter on"]


@pytest.mark.slow
def test_a_detector_is_pretrained_on_boxes(tiny_config: RunConfig, tmp_path: Path,
                                           make_images: Callable[..., str]) -> None:
    boxes = make_images(tmp_path / "boxes", count=6, seed=7, boxes=True)
    short = replace(tiny_config.bi_knowledge, boxes_steps=2, cycles=0)
    config = replace(tiny_config, method="bi_knowledge", boxes=boxes, bi_knowledge=short)
    result, _ = run(config)
    assert result["rounds"][0]["stages"] == ["source/regressor", "source/detector-boxes", "source/detector",
                                             "source/localiser"]
    without, _ = run(replace(config, boxes="", bi_knowledge=replace(short, boxes_steps=0), run_name="without"))
    ours, theirs = final_networks(result), final_networks(without)
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert {name for name in ours if not name.startswith("detector.")} <= same and "detector.centre.weight" not in same


@pytest.mark.parametrize("method, rounds", [("self_supervision", ["source", "orientation", "labels-1"]),
                                            pytest.param("bi_knowledge", ["source", "cycle-1"],
                                                         marks=pytest.mark.slow)])
def test_rounds_stop_when_the_labels_have_settled(short_config: RunConfig, method: Any, rounds: list[str]) -> None:
    settings = replace(getattr(short_config, method), stop_change=1e9)
    result, _ = run(replace(short_config, method=method, **{method: settings}))
    assert [row["stage"] for row in result["rounds"]] == rounds
    assert "settled" in result["stopped"]


def test_without_labelled_target_images_no_error_is_reported(short_config: RunConfig) -> None:
    result, _ = run(short_config)
    assert "target/mae" not in result["final"] and result["final"]["labels/kept_mass"] > 0


@pytest.mark.parametrize("method", ["self_supervision", *(pytest.param(method, marks=pytest.mark.slow)
                                                         for method in ("bi_knowledge", "translation", "combined"))])
def test_labels_of_the_target_change_nothing(short_config: RunConfig, tiny_evaluation: str, method: Any) -> None:
    """A labelled and an unlabelled copy of the target adapt to the same bits: its labels are not read."""
    from crowddist.data.shards import ShardReader, ShardWriter

    folder = storage.local_folder(short_config.storage) / "unlabelled"
    labelled = ShardReader(tiny_evaluation)
    with ShardWriter(folder, name="tiny", split="all", labelled=False, converter="test") as writer:
        for index in range(len(labelled)):
            key, members = labelled.read(index)
            scene = {name: value for name, value in json.loads(members["json"]).items() if name != "count"}
            writer.add(key, {"png": members["png"], "json": scene})
    short = replace(short_config, method=method, self_supervision=replace(short_config.self_supervision, rounds=1),
                    bi_knowledge=replace(short_config.bi_knowledge, cycles=1))
    with_labels, _ = run(replace(short, target=tiny_evaluation, run_name="with"))
    without, _ = run(replace(short, target=folder.as_uri(), run_name="without"))
    assert differing(with_labels, without) == []


def test_a_scene_rule_is_told_kept_and_held_to(tiny_config: RunConfig, tmp_path: Path,
                                               make_images: Callable[..., str]) -> None:
    source = make_images(tmp_path / "source", count=12, facts=[{"hour": hour} for hour in range(12)])
    (tmp_path / "early.json").write_text('{"hours": [0, 4]}')
    stream = replace(tiny_config.stream, scenes=str(tmp_path / "early.json"))
    config = replace(tiny_config, method="source_only", source=source, stream=stream,
                     train=replace(tiny_config.train, steps=2))
    result, lines = run(config)
    assert f"source: rule {tmp_path / 'early.json'} keeps 5 of 12 images" in lines
    everything, lines = run(replace(config, run_name="everything", stream=tiny_config.stream))
    assert not any("rule" in line for line in lines)
    assert differing(result, everything)
    (tmp_path / "early.json").write_text('{"hours": [0, 5]}')
    with pytest.raises(InputError, match=r"the data of run tiny changed since it began \(scenes\)"):
        run(config)
    with pytest.raises(InputError, match="no scene rule 'SHC'"):
        run(replace(config, run_name="unknown", stream=replace(stream, scenes="SHC")))
    with pytest.raises(InputError, match="scene rule SHB cannot judge sample image-000"):
        run(replace(config, run_name="unjudged", stream=replace(stream, scenes="SHB")))


def test_another_configuration_under_the_same_name_is_refused(tiny_config: RunConfig) -> None:
    short = replace(tiny_config, method="source_only", train=replace(tiny_config.train, steps=2))
    run(short)
    with pytest.raises(InputError, match=r"exists with another configuration \(it differs in seed\)"):
        run(replace(short, seed=5))
    run(replace(short, threads=2))  # how fast, not what


def test_data_that_changed_under_a_run_is_refused(tiny_config: RunConfig, make_images: Callable[..., str],
                                                  tmp_path: Path) -> None:
    place = tmp_path / "evaluation"
    short = replace(tiny_config, method="source_only", train=replace(tiny_config.train, steps=2),
                    evaluation=make_images(place, count=3))
    first, _ = run(short)
    shutil.rmtree(place)
    make_images(place, count=4)
    with pytest.raises(InputError,
                       match=r"the data of run tiny changed since it began \(evaluation\): choose another --run-name"):
        run(short)
    shutil.rmtree(place)
    make_images(place, count=3)
    assert run(short)[0]["rounds"] == first["rounds"]


@pytest.mark.slow
def test_held_out_images_of_the_source_give_every_round_intervals(tiny_config: RunConfig, tmp_path: Path,
                                                                  make_images: Callable[..., str]) -> None:
    """Networks and all other figures keep their bits; a run that is killed before or after the calibration of a round
    ends as one that nobody disturbed; no label of the target is read for it.
    """
    plain, lines = run(replace(tiny_config, run_name="plain"))
    assert "counts get no intervals: the run has no held-out images of the source (--calibration)" in lines
    assert not any("interval" in name for row in plain["rounds"] for name in row)
    held = make_images(tmp_path / "held", count=14, seed=5, prefix="held")
    config, tracker = replace(tiny_config, calibration=held), Noted()
    result = adapt(config, LocalLauncher(config), tracker, say=lines.append)
    assert any("register" in told and told.endswith("with intervals") for told in tracker.told)
    assert lines.count("90 % intervals, by the errors on 14 held-out images of tiny") == 4, "one in each round"
    assert differing(plain, result) == []
    for before, row in zip(plain["rounds"], result["rounds"], strict=True):
        assert 0 <= row["target/interval_coverage"] <= 1 and row["target/interval_width"] > 0
        same = {name for name in before if name not in ("checkpoint", "train/seconds")}
        assert {name: row[name] for name in same} == {name: before[name] for name in same}
    place = [Path(storage.local_file(intervals_url(row["checkpoint"]))) for row in result["rounds"]]
    written = [file.read_bytes() for file in place]
    assert len(set(written)) == 4, "each counter has its own"
    folder = storage.local_folder(run_folder(config))
    place[3].unlink()  # as if killed before the last calibration ...
    for stage in ("labels-1", "labels-2"):  # ... and, in the round before, after it
        (folder / stage / "evaluation.json").unlink()
    again, _ = run(config)
    assert again["rounds"] == result["rounds"] and [file.read_bytes() for file in place] == written
    with pytest.raises(InputError, match=r"it differs in calibration"):
        run(replace(config, calibration=""))


def test_images_that_training_sees_calibrate_nothing(tiny_config: RunConfig, tmp_path: Path,
                                                     make_images: Callable[..., str]) -> None:
    other = make_images(tmp_path / "other", count=12, seed=8)  # other images under the source's names
    refused = r"image other-000 of the calibration is one that training sees \(source_2\): give labelled images that"
    more = make_images(tmp_path / "more", count=4, seed=3, prefix="other")
    with pytest.raises(InputError, match=r"image image-000 of the calibration is one that training sees \(source\)"):
        run(replace(tiny_config, calibration=tiny_config.source))
    with pytest.raises(InputError, match=refused):
        run(replace(tiny_config, calibration=more, more_sources=(f"0.2 {more}",)))
    short = replace(tiny_config, method="source_only", train=replace(tiny_config.train, steps=2))
    assert "target/interval_width" in run(replace(short, calibration=other))[0]["final"]
    # The supervised counter has no source, so none of its images are held out.
    supervised = replace(tiny_config, method="supervised", target=tiny_config.source, calibration=other,
                         run_name="supervised", train=replace(tiny_config.train, steps=2))
    assert "target/interval_width" not in run(supervised)[0]["final"]


class Noted(NullTracker):
    """The null tracker with a memory of its beginnings, ends and pictures."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, **facts: Any) -> None:
        self.told.append(f"start {facts['experiment']}/{facts['run_name']} {facts['tags']['method']} seed "
                         f"{facts['config']['seed']}")

    def picture(self, round: int, name: str, image: np.ndarray) -> None:
        super().picture(round, name, image)
        self.told += [f"{name} at {round}"] if name.startswith("summary") else []

    def register(self, checkpoint_file: Path, *, name: str, calibration: Any = None) -> str:
        self.told.append(f"register {checkpoint_file.name} as {name}" + (" with intervals" if calibration else ""))
        return "models:/it/7"

    def finish(self, status: str) -> None:
        self.told.append(status)


def test_tracking_begins_with_good_input_and_ends_with_the_model(tiny_config: RunConfig) -> None:
    short = replace(tiny_config, self_supervision=replace(tiny_config.self_supervision, rounds=0), experiment="streets",
                    seed=4)
    tracker = Noted()
    with pytest.raises(FileNotFoundError):
        adapt(replace(short, source="/nowhere"), LocalLauncher(short), tracker, say=lambda line: None)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        adapt(replace(short, counter=CounterConfig(weights="/nowhere.pt")), LocalLauncher(short), tracker,
              say=lambda line: None)
    assert tracker.told == [], "a mistake leaves no failed run"
    result = adapt(short, LocalLauncher(short), tracker, say=lambda line: None)  # and leaves the name free
    assert result["model"] == "models:/it/7"
    assert tracker.told == [
        "start streets/tiny self_supervision seed 4",
        "summary/rounds at 1",
        "summary/curves at 1",
        "summary/accuracies at 1",
        "register step-000004.pt as crowd-counter",
        "FINISHED",
    ]
    folder = storage.local_folder(run_folder(short)) / "pictures"
    assert (folder / "curves.png").exists() and (folder / "rounds.png").exists()


@pytest.mark.slow
def test_a_run_goes_on_without_the_weights_it_began_with(tiny_config: RunConfig, tmp_path: Path) -> None:
    torch.save(build_counter(tiny_config.counter).encoder.levels[0].state_dict(), tmp_path / "weights.pt")
    config = replace(
        tiny_config,
        counter=replace(tiny_config.counter, weights=str(tmp_path / "weights.pt")),
        self_supervision=replace(tiny_config.self_supervision, rounds=1),
    )
    unbroken, _ = run(config)
    (tmp_path / "weights.pt").unlink()
    folder = storage.local_folder(run_folder(config))
    for name in ("labels-1", "orientation/DONE.json", "source/DONE.json"):
        (shutil.rmtree if (folder / name).is_dir() else os.unlink)(folder / name)
    resumed, _ = run(config)
    assert differing(unbroken, resumed) == []
    with pytest.raises(FileNotFoundError):
        run(replace(config, run_name="new"))


def test_labels_after_labels_of_nobody_have_no_change(short_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    # as where the labels before are all zero
    monkeypatch.setattr("crowddist.pipeline.label_change", lambda before, after, cells: math.inf)
    result, _ = run(short_config)
    assert result["final"]["stage"] == "labels-2" and "labels/change" not in result["final"]


@pytest.mark.parametrize(
    ("role", "value", "message"),
    [
        ("source", "tiny_target", "has no labels"),
        ("evaluation", "tiny_target", "has no labels"),
        ("source", "/nowhere/at/all", "no data set at"),
        ("target", "/nowhere/at/all", "no folder at"),
        ("target", "$NOT_SET_ANYWHERE/x", r"\$NOT_SET_ANYWHERE is not set"),
    ],
)
def test_wrong_data_gets_one_line(tiny_config: RunConfig, request: pytest.FixtureRequest, role: str, value: str,
                                  message: str) -> None:
    place = request.getfixturevalue(value) if value.startswith("tiny") else value
    with pytest.raises((InputError, FileNotFoundError), match=message):
        run(replace(tiny_config, **{role: place}))
