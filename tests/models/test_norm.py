"""Synchronised batch normalisation: alone it is torch's, and two workers compute what one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from crowddist.models.norm import SyncBatchNorm2d, frozen_norm, sync_batch_norms
from tests.warm_start import together


def _layer(channels: int, seed: int = 0) -> SyncBatchNorm2d:
    generator = torch.Generator().manual_seed(seed)
    layer = SyncBatchNorm2d(channels)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(channels, generator=generator) + 0.5)
        layer.bias.copy_(torch.randn(channels, generator=generator))
    return layer


def _images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 2


def test_a_case_by_hand() -> None:
    layer = SyncBatchNorm2d(1)
    output = layer(torch.tensor([1.0, 3.0])[:, None, None, None])
    torch.testing.assert_close(output.flatten(), torch.tensor([-1.0, 1.0]), atol=1e-5, rtol=0)
    # 0.9 * 0 + 0.1 * 2, and 0.9 * 1 + 0.1 * 2 with the unbiased variance.
    torch.testing.assert_close(layer.running_mean, torch.tensor([0.2]))
    torch.testing.assert_close(layer.running_var, torch.tensor([1.1]))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_worker_is_the_batch_norm_of_torch(memory_format: torch.memory_format) -> None:
    layer, reference = _layer(6), nn.BatchNorm2d(6)
    reference.load_state_dict({**layer.state_dict(), "num_batches_tracked": torch.tensor(0)})
    images = _images(4, 6, 5, 7).to(memory_format=memory_format)
    for _ in range(3):
        assert torch.equal(layer(images), reference(images))
    assert torch.equal(layer.running_mean, reference.running_mean)
    assert torch.equal(layer.running_var, reference.running_var)
    assert torch.equal(layer.eval()(images), reference.eval()(images))


def _two_layers() -> nn.Sequential:
    """The second layer's slopes come from the first's backward pass, so both passes of both must be right."""
    return nn.Sequential(_layer(3), nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), _layer(4, seed=3)).to(torch.float64)


def _pass(network: nn.Sequential, images: torch.Tensor, slope: torch.Tensor) -> dict[str, torch.Tensor]:
    images = images.clone().requires_grad_()
    output = network(images)
    (output * slope).sum().backward()
    assert images.grad is not None
    return {"output": output.detach(), "images": images.grad}


def _worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = _two_layers()
    images, slope = _images(6, 3, 5, 4).double(), _images(6, 4, 5, 4, seed=2).double()
    parts = _pass(network, images[3 * rank:3 * rank + 3].to(memory_format=torch.channels_last),
                  slope[3 * rank:3 * rank + 3])
    parts |= {f"slope of {name}": parameter.grad
              for name, parameter in network.named_parameters()}  # type: ignore[misc]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    mixed = _layer(3)
    half = mixed(images[3 * rank:3 * rank + 3].bfloat16())
    parts |= {"half": half, "half mean": mixed.running_mean}
    torch.save({**parts, **state}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_equal_one(tmp_path: Path) -> None:
    """Outputs, gradients of images and parameters, and running statistics; parts of unlike brightness, so local
    statistics would fail.
    """
    together(_worker, tmp_path, number=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    network = _two_layers()
    whole = _pass(network, _images(6, 3, 5, 4).double(), _images(6, 4, 5, 4, seed=2).double())
    for name, value in whole.items():
        torch.testing.assert_close(torch.cat([first[name], second[name]]), value, atol=1e-5, rtol=1e-5)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(first[f"slope of {name}"] + second[f"slope of {name}"], parameter.grad, atol=1e-5,
                                   rtol=1e-5)
    mixed = _layer(3)
    images = _images(6, 3, 5, 4).bfloat16()
    half = mixed(images.float())
    assert first["half"].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([first["half"], second["half"]]).float(), half, atol=0.02, rtol=0.01)
    torch.testing.assert_close(first["half mean"], mixed.running_mean, atol=1e-6, rtol=1e-6)
    for name, statistic in network.named_buffers():
        assert torch.equal(first[name], second[name]), "all workers hold the same statistics, to the bit"
        torch.testing.assert_close(first[name], statistic, atol=1e-6, rtol=1e-6)


def test_frozen_layers_use_and_keep_running_statistics_while_gradients_flow() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), _layer(3), nn.Conv2d(3, 2, 1), _layer(2))
    images = _images(4, 2, 5, 5)
    network(images)  # Statistics that differ from the initial ones.
    before = [statistic.clone() for statistic in network.buffers()]
    with frozen_norm(network):
        output = network(images)
    output.square().mean().backward()
    assert all(torch.equal(new, old) for new, old in zip(network.buffers(), before, strict=True))
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    assert not torch.equal(network(images), output)  # Out of the block statistics are the batch's again, and move.
    assert not torch.equal(network[1].running_mean, before[0])


def test_frozen_equals_eval_and_ends_with_the_block_even_after_an_error() -> None:
    layer, images = _layer(3), _images(4, 3, 5, 5)
    with frozen_norm(layer):
        with frozen_norm(layer):
            pass
        inside = layer(images)
    assert torch.equal(inside, _layer(3).eval()(images))
    with pytest.raises(RuntimeError, match="stop"), frozen_norm(layer):
        raise RuntimeError("stop")
    assert not layer.frozen


def test_batch_norms_of_torch_are_replaced_with_their_state() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)))
    images = _images(4, 3, 5, 5)
    network(images)
    expected = network.eval()(images)
    synced = sync_batch_norms(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in synced.modules())
    assert torch.equal(synced.eval()(images), expected)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SyncBatchNorm2d(0)
