"""SpatialEncoder: passes over rows and columns that carry context across the whole image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL = 9  # C: kernels (1, 9) and (9, 1).


class SpatialEncoder(nn.Module):
    """The spatial encoder of SFCN: rows down then up with one convolution, then columns right then left with another.

    With f = convolution, then ReLU: `s_i = f(s_{i-1}) + x_i` forward, then `s_i = f(s_{i+1}) + s_i` backward.
    Source: Wang et al., Learning from Synthetic Data for Crowd Counting, CVPR 2019, kernels of its code (C).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.along_rows = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2)
        self.along_columns = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2)

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels, h, w) -> the same shape."""
        rows = _scan(features.permute(2, 0, 1, 3), self.along_rows)  # (h, N, channels, w)
        columns = _scan(rows.permute(3, 1, 2, 0), self.along_columns)  # (w, N, channels, h)
        return columns.permute(1, 2, 3, 0).contiguous()


def _scan(lines: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Both passes over the first axis of (lines, N, channels, length)."""
    # Contiguous lines: the convolution would copy a strided one at each step.
    states = list(lines.contiguous().unbind(0))
    for index in range(1, len(states)):
        states[index] = functional.relu(convolution(states[index - 1])) + states[index]
    for index in range(len(states) - 2, -1, -1):
        states[index] = functional.relu(convolution(states[index + 1])) + states[index]
    return torch.stack(states)
