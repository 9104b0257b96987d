"""The orientation stage: from new networks, both losses from the first step, on whole images, with gradients that
compare.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from crowddist.config import RunConfig, to_json
from crowddist.data.config import StreamConfig, parse_data
from crowddist.data.prepare import prepare
from crowddist.data.shards import ShardReader, decode
from crowddist.launch.local import LocalLauncher
from crowddist.methods.base import Method, Stage
from crowddist.methods.build import build_method
from crowddist.methods.parts.orientation import OrientationObjective, orientation_terms
from crowddist.methods.self_supervision import SelfSupervision
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.models.config import CounterConfig
from crowddist.pipeline import adapt
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime, StageData, _loader, fit
from crowddist.tracking.tracker import NullTracker


def plan_of(config: RunConfig, **settings: Any) -> tuple[Stage, ...]:
    return build_method(replace(config, self_supervision=replace(config.self_supervision, **settings))).plan()


def test_the_plan_has_a_stage_from_new_networks_that_is_as_long_as_the_sources(tiny_config: RunConfig) -> None:
    source, stage = plan_of(tiny_config, orientation_steps=None, rounds=0)
    assert (stage.name, stage.num_round, stage.fresh, stage.steps) == ("orientation", 1, True, source.steps)
    assert stage.streams["source"] == source.streams["source"]
    whole = stage.streams["whole_target"]
    assert (whole.data, whole.whole_px, whole.batch_size, whole.labels) == ("target", 64, 4, False)
    assert plan_of(tiny_config, orientation_steps=5, rounds=0)[1].steps == 5
    assert [stage.name for stage in plan_of(tiny_config, orientation_steps=0, rounds=1)] == ["source", "labels-1"]
    on_source = plan_of(tiny_config, orientation_on_source=True)[1].streams
    assert on_source["whole_source"] == replace(whole, data="source")


def test_it_learns_nothing_from_the_stage_before(short_config: RunConfig) -> None:
    """Whatever the source stage learnt, the oriented counter has the same bits: it starts from new networks."""
    found = []
    for steps in (2, 3):
        config = replace(short_config, run_name=f"of-{steps}", train=replace(short_config.train, steps=steps),
                         self_supervision=replace(short_config.self_supervision, rounds=0))
        rows = adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)["rounds"]
        assert [row["title"] for row in rows] == ["no adaptation", "orientation"]
        found.append([checkpoint.load(row["checkpoint"])["method"]["networks"] for row in rows])
    (source, oriented), (other_source, other_oriented) = found
    assert not all(torch.equal(source[name], other_source[name]) for name in source)
    assert all(torch.equal(oriented[name], other_oriented[name]) for name in oriented)


def test_both_losses_move_the_encoder_in_the_first_step(tiny_config: RunConfig) -> None:
    """The step with both is neither the one without orientation nor the one without density."""
    stage, moved = plan_of(tiny_config)[1], {}
    data = StageData(stage=stage, folder="", urls={"source": tiny_config.source, "target": tiny_config.target})
    parts = {name: next(_loader(name, data, LocalRuntime(), stream=tiny_config.stream, seed=0, first_step=0))
             for name in stage.streams}
    for weight in (0.0, 0.2):
        torch.manual_seed(0)
        method = build_method(replace(tiny_config, self_supervision=replace(tiny_config.self_supervision,
                                                                            orientation_weight=weight)))
        method.start(stage, LocalRuntime())
        losses = method.step(0, parts)
        expected = losses["source_loss"] + weight * losses["orientation_loss"]
        assert losses.keys() == {"loss", "source_loss", "orientation_loss", "orientation_accuracy"}
        assert float(losses["loss"]) == pytest.approx(float(expected), rel=1e-6)
        moved[weight] = {name: value.grad.clone() for name, value in method.networks().named_parameters()
                         if value.grad is not None}
    parameters = {name for name, _ in build_method(tiny_config).networks().named_parameters()}
    assert moved[0.0].keys() == moved[0.2].keys() == parameters
    encoder = [name for name in moved[0.2] if name.startswith("encoder.")]
    assert encoder and not any(torch.equal(moved[0.0][name], moved[0.2][name]) for name in encoder)
    assert all(torch.equal(moved[0.0][name], moved[0.2][name]) for name in moved[0.2] if name.startswith("decoder."))
    assert all(bool(moved[0.2][name].any()) for name in moved[0.2] if name.startswith("orientation_head."))


def test_target_images_are_whole(tiny_config: RunConfig) -> None:
    """The target's batches, without colours: its images as Pillow shrinks them, mirrored or not."""
    stage, images = plan_of(tiny_config)[1], ShardReader(tiny_config.target)
    plain = replace(tiny_config.stream, colour_jitter=0.0, grey_share=0.0, soft_share=0.0)
    data = StageData(stage=stage, folder="", urls={"source": tiny_config.source, "target": tiny_config.target})
    seen = set()
    for part in _loader("whole_target", data, LocalRuntime(), stream=plain, seed=0, first_step=0):
        assert part.images.shape == (4, 3, 48, 64) and part.density is None
        for key, shown in zip(part.keys, part.images.numpy(), strict=True):
            image = PIL.Image.fromarray(decode(*images.read(images.index_of(key))).image)
            whole = np.asarray(image.resize((64, 48), PIL.Image.Resampling.HAMMING))
            errors = [float(np.abs(255 * shown.transpose(1, 2, 0)[:, ::step] - whole).max()) for step in (1, -1)]
            assert min(errors) < 1 < 20 < max(errors), key
            seen.add((key, errors[0] < errors[1]))
    assert len({key for key, _ in seen}) == 10 and {mirrored for _, mirrored in seen} == {True, False}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rendered images of a source and of a target."""
    place = str(tmp_path_factory.mktemp("rendered"))
    return {role: prepare(parse_data(f"renderer:{role}:4:0:180"), place, role=role, say=lambda line: None).url
            for role in ("source", "target")}


@pytest.mark.parametrize("counter", [CounterConfig(),
                                     CounterConfig(backbone="efficientnet_lite0", weights="imagenet")],
                         ids=["compact", "lite0"])
def test_the_encoders_gradients_compare(tiny_config: RunConfig, rendered: dict[str, str],
                                        counter: CounterConfig) -> None:
    """Of new counters, on rendered images: that of the weighted orientation is 0.1 to 10 times that of the density."""
    config = replace(tiny_config, counter=counter, stream=StreamConfig(image_size=256, crop_size=128),
                     self_supervision=SelfSupervisionConfig(target_batch_size=4, orientation_px=128))
    torch.manual_seed(0)
    method = build_method(config)
    assert isinstance(method, SelfSupervision)
    stage = method.plan()[1]
    method.start(stage, LocalRuntime())
    data = StageData(stage=stage, folder="", urls=rendered)
    loaders = {name: _loader(name, data, LocalRuntime(), stream=config.stream, seed=0, first_step=0)
               for name in stage.streams}
    objective = method.objective(stage).train()
    assert isinstance(objective, OrientationObjective)
    encoder = [value for value in objective.counter.encoder.parameters() if value.requires_grad]
    for _ in range(2):
        parts = {name: next(loader) for name, loader in loaders.items()}
        losses = (objective.density_loss(parts["source"]), config.self_supervision.orientation_weight
                  * orientation_terms(objective.counter, parts)["orientation_loss"])
        density, orientation = (torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, encoder)]).norm()
                                for loss in losses)
        assert 0.1 < float(orientation / density) < 10


class Stopped(LocalRuntime):
    """Stops after its second step."""

    step = -1

    def at(self, step: int, doing: str) -> None:
        self.step = step

    def stop_requested(self) -> bool:
        return self.step == 1


def test_a_stopped_stage_ends_with_the_same_bits(tiny_config: RunConfig, tmp_path: Path) -> None:
    def train(name: str, runtime: LocalRuntime) -> Method:
        torch.manual_seed(0)
        method = build_method(tiny_config)
        data = StageData(stage=plan_of(tiny_config, orientation_on_source=True)[1], folder=(tmp_path / name).as_uri(),
                         urls={"source": tiny_config.source, "target": tiny_config.target})
        fit(method, data, runtime, engine=replace(tiny_config.engine, checkpoint_every=100), seed=0,
            record=to_json(tiny_config))
        return method

    unbroken = train("unbroken", LocalRuntime()).networks().state_dict()
    halfway = train("stopped", Stopped()).networks().state_dict()
    assert not all(torch.equal(value, halfway[name]) for name, value in unbroken.items())
    resumed = train("stopped", LocalRuntime()).networks().state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
