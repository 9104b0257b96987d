"""What a stage says that it depends on is all that it depends on: else a run might take over another training."""

from __future__ import annotations

import json
import typing
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import pytest
import torch

from crowddist.config import RunConfig, flat
from crowddist.errors import InputError
from crowddist.methods.base import Method, Stage
from crowddist.methods.table import METHODS, facts_of
from crowddist.models.config import CounterConfig
from crowddist.run.engine import LocalRuntime, StageData
from crowddist.run.reuse import _shared, stage_inputs
from tests.methods.test_contract import equal, make, on_pretrained, train, with_one_round, with_teacher

STILL = ("source", "target", "evaluation", "boxes", "more_sources", "method", "min_workers", "num_workers",
         *(f"{network}.{setting}" for network in ("counter", "regressor", "detector", "localiser", "translator")
           for setting in ("backbone", "weights", "decoder")))
"""Settings that are not moved: of data and of workers, which tests/run/test_reuse.py changes, and of whole networks."""
ALONE = ("search.labelled", "train.density_limit", "counter.orientation", "counter.decoder_norm",
         "bi_knowledge.boxes_steps", "translation.crop_size")
"""Settings of which some method allows no other value by itself."""


def inputs(method: Method, stage: Stage) -> dict[str, Any]:
    """Of one worker; labels and translated images are some data set."""
    names = {use.data for use in stage.streams.values()}
    data = StageData(stage=stage, folder="", urls=dict.fromkeys(names, method.config.source),
                     labels_url=method.config.source if stage.needs_labels else "")
    return stage_inputs(data, method.config, method, "one worker")


def trained(method: Method, stage: Stage, weights: Mapping[str, torch.Tensor]) -> tuple[Any, dict[str, torch.Tensor]]:
    """Losses of two steps from `weights`, and all weights after; both by their shared names."""
    state = method.networks().state_dict()
    state |= {name: weights[_shared(name, method.root)] for name in state if _shared(name, method.root) in weights}
    method.networks().load_state_dict(state)
    method.start(stage, LocalRuntime())
    losses = train(method, stage, range(2))
    return losses, {_shared(name, method.root): value.clone() for name, value in method.networks().state_dict().items()}


def read(method: Method, stage: Stage) -> dict[str, torch.Tensor]:
    """What a stage reads, by shared names."""
    state = method.networks().state_dict()
    return {_shared(name, method.root): state[name].clone() for name in method.reads(stage)}


@pytest.mark.parametrize("name", [*METHODS, *(pytest.param(name, marks=pytest.mark.slow)
                                              for name in ("combined pretrained", "combined teacher"))])
def test_a_stage_reads_and_changes_nothing_else(tiny_config: RunConfig, name: str) -> None:
    """All other weights are not a number; the training neither sees nor moves them."""
    config = replace(tiny_config, method=name.partition(" ")[0])
    config = with_one_round(on_pretrained(config)) if "pretrained" in name else config
    config = with_teacher(config) if "teacher" in name else config
    method, other = make(config), make(config)
    for stage in method.plan():
        own, reads = read(method, stage), set(method.reads(stage))
        for name, value in other.networks().state_dict().items():
            if name not in reads and value.is_floating_point():
                value.fill_(torch.nan)
        losses, after = trained(method, stage, own)
        others_losses, others_after = trained(other, stage, own)
        assert equal(losses, others_losses) and all(loss["loss"].isfinite() for loss in losses)
        assert own and all(torch.equal(after[name], others_after[name]) for name in own)
        assert all(value.isnan().all() for name, value in others_after.items()
                   if name not in own and value.is_floating_point())


def moved(value: Any, kind: Any) -> list[Any]:
    """Other values of a setting, of which one may be allowed."""
    if isinstance(value, bool):
        return [not value]
    if typing.get_origin(kind) is Literal:
        return [choice for choice in typing.get_args(kind) if choice != value]
    if isinstance(value, str):
        return [f"{value}x"]
    if isinstance(value, tuple):
        return [tuple(0.9 * part + 0.05 for part in value), (*value, 1.5)]
    return [value + 1, 2 * value, 0.8 * value + 0.01, 0.5]


def with_other(config: RunConfig, name: str) -> RunConfig | None:
    """The configuration with another value of one setting; None where none is tried or allowed."""
    if name in STILL:
        return None
    group, _, setting = name.rpartition(".")
    owner = getattr(config, group) if group else config
    value, kind = getattr(owner, setting), typing.get_type_hints(type(owner))[setting]
    for other in moved(value, kind):
        if type(other) is not type(value):
            continue
        try:
            changed = replace(owner, **{setting: other})
            return replace(config, **{group: changed}) if group else changed
        except InputError:
            continue
    return None


@pytest.mark.parametrize("kind", [  # the combination has the stages of most others
    *(pytest.param(kind, marks=() if kind in ("combined", "translation") else pytest.mark.slow) for kind in METHODS),
    "self_supervision teacher"])
def test_settings_that_leave_the_inputs_leave_the_training(tiny_config: RunConfig, kind: str) -> None:
    """Each setting of the configuration is moved; those that a stage's inputs do not tell, all at once."""
    method = kind.partition(" ")[0]
    config = replace(with_one_round(tiny_config), method=method)
    config = with_teacher(config) if "teacher" in kind else config
    original = make(config)
    plan = {stage.name: stage for stage in original.plan()}
    told = {name: inputs(original, stage) for name, stage in plan.items()}
    groups = {name.partition(".")[0] for name in (*facts_of(method).settings, "stream", "engine")}
    silent = {name: list[str]() for name in plan}
    for name in flat(asdict(config)):
        other = with_other(config, name)
        if other is None:
            assert name in (*STILL, *ALONE), f"no other value of {name} is allowed"
        elif "." in name and name.partition(".")[0] not in groups:  # of another method
            for settings in silent.values():
                settings.append(name)
        else:
            changed = original.with_config(other)
            for stage in changed.plan():
                if stage.name in plan and inputs(changed, stage) == told[stage.name]:
                    silent[stage.name].append(name)
    for name, stage in plan.items():
        moving = config
        for setting in silent[name]:
            moving = with_other(moving, setting) or moving
        other = make(moving)
        (now,) = [one for one in other.plan() if one.name == name]
        assert inputs(other, now) == told[name] and len(silent[name]) > 20
        unmoved = make(config)
        first = read(unmoved, stage)
        losses, after = trained(unmoved, stage, {})
        others_losses, others_after = trained(other, now, first)
        assert equal(losses, others_losses), f"{name} depends on one of {silent[name]}"
        assert all(torch.equal(after[key], others_after[key]) for key in first)


def test_methods_that_say_the_same_of_a_stage_train_the_same(tiny_config: RunConfig) -> None:
    """With the same first weights; also where one counter has an orientation head and the other has none."""
    families = defaultdict[str, list[tuple[str, Method, Stage]]](list)
    for name in METHODS:
        for orientation in (True, False):
            try:
                method = make(replace(tiny_config, method=name, counter=CounterConfig(orientation=orientation)))
            except InputError:  # the method trains the head
                continue
            for stage in method.plan():
                key = json.dumps(inputs(method, stage), sort_keys=True)
                families[key].append((f"{name}/{stage.name}", method, stage))
    shared = [{name for name, _, _ in members} for members in families.values()]
    for members in families.values():
        (_, method, stage), *others = members
        if not others:
            continue
        first = read(method, stage)
        assert all(read(other, own).keys() == first.keys() for _, other, own in others)
        losses, after = trained(method, stage, first)
        for name, other, own in others:
            others_losses, others_after = trained(other, own, first)
            assert equal(losses, others_losses), name
            assert all(torch.equal(after[key], others_after[key]) for key in first), name
    assert [names for names in shared if len(names) > 1] == [
        {"source_only/source", "self_supervision/source", "semantic_consistency/source/counter", "translation/source",
         "combined/source/counter"},
        {"semantic_consistency/source/segmenter", "combined/source/segmenter"},
    ]
