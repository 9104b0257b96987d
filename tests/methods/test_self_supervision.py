"""The losses of self-supervision, against the paper's formulas worked out image by image, cell by cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.sample import Batch
from crowddist.losses.density import count_map_loss
from crowddist.methods.build import build_method
from crowddist.methods.parts.counting import CountingObjective, LabelObjective
from crowddist.methods.parts.orientation import OrientationObjective
from crowddist.methods.self_supervision import SelfSupervision
from crowddist.methods.settings.train import TrainConfig
from crowddist.models.config import CounterConfig
from crowddist.models.counter import Counter, build_counter

AS_PUBLISHED = TrainConfig(cell_error="squared", block_weight=0.0)


@pytest.fixture
def counter() -> Counter:
    """In eval mode, so that every image is counted by itself."""
    torch.manual_seed(0)
    return build_counter(CounterConfig()).eval()


def batch(seed: int, *, labelled: bool = True, kept: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        images=torch.rand(3, 3, 64, 64, generator=generator),
        density=0.3 * torch.rand(3, 1, 8, 8, generator=generator) if labelled else None,
        keep=(torch.rand(3, 1, 8, 8, generator=generator) < 0.6).float() if kept else None,
        draws=torch.tensor([4, 11, 3]),
    )


def squared_error(counter: Counter, part: Batch) -> float:
    """Mean over images of sum k (F(x) - y)^2 / sum k, each image counted alone by the member that it drew."""
    assert part.density is not None
    total = 0.0
    for index in range(3):
        one = part.images[index : index + 1]
        density = counter(one, counter.member_indexes(part.draws[index : index + 1])).detach().numpy()[0, 0]
        keep = np.ones((8, 8)) if part.keep is None else part.keep[index, 0].numpy()
        total += sum(keep[i, j] * (density[i, j] - float(part.density[index, 0, i, j])) ** 2 for i in range(8)
                     for j in range(8)) / keep.sum()
    return total / 3


@pytest.mark.parametrize("streams", [("whole_target",), ("whole_target", "whole_source")])
def test_orientation_by_the_formula(counter: Counter, streams: tuple[str, ...]) -> None:
    source, whole = batch(1), {name: batch(2 + index) for index, name in enumerate(streams)}
    losses = OrientationObjective(counter, AS_PUBLISHED, orientation_weight=0.3).eval()({"source": source, **whole})
    entropies, right = [], []
    for image in (image for one in whole.values() for image in one.images):
        for upside_down, shown in ((0, image), (1, torch.from_numpy(image.numpy()[:, ::-1].copy()))):
            logits = counter.orientation(counter.encode(shown[None])).detach().double().numpy()[0]
            entropies.append(np.log(np.exp(logits).sum()) - logits[upside_down])
            right.append(int(logits.argmax()) == upside_down)
    assert float(losses["source_loss"]) == pytest.approx(squared_error(counter, source), rel=1e-4)
    assert float(losses["orientation_loss"]) == pytest.approx(np.mean(entropies), rel=1e-4)
    assert float(losses["orientation_accuracy"]) == pytest.approx(np.mean(right))
    assert float(losses["loss"]) == pytest.approx(squared_error(counter, source) + 0.3 * np.mean(entropies), rel=1e-4)


def test_labels_by_the_formula(counter: Counter) -> None:
    source, target = batch(1), batch(2, kept=True)
    losses = LabelObjective(counter, AS_PUBLISHED, target_weight=0.7).eval()({"source": source, "target": target})
    assert float(losses["target_loss"]) == pytest.approx(squared_error(counter, target), rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(squared_error(counter, source) + 0.7 * squared_error(counter, target),
                                                  rel=1e-4)


def test_every_stage_takes_the_error_that_is_configured(counter: Counter) -> None:
    source, target = batch(1), batch(2, kept=True)
    maps = counter(source.images, counter.member_indexes(source.draws))
    for train in (TrainConfig(), TrainConfig(block_weight=0.7), AS_PUBLISHED):
        expected = float(count_map_loss(maps, source.density, block_weight=train.block_weight,
                                        cell_error=train.cell_error))
        alone = CountingObjective(counter, train).eval()({"source": source})
        both = LabelObjective(counter, train, target_weight=1.0).eval()({"source": source, "target": target})
        assert float(alone["loss"]) == pytest.approx(expected, rel=1e-5)
        assert float(both["source_loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("views, zooms, scales", [
    ((1.0,), (1.0,), (0.9, 1.1)),
    ((0.5, 1.0, 2.0), (1.0,), (0.9, 1.1)),
    ((0.5, 1.0, 2.0), (0.8, 1.2), (0.72, 1.32)),
    ((), (1.4, 0.7), (0.63, 1.54)),
])
def test_labelled_target_crops_are_shown_at_the_sizes_that_images_are_counted_at(
    tiny_config: RunConfig, views: tuple[float, ...], zooms: tuple[float, ...], scales: tuple[float, float]
) -> None:
    settings = replace(tiny_config.self_supervision, rounds=2, label_views=views)
    tiny_config = replace(tiny_config, stream=replace(tiny_config.stream, zooms=zooms))
    method = build_method(replace(tiny_config, method="self_supervision", self_supervision=settings))
    assert isinstance(method, SelfSupervision)
    for stage in method.plan():
        for name, stream in stage.streams.items():
            labelled = stage.needs_labels and name == "target"
            assert stream.scale_jitter == (pytest.approx(scales) if labelled else None)
