"""The regressor: the published features meet at every place, hear each other as published, and give a density that can
learn.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from crowddist.errors import InputError
from crowddist.models.config import RegressorConfig
from crowddist.models.dssinet import INITIAL_DENSITY, Dssinet, MessagePassing, build_dssinet
from crowddist.models.norm import SyncBatchNorm2d
from tests.models.once import copies

BACKBONES = ("compact", "efficientnet_lite0", "vgg16")
# C: channels of the features that meet, from fine to coarse.
MEETINGS = [[128, 64], [256, 128, 64], [512, 256, 128], [512, 256], [512]]


def _built(backbone: str = "compact", seed: int = 0, **options: str) -> Dssinet:
    torch.manual_seed(seed)
    return build_dssinet(RegressorConfig(backbone=backbone, **options))


_network = copies(_built)


def _images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _vgg_state() -> dict[str, torch.Tensor]:
    """A state_dict with torchvision's names, all of VGG-16's convolutions; every tensor is full of a number of its
    own.
    """
    from torchvision.models import vgg

    state = vgg.make_layers(vgg.cfgs["D"]).state_dict()
    return {f"features.{key}": torch.tensor(index / 1000).expand(tensor.shape)
            for index, (key, tensor) in enumerate(state.items(), 1)}


def _save(state: object, folder: Path) -> str:
    torch.save(state, folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("backbone", ["compact", "efficientnet_lite0"])
@pytest.mark.parametrize("size", [(64, 64), (50, 70), (33, 31), (1, 1), (5, 100)])
def test_maps_of_images_of_any_size(size: tuple[int, int], backbone: str) -> None:
    network = _network(backbone)
    with torch.no_grad():
        density = network(_images(2, 3, *size))
    assert density.shape == (2, 1, -(-size[0] // 2), -(-size[1] // 2))
    assert density.isfinite().all() and density.min() >= 0


def test_vgg_gives_a_cell_a_pixel() -> None:
    network = _network("vgg16")
    with torch.no_grad():
        density = network(_images(1, 3, 19, 38))
    assert density.shape == (1, 1, 19, 38) and density.isfinite().all() and density.min() >= 0


def test_no_weights_make_a_negative_density() -> None:
    network = _network().eval()
    with torch.no_grad():
        network.decoders[0][-1].bias.fill_(-3.0)
        assert network(_images(1, 3, 32, 32)).min() >= 0


@pytest.mark.parametrize(("backbone", "stride"), [("compact", 2), ("efficientnet_lite0", 2), ("vgg16", 1)])
def test_the_output_stride_is_told(backbone: str, stride: int) -> None:
    assert _network(backbone).output_stride == RegressorConfig(backbone=backbone).output_stride == stride


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(0, 3, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images must be"):
        _network()(images)


def test_the_published_features_meet_at_the_published_resolutions() -> None:
    network = _network("vgg16")
    for place, channels in enumerate(MEETINGS):
        first, _, last = network.decoders[place]
        assert (first.in_channels, first.out_channels, first.kernel_size) == (sum(channels), 128, (1, 1))
        assert (last.in_channels, last.out_channels, last.kernel_size) == (128, 1, (3, 3))
        if len(channels) > 1:
            pairs = {name: (layer.in_channels, layer.out_channels)
                     for name, layer in network.messages[place].weights.items()}
            assert pairs == {f"{j}_to_{i}": (channels[j], channels[i]) for i in range(len(channels))
                             for j in range(len(channels)) if i != j}
    assert [decoder[0].in_channels for decoder in network.decoders] == [192, 448, 896, 768, 512]
    shapes: list[torch.Size] = []
    for decoder in network.decoders:
        decoder.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape))
    with torch.no_grad():
        network(_images(1, 3, 32, 16))
    # The coarsest decoder speaks first.
    assert shapes == [(1, sum(MEETINGS[place]), 32 >> place, 16 >> place) for place in (4, 3, 2, 1, 0)]


def _by_hand(network: Dssinet, images: torch.Tensor) -> torch.Tensor:
    """The network, feature by feature, for images whose sides need no padding."""

    def resized(maps: torch.Tensor, scale: float) -> torch.Tensor:
        return functional.interpolate(maps, scale_factor=scale, mode="bilinear", align_corners=False)

    normalise = network.encoder.normalise
    once = (images - normalise.mean) / normalise.std
    twice, half = resized(once, 2.0), resized(once, 0.5)
    first, second, third, fourth = network.encoder.levels
    twice = second(first(twice, 0).relu(), 0)
    a = network.messages[0]([twice, first(once, 1)])
    b = network.messages[1]([third(a[0], 0), second(a[1], 1), first(half, 2)])
    c = network.messages[2]([fourth(b[0], 0), third(b[1], 1), second(b[2], 2)])
    d = network.messages[3]([fourth(c[1], 1), third(c[2], 2)])
    e = fourth(d[1], 2).relu()
    density = network.density_activation(network.decoders[4](e))
    for place, features in ((3, d), (2, c), (1, b)):
        density = network.density_activation(network.decoders[place](torch.cat(features, 1))
                                             + network.corrections[place](resized(density, 2.0)))
    return network.activation(network.decoders[0](torch.cat(a, 1)) + network.corrections[0](resized(density, 2.0)))


@pytest.mark.parametrize(("backbone", "size"), [
    ("compact", (32, 64)), ("efficientnet_lite0", (32, 64)), ("vgg16", (16, 32)),
])
def test_the_network_equals_its_definition(backbone: str, size: tuple[int, int]) -> None:
    network, images = _network(backbone).eval(), _images(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(images), _by_hand(network, images))


def test_padding_is_the_mean_colour_and_is_not_counted() -> None:
    network = _network().eval()
    images = _images(2, 3, 21, 27)
    padded = network.encoder.normalise.mean.expand(2, 3, 32, 32).clone()
    padded[:, :, :21, :27] = images
    with torch.no_grad():
        density, whole = network(images), network(padded)
    torch.testing.assert_close(density, whole[:, :, :11, :14])
    assert (density.sum((1, 2, 3)) < 0.8 * whole.sum((1, 2, 3))).all()


def test_messages_by_hand() -> None:
    passing = MessagePassing([1, 1])
    with torch.no_grad():
        for name, weight in (("1_to_0", 0.5), ("0_to_1", -1.0)):
            passing.weights[name].weight.fill_(weight)
            passing.weights[name].bias.zero_()
        heard = passing([torch.full((1, 1, 1, 1), 1.0), torch.full((1, 1, 1, 1), 2.0)])
    # First 1 + 0.5 * 2 = 2 and 2 - 0.25 * 1 = 1.75 at the same time, then 2 + 0.5 * 1.75 and 1.75 - 0.25 * 2.
    assert [feature.item() for feature in heard] == [2.875, 1.25]


@pytest.mark.parametrize("channels", [(3, 2), (4, 3, 2)])
def test_messages_equal_the_loop(channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    passing = MessagePassing(channels).double()
    features = [torch.randn(2, width, 3, 4, dtype=torch.float64) for width in channels]
    expected = [feature.clone() for feature in features]
    with torch.no_grad():
        passing.activation.weight.fill_(0.1)
        for _ in range(2):
            before = [feature.clone() for feature in expected]
            for i in range(len(channels)):
                for image, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(3),
                                                               torch.arange(4)).tolist():
                    at = (image, slice(None), row, column)
                    message = torch.zeros(channels[i], dtype=torch.float64)
                    for j in range(len(channels)):
                        if j != i:
                            layer = passing.weights[f"{j}_to_{i}"]
                            message += layer.weight[:, :, 0, 0] @ before[j][at] + layer.bias
                    expected[i][at] = (before[i][at] + torch.where(message > 0, message, 0.1 * message)).clamp(min=0)
        for heard, right in zip(passing(features), expected, strict=True):
            torch.testing.assert_close(heard, right)


def test_messages_have_right_gradients() -> None:
    torch.manual_seed(0)
    passing = MessagePassing((2, 1)).double()
    features = [torch.randn(1, width, 2, 2, dtype=torch.float64, requires_grad=True) for width in (2, 1)]
    assert torch.autograd.gradcheck(lambda *inputs: tuple(passing(inputs)), features)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_last_two_layers_are_the_convolutions_of_the_decoders(backbone: str) -> None:
    network = _network(backbone)
    convolutions = [layer for name,
                    layer in network.named_modules() if name.startswith("decoders.") and isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 5 * 2
    expected = {id(parameter) for layer in convolutions for parameter in (layer.weight, layer.bias)}
    tuned = network.last_two_layers()
    assert len(tuned) == len(expected) == 20 and {id(parameter) for parameter in tuned} == expected


@pytest.mark.parametrize("backbone", ["compact", "vgg16"])
@pytest.mark.parametrize("seed", range(3))
def test_the_first_density_is_small_and_gradients_reach_every_parameter(backbone: str, seed: int) -> None:
    network = _network(backbone, seed)
    density = network(_images(2, 3, 32, 32))
    per_px = density.mean().item() / network.output_stride**2
    assert INITIAL_DENSITY / 2 < per_px < 2 * INITIAL_DENSITY
    density.square().sum().backward()
    silent = [name for name,
              parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not silent
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("weights", ["none", "imagenet"])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_reach_every_parameter_of_an_efficientnet_too(seed: int, weights: str) -> None:
    """How small its first density is depends on the seed more than that of the others does."""
    network = _built("efficientnet_lite0", seed, weights=weights)
    density = network(_images(2, 3, 32, 32))
    assert density.isfinite().all() and density.min() > 0
    density.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_each_size_has_statistics_of_its_own_and_only_in_training() -> None:
    network = _network()
    before = {name: value.clone() for name, value in network.named_buffers()}
    images = _images(2, 3, 32, 32)
    with torch.no_grad():
        together = network.eval()(images)
        torch.testing.assert_close(torch.cat([network(image[None]) for image in images]), together)
        assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
        network.train()(images)
    for block in network.encoder.levels:
        for norms in block.norms:
            means = torch.stack([norm.running_mean for norm in norms])
            assert all(isinstance(norm, SyncBatchNorm2d) for norm in norms) and len(means) == 3
            assert means.any(1).all() and not any(torch.equal(means[i], means[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_equal_seeds_give_equal_bits(backbone: str) -> None:
    first, second, other = (_built(backbone, seed) for seed in (1, 1, 2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert any(not torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())
    with torch.no_grad():
        assert torch.equal(first(_images(2, 3, 20, 20)), second(_images(2, 3, 20, 20)))


def test_the_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    state = _vgg_state()
    network = _built("vgg16", weights=_save(state, tmp_path))
    levels = network.encoder.levels
    convolutions = [layer for block in levels for layer in block if isinstance(layer, nn.Conv2d)]
    names = [f"features.{index}" for index in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)]
    for name, layer in zip(names, convolutions, strict=True):
        assert torch.equal(layer.weight, state[f"{name}.weight"]) and torch.equal(layer.bias, state[f"{name}.bias"])


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not of vgg16: features\.2\.weight is missing") as error:
        _built("vgg16", weights=_save({"features.0.weight": torch.zeros(64, 3, 3, 3),
                                         "features.0.bias": torch.zeros(64)}, tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        _built("vgg16", weights=str(tmp_path / "nowhere.pth"))


def test_a_checkpoint_of_version_0_1_has_the_levels_in_the_regressor_itself(tmp_path: Path) -> None:
    trained, images = _network("compact", 1), _images(2, 3, 35, 44)
    with torch.no_grad():
        trained(images)  # statistics that are not those of a new network
        expected = trained.eval()(images)
    former = {name.replace("encoder.levels.", "blocks."): value for name, value in trained.state_dict().items()}
    assert former.keys() != trained.state_dict().keys()
    prefixed = {f"regressor.{name}": value for name, value in former.items()}
    place = _save({"method": {"networks": prefixed}}, tmp_path)
    resumed, started = _network("compact", 2), _built("compact", 3, weights=place)
    nn.ModuleDict({"regressor": resumed}).load_state_dict(prefixed)
    for network in (resumed, started):
        for name, value in network.state_dict().items():
            assert torch.equal(value, trained.state_dict()[name])
        with torch.no_grad():
            assert torch.equal(network.eval()(images), expected)
