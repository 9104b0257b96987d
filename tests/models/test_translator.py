"""CycleGAN's networks: any size, as published, and every parameter learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from crowddist.errors import InputError
from crowddist.models.config import TranslatorConfig
from crowddist.models.translator import PatchDiscriminator, Translator, build_translator

BACKBONES = ("compact", "published")


def make(backbone: Any = "compact", seed: int = 0) -> Translator:
    torch.manual_seed(seed)
    return build_translator(TranslatorConfig(backbone=backbone))


def images(*size: int, number: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(seed))


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (47, 96), (9, 8), (3, 40), (1, 1)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        shown = make().generators["target"](images(*size))
    assert shown.shape == (2, 3, *size) and shown.isfinite().all()
    assert (shown >= 0).all() and (shown <= 1).all()


def test_an_image_is_continued_by_its_last_pixels_where_it_ends() -> None:
    generator, odd = make().generators["target"], images(30, 41)
    whole = torch.nn.functional.pad(odd, (0, 3, 0, 2), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(generator(odd), generator(whole)[..., :30, :41])


def test_a_compact_generator_says_what_to_change_of_the_image() -> None:
    """Nothing to change gives the image, but for the very ends of the scale; the published one gives grey then. Their
    slopes stay finite.
    """
    shown = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16).requires_grad_()
    compact, published = (make(backbone).generators["target"] for backbone in BACKBONES)
    for generator in (compact, published):
        nn.init.zeros_(generator.layers[-1].weight)
    answer = compact(shown)
    torch.testing.assert_close(answer, shown, rtol=0, atol=0.0051)
    answer.sum().backward()
    assert shown.grad is not None and torch.allclose(shown.grad, torch.tensor(0.99), atol=1e-3)
    assert (published(shown) == 0.5).all()


def test_the_published_size_is_that_of_the_authors() -> None:
    """Their 11.378 and 2.765 million parameters, less the biases in front of a normalisation."""
    network = make("published")
    generator, discriminator = network.generators["target"], network.discriminators["target"]
    assert num_parameters(generator) + 64 + 128 + 256 + 18 * 256 + 128 + 64 == pytest.approx(11.378e6, abs=500)
    assert num_parameters(discriminator) + 128 + 256 + 512 == pytest.approx(2.765e6, abs=500)
    with torch.no_grad():
        assert generator(images(40, 52, number=1)).shape == (1, 3, 40, 52)
        assert discriminator(images(256, 256, number=1)).shape == (1, 1, 30, 30)


@pytest.mark.parametrize(("widths", "side"), [((64, 128, 256, 512), 70), ((24, 48, 96), 34)])
def test_patches_are_as_large_as_they_say(widths: tuple[int, ...], side: int) -> None:
    discriminator = PatchDiscriminator(widths=widths)
    for index, layer in enumerate(discriminator.layers):
        if isinstance(layer, nn.GroupNorm):
            discriminator.layers[index] = nn.Identity()  # through its statistics every answer sees the whole image
    seen = images(128, 128, number=1).requires_grad_()
    answer = discriminator(seen)
    answer[0, 0, answer.shape[2] // 2, answer.shape[3] // 2].backward()
    assert seen.grad is not None
    rows, columns = torch.nonzero(seen.grad[0].abs().sum(0), as_tuple=True)
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == side


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_learns(backbone: str) -> None:
    network, shown = make(backbone), images(64, 64)
    for domain in ("source", "target"):
        network.discriminators[domain](network.generators[domain](shown)).square().mean().backward()
    silent = [name for name,
              parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not silent


def test_weights_begin_as_published_and_follow_the_seed() -> None:
    network, twin, other = make("published"), make("published"), make("published", seed=1)
    weights = torch.cat([parameter.flatten()
                         for name, parameter in network.named_parameters() if name.endswith("weight")])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert not any(parameter.any() for name, parameter in network.named_parameters() if name.endswith("bias"))
    for name, value in network.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name])
    assert not torch.equal(next(network.parameters()), next(other.parameters()))
    assert not any("running" in name for name in network.state_dict()), "a translation is a function of its image alone"


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_do_not_mind_each_other(memory_format: torch.memory_format) -> None:
    """What a batch says and learns is the sum of what its images would alone, however they lie in memory."""
    network = make().double().to(memory_format=memory_format)
    pair = images(40, 40).double().to(memory_format=memory_format)

    def learnt(shown: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        network.zero_grad()
        made = network.generators["source"](shown)
        network.discriminators["source"](made).square().mean((1, 2, 3)).sum().backward()
        return made.detach(), [parameter.grad.clone()
                               for parameter in network.parameters() if parameter.grad is not None]

    together, alone = learnt(pair), [learnt(pair[index : index + 1]) for index in (0, 1)]
    torch.testing.assert_close(together[0], torch.cat([made for made, _ in alone]))
    for whole, *parts in zip(together[1], *(slopes for _, slopes in alone), strict=True):
        torch.testing.assert_close(whole, sum(parts))


def test_channels_are_normalised_image_by_image() -> None:
    """Without scale and shift, by the population's variance."""
    layer = next(layer for layer in make().generators["source"].layers if isinstance(layer, nn.GroupNorm))
    features = torch.rand(2, 16, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    mean, variance = features.mean((2, 3), keepdim=True), features.var((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(layer(features), (features - mean) / (variance + 1e-5).sqrt())
    assert not list(layer.parameters())


def test_another_size_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="translator backbone is 'huge'; choose one of compact, published"):
        TranslatorConfig(backbone="huge")  # type: ignore[arg-type]
