"""RunConfig: what it refuses, in one line, and what survives its JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from crowddist.config import REMOVED_SETTINGS, EngineConfig, RunConfig, flat, from_json, to_json
from crowddist.data.config import StreamConfig
from crowddist.errors import InputError
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.methods.settings.translation import TranslationConfig
from crowddist.models.config import CounterConfig


def make(**changes: Any) -> RunConfig:
    return RunConfig(**{"recipe": "mine", "source": "/data/a", "target": "/data/b", **changes})


def test_everything_survives_json() -> None:
    config = make(
        evaluation="shanghaitech:/data/part_A:val",
        method="source_only",
        storage="file:///runs",
        run_name="first try, é",
        seed=-3,
        num_workers=2,
        num_labellers=4,
        threads=1,
        counter=CounterConfig(backbone="vgg16", weights="imagenet", ensemble="deep", num_masks=5),
        stream=StreamConfig(image_size=1024, scale_jitter=(0.5, 1.25), grey_share=1.0),
        train=TrainConfig(steps=7, learning_rate=1e-5),
        self_supervision=SelfSupervisionConfig(rounds=0, min_certainty=0.0),
        engine=EngineConfig(precision="bfloat16"),
        tracking_uri="none",
        experiment="mine",
    )
    again = from_json(to_json(config))
    assert again == config and type(again.stream.scale_jitter) is tuple and type(again.counter) is CounterConfig
    assert json.loads(to_json(config))["stream"]["scale_jitter"] == [0.5, 1.25]


def test_what_json_leaves_out_is_the_default() -> None:
    config = from_json('{"recipe": "a", "source": "/s", "target": "/t", "train": {"steps": 5}}')
    assert config == RunConfig(recipe="a", source="/s", target="/t", train=TrainConfig(steps=5))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "{",
        '{"recipe": "a"}',
        '{"recipe": "a", "source": "/s", "target": "/t", "colour": "red"}',
        '{"recipe": "a", "source": "/s", "target": "/t", "train": {"epochs": 3}}',
        '{"recipe": "a", "source": "/s", "target": "/t", "train": 3}',
        '{"recipe": "a", "source": "/s", "target": 3}',
    ],
)
def test_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        from_json(text)


def recorded(**values: Any) -> str:
    """The JSON of a run that an older version recorded, with settings that are constants now."""
    record = json.loads(to_json(make()))
    for name, value in {**REMOVED_SETTINGS, **values}.items():
        group, _, setting = name.partition(".")
        record[group][setting] = value
    return json.dumps(record)


def test_a_removed_setting_is_read_with_its_constant() -> None:
    assert from_json(recorded()) == make()
    assert from_json(recorded(**{"self_supervision.kept_share": 0.3})) == make()
    assert not REMOVED_SETTINGS.keys() & flat(asdict(make())).keys()


@pytest.mark.parametrize(("name", "value"), [("translation.joint", True), ("counter.mask_scale", 3.0),
                                             ("self_supervision.label_scale_jitter", [0.5, 1.1])])
def test_a_removed_setting_with_another_value_is_refused(name: str, value: object) -> None:
    message = f"{name} is {value} in this configuration, but is always "
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        from_json(recorded(**{name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": ""}, "names no place"),
        ({"target": ""}, "names no place"),
        ({"target": "renderer:moon:3"}, "not a rendered data set"),
        ({"evaluation": "shanghaitech:"}, "names no place"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"threads": -1}, "threads at least 0"),
        ({"num_labellers": -1}, "num_labellers and threads"),
        ({"launcher": "local", "num_workers": 2}, "the local launcher has one worker, got num_workers 2"),
        ({"num_workers": 2, "min_workers": 3}, r"min_workers must be 0 to num_workers \(2\), got 3"),
        ({"grace_s": -1}, "grace_s must be at least 0 and patience_s at least 1, got -1, 600"),
        ({"num_workers": 3}, "train.batch_size 8 cannot be shared equally by 3 workers"),
        ({"num_workers": 4, "self_supervision": SelfSupervisionConfig(target_batch_size=6)},
         "target_batch_size 6 cannot be shared equally"),
        ({"counter": CounterConfig(orientation=False)}, "the orientation stage needs a counter with the head"),
        ({"boxes": "wider_face:/w"},
         "self_supervision learns from no boxes, .*; bi_knowledge, semantic_consistency, combined would"),
        ({"method": "self-supervision"}, "no method is called 'self-supervision'; choose one of source_only, "),
        ({"method": "bi_knowledge", "boxes": "wider_face:/w"}, "the detector's pre-training needs both"),
        ({"method": "bi_knowledge", "bi_knowledge": BiKnowledgeConfig(boxes_steps=5)},
         "the detector's pre-training needs both"),
        ({"method": "bi_knowledge", "num_workers": 4, "bi_knowledge": BiKnowledgeConfig(source_batch_size=6)},
         "source_batch_size 6 cannot be"),
        ({"more_sources": ("0.5 renderer:broad:3", "1/2 renderer:source:3")},
         "leave nothing to the source: 0.5 renderer:broad:3, 1/2 renderer:source:3"),
        ({"more_sources": ("renderer:broad:3",)}, "not a share of a data set: 'renderer:broad:3'"),
        ({"method": "translation", "more_sources": ("0.5 renderer:broad:3",)},
         "translation works on one source"),
        ({"method": "supervised", "more_sources": ("0.5 renderer:broad:3",)},
         "supervised learns from the target's labels alone"),
        ({"method": "translation", "num_workers": 8},
         r"translation\.batch_size 4 cannot be shared equally by 8 workers"),
        ({"method": "translation", "stream": StreamConfig(image_size=128)},
         "crop_size 128 is larger than the smallest images, .* 102 px"),
        ({"seed": 2**63}, r"seed must be a number below 2\^63, got 9\.22337e\+18"),
        ({"seed": -(10**5000)}, "seed must be .* got one of a hundred digits"),
        ({"grace_s": float("nan")}, "grace_s must be a number .* got nan"),
        ({"train": TrainConfig(learning_rate=1e300)}, r"train\.learning_rate must be .* got 1e\+300"),
        ({"threads": 10**6}, r"threads must be a number up to 1024, got 1e\+06"),
        ({"stream": StreamConfig(crop_size=2**40)}, r"stream\.crop_size must be a number up to 20000"),
        ({"stream": StreamConfig(scale_jitter=(0.3, 1e18))}, r"stream\.scale_jitter must be .* 100, got 1e\+18"),
        ({"run_name": "é" * 101}, "run_name must have at most 200 bytes"),
        ({"run_name": "a/b"}, "run_name must be a plain name"),
        ({"run_name": ".."}, "run_name must be a plain name"),
        ({"run_name": "data"}, "none of data, stages, mlflow.db, mlflow-artifacts, got 'data'"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["checkpoint_every", "log_every"])
def test_the_engine_counts_from_one(field: str) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        EngineConfig(**{field: 0})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (TrainConfig, {"steps": 0}),
        (TrainConfig, {"batch_size": -8}),
        (TrainConfig, {"learning_rate": 0.0}),
        (TrainConfig, {"block_weight": -0.1}),
        (TrainConfig, {"weight_decay": -1e-4}),
        (StreamConfig, {"num_readers": -1}),
        (StreamConfig, {"cache_bytes": -1}),
        (SelfSupervisionConfig, {"orientation_weight": -1.0}),
        (SelfSupervisionConfig, {"target_weight": -1.0}),
        (SelfSupervisionConfig, {"round_steps": 0}),
        (SelfSupervisionConfig, {"target_batch_size": 0}),
        (SelfSupervisionConfig, {"rounds": -1}),
        (SelfSupervisionConfig, {"orientation_steps": -1}),
        (SelfSupervisionConfig, {"orientation_px": 100}),
        (SelfSupervisionConfig, {"orientation_px": 0}),
        (SelfSupervisionConfig, {"stop_change": -0.1}),
        (SelfSupervisionConfig, {"drop_rise": -1.0}),
        (SelfSupervisionConfig, {"min_certainty": -0.01}),
        (SelfSupervisionConfig, {"min_certainty": 1.0}),
        (BiKnowledgeConfig, {"regressor_steps": 0}),
        (BiKnowledgeConfig, {"boxes_steps": -1}),
        (BiKnowledgeConfig, {"cycles": -1}),
        (BiKnowledgeConfig, {"confidence": 1.0}),
        (BiKnowledgeConfig, {"localiser_threshold": 0.0}),
        (BiKnowledgeConfig, {"localiser_share": 0.0}),
        (BiKnowledgeConfig, {"localiser_loss": "hinge"}),
        (BiKnowledgeConfig, {"patches": "some"}),
        (BiKnowledgeConfig, {"crop_size": 200}),
        (BiKnowledgeConfig, {"sigma_px": 0.0}),
        (BiKnowledgeConfig, {"structure_weight": 0.0, "count_weight": 0.0}),
        (TranslationConfig, {"steps": 0}),
        (TranslationConfig, {"structure_weight": -1.0}),
        (TranslationConfig, {"identity_weight": -1.0}),
        (TranslationConfig, {"counting_rate": 0.0}),
        (TranslationConfig, {"crop_size": 100}),
    ],
)
def test_training_that_cannot_be_is_refused(kind: type, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(changes))):
        kind(**changes)


@pytest.mark.parametrize(("changes", "sizes"), [
    ({"num_workers": 4, "train": TrainConfig(batch_size=8),
      "self_supervision": SelfSupervisionConfig(target_batch_size=8)}, [4]),
    ({"num_workers": 4, "min_workers": 1, "train": TrainConfig(batch_size=8),
      "self_supervision": SelfSupervisionConfig(target_batch_size=8)}, [1, 2, 4]),
    ({"num_workers": 6, "min_workers": 2, "train": TrainConfig(batch_size=12),
      "self_supervision": SelfSupervisionConfig(target_batch_size=6)}, [2, 3, 6]),
    ({"num_workers": 6, "min_workers": 2, "train": TrainConfig(batch_size=12), "method": "source_only"}, [2, 3, 4, 6]),
    ({"num_workers": 4, "min_workers": 1, "train": TrainConfig(batch_size=8), "method": "translation",
      "translation": TranslationConfig(batch_size=4)}, [1, 2, 4]),
])
def test_a_group_may_have_the_sizes_that_share_all_batches(changes: dict[str, Any], sizes: list[int]) -> None:
    assert make(**changes).group_sizes() == sizes


def test_a_configuration_is_never_changed_in_place() -> None:
    config = make()
    with pytest.raises(AttributeError):
        config.seed = 5  # type: ignore[misc]
    assert replace(config, seed=5).seed == 5 and config.seed == 0
