"""The scans of the spatial encoder equal the loops of the formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from crowddist.models.spatial import SpatialEncoder


def _both_ways(lines: list[torch.Tensor], passed: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    for index in range(1, len(lines)):
        lines[index] = functional.relu(passed(lines[index - 1])) + lines[index]
    for index in range(len(lines) - 2, -1, -1):
        lines[index] = functional.relu(passed(lines[index + 1])) + lines[index]
    return lines


def _line_by_line(encoder: SpatialEncoder, features: torch.Tensor) -> torch.Tensor:
    """The formula on lines of the unchanged layout, with the encoder's own convolutions."""
    rows = [features[:, :, index].contiguous() for index in range(features.shape[2])]
    features = torch.stack(_both_ways(rows, encoder.along_rows), 2)
    columns = [features[:, :, :, index].contiguous() for index in range(features.shape[3])]
    return torch.stack(_both_ways(columns, encoder.along_columns), 3)


def _as_published(encoder: SpatialEncoder, features: torch.Tensor) -> torch.Tensor:
    """Maps one line high, or wide, and two-dimensional convolutions with (1, 9) and (9, 1) kernels."""

    def passed_row(row: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(row, encoder.along_rows.weight[:, :, None], encoder.along_rows.bias, padding=(0, 4))

    def passed_column(column: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(column, encoder.along_columns.weight[..., None], encoder.along_columns.bias,
                                 padding=(4, 0))

    features = torch.cat(_both_ways(list(features.split(1, 2)), passed_row), 2)
    return torch.cat(_both_ways(list(features.split(1, 3)), passed_column), 3)


def test_a_case_by_hand() -> None:
    encoder = SpatialEncoder(1)
    for convolution in (encoder.along_rows, encoder.along_columns):
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    with torch.no_grad():
        encoder.along_rows.weight[0, 0, 4] = 1.0
    # Down: 1, 1 + 2 = 3, 3 + 3 = 6. Up: 6, 6 + 3 = 9, 9 + 1 = 10. The columns' convolution adds nothing.
    assert encoder(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)).flatten().tolist() == [10, 9, 6]


SHAPES = [(1, 64, 12, 16), (3, 64, 9, 5), (2, 8, 1, 1), (2, 8, 1, 7), (1, 8, 6, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_the_loop_bit_for_bit(shape: tuple[int, int, int, int], memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    encoder = SpatialEncoder(shape[1])
    features = torch.randn(shape).to(memory_format=memory_format)
    with torch.no_grad():
        assert torch.equal(encoder(features), _line_by_line(encoder, features))


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_published_form(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    encoder = SpatialEncoder(shape[1]).double()
    features = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(features), _as_published(encoder, features), atol=1e-12, rtol=1e-12)


def test_context_crosses_the_whole_map() -> None:
    torch.manual_seed(0)
    encoder = SpatialEncoder(4)
    features = torch.rand(1, 4, 8, 8, requires_grad=True)
    encoder(features)[0, :, 0, 0].sum().backward()
    assert features.grad is not None and features.grad[0, :, 7, 7].abs().sum() > 0


def test_the_gradient_is_right() -> None:
    torch.manual_seed(0)
    encoder = SpatialEncoder(2).double()
    torch.autograd.gradcheck(encoder, torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True))
