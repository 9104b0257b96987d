"""A frozen forward: the same output, slopes for the inputs, none for the parameters."""

from __future__ import annotations

import torch
from torch import nn

from crowddist.models.frozen import frozen_forward


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    maker = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh())
    return maker, nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.LeakyReLU(0.2),
                                nn.Conv2d(4, 1, 1))


def test_the_output_and_the_inputs_slopes_are_those_of_the_module() -> None:
    _, judge = networks()
    first, second = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
                     for _ in range(2))
    usual, frozen = judge(first), frozen_forward(judge, second)
    assert torch.equal(usual, frozen)
    usual.square().sum().backward()
    before = {name: parameter.grad.clone()
              for name, parameter in judge.named_parameters() if parameter.grad is not None}
    frozen.square().sum().backward()
    assert torch.equal(first.grad, second.grad)
    assert all(torch.equal(parameter.grad, before[name]) for name, parameter in judge.named_parameters())
    assert all(parameter.requires_grad for parameter in judge.parameters())


def test_two_sides_of_a_game_in_one_backward_pass() -> None:
    """Each network gets the slopes that it would get alone."""
    images = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    maker, judge = networks()
    made = maker(images)
    (frozen_forward(judge, made).mean() + judge(made.detach()).square().mean()).backward()
    together = [parameter.grad for network in (maker, judge) for parameter in network.parameters()]
    maker, judge = networks()
    alone = torch.autograd.grad(judge(maker(images)).mean(), list(maker.parameters()))
    alone += torch.autograd.grad(judge(maker(images).detach()).square().mean(), list(judge.parameters()))
    for mine, reference in zip(together, alone, strict=True):
        torch.testing.assert_close(mine, reference)
