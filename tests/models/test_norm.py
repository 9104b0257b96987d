"""Grouped batch normalisation: one group is torch's, many groups are many ranks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crowddist.models.norm import GroupedBatchNorm2d, frozen_norm, group_batch_norms, running_statistics


def _layer(channels: int, group: int, seed: int = 0) -> GroupedBatchNorm2d:
    generator = torch.Generator().manual_seed(seed)
    layer = GroupedBatchNorm2d(channels, group)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(channels, generator=generator) + 0.5)
        layer.bias.copy_(torch.randn(channels, generator=generator))
    return layer


def _images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 2


def test_a_case_by_hand() -> None:
    layer = GroupedBatchNorm2d(1, 2)
    output = layer(torch.tensor([1.0, 3.0, 10.0, 30.0])[:, None, None, None])
    # Groups (1, 3) and (10, 30): means 2 and 20, deviations 1 and 10.
    torch.testing.assert_close(output.flatten(), torch.tensor([-1.0, 1.0, -1.0, 1.0]), atol=1e-5, rtol=0)
    # 0.9 * 0 + 0.1 * (2 + 20) / 2, and 0.9 * 1 + 0.1 * (2 + 200) / 2 with unbiased variances.
    torch.testing.assert_close(layer.running_mean, torch.tensor([1.1]))
    torch.testing.assert_close(layer.running_var, torch.tensor([11.0]))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_group_is_the_batch_norm_of_torch(memory_format: torch.memory_format) -> None:
    layer, reference = _layer(6, 4), nn.BatchNorm2d(6)
    reference.load_state_dict({**layer.state_dict(), "num_batches_tracked": torch.tensor(0)})
    images = _images(4, 6, 5, 7).to(memory_format=memory_format)
    for _ in range(3):
        assert torch.equal(layer(images), reference(images))
    assert torch.equal(layer.running_mean, reference.running_mean)
    assert torch.equal(layer.running_var, reference.running_var)
    assert torch.equal(layer.eval()(images), reference.eval()(images))


def test_two_ranks_with_whole_groups_equal_one_process() -> None:
    images, slope = _images(8, 3, 4, 5), _images(8, 3, 4, 5, seed=2)
    whole, ranks = _layer(3, 4), [_layer(3, 4), _layer(3, 4)]
    output = whole(images)
    (output * slope).sum().backward()
    parts = [rank(part) for rank, part in zip(ranks, images.split(4), strict=True)]
    for part, part_slope in zip(parts, slope.split(4), strict=True):
        (part * part_slope).sum().backward()
    assert torch.equal(torch.cat(parts), output)
    for name in ("weight", "bias"):
        gradient = sum(getattr(rank, name).grad for rank in ranks)
        torch.testing.assert_close(gradient, getattr(whole, name).grad, atol=1e-5, rtol=1e-6)
    for left, right, together in zip(*map(running_statistics, (*ranks, whole)), strict=True):
        assert not torch.equal(left, right)
        torch.testing.assert_close((left + right) / 2, together, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("num_samples", "group", "sizes"), [(5, 2, [2, 3]), (7, 4, [7]), (3, 4, [3]), (1, 4, [1]), (9, 4, [4, 5])])
def test_the_last_group_takes_the_rest(num_samples: int, group: int, sizes: list[int]) -> None:
    images = _images(num_samples, 2, 3, 3)
    expected = torch.cat([_layer(2, len(part))(part) for part in images.split(sizes)])
    assert torch.equal(_layer(2, group)(images), expected)


def test_frozen_layers_use_and_keep_running_statistics_while_gradients_flow() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), _layer(3, 2), nn.Conv2d(3, 2, 1), _layer(2, 2))
    images = _images(4, 2, 5, 5)
    network(images)  # Statistics that differ from the initial ones.
    before = [statistic.clone() for statistic in running_statistics(network)]
    with frozen_norm(network):
        output = network(images)
    output.square().mean().backward()
    assert all(torch.equal(new, old) for new, old in zip(running_statistics(network), before, strict=True))
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    assert not torch.equal(network(images), output)  # Out of the block statistics are the batch's again, and move.
    assert not torch.equal(network[1].running_mean, before[0])


def test_frozen_equals_eval_and_ends_with_the_block_even_after_an_error() -> None:
    layer, images = _layer(3, 2), _images(4, 3, 5, 5)
    with frozen_norm(layer):
        with frozen_norm(layer):
            pass
        inside = layer(images)
    assert torch.equal(inside, _layer(3, 2).eval()(images))
    with pytest.raises(RuntimeError, match="stop"), frozen_norm(layer):
        raise RuntimeError("stop")
    assert not layer.frozen


def test_the_gradient_is_right() -> None:
    layer = _layer(2, 2).double()
    images = _images(5, 2, 2, 3).double().requires_grad_()
    torch.autograd.gradcheck(layer, images, atol=1e-6)


def test_batch_norms_of_torch_are_replaced_with_their_state() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)))
    images = _images(4, 3, 5, 5)
    network(images)
    expected = network.eval()(images)
    grouped = group_batch_norms(network, 2)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in grouped.modules())
    assert torch.equal(grouped.eval()(images), expected)


@pytest.mark.parametrize(("channels", "group"), [(0, 4), (4, 0)])
def test_impossible_sizes_are_refused(channels: int, group: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GroupedBatchNorm2d(channels, group)
