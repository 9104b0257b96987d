"""Normalise: what every network does first with a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE_MEAN = (0.485, 0.456, 0.406)  # C: the ImageNet statistics of torchvision's weights.
IMAGE_STD = (0.229, 0.224, 0.225)  # C


class Normalise(nn.Module):
    """Images in [0, 1] to zero mean and unit variance, padded at the right and the bottom."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor, multiple: int) -> Tensor:
        """(N, 3, H, W) images in [0, 1] -> the same, normalised, with sides that are multiples of `multiple`, channels last.

        Raises:
            ValueError: `images` is not a batch of RGB images.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"images must be (N, 3, H, W) and not empty, got shape {tuple(images.shape)}")
        height, width = images.shape[-2:]
        # Zeros after normalisation: the mean colour, which is what the convolutions pad with.
        padded = functional.pad((images - self.mean) / self.std, (0, -width % multiple, 0, -height % multiple))
        return padded.contiguous(memory_format=torch.channels_last)
