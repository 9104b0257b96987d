"""Translation: losses by their formulas, each network's gradients on any number of workers, and the counter's data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from crowddist.config import RunConfig
from crowddist.data.config import StreamConfig
from crowddist.data.sample import Batch
from crowddist.methods.base import Stage
from crowddist.methods.build import build_method
from crowddist.methods.settings.translation import TranslationConfig
from crowddist.methods.translation import Translation, TranslationObjective, falling_rate
from crowddist.ops.ssim import ssim
from crowddist.run.engine import LocalRuntime
from tests.warm_start import together


def make(**settings: Any) -> Translation:
    small = {"steps": 10, "batch_size": 4, "crop_size": 64, "counting_steps": 10}
    torch.manual_seed(0)
    stream = StreamConfig(image_size=96, crop_size=64)
    method = build_method(RunConfig(recipe="a", source="/s", target="/t", method="translation", stream=stream,
                                    translation=TranslationConfig(**{**small, **settings})))
    assert isinstance(method, Translation)
    return method


def stages(method: Translation) -> dict[str, Stage]:
    return {stage.name: stage for stage in method.plan()}


def batch(number: int, seed: int, density: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    cells = 0.2 * torch.rand(number, 1, 8, 8, generator=generator) if density else None
    return Batch(images=torch.rand(number, 3, 64, 64, generator=generator), density=cells, draws=torch.arange(number))


def domains(number: int = 4) -> dict[str, Batch]:
    return {"source": batch(number, 1), "target": batch(number, 2)}


def part(batches: dict[str, Batch], rows: slice) -> dict[str, Batch]:
    return {name: replace(one, images=one.images[rows], draws=one.draws[rows]) for name, one in batches.items()}


@pytest.mark.parametrize("weights", [(1.0, 5.0), (0.0, 0.0), (0.5, 0.0)])
def test_the_losses_by_their_formulas(weights: tuple[float, float]) -> None:
    structure_weight, identity_weight = weights
    method = make(structure_weight=structure_weight, identity_weight=identity_weight)
    x, y = (one.images for one in domains().values())
    g, f = (method.translator.generators[name] for name in ("target", "source"))
    told_y, told_x = (method.translator.discriminators[name] for name in ("target", "source"))
    losses = TranslationObjective(method.translator, method.settings)(domains())
    cycle = (f(g(x)) - x).abs().mean() + (g(f(y)) - y).abs().mean()
    structure = 2 - ssim(f(g(x)), x, peak=1.0) - ssim(g(f(y)), y, peak=1.0)
    identity = (g(y) - y).abs().mean() + (f(x) - x).abs().mean()
    adversarial = (told_y(g(x)) - 1).square().mean() + (told_x(f(y)) - 1).square().mean()
    told = [(told_y(y), told_y(g(x))), (told_x(x), told_x(f(y)))]
    discriminator = sum(((real - 1).square().mean() + made.square().mean()) / 2 for real, made in told)
    expected = (10.0 * cycle + structure_weight * structure + identity_weight * identity + adversarial
                + discriminator)
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["cycle_loss"], cycle)
    torch.testing.assert_close(losses["discriminator_loss"], torch.as_tensor(discriminator))
    assert 0 <= losses["discriminator_accuracy"] <= 1
    assert ("structure_loss" in losses) == (structure_weight
                                            > 0) and ("identity_loss" in losses) == (identity_weight > 0)


def slopes(method: Translation) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone()
            for name, parameter in method.translator.named_parameters() if parameter.grad is not None}


def stepped(method: Translation, batches: dict[str, Batch], runtime: Any) -> dict[str, torch.Tensor]:
    """The gradients of one step, which both optimizers have used."""
    method.start(stages(method)["translation/translator"], runtime)
    method.step(0, batches)
    return slopes(method)


def test_each_side_gets_the_slopes_of_its_own_loss_alone() -> None:
    """As if taken one by one: generators through fixed discriminators, discriminators on fixed images."""
    mine = stepped(make(), domains(), LocalRuntime())
    method = make()
    network, (x, y) = method.translator, (one.images for one in domains().values())
    g, f = (network.generators[name] for name in ("target", "source"))
    told_y, told_x = (network.discriminators[name] for name in ("target", "source"))
    made_y, made_x = g(x), f(y)
    cycle = functional.l1_loss(f(made_y), x) + functional.l1_loss(g(made_x), y)
    structure = 2 - ssim(f(made_y), x, peak=1.0) - ssim(g(made_x), y, peak=1.0)
    game = (told_y(made_y) - 1).square().mean() + (told_x(made_x) - 1).square().mean()
    reference = dict(zip((f"generators.{name}" for name, _ in network.generators.named_parameters()),
                         torch.autograd.grad(10 * cycle + structure + game, list(network.generators.parameters())),
                         strict=True))
    fixed_y, fixed_x = made_y.detach(), made_x.detach()
    judged = ((told_y(y) - 1).square().mean() + told_y(fixed_y).square().mean() + (told_x(x) - 1).square().mean()
              + told_x(fixed_x).square().mean()) / 2
    reference |= zip((f"discriminators.{name}" for name, _ in network.discriminators.named_parameters()),
                     torch.autograd.grad(judged, list(network.discriminators.parameters())), strict=True)
    assert mine.keys() == reference.keys()
    for name, slope in mine.items():
        torch.testing.assert_close(slope, reference[name], rtol=1e-3, atol=1e-6)


class Pair(LocalRuntime):
    """One of two workers, as the Ray runtime wraps modules."""

    def wrap(self, module: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    method = make()
    found = stepped(method, part(domains(), slice(2 * rank, 2 * rank + 2)), Pair())
    torch.save({"slopes": found, "weights": method.translator.state_dict()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_take_the_mean_of_both_sides_slopes(tmp_path: Path) -> None:
    together(_worker, tmp_path, number=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    halves = [stepped(make(), part(domains(), slice(start, start + 2)), LocalRuntime()) for start in (0, 2)]
    whole = stepped(make(), domains(), LocalRuntime())
    before, moved = make().translator.state_dict(), 0
    assert (first["slopes"].keys() == whole.keys()
            and {name.partition(".")[0] for name in whole} == {"generators", "discriminators"})
    for name, slope in first["slopes"].items():
        mean = (halves[0][name] + halves[1][name]) / 2
        assert not torch.allclose(halves[0][name], mean, rtol=1e-3,
                                  atol=1e-7), "the halves differ, or the test would see nothing"
        torch.testing.assert_close(slope, mean, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(slope, whole[name], rtol=1e-3, atol=1e-6)
        assert torch.equal(slope, second["slopes"][name])
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
        moved += not torch.equal(weight, before[name])
    assert moved == len(whole)


def test_mixed_precision_gives_nearly_the_same_losses() -> None:
    method = make(identity_weight=5.0)
    objective = TranslationObjective(method.translator, method.settings)
    exact = objective(domains())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(domains())
    for name, value in mixed.items():
        assert value.dtype == torch.float32 and value.isfinite()
        assert value.item() == pytest.approx(exact[name].item(), rel=0.05, abs=0.02), name


def test_the_rate_is_steady_then_falls_to_zero() -> None:
    """By hand: 10 steps, the first half and the one after it at the full rate, the last at a fifth."""
    assert [falling_rate(1.0, 10)(step) for step in range(10)] == pytest.approx([1] * 6 + [0.8, 0.6, 0.4, 0.2])
    method = make()
    method.start(stages(method)["translation/translator"], LocalRuntime())
    method.step(9, domains())
    groups = [group for optimizer in method.optimizers().values() for group in optimizer.param_groups]
    assert ([group["lr"] for group in groups] == pytest.approx([4e-5, 4e-5])
            and {group["betas"] for group in groups} == {(0.5, 0.999)})


def test_the_translator_learns_to_come_back() -> None:
    """A few steps on two domains of plain colours, red to blue: the cycle closes, and red becomes bluer."""
    method = make(steps=40, learning_rate=2e-3)
    method.start(stages(method)["translation/translator"], LocalRuntime())
    noise = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) / 5
    red, blue = (noise[index] + torch.tensor(colour)[:, None, None]
                 for index, colour in enumerate([(0.7, 0.1, 0.1), (0.1, 0.1, 0.7)]))
    batches = {name: Batch(images=images, draws=torch.arange(2))
               for name, images in (("source", red), ("target", blue))}
    first = method.step(0, batches)
    for step in range(1, 30):
        last = method.step(step, batches)
    assert last["cycle_loss"] < 0.5 * first["cycle_loss"]
    shown = method.translate(red).mean((0, 2, 3))
    assert shown[2] > shown[0] + 0.2


def test_the_counter_learns_from_the_translated_source() -> None:
    usual, fresh = stages(make()), stages(make(fresh=True))
    assert [name for name, stage in usual.items() if stage.needs_translation] == ["translation/counter"]
    assert {name: use.data
            for name, use in usual["translation/counter"].streams.items()} == {"translated": "translated"}
    assert not usual["translation/counter"].fresh and fresh["translation/counter"].fresh
    for use in usual["translation/translator"].streams.values():
        assert use.plain and use.crop_size == 64 and use.scale_jitter == (0.8, 1.25)


def test_a_counter_that_begins_anew_learns_its_statistics() -> None:
    """A fresh counter's running statistics change until the last fifth, as on the source; a continued one's never."""
    for fresh in (True, False):
        method = make(fresh=fresh)
        method.start(stages(method)["translation/counter"], LocalRuntime())
        moves = []
        for step in (0, 9):
            before = {name: value.clone() for name, value in method.counter.state_dict().items() if "running" in name}
            method.step(step, {"translated": batch(4, step, density=True)})
            after = method.counter.state_dict()
            moves.append(not all(torch.equal(after[name], value) for name, value in before.items()))
        assert moves == [fresh, False]
