"""The networks of semantic consistency: pyramid head, feature discriminator, segmenter, frozen passes, the upsampling
decoders.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crowddist.errors import InputError
from crowddist.models.backbones.base import HeadWidth
from crowddist.models.backbones.table import names_for
from crowddist.models.config import CounterConfig, DecoderName
from crowddist.models.counter import build_counter
from crowddist.models.discriminator import FeatureDiscriminator
from crowddist.models.frozen import frozen_forward
from crowddist.models.pyramid import PyramidHead
from crowddist.models.segmenter import build_segmenter, mask_cells


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(6, 8), (1, 1), (7, 3), (33, 20)])
@pytest.mark.parametrize("heads", ["small", "published"])
def test_masks_of_features_of_any_size(size: tuple[int, int], heads: HeadWidth) -> None:
    torch.manual_seed(0)
    logits = PyramidHead(16, heads)(random(2, 16, *size))
    assert logits.shape == (2, 1, *size) and logits.isfinite().all() and logits.abs().max() < 1, "undecided at first"


def test_every_cell_sees_the_whole_image() -> None:
    torch.manual_seed(0)
    head = PyramidHead(16, "small")
    features = random(1, 16, 30, 30).requires_grad_()
    head(features)[0, 0, 0, 0].backward()
    assert features.grad is not None and (features.grad[0].abs().sum(0) > 0).all()


def test_the_published_discriminator() -> None:
    network = FeatureDiscriminator(512, "published")
    convolutions = [layer for layer in network.layers if isinstance(layer, torch.nn.Conv2d)]
    assert ([layer.kernel_size for layer in convolutions] == [(4, 4)] * 4
            and [layer.stride for layer in convolutions] == [(2, 2)] * 4)
    assert network(random(1, 512, 30, 40)).shape == (1, 1, 1, 2)  # a crop of 480 x 640 at stride 16
    assert network(random(1, 512, 16, 16)).shape == (1, 1, 1, 1) and network.least_cells == 16
    with pytest.raises(ValueError, match="it needs 16 a side"):
        network(random(1, 512, 15, 40))
    assert FeatureDiscriminator(8, "small")(random(1, 8, 8, 8)).shape == (1, 1, 1, 1)


def test_frozen_passes_move_inputs_alone() -> None:
    torch.manual_seed(0)
    network = FeatureDiscriminator(4, "small")
    features = random(1, 4, 8, 8).requires_grad_()
    output = frozen_forward(network, features)
    assert torch.equal(output, network(features))
    output.sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_shares_of_cells_by_hand_and_against_loops() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.uint8)[None, None]
    # Cells of 2 x 2; the last ones reach beyond the mask, where nobody is.
    assert mask_cells(mask, (2, 2))[0, 0].tolist() == [[0.75, 0.0], [0.0, 0.25]]
    drawn = (random(2, 1, 33, 50) > 0.6).float()
    cells = mask_cells(drawn, (5, 7))
    naive = np.zeros((2, 1, 5, 7))
    for n, _, y, x in np.argwhere(drawn.numpy() == 1):
        naive[n, 0, y // 7, x // 8] += 1 / (7 * 8)
    np.testing.assert_allclose(cells.numpy(), naive, atol=1e-6)


def test_the_segmenter_shares_nothing_with_the_counter() -> None:
    torch.manual_seed(0)
    config = CounterConfig()
    counter, segmenter = build_counter(config), build_segmenter(config)
    assert segmenter(random(1, 3, 50, 70)).shape == (1, 1, 7, 9)
    assert not {id(one) for one in counter.parameters()} & {id(one) for one in segmenter.parameters()}


@pytest.mark.parametrize(("backbone", "channels"), [("vgg16_bn", 512), ("efficientnet_lite0", 112)])
@pytest.mark.parametrize("decoder", ["upsampling", "upsampling_large"])
def test_counters_with_an_upsampling_decoder_have_a_cell_a_pixel(
    decoder: DecoderName, backbone: str, channels: int
) -> None:
    torch.manual_seed(0)
    config = CounterConfig(backbone=backbone, decoder=decoder, ensemble="none", orientation=False)
    counter = build_counter(config).eval()
    assert counter.output_stride == 1 and counter.encoder.stride == 16
    with torch.no_grad():
        features = counter.encode(random(1, 3, 40, 33))
        density = counter.density(features)
    assert features.shape == (1, channels, 3, 3) and density.shape == (1, 1, 48, 48) and (density >= 0).all()
    kernels = [layer.kernel_size[0] for layer in counter.decoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert kernels == ([3, 3, 3, 3, 1] if decoder == "upsampling" else [1, 9, 7, 5, 3, 1])
    # The segmenter sees the same cells, and the usual decoder those of stride 8.
    assert build_segmenter(config)(random(1, 3, 40, 33)).shape == (1, 1, 3, 3)
    usual = build_counter(CounterConfig(backbone=backbone, ensemble="none", orientation=False))
    assert usual.output_stride == usual.encoder.stride == 8


@pytest.mark.parametrize("backbone", ["compact", "vgg16", "resnet50", "resnet101", "vgg16_bn_stride16"])
@pytest.mark.parametrize("decoder", ["upsampling", "upsampling_large"])
def test_a_backbone_without_features_for_upsampling_decoders_is_refused(backbone: str, decoder: DecoderName) -> None:
    message = (f"counter backbone behind an upsampling decoder is '{backbone}'; choose one of "
               f"{', '.join(names_for('upsampling'))}")
    with pytest.raises(InputError, match=f"^{message}$"):
        CounterConfig(backbone=backbone, decoder=decoder)
