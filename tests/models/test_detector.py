"""The detector: three levels brought to stride 4, each of one length, and answers that begin unsure everywhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from crowddist.errors import InputError
from crowddist.models.config import DetectorConfig
from crowddist.models.detector import PRIOR, USUAL_SIZE_PX, Detector, build_detector
from crowddist.models.norm import SyncBatchNorm2d, frozen_norm
from tests.models.once import copies

LEVELS = {
    "compact": ((4, 8, 16), (64, 96, 128), 32, 64), "efficientnet_lite0": ((4, 8, 16), (24, 40, 112), 32, 64),
    "resnet50": ((8, 16, 16), (512, 1024, 2048), 256, 256),
}


def _built(backbone: str = "compact", seed: int = 0, **options: str) -> Detector:
    torch.manual_seed(seed)
    return build_detector(DetectorConfig(backbone=backbone, **options))


_network = copies(_built)


def _images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _resnet_state() -> dict[str, torch.Tensor]:
    """A state_dict with torchvision's names; every tensor is full of a number of its own."""
    from torchvision.models import resnet50

    with torch.device("meta"):
        shapes = {key: tensor.shape
                  for key, tensor in resnet50().state_dict().items() if not key.endswith("num_batches_tracked")}
    return {key: torch.tensor(index / 1000).expand(shape) for index, (key, shape) in enumerate(shapes.items(), 1)}


def _save(state: object, folder: Path) -> str:
    torch.save(state, folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("backbone", ["compact", "efficientnet_lite0"])
@pytest.mark.parametrize("size", [(64, 64), (50, 70), (33, 31), (1, 1), (5, 100)])
def test_maps_of_images_of_any_size(size: tuple[int, int], backbone: str) -> None:
    cells = (-(-size[0] // 4), -(-size[1] // 4))
    with torch.no_grad():
        maps = _network(backbone)(_images(2, 3, *size))
    assert [part.shape for part in maps] == [(2, 1, *cells), (2, 1, *cells), (2, 2, *cells)]
    assert all(part.isfinite().all() for part in maps)


@pytest.mark.parametrize("backbone", LEVELS)
def test_levels_have_their_strides_and_join_at_stride_4_with_one_length(backbone: str) -> None:
    network = _network(backbone)
    strides, widths, level_channels, head_channels = LEVELS[backbone]
    levels: list[torch.Tensor] = []
    joined: list[torch.Tensor] = []
    for level in network.encoder.levels:
        level.register_forward_hook(lambda module, inputs, output: levels.append(output))
    network.join.register_forward_pre_hook(lambda module, inputs: joined.append(inputs[0]))
    with torch.no_grad():
        maps = network(_images(2, 3, 35, 44))  # padded to 48 x 48
    assert [level.shape for level in levels] == [(2, width, 48 // stride, 48 // stride)
                                                 for width, stride in zip(widths, strides, strict=True)]
    assert joined[0].shape == (2, 3 * level_channels, 12, 12) and network.join[0].out_channels == head_channels
    torch.testing.assert_close(joined[0].unflatten(1, (3, level_channels)).norm(dim=2),
                               torch.full((2, 3, 12, 12), 10.0))
    assert [part.shape for part in maps] == [(2, 1, 9, 11), (2, 1, 9, 11), (2, 2, 9, 11)]


def test_the_lengths_are_learnt_channel_by_channel() -> None:
    network = _network()
    joined: list[torch.Tensor] = []
    network.join.register_forward_pre_hook(lambda module, inputs: joined.append(inputs[0]))
    with torch.no_grad():
        network.eval()(_images(1, 3, 32, 32))
        network.lengths[1, 5] = 30.0
        network(_images(1, 3, 32, 32))
    factors = torch.ones(96)
    factors[32 + 5] = 3.0
    torch.testing.assert_close(joined[1], joined[0] * factors[:, None, None])


def test_the_fifth_stage_of_resnet_is_dilated_in_the_place_of_its_stride() -> None:
    levels = _network("resnet50").encoder.levels
    assert all(layer.stride == (1, 1) for layer in levels[2].modules() if isinstance(layer, nn.Conv2d))
    # torchvision's stride is that of the first block's own 3x3 convolution, which sees what it always saw; those behind
    # it see twice as densely.
    assert [block.conv2.dilation for block in levels[2].layer4] == [(1, 1), (2, 2), (2, 2)]
    assert all(layer.dilation == (1, 1) for level in levels[:2]
               for layer in level.modules() if isinstance(layer, nn.Conv2d))
    assert [len(levels[1].layer3), len(levels[2].layer4)] == [6, 3]


@pytest.mark.parametrize("backbone", LEVELS)
def test_every_batch_norm_is_synchronised(backbone: str) -> None:
    network = _network(backbone)
    assert any(isinstance(layer, SyncBatchNorm2d) for layer in network.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize("backbone", LEVELS)
def test_the_first_answers_are_the_prior_and_gradients_reach_every_parameter(backbone: str) -> None:
    network = _network(backbone)
    maps = network(_images(2, 3, 40, 64))
    assert network.centre.bias.sigmoid().item() == pytest.approx(PRIOR) == pytest.approx(0.01)
    assert PRIOR / 2 < maps.logits.sigmoid().mean().item() < 2 * PRIOR and maps.logits.sigmoid().max() < 5 * PRIOR
    assert USUAL_SIZE_PX / 2 < maps.log_size.mean().exp().item() < 2 * USUAL_SIZE_PX and maps.log_size.min() > 0
    sum(part.square().sum() for part in maps).backward()
    silent = [name for name,
              parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not silent
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_no_head_is_larger_than_2048_px() -> None:
    network = _network().eval()
    with torch.no_grad():
        network.size.bias.fill_(1000.0)
        assert network(_images(1, 3, 32, 32)).log_size.max().item() == pytest.approx(math.log(2048))


def test_statistics_are_the_batch_s_only_in_training() -> None:
    network, images = _network(), _images(3, 3, 32, 48)
    before = {name: value.clone() for name, value in network.named_buffers()}
    assert before
    with torch.no_grad():
        rested = network.eval()(images)
        for index in range(3):
            for whole, alone in zip(rested, network(images[index:index + 1]), strict=True):
                torch.testing.assert_close(whole[index], alone[0])
        with frozen_norm(network.train()):
            assert all(torch.equal(left, right) for left, right in zip(network(images), rested, strict=True))
        assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
        together, alone = network(images), network(images[:1])
    assert not torch.allclose(together.logits[:1], alone.logits, atol=1e-3)
    assert all(not torch.equal(layer.running_mean, torch.zeros(layer.channels))
               for layer in network.modules() if isinstance(layer, SyncBatchNorm2d))


def test_padding_is_the_mean_colour() -> None:
    network = _network().eval()
    images = _images(2, 3, 21, 27)
    padded = network.encoder.normalise.mean.expand(2, 3, 32, 32).clone()
    padded[:, :, :21, :27] = images
    with torch.no_grad():
        for part, whole in zip(network(images), network(padded), strict=True):
            torch.testing.assert_close(part, whole[:, :, :6, :7])


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(0, 3, 8, 8)])
def test_what_is_no_batch_of_images_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images must be"):
        _network()(images)


@pytest.mark.parametrize("backbone", LEVELS)
def test_equal_seeds_give_equal_bits(backbone: str) -> None:
    first, second, other = (_built(backbone, seed).eval() for seed in (1, 1, 2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.centre.weight, other.centre.weight)
    with torch.no_grad():
        for left, right in zip(first(_images(1, 3, 20, 20)), second(_images(1, 3, 20, 20)), strict=True):
            assert torch.equal(left, right)


@pytest.mark.parametrize("classifier", [True, False])
def test_the_weights_of_a_file_are_loaded(tmp_path: Path, classifier: bool) -> None:
    state = {key: tensor for key, tensor in _resnet_state().items() if classifier or not key.startswith("fc.")}
    network = _built("resnet50", weights=_save(state, tmp_path))
    stem, fourth, fifth = network.encoder.levels
    assert torch.equal(stem.conv1.weight, state["conv1.weight"])
    assert torch.equal(stem.bn1.running_var, state["bn1.running_var"])
    parts = {"layer1": stem.layer1, "layer2": stem.layer2, "layer3": fourth.layer3, "layer4": fifth.layer4}
    loaded = {f"{part}.{key}": tensor for part, module in parts.items() for key, tensor in module.state_dict().items()}
    assert len(loaded) == sum(key.startswith("layer") for key in state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())


@pytest.mark.parametrize(("change", "message"), [
    ({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)},
     r"layer1\.0\.conv1\.weight has shape \(64, 64, 3, 3\), not \(64, 64, 1, 1\)"),
    ({"layer4.2.conv3.weight": None}, r"layer4\.2\.conv3\.weight is missing"),
])
def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path: Path, change: dict[str, torch.Tensor | None],
                                                                 message: str) -> None:
    state = {key: tensor for key, tensor in {**_resnet_state(), **change}.items() if tensor is not None}
    with pytest.raises(InputError, match=f"not of resnet50: {message}") as error:
        _built("resnet50", weights=_save(state, tmp_path))
    assert "\n" not in str(error.value)


def _run_checkpoint(networks: dict[str, torch.nn.Module], folder: Path) -> str:
    """As a run's checkpoint holds them."""
    state = {f"{name}.{key}": tensor for name, network in networks.items()
             for key, tensor in network.state_dict().items()}
    return _save({"format": 1, "method": {"networks": state}}, folder)


def test_a_detector_starts_from_what_a_run_has_trained(tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = _network("compact")
    place = _run_checkpoint({"detector": trained, "regressor": torch.nn.Linear(2, 2)}, tmp_path)
    torch.manual_seed(2)
    for name, value in _built("compact", weights=place).state_dict().items():
        assert torch.equal(value, trained.state_dict()[name])


def test_a_checkpoint_of_another_detector_is_refused_in_one_line(tmp_path: Path) -> None:
    cases = [
        ("resnet50", {"detector": _network("compact")}, "holds a detector of another architecture"),
        ("compact", {"regressor": torch.nn.Linear(2, 2)}, "holds no detector; give one of a run"),
    ]
    for backbone, networks, message in cases:
        with pytest.raises(InputError, match=message) as error:
            _built(backbone, weights=_run_checkpoint(networks, tmp_path))
        assert "\n" not in str(error.value)
    # What no run has written is read as a file of the encoder's weights.
    contents = [
        (torch.nn.Linear(2, 2).state_dict(), r"are not of compact: 0\.0\.weight is missing"),
        ({"method": {}}, "hold no state_dict"),
        ({"method": {"networks": torch.zeros(1)}}, "hold no state_dict"),
    ]
    for content, message in contents:
        with pytest.raises(InputError, match=message) as error:
            _built("compact", weights=_save(content, tmp_path))
        assert "\n" not in str(error.value)


def test_a_compact_detector_takes_a_file_of_its_encoder_alone(tmp_path: Path) -> None:
    other, same_seed = _network("compact", 1), _network("compact", 2)
    place = _save({"state_dict": other.encoder.state_dict()}, tmp_path)
    network = _built("compact", 2, weights=place)
    for name, value in network.encoder.levels.state_dict().items():
        assert torch.equal(value, other.encoder.levels.state_dict()[name])
    assert torch.equal(network.centre.weight, same_seed.centre.weight)


def test_a_checkpoint_of_version_0_1_has_the_levels_in_the_detector_itself(tmp_path: Path) -> None:
    trained, images = _network("compact", 1), _images(2, 3, 35, 44)
    with torch.no_grad():
        trained(images)  # statistics that are not those of a new network
        expected = trained.eval()(images)
    former = {name.replace("encoder.levels.", "levels."): value for name, value in trained.state_dict().items()}
    assert former.keys() != trained.state_dict().keys()
    prefixed = {f"detector.{name}": value for name, value in former.items()}
    place = _save({"method": {"networks": prefixed}}, tmp_path)
    resumed, started = _network("compact", 2), _built("compact", 3, weights=place)
    nn.ModuleDict({"detector": resumed}).load_state_dict(prefixed)
    for network in (resumed, started):
        for name, value in network.state_dict().items():
            assert torch.equal(value, trained.state_dict()[name])
        with torch.no_grad():
            assert all(torch.equal(left, right) for left, right in zip(network.eval()(images), expected, strict=True))
