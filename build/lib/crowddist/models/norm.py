"""SyncBatchNorm2d: batch normalisation over the batch of all workers, so any number of workers computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MOMENTUM = 0.1  # ours: torch's default; running = 0.9 * running + 0.1 * batch.
EPSILON = 1e-5  # ours: torch's default, which torchvision's weights were trained with.


class SyncBatchNorm2d(nn.Module):
    """Batch normalisation with the statistics of the whole batch, however it is split over workers.

    In a torch.distributed group of several workers, sums travel once in the forward and once in the backward pass;
    otherwise it is torch's batch normalisation. torch.nn.SyncBatchNorm does the same, but on GPUs only. All workers
    must call it equally often and average their gradients (DistributedDataParallel). In eval mode or inside
    `frozen_norm` it uses the running statistics, leaves them unchanged, and nothing travels.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.channels, self.epsilon, self.frozen = channels, epsilon, False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape, normalised, scaled by `weight` and shifted by `bias`."""
        if self.uses_batch and _num_workers() > 1:
            # Sums over all workers' images need more digits than mixed precision has.
            output, mean, variance = _SyncedNorm.apply(images.to(self.weight.dtype), self.weight, self.bias,
                                                       self.epsilon)
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(variance, MOMENTUM)
            return output.to(images.dtype)
        return functional.batch_norm(images, self.running_mean, self.running_var, self.weight, self.bias,
                                     self.uses_batch, MOMENTUM, self.epsilon)

    @property
    def uses_batch(self) -> bool:
        """The next batch is normalised by its own statistics, not by the running ones."""
        return self.training and not self.frozen

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(channels,) each: factor and summand of images that the running statistics normalise."""
        scale = self.weight * (self.running_var + self.epsilon).rsqrt()
        return scale, self.bias - self.running_mean * scale


class _SyncedNorm(torch.autograd.Function):
    """Batch normalisation over all workers' images -> (normalised images, mean, unbiased variance)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor,
                epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        # On a CPU this takes a sixth of the time of torch.var_mean; its normalised images are not used.
        _, own_mean, own_inverse = torch.native_batch_norm(images, None, None, None, None, True, 0.0, epsilon)
        own_mean, own_var = own_mean.double(), own_inverse.double() ** -2 - epsilon
        own_size = torch.full_like(own_mean[:1], images.numel() // images.shape[1])
        sums = torch.cat([own_size, own_size * own_mean, own_size * (own_var + own_mean**2)])
        torch.distributed.all_reduce(sums)
        size = sums[0]
        mean, square = (sums[1:] / size).chunk(2)
        variance = (square - mean**2).clamp(min=0)
        kind = weight.dtype
        unbiased = (variance * size / (size - 1).clamp(min=1)).to(kind)
        mean, variance = mean.to(kind), variance.to(kind)
        ctx.save_for_backward(images, weight, mean, variance, size)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(mean, unbiased)
        return functional.batch_norm(images, mean, variance, weight, bias, False, 0.0, epsilon), mean, unbiased

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, slope: Tensor, *unused: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        images, weight, mean, variance, size = ctx.saved_tensors
        # With the statistics fixed: slope * weight / sd, and the sums over this worker's images.
        image_slope, weight_slope, bias_slope = torch.ops.aten.native_batch_norm_backward(
            slope, images, weight, mean, variance, None, None, False, ctx.epsilon, [True, True, True]
        )
        sums = torch.cat([weight_slope, bias_slope])
        torch.distributed.all_reduce(sums)
        of_weight, of_bias = (sums / size).to(weight.dtype).chunk(2)
        # The part through the statistics: (of_bias + (x - mean) / sd * of_weight) * weight / sd, linear in x.
        inverse = (variance + ctx.epsilon).rsqrt()
        rise = -weight * inverse.square() * of_weight
        level = -weight * inverse * of_bias - rise * mean
        channel = (slice(None), None, None)
        image_slope.addcmul_(images, rise[channel].to(images.dtype)).add_(level[channel].to(images.dtype))
        return image_slope, weight_slope, bias_slope, None


def _num_workers() -> int:
    group = torch.distributed
    return group.get_world_size() if group.is_available() and group.is_initialized() else 1


@contextmanager
def frozen_norm(module: nn.Module, *, frozen: bool = True) -> Iterator[None]:
    """Inside, if `frozen`, every SyncBatchNorm2d of `module` uses its running statistics and leaves them unchanged.

    For target images in a network that trains: gradients flow as usual, but the statistics of both domains do not mix.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, SyncBatchNorm2d)]
    before = [layer.frozen for layer in layers]
    for layer in layers:
        layer.frozen = layer.frozen or frozen
    try:
        yield
    finally:
        for layer, frozen in zip(layers, before, strict=True):
            layer.frozen = frozen


def sync_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d in `module` by a SyncBatchNorm2d with its weights and statistics; returns `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            layer = SyncBatchNorm2d(child.num_features, child.eps)
            layer.load_state_dict({key: tensor
                                   for key, tensor in child.state_dict().items() if key != "num_batches_tracked"})
            setattr(module, name, layer)
        else:
            sync_batch_norms(child)
    return module
