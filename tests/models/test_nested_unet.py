"""The Reg-to-Det transformer: the nodes of UNet++ are wired as published, VGG-16 reads densities, and any stride means
the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from crowddist.errors import InputError
from crowddist.models.config import LocaliserConfig
from crowddist.models.nested_unet import NestedUnet, build_localiser
from crowddist.ops.density import density_map
from tests.models.once import copies

WIDTHS = {"compact": (8, 16, 32, 64), "vgg16": (64, 128, 256, 512)}


def _built(backbone: str = "compact", seed: int = 0, **options: str) -> NestedUnet:
    torch.manual_seed(seed)
    return build_localiser(LocaliserConfig(backbone=backbone, **options))


_network = copies(_built)


def _density(*shape: int, seed: int = 1) -> torch.Tensor:
    return 0.01 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _vgg_state() -> dict[str, torch.Tensor]:
    """A random state_dict with torchvision's names, beyond the layers that are used."""
    from torchvision.models import vgg

    generator = torch.Generator().manual_seed(3)
    state = vgg.make_layers(vgg.cfgs["D"][:14]).state_dict()
    return {f"features.{key}": torch.rand(tensor.shape, generator=generator) for key, tensor in state.items()}


def _save(state: object, folder: Path) -> str:
    torch.save(state, folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (33, 31), (1, 1), (5, 100)])
def test_maps_of_densities_of_any_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        answer = _network()(_density(2, 1, *size), 1)
    assert answer.shape == (2, 1, *size) and answer.isfinite().all()


def test_vgg_end_to_end() -> None:
    with torch.no_grad():
        answer = _network("vgg16")(_density(1, 1, 21, 30), 2)
    assert answer.shape == (1, 1, 21, 30) and answer.isfinite().all() and answer.std() > 0


def _by_definition(network: NestedUnet, density: torch.Tensor) -> torch.Tensor:
    """X(i, j) from those it is made of, each evaluated again whenever it is needed; for sides that need no padding and
    a stride of 1.
    """

    def node(row: int, column: int) -> torch.Tensor:
        if column == 0:
            return network.blocks[row](density / 0.01 if row == 0 else functional.max_pool2d(node(row - 1, 0), 2))
        same = [node(row, earlier) for earlier in range(column)]
        below = functional.interpolate(node(row + 1, column - 1), scale_factor=2, mode="bilinear", align_corners=False)
        return network.nodes[f"{row}_{column}"](torch.cat([*same, below], 1))

    return network.answer(node(0, 3))


@pytest.mark.parametrize(("backbone", "size"), [("compact", (24, 40)), ("vgg16", (8, 16))])
def test_the_nodes_are_wired_as_in_the_definition(backbone: str, size: tuple[int, int]) -> None:
    network, density = _network(backbone), _density(2, 1, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(density, 1), _by_definition(network, density))


@pytest.mark.parametrize("backbone", WIDTHS)
def test_there_are_as_many_nodes_and_channels_as_published(backbone: str) -> None:
    network, widths = _network(backbone), WIDTHS[backbone]
    channels = {name: (node[0].in_channels, node[0].out_channels) for name, node in network.nodes.items()}
    assert channels == {f"{row}_{column}": (column * widths[row] + widths[row + 1], widths[row])
                        for row, column in ((0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 3))}
    assert network.answer.in_channels == widths[0] and network.answer.out_channels == 1
    convolutions = [[layer for layer in block.modules() if isinstance(layer, nn.Conv2d)] for block in network.blocks]
    assert [block[0].in_channels for block in convolutions] == [1, *widths[:3]]
    assert all(layer.out_channels == width for block, width in zip(convolutions, widths, strict=True)
               for layer in block)
    assert [layer.dilation for layer in convolutions[3]][-3:] == [(2, 2)] * 3
    assert sum(layer.dilation != (1, 1) for block in convolutions for layer in block) == 3


def test_vgg_reads_a_density_as_a_grey_image(tmp_path: Path) -> None:
    state = _vgg_state()
    network = _built("vgg16", weights=_save(state, tmp_path))
    first = network.blocks[0][0]
    assert first.weight.shape == (64, 1, 3, 3)
    torch.testing.assert_close(first.weight[:, 0], sum(state["features.0.weight"][:, colour] for colour in range(3)))
    assert torch.equal(first.bias, state["features.0.bias"])
    density = _density(1, 1, 8, 8)
    grey = functional.conv2d(density.expand(1, 3, 8, 8), state["features.0.weight"], state["features.0.bias"],
                             padding=1)
    torch.testing.assert_close(first(density), grey)
    convolutions = [layer for block in network.blocks for layer in block if isinstance(layer, nn.Conv2d)]
    names = [f"features.{index}" for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)]
    for name, layer in list(zip(names, convolutions, strict=True))[1:]:
        assert torch.equal(layer.weight, state[f"{name}.weight"]) and torch.equal(layer.bias, state[f"{name}.bias"])


def test_what_is_not_of_vgg_begins_as_published() -> None:
    network = _network("vgg16")
    for part in (network.nodes, network.answer, network.blocks[3][-1]):
        convolutions = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]
        drawn = torch.cat([layer.weight.flatten() for layer in convolutions])
        assert drawn.std().item() == pytest.approx(0.01, rel=0.2 if part is network.answer else 0.01)
        assert not any(layer.bias.any() for layer in convolutions)
    assert network.blocks[1][0].weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in _vgg_state().items() if key != "features.17.bias"}
    with pytest.raises(InputError, match=r"not of vgg16: features\.17\.bias is missing") as error:
        _built("vgg16", weights=_save(state, tmp_path))
    assert "\n" not in str(error.value)


def test_the_stride_makes_the_same_input_of_the_same_persons() -> None:
    network = _network()
    seen: list[torch.Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    fine = torch.full((1, 1, 32, 32), 0.02)
    with torch.no_grad():
        network(fine, 1)
        network(functional.avg_pool2d(fine, 2) * 4, 2)
        network(torch.full((1, 1, 8, 8), 0.02 * 64), 8)
        # A head of sigma 4 px peaks at about 1, whatever the stride.
        network(torch.tensor(density_map([[16, 16]], (32, 32), 4.0))[None, None], 1)
        network(torch.tensor(density_map([[8, 8]], (16, 16), 2.0))[None, None], 2)
    for constant in seen[:3]:
        torch.testing.assert_close(constant, torch.full_like(constant, 2.0))
    assert [one.max().item() for one in seen[3:]] == pytest.approx([1, 1], abs=0.03)


def test_padding_is_an_empty_street() -> None:
    network = _network()
    density = _density(2, 1, 13, 18)
    padded = torch.zeros(2, 1, 16, 24)
    padded[:, :, :13, :18] = density
    with torch.no_grad():
        torch.testing.assert_close(network(density, 1), network(padded, 1)[:, :, :13, :18])


@pytest.mark.parametrize("backbone", WIDTHS)
@pytest.mark.parametrize("seed", range(2))
def test_gradients_reach_every_parameter_and_the_density(backbone: str, seed: int) -> None:
    network, density = _network(backbone, seed), _density(2, 1, 16, 16).requires_grad_()
    (network(density, 1) - 1).square().sum().backward()
    silent = [name for name,
              parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not silent
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    assert density.grad is not None and density.grad.any()


@pytest.mark.parametrize("backbone", WIDTHS)
def test_equal_seeds_give_equal_bits_and_images_do_not_mind_each_other(backbone: str) -> None:
    first, second, other = (_built(backbone, seed) for seed in (1, 1, 2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.answer.weight, other.answer.weight)
    density = _density(2, 1, 16, 16)
    with torch.no_grad():
        whole = first(density, 1)
        assert torch.equal(whole, second(density, 1)) and torch.equal(whole, first(density, 1))
        torch.testing.assert_close(first(density[1:], 1), whole[1:])
