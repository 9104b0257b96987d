"""Bi-knowledge transfer in training: the losses of its three networks, and the weights that a cycle changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.sample import Batch
from crowddist.errors import InputError
from crowddist.losses.density import count_map_loss
from crowddist.losses.detection import detection_targets
from crowddist.losses.structure import dms_ssim_loss, focal_cross_entropy, focal_mse
from crowddist.methods.bi_knowledge_objectives import (
    LocalisationObjective,
    RegressionObjective,
    blurred,
    localisation_map,
)
from crowddist.methods.build import build_method
from crowddist.methods.parts.detecting import DetectionObjective
from crowddist.methods.parts.training import one_cycle_rate
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.recipes import mm2020_sha_to_shb
from crowddist.run.engine import LocalRuntime
from tests.methods.test_bi_knowledge import make


def batch(stride: int, size: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    heads = [torch.rand(5, 3, generator=generator) * size for _ in range(2)]
    density = torch.rand(2, 1, size // stride, size // stride, generator=generator) / 100
    images = torch.rand(2, 3, size, size, generator=generator)
    return Batch(images=images, density=density, heads=heads, draws=torch.zeros(2, dtype=torch.int64))


def test_the_regressors_loss_by_the_formula(tiny_config: RunConfig) -> None:
    method, source = make(tiny_config, structure_weight=0.3, count_weight=0.7), batch(2)
    # an empty crop among them
    source = replace(source, density=source.density * torch.tensor([1.0, 0.0])[:, None, None, None])
    objective = RegressionObjective(method.regressor, method.settings, tiny_config.train).eval()
    predicted = method.regressor(source.images)
    # a head of sigma 4 px, in cells of 2x2 px
    structure = dms_ssim_loss(predicted, source.density, empty_peak=4 / (2 * np.pi * 4.0**2))
    cells = [torch.nn.functional.avg_pool2d(part, 4) * 16 for part in (predicted, source.density)]
    expected = 0.3 * structure + 0.7 * count_map_loss(cells[0], cells[1])
    assert objective({"source": source})["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    published = RegressionObjective(method.regressor, replace(method.settings, structure_weight=1.0, count_weight=0.0),
                                    tiny_config.train).eval()
    assert published({"target": source})["loss"].item() == pytest.approx(structure.item(), rel=1e-5)


def test_the_regressor_learns_nothing_outside_a_region_of_interest(tiny_config: RunConfig) -> None:
    """The right half lies outside: nobody is annotated there, so neither the density nor what the regressor sees there
    may cost anything.
    """
    method, source = make(tiny_config, structure_weight=0.3, count_weight=0.7), batch(2)
    assert source.density is not None
    left = torch.ones_like(source.density)
    left[..., 16:] = 0
    objective = RegressionObjective(method.regressor, method.settings, tiny_config.train).eval()

    def loss(density: torch.Tensor) -> torch.Tensor:
        return objective({"source": replace(source, density=density, keep=left)})["loss"]

    predicted = method.regressor(source.images)
    peak = 4 / (2 * np.pi * 4.0**2)
    cells = [torch.nn.functional.avg_pool2d(part * left, 4) * 16 for part in (predicted, source.density)]
    expected = (0.3 * dms_ssim_loss(predicted * left, source.density * left, empty_peak=peak)
                + 0.7 * count_map_loss(cells[0], cells[1]))
    assert loss(source.density).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(loss(source.density), loss(source.density + 3 * (1 - left)))
    everywhere = objective({"source": replace(source, keep=torch.ones_like(left))})["loss"]
    assert torch.equal(everywhere, objective({"source": source})["loss"]) and everywhere != loss(source.density)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_for_the_detector_people_outside_a_region_are_no_background(tiny_config: RunConfig, stride: int) -> None:
    """By the formula, cell by cell of 4 px: what it sees in the right half costs nothing unless a head is annotated."""
    objective, source = DetectionObjective(make(tiny_config).detector).eval(), batch(stride)
    torch.nn.init.zeros_(objective.detector.centre.bias)  # it sees heads everywhere, not at 1 % of all places
    left = torch.ones(2, 1, 64 // stride, 64 // stride)
    left[..., 32 // stride :] = 0
    inside, usual = (objective({"source": replace(source, keep=keep)}) for keep in (left, None))
    maps = objective.detector(source.images)
    targets = detection_targets(source.heads, (16, 16), 4)
    costs = -torch.nn.functional.logsigmoid(-maps.logits) * maps.logits.sigmoid() ** 2
    invented = (1 - targets.centres) * (1 - targets.closeness) ** 4 * costs
    outside = invented[..., 8:].sum() / targets.centres.sum()
    assert outside > 0
    assert usual["centre_loss"].item() - inside["centre_loss"].item() == pytest.approx(outside.item(), rel=1e-4)
    assert usual["size_loss"] == inside["size_loss"] and usual["offset_loss"] == inside["offset_loss"]
    # Pseudo-labels tell themselves what is doubtful; their certain cells are for the density.
    labelled = [objective({"target": replace(source, doubtful=[torch.zeros(0, 3)] * 2, keep=keep)})["loss"]
                for keep in (left, None)]
    assert torch.equal(*labelled)


def test_the_detectors_loss_by_its_weights(tiny_config: RunConfig) -> None:
    losses = DetectionObjective(make(tiny_config).detector).eval()({"source": batch(2)})
    expected = 0.01 * losses["centre_loss"] + losses["size_loss"] + 0.1 * losses["offset_loss"]
    assert losses["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_boxes_taught_of_sizes_is_not_overwritten_by_distances(tiny_config: RunConfig) -> None:
    """A detector that knows heads of 16 px, shown sparse heads whose neighbours are 60 px away, and a pair 6 px apart.

    By distances alone a step makes it larger everywhere; with updated sizes only the close pair teaches it. Boxes and
    pseudo-labels are taken as they are.
    """
    detector = make(tiny_config).detector
    torch.nn.init.zeros_(detector.centre.weight)
    torch.nn.init.zeros_(detector.centre.bias)  # a confidence of 1/2 everywhere
    torch.nn.init.zeros_(detector.size.weight)  # 16 px everywhere
    sparse = [torch.tensor([[8.0, 8.0, 60.0], [56.0, 8, 60], [8, 56, 60]])] * 2
    pair = [torch.tensor([[30.0, 30.0, 6.0], [36.0, 30.0, 6.0]])] * 2

    def pull(heads: list, update: bool, **others: Any) -> float:
        settings = replace(tiny_config.bi_knowledge, update_sizes=update, confidence=0.4)
        objective = DetectionObjective(detector, settings).eval()
        detector.size.bias.grad = None
        objective({"source": replace(batch(2), heads=heads, **others)})["size_loss"].backward()
        assert detector.size.bias.grad is not None
        return float(detector.size.bias.grad)

    assert pull(sparse, False) < -0.01 and pull(sparse, True) == pytest.approx(0, abs=1e-6)
    assert pull(pair, True) == pull(pair, False) > 0.01
    assert pull(sparse, True, boxed=torch.tensor([True, True])) == pull(sparse, False)
    assert pull(sparse, True, boxed=torch.tensor([True, False])) == pytest.approx(pull(sparse, False) / 2)
    assert pull(sparse, True, doubtful=[torch.zeros(0, 3)] * 2) == pull(sparse, False)
    unsure = replace(tiny_config.bi_knowledge, update_sizes=True, confidence=0.6)
    assert torch.equal(*(DetectionObjective(detector, settings).eval()({"source": replace(batch(2), heads=sparse)})
                         ["size_loss"] for settings in (unsure, None)))


def test_the_published_detector_s_stages_have_a_teacher_and_large_boxes(tiny_config: RunConfig) -> None:
    """CSP's: the average of 0.999 for the detector alone, and crops of 704 px of the images with boxes alone."""
    settings = replace(mm2020_sha_to_shb().bi_knowledge, cycles=1)
    config = replace(tiny_config, method="bi_knowledge", bi_knowledge=settings, boxes=tiny_config.source)
    stages = build_method(config).plan()
    assert {(stage.name.rpartition("/")[2], stage.average_decay) for stage in stages} == {
        ("regressor", 0.0), ("localiser", 0.0), ("detector-boxes", 0.999), ("detector", 0.999)}
    sizes = {(name, use.crop_size) for stage in stages for name, use in stage.streams.items()}
    assert sizes == {("boxes", 704), ("source", 0), ("target", 0)}


@pytest.mark.parametrize(("field", "value"), [
    ("boxes_crop_size", 100), ("boxes_crop_size", 32), ("detector_average", 1.0), ("regressor_noise", -0.1),
    ("union_share", -1.0),
])
def test_settings_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        BiKnowledgeConfig(**{field: value})


def test_the_regressor_sees_noise_in_training_alone_on_any_number_of_workers(tiny_config: RunConfig) -> None:
    """Uniform, at most 0.03 of the standard deviation of each colour as its encoder expects them."""
    method = make(tiny_config, regressor_noise=0.03)
    objective = RegressionObjective(method.regressor, method.settings, tiny_config.train)
    source = replace(batch(2, size=128), draws=torch.tensor([7, 123456789]))
    shown = objective.train()._shown(source)
    noise = (shown - source.images) / method.regressor.encoder.normalise.std
    assert 0.0299 < noise.abs().max() <= 0.03 + 1e-5 and abs(float(noise.mean())) < 1e-3
    assert noise.std().item() == pytest.approx(0.03 / 3**0.5, rel=0.01)
    second = replace(source, images=source.images[1:], draws=source.draws[1:])
    assert torch.equal(objective._shown(second)[0], shown[1]) and torch.equal(objective._shown(source), shown)
    assert torch.equal(objective.eval()._shown(source), source.images)
    assert torch.equal(RegressionObjective(make(tiny_config).regressor, make(tiny_config).settings,
                                           tiny_config.train).train()._shown(source), source.images)


def test_the_detector_learns_nothing_of_what_is_doubtful(tiny_config: RunConfig) -> None:
    """If everything is doubtful, only heads' centres teach the confidence; size and offset losses do not change."""
    objective, source = DetectionObjective(make(tiny_config).detector).eval(), batch(2)
    everything = torch.tensor([[32.0, 32.0, 1000.0]])
    usual, lenient = (objective({"target": replace(source, doubtful=[some] * 2)})
                      for some in (torch.zeros(0, 3), everything))
    maps = objective.detector(source.images)
    targets = detection_targets(source.heads, (maps.logits.shape[2], maps.logits.shape[3]), 4)
    missed = (targets.centres * (1 - maps.logits.sigmoid()) ** 2 *
              -torch.nn.functional.logsigmoid(maps.logits)).sum() / targets.centres.sum()
    assert (lenient["centre_loss"].item() == pytest.approx(missed.item(), rel=1e-4)
            and usual["centre_loss"] > lenient["centre_loss"])
    assert usual["size_loss"] == lenient["size_loss"] and usual["offset_loss"] == lenient["offset_loss"]


@pytest.mark.parametrize("loss", ["mse", "focal_mse", "focal_cross_entropy", "focal_mse_dms_ssim"])
def test_the_transformers_losses_of_table_4(tiny_config: RunConfig, loss: str) -> None:
    method, source = make(tiny_config), batch(2)
    assert source.density is not None and source.heads is not None
    answer, truth = method.localiser(source.density, 2), localisation_map(source.heads, (32, 32), 2)
    reference = {
        "mse": lambda: (answer - truth).square().mean(),
        "focal_mse": lambda: focal_mse(answer, truth),
        "focal_cross_entropy": lambda: focal_cross_entropy(answer, truth),
        "focal_mse_dms_ssim": lambda: focal_mse(answer, truth) + dms_ssim_loss(answer, truth, empty_peak=1.0),
    }[loss]()
    assert LocalisationObjective(method.localiser, loss,
                                 2)({"source": source})["loss"].item() == pytest.approx(reference.item(), rel=1e-5)


def test_blurred_by_hand_and_person_for_person() -> None:
    maps = torch.zeros(3, 1, 41, 41)
    maps[:, 0, 20, 20] = 1.0
    soft = blurred(maps, torch.tensor([0.0, 1.0, 3.0]), largest=3.0)
    assert torch.equal(soft[0], maps[0])
    for index, sigma in ((1, 1.0), (2, 3.0)):
        assert soft[index].sum().item() == pytest.approx(1, rel=1e-5)
        assert soft[index, 0, 20, 20].item() == pytest.approx(1 / (2 * np.pi * sigma**2), rel=0.02)
        assert soft[index, 0, 20, 22].item() == pytest.approx(soft[index, 0, 20, 20].item() * np.exp(-2 / sigma**2),
                                                              rel=1e-4)
        assert torch.allclose(soft[index], soft[index].transpose(1, 2))
    assert torch.allclose(blurred(torch.ones(1, 1, 9, 9), torch.tensor([4.0]), largest=4.0),
                          torch.ones(1, 1, 9, 9)), "nothing is lost at a border"


def test_a_head_is_one_cell_of_the_map() -> None:
    truth = localisation_map([torch.tensor([[0.0, 0, 9], [3, 5, 9], [63, 63, 9]]), torch.zeros(0, 3)], (32, 32), 2)
    assert (sorted(map(tuple, truth[0, 0].nonzero().tolist())) == [(0, 0), (2, 1), (31, 31)] and truth[1].sum() == 0
            and truth.sum() == 3)


def test_a_cycle_changes_the_last_two_layers_of_the_regressor(tiny_config: RunConfig) -> None:
    method = make(tiny_config)
    stage = next(stage for stage in method.plan() if stage.name == "cycle-1/regressor")
    before = {name: value.clone() for name, value in method.regressor.state_dict().items()}
    method.start(stage, LocalRuntime())
    method.step(0, {"target": batch(2)})
    moved = {name.partition(".")[0]
             for name, value in method.regressor.state_dict().items() if not torch.equal(value, before[name])}
    assert {"decoders"} <= moved <= {"decoders", "density_activation"}


def test_source_crops_may_keep_what_was_learnt(tiny_config: RunConfig) -> None:
    method = make(tiny_config, source_batch_size=4)
    stage = next(stage for stage in method.plan() if stage.needs_labels)
    assert stage.streams["source"].batch_size == 4 and stage.streams["source"].data == "source"
    method.start(stage, LocalRuntime())
    losses = method.step(0, {"target": batch(2), "source": batch(2)})
    assert losses["loss"].item() == pytest.approx((losses["target_loss"] + losses["source_loss"]).item() / 2, rel=1e-5)


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_learning_rates_run_as_told(tiny_config: RunConfig, schedule: Any) -> None:
    method = make(tiny_config, schedule=schedule)
    stage = next(stage for stage in method.plan() if stage.name == "cycle-1/regressor")
    method.start(stage, LocalRuntime())
    rates = []
    for step in range(stage.steps):
        method.step(step, {"target": batch(2)})
        rates += [group["lr"] for group in method.optimizers()["regressor"].param_groups]
    peak = method.settings.regressor_cycle_rate
    expected = ([peak] * stage.steps if schedule == "constant"
                else [one_cycle_rate(peak, stage.steps)(step) for step in range(stage.steps)])
    assert rates == pytest.approx(expected) and len(rates) == stage.steps
