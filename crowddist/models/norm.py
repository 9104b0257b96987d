"""GroupedBatchNorm2d: batch normalisation over fixed groups of samples, the same on any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

MOMENTUM = 0.1  # ours: torch's default; running = 0.9 * running + 0.1 * batch.
EPSILON = 1e-5  # ours: torch's default, which torchvision's weights were trained with.


class GroupedBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics are taken over consecutive groups of `group` samples.

    Ranks that hold whole groups normalise exactly as one process with the whole batch. The running statistics move once per forward
    pass, by the mean over the groups, so their average over ranks equals those of one process. A batch that is no multiple of `group`
    has its last group take the rest; a batch smaller than `group` is one group. In eval mode, or inside `frozen_norm`, the running
    statistics are used and kept.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, group: int) -> None:
        super().__init__()
        if channels < 1 or group < 1:
            raise ValueError(f"channels and group must be at least 1, got {channels} and {group}")
        self.channels, self.group = channels, group
        self.frozen = False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape, normalised, scaled by `weight` and shifted by `bias`."""
        if not self.training or self.frozen:
            return functional.batch_norm(images, self.running_mean, self.running_var, self.weight, self.bias, False, MOMENTUM, EPSILON)
        num_groups = max(1, len(images) // self.group)
        # Each group moves its own copy; the mean of the copies is the running statistic moved by the mean over groups.
        means = self.running_mean.repeat(num_groups, 1)
        variances = self.running_var.repeat(num_groups, 1)
        sizes = [self.group] * (num_groups - 1) + [len(images) - self.group * (num_groups - 1)]
        outputs = [functional.batch_norm(part, means[index], variances[index], self.weight, self.bias, True, MOMENTUM, EPSILON)
                   for index, part in enumerate(images.split(sizes))]
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        return outputs[0] if num_groups == 1 else torch.cat(outputs)

    def extra_repr(self) -> str:
        return f"{self.channels}, group={self.group}"


@contextmanager
def frozen_norm(module: nn.Module) -> Iterator[None]:
    """Inside, every GroupedBatchNorm2d of `module` uses its running statistics and keeps them, whatever mode it is in.

    For images of another domain (the target) that pass through a network in training: gradients flow as usual, but neither their
    statistics nor the network's memory of the source's are mixed.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, GroupedBatchNorm2d)]
    before = [layer.frozen for layer in layers]
    for layer in layers:
        layer.frozen = True
    try:
        yield
    finally:
        for layer, frozen in zip(layers, before, strict=True):
            layer.frozen = frozen


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances inside `module`, to be averaged over ranks before they are used or stored.

    Each rank moves its own by the groups it saw; the average over ranks with equally many groups is what one process would hold.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, GroupedBatchNorm2d)]
    return [statistic for layer in layers for statistic in (layer.running_mean, layer.running_var)]


def group_batch_norms(module: nn.Module, group: int) -> nn.Module:
    """Replace every BatchNorm2d inside `module` by a GroupedBatchNorm2d with the same weights and statistics; returns `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            layer = GroupedBatchNorm2d(child.num_features, group)
            layer.load_state_dict({key: tensor for key, tensor in child.state_dict().items() if key != "num_batches_tracked"})
            setattr(module, name, layer)
        else:
            group_batch_norms(child, group)
    return module
