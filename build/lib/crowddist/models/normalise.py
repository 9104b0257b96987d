"""Normalise: the first step of every network that takes images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Normalise(nn.Module):
    """Images in [0, 1] to about zero mean and unit variance, padded at the right and the bottom.

    Args:
        mean: of red, green and blue, 0 to 1, as the pretrained weights expect
        std: their standard deviations, 0 to 1
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor, multiple: int) -> Tensor:
        """(N, 3, H, W) images, 0 to 1 -> the same, normalised, sides padded to multiples of `multiple`, channels last.

        Raises:
            ValueError: `images` is not a batch of RGB images.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"images must be (N, 3, H, W) and not empty, got shape {tuple(images.shape)}")
        height, width = images.shape[-2:]
        # Zeros after normalisation are the mean colour, as in the padding of the convolutions.
        padded = functional.pad((images - self.mean) / self.std, (0, -width % multiple, 0, -height % multiple))
        return padded.contiguous(memory_format=torch.channels_last)
