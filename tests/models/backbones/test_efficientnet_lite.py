"""EfficientNet-Lite equals its definition layer by layer, and its folded normalisation what it folds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from crowddist.models.backbones.efficientnet_lite import NormedConvolution, depths, file_names, levels, widths
from crowddist.models.folding import fold_norms
from crowddist.models.norm import frozen_norm


def _moved(layer: NormedConvolution) -> NormedConvolution:
    """With statistics, scales and shifts that are not those of a new layer."""
    with torch.no_grad():
        for tensor in (layer.norm.running_mean, layer.norm.bias):
            tensor.normal_(std=0.3)
        for tensor in (layer.norm.running_var, layer.norm.weight):
            tensor.uniform_(0.5, 2.0)
    return layer


def _naive(layer: NormedConvolution, features: torch.Tensor) -> torch.Tensor:
    """Padded as TensorFlow says, convolved, normalised with epsilon 1e-3, clipped to 0..6."""
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    padding = []
    for side in (features.shape[3], features.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        padding += [total // 2, total - total // 2]
    convolved = functional.conv2d(functional.pad(features, padding), layer.conv.weight, None, stride, 0, 1,
                                  layer.conv.groups)
    norm = layer.norm
    normed = (convolved - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-3).sqrt()
    normed = normed * norm.weight[:, None, None] + norm.bias[:, None, None]
    return normed.clamp(0, 6) if layer.activated else normed


@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "groups"),
                         [(1, 1, 1), (3, 1, 8), (5, 1, 8), (3, 2, 8), (5, 2, 8), (3, 2, 1)])
def test_a_layer_equals_its_definition(kernel: int, stride: int, groups: int, activated: bool) -> None:
    torch.manual_seed(0)
    layer = _moved(NormedConvolution(8, 8, kernel, stride=stride, groups=groups, activated=activated)).eval()
    features = 3 * torch.randn(2, 8, 12, 10)
    expected = _naive(layer, features)
    torch.testing.assert_close(layer(features), expected)
    with torch.inference_mode():
        torch.testing.assert_close(fold_norms(layer)(features), expected)


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 8), (5, 2, 8)])
def test_gradients_of_the_folded_layer_are_those_of_its_definition(kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = _moved(NormedConvolution(8, 8, kernel, stride=stride, groups=groups)).train()
    features = (3 * torch.randn(2, 8, 12, 10)).requires_grad_()
    weights = [layer.conv.weight, layer.norm.weight, layer.norm.bias, features]
    slope = torch.randn(_naive(layer, features).shape)
    with frozen_norm(layer):
        folded = torch.autograd.grad((layer(features) * slope).sum(), weights)
    for own, naive in zip(folded, torch.autograd.grad((_naive(layer, features) * slope).sum(), weights), strict=True):
        torch.testing.assert_close(own, naive, rtol=1e-4, atol=1e-4)


def test_in_training_without_frozen_statistics_the_batch_normalises() -> None:
    torch.manual_seed(0)
    layer = NormedConvolution(4, 6, 1, activated=False).train()
    normed = layer(torch.randn(5, 4, 8, 8))
    torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-5)
    assert layer.norm.running_mean.abs().max() > 0


def test_widths_and_depths_are_those_of_the_publication() -> None:
    assert widths(1.0) == (16, 24, 40, 80, 112, 192, 320) and widths(1.1) == (16, 24, 48, 88, 120, 208, 352)
    assert (depths(1.0) == (1, 2, 2, 3, 3, 4, 1) and depths(1.1) == (1, 3, 3, 4, 4, 5, 1)
            and depths(1.2) == (1, 3, 3, 4, 4, 5, 1))


def test_lite0_has_as_many_parameters_as_its_file_without_the_head() -> None:
    """The file of ImageNet's weights has 4,652,008, of which the last 1x1 convolution, its norm and the classifier are
    not used.
    """
    made = nn.ModuleList(levels(1.0, 1.0, finest=8, coarsest=32))
    assert sum(parameter.numel()
               for parameter in made.parameters()) == 4_652_008 - 320 * 1280 - 2 * 1280 - 1280 * 1000 - 1000


def test_names_in_files() -> None:
    assert file_names("stem.conv.weight", 1.0) == ("_conv_stem.weight", "conv_stem.weight")
    assert file_names("stem.norm.running_var", 1.0) == ("_bn0.running_var", "bn1.running_var")
    assert file_names("block0.depthwise.norm.bias", 1.0) == ("_blocks.0._bn1.bias", "blocks.0.0.bn1.bias")
    assert file_names("block0.project.conv.weight", 1.0) == ("_blocks.0._project_conv.weight",
                                                             "blocks.0.0.conv_pw.weight")
    assert file_names("block3.expand.conv.weight", 1.0) == ("_blocks.3._expand_conv.weight",
                                                            "blocks.2.0.conv_pw.weight")
    assert file_names("block3.expand.conv.weight", 1.1)[1] == "blocks.1.2.conv_pw.weight"
    assert file_names("block15.project.norm.weight", 1.0) == ("_blocks.15._bn2.weight", "blocks.6.0.bn3.weight")
