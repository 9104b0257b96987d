"""The unit of a counter's last layer: what it learns, what it says in persons, in checkpoints, folded, started anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.data.sample import Batch
from crowddist.errors import InputError
from crowddist.inference.predictor import Predictor
from crowddist.losses.density import count_map_loss
from crowddist.methods.build import build_method
from crowddist.methods.parts.counting import CountingMethod
from crowddist.models.config import CounterConfig
from crowddist.models.counter import build_counter
from crowddist.models.decoder import INITIAL_DENSITY
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime

PERSONS = 12.8
"""In every image of `a_batch`."""


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(images=torch.rand(4, 3, 64, 64, generator=generator), density=torch.full((4, 1, 8, 8), PERSONS / 64),
                 draws=torch.arange(4))


def make(config: RunConfig, factor: float, **counter: Any) -> CountingMethod:
    torch.manual_seed(0)
    train = replace(config.train, cell_error="squared", block_weight=0.0)
    counter_config = replace(config.counter, density_factor=factor, **counter)
    method = build_method(replace(config, method="source_only", train=train, counter=counter_config))
    assert isinstance(method, CountingMethod)
    return method


@pytest.mark.parametrize("counter", [{"ensemble": "masksembles"}, {"ensemble": "deep"}, {"backbone": "vgg16"},
                                     {"backbone": "vgg16_bn", "decoder": "upsampling", "ensemble": "none"}],
                         ids=lambda options: "-".join(options.values()))
def test_a_new_counter_says_few_persons_whatever_its_unit(counter: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build_counter(replace(CounterConfig(density_factor=100), **counter)).eval()
    with torch.inference_mode():
        features = network.encode(torch.rand(2, 3, 64, 64))
        maps, raw = network.members(features)[0], network.decoder.rest(network.decoder.trunk(features))
    expected = INITIAL_DENSITY * (network.output_stride / 8) ** 2
    assert expected / 2 < float(maps.mean()) < 2 * expected and 50 * expected < float(raw.mean()) < 200 * expected


@pytest.mark.parametrize("ensemble", ["masksembles", "deep"])
@pytest.mark.parametrize("cell_error", ["squared", "squared_sum"])
def test_the_loss_compares_in_the_network_s_unit(tiny_config: RunConfig, ensemble: Any, cell_error: Any) -> None:
    method = make(tiny_config, 100.0, ensemble=ensemble)
    batch = a_batch()
    method.counter.eval()
    objective = method.objective(method.plan()[0])
    objective.train_config = replace(method.config.train, cell_error=cell_error)
    with torch.no_grad():
        maps = method.counter.training_maps(method.counter.encode(batch.images), batch.draws)
        found = objective.density_loss(batch)
    assert batch.density is not None
    truth = batch.density.repeat(len(maps) // 4, 1, 1, 1)
    expected = 1e4 * ((maps - truth).double() ** 2).mean()
    if cell_error == "squared_sum":  # 64 cells of 64 pixels each
        expected = expected * 64 / (2 * 64)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert float(found) == pytest.approx(float(count_map_loss(100 * maps, 100 * truth, block_weight=0.0, cell_px=8,
                                                              cell_error=cell_error)), rel=1e-5)


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_a_trained_counter_predicts_persons_also_from_its_checkpoint(tiny_config: RunConfig, tmp_path: Path,
                                                                     factor: float) -> None:
    """Folded, too: `from_checkpoint` folds the norms."""
    config = replace(tiny_config, train=replace(tiny_config.train, steps=60, learning_rate=3e-3))
    method = make(config, factor)
    stage = method.plan()[0]
    method.start(stage, LocalRuntime())
    for step in range(stage.steps):
        torch.manual_seed(step)
        method.step(step, {"source": a_batch()})
    counts = method.predict(a_batch().images).density.sum((1, 2, 3))
    assert counts.tolist() == pytest.approx([PERSONS] * 4, rel=0.4), "not 100 times as many, nor a hundredth"
    url = checkpoint.save(tmp_path.as_uri(), 1, {"method": method.state_dict(), "config": to_json(method.config)})
    predictor = Predictor.from_checkpoint(storage.local_file(url), image_size=0)
    for image, count in zip(a_batch().images, counts.tolist(), strict=True):
        pixels = np.rint(255 * image.permute(1, 2, 0).numpy()).astype(np.uint8)
        assert predictor.predict(pixels).count == pytest.approx(count, rel=0.02)


def test_what_adam_can_see_of_a_cell_a_pixel(tiny_config: RunConfig) -> None:
    """The share of the decoder's gradients above the 1e-8 that Adam adds, of one person on 96 x 96 px."""
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    head = torch.exp(-((rows - 50) ** 2 + (columns - 40) ** 2) / (2 * 6.0**2))
    images = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)),
                                             size=(96, 96), mode="bilinear")
    batch = Batch(images=images, density=(head / head.sum())[None, None], draws=torch.zeros(1, dtype=torch.int64))
    shares = {}
    for cell_error, factor in (("squared", 1.0), ("squared", 100.0), ("squared_sum", 1.0)):
        method = make(tiny_config, factor, backbone="vgg16_bn", decoder="upsampling", ensemble="none",
                      orientation=False)
        objective = method.objective(method.plan()[0])
        objective.train_config = replace(method.config.train, cell_error=cell_error)
        objective.density_loss(batch).backward()
        gradients = torch.cat([one.grad.abs().flatten() for one in method.counter.decoder.parameters()])
        shares[cell_error, factor] = float((gradients > 1e-8).float().mean())
    assert shares["squared", 1.0] < 0.8 < 0.9 < min(shares["squared", 100.0], shares["squared_sum", 1.0]), shares


def test_members_and_dropouts_are_in_persons_one_by_one(tiny_config: RunConfig) -> None:
    for ensemble in ("masksembles", "dropout", "none"):
        torch.manual_seed(0)
        network = build_counter(CounterConfig(ensemble=ensemble, density_factor=10)).eval()  # type: ignore[arg-type]
        state = {name: tensor for name, tensor in network.state_dict().items() if name != "density_factor"}
        plain = build_counter(CounterConfig(ensemble=ensemble)).eval()  # type: ignore[arg-type]
        plain.load_state_dict(state)
        with torch.inference_mode():
            features = plain.encode(torch.rand(2, 3, 40, 48))
            torch.testing.assert_close(10 * network.members(features), plain.members(features))
            network.one_pass = plain.one_pass = True
            torch.testing.assert_close(10 * network.members(features), plain.members(features))


def test_a_start_from_a_run_keeps_that_run_s_unit_or_is_refused(tmp_path: Path) -> None:
    def left(factor: float) -> str:
        torch.manual_seed(1)
        counter = build_counter(CounterConfig(density_factor=factor))
        place = tmp_path / f"{factor}.pt"
        torch.save({"method": {"networks": counter.state_dict()}}, place)
        return str(place)

    assert "density_factor" not in torch.load(left(1), weights_only=True)["method"]["networks"]
    started = build_counter(CounterConfig(density_factor=10, weights=left(100)))
    assert float(started.density_factor) == 100  # type: ignore[arg-type]
    for here, there in ((1, 100), (100, 1)):
        with pytest.raises(InputError, match=r"of another architecture \(.*density_factor"):
            build_counter(CounterConfig(density_factor=here, weights=left(there)))


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_no_unit_is_refused(factor: float) -> None:
    with pytest.raises(InputError, match="density_factor must be positive"):
        CounterConfig(density_factor=factor)


def test_norms_are_for_the_upsampling_decoders() -> None:
    from crowddist.models.norm import SyncBatchNorm2d

    with pytest.raises(InputError, match="decoder_norm is for the upsampling decoders"):
        CounterConfig(backbone="vgg16_bn", decoder_norm=True)
    for decoder, number in (("upsampling", 4), ("upsampling_large", 5)):
        config = CounterConfig(backbone="vgg16_bn", decoder=decoder, ensemble="none",  # type: ignore[arg-type]
                               decoder_norm=True)
        counters = [build_counter(replace(config, decoder_norm=norm)) for norm in (True, False)]
        norms = [sum(isinstance(layer, SyncBatchNorm2d) for layer in counter.decoder.modules()) for counter in counters]
        assert norms == [number, 0], "one behind every convolution but the last; none as printed"
