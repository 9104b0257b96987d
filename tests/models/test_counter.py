"""The counter takes images of any size, and all members at once equal the members one by one."""

from __future__ import annotations

import pytest
import torch

from crowddist.models.config import CounterConfig
from crowddist.models.counter import Counter, build_counter
from crowddist.models.norm import frozen_norm


def _counter(seed: int = 0, **options: object) -> Counter:
    torch.manual_seed(seed)
    return build_counter(CounterConfig(**options))


def _images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _trained(counter: Counter) -> Counter:
    """With running statistics and densities that differ from place to place, as after training."""
    with torch.no_grad():
        for _ in range(3):
            counter(_images(4, 3, 40, 48), counter.member_indexes(torch.arange(4)))
        last = counter.decoder.rest[-2]
        last.weight.mul_(10)
    return counter.eval()


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (40, 71), (9, 17), (8, 8), (1, 1), (7, 100)])
def test_maps_of_images_of_any_size(size: tuple[int, int]) -> None:
    counter = _counter().eval()
    height, width = -(-size[0] // 8), -(-size[1] // 8)
    with torch.no_grad():
        features = counter.encode(_images(2, 3, *size))
        assert features.shape == (2, 96, height, width)
        assert counter.density(features, torch.tensor([0, 2])).shape == (2, 1, height, width)
        assert counter.members(features).shape == (3, 2, 1, height, width)
        assert counter.orientation(features).shape == (2, 2)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "vgg16", "vgg16_bn", "resnet50", "resnet101"])
def test_the_other_backbones_end_to_end(backbone: str) -> None:
    counter = _counter(backbone=backbone, num_masks=2).eval()
    with torch.no_grad():
        features = counter.encode(_images(2, 3, 33, 40))
        maps = counter.members(features)
        assert maps.shape == (2, 2, 1, 5, 5) and maps.isfinite().all() and maps.min() >= 0
        for member in range(2):
            assert torch.equal(maps[member], counter.density(features, torch.full((2,), member)))
        assert counter.orientation(features).shape == (2, 2)


def test_padding_is_the_mean_colour_at_the_right_and_the_bottom() -> None:
    counter = _trained(_counter(ensemble="none"))
    images = _images(1, 3, 20, 27)
    padded = counter.encoder.normalise.mean.expand(1, 3, 24, 32).clone()
    padded[:, :, :20, :27] = images
    with torch.no_grad():
        torch.testing.assert_close(counter(images), counter(padded))


def test_images_are_normalised_inside() -> None:
    counter = _counter().eval()
    seen: list[torch.Tensor] = []
    counter.encoder.levels[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    counter.encode(torch.tensor([0.0, 0.5, 1.0])[:, None, None].expand(1, 3, 8, 8))
    expected = [(0.0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1.0 - 0.406) / 0.225]
    torch.testing.assert_close(seen[0][0, :, 3, 4], torch.tensor(expected))


@pytest.mark.parametrize("num_masks", [1, 3, 5])
def test_all_members_equal_full_forwards_bit_for_bit(num_masks: int) -> None:
    counter = _trained(_counter(num_masks=num_masks))
    images = _images(2, 3, 72, 56)
    with torch.no_grad():
        together = counter.members(counter.encode(images))
        separate = torch.stack([counter(images, torch.full((2,), member)) for member in range(num_masks)])
    assert torch.equal(together, separate)
    assert (torch.equal(together.mean(0), separate.mean(0))
            and torch.equal(together.std(0, correction=0), separate.std(0, correction=0)))
    if num_masks > 1:
        assert together.std(0).min() > 0


def test_each_sample_has_its_own_mask() -> None:
    counter = _trained(_counter())
    images = _images(1, 3, 40, 40).expand(3, -1, -1, -1)
    with torch.no_grad():
        mixed = counter(images, torch.tensor([2, 0, 1]))
        every = counter.members(counter.encode(images[:1]))[:, 0]
    torch.testing.assert_close(mixed, every[[2, 0, 1]])


def test_a_checkpoint_reloads_into_a_counter_of_another_seed_and_masks() -> None:
    first, second = _trained(_counter()), _counter(seed=7).eval()
    second.masks.masks.copy_(first.masks.masks.flip(1))
    features = first.encode(_images(1, 3, 40, 40))
    assert not torch.equal(first.masks.masks, second.masks.masks)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.masks.masks, second.masks.masks)
    images = _images(1, 3, 40, 40, seed=5)
    with torch.no_grad():
        assert torch.equal(second.members(second.encode(images)), first.members(first.encode(images)))
        assert torch.equal(second.orientation(features), first.orientation(features))


def test_a_checkpoint_of_version_0_1_has_the_layers_of_the_encoder_itself() -> None:
    first, second = _trained(_counter()), _counter(seed=7).eval()
    former = {name.replace("encoder.levels.0.", "encoder.layers."): value for name, value in first.state_dict().items()}
    assert former.keys() != first.state_dict().keys()
    # Within a run's networks every name has a prefix.
    prefixed = {f"counter.{name}": value for name, value in former.items()}
    torch.nn.ModuleDict({"counter": second}).load_state_dict(prefixed)
    images = _images(1, 3, 40, 40, seed=5)
    with torch.no_grad():
        assert torch.equal(second.members(second.encode(images)), first.members(first.encode(images)))
    for name, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[name])


def test_building_follows_the_seed_of_torch_and_masks_their_own() -> None:
    first, second, third = _counter(seed=1), _counter(seed=1), _counter(seed=2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert torch.equal(first.masks.masks, third.masks.masks)
    assert not torch.equal(first.encoder.levels[0][0].weight, third.encoder.levels[0][0].weight)


@pytest.mark.parametrize("ensemble", ["masksembles", "dropout", "none"])
def test_gradients_reach_every_parameter(ensemble: str) -> None:
    counter = _counter(ensemble=ensemble)
    features = counter.encode(_images(4, 3, 64, 64))
    density = counter.density(features, counter.member_indexes(torch.tensor([5, 1, 0, 7])))
    (density.square().sum()
     + torch.nn.functional.cross_entropy(counter.orientation(features), torch.tensor([0, 1, 0, 1]))).backward()
    gradients = [parameter.grad for parameter in counter.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_target_images_leave_frozen_statistics_alone() -> None:
    counter = _trained(_counter()).train()
    before = {name: value.clone() for name, value in counter.named_buffers()}
    with frozen_norm(counter):
        counter.orientation(counter.encode(_images(2, 3, 40, 40))).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in counter.named_buffers())
    assert counter.encoder.levels[0][0].weight.grad.any()


def test_members_by_dropout_differ_and_depend_on_nothing_but_the_image() -> None:
    counter = _trained(_counter(ensemble="dropout", num_masks=4))
    with torch.no_grad():
        features = counter.encode(_images(2, 3, 40, 40))
        maps = counter.members(features)
        assert maps.shape == (4, 2, 1, 5, 5) and maps.std(0).min() > 0
        torch.rand(3)
        assert torch.equal(counter.members(features), maps)
        torch.testing.assert_close(counter.members(features[1:]), maps[:, 1:])
        # By hand, with channels in place of the masks: what is kept is doubled, so that the mean stays.
        trunk = counter.decoder.trunk(features)
        for member in range(4):
            kept = torch.rand(96, generator=torch.Generator().manual_seed(member)) >= 0.5
            by_hand = torch.stack([2 * trunk[:, channel] * float(kept[channel]) for channel in range(96)], 1)
            torch.testing.assert_close(counter.decoder.rest(by_hand), maps[member])
        assert torch.equal(counter.density(features), counter.density(features))  # None is dropped in eval mode,
        counter.train()
        with frozen_norm(counter):
            assert not torch.equal(counter.density(features), counter.density(features))  # some are in training mode.


def test_one_network_alone_is_an_ensemble_of_one() -> None:
    counter = _trained(_counter(ensemble="none"))
    with torch.no_grad():
        features = counter.encode(_images(2, 3, 40, 40))
        assert torch.equal(counter.members(features), counter.density(features)[None])
    assert counter.num_members == 1 and counter.member_indexes(torch.arange(3)) is None


def test_member_indexes_come_from_the_draws() -> None:
    draws = torch.tensor([0, 1, 2, 3, 2**62, -1])
    assert _counter().member_indexes(draws).tolist() == [0, 1, 2, 0, 2**62 % 3, 2]


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(0, 3, 8, 8),
                                    torch.zeros(1, 3, 0, 8)])
def test_what_is_no_batch_of_images_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images must be"):
        _counter().encode(images)


def test_members_belong_to_masks() -> None:
    images = _images(1, 3, 16, 16)
    with pytest.raises(ValueError, match="members must be None exactly"):
        _counter()(images)
    with pytest.raises(ValueError, match="members must be None exactly"):
        _counter(ensemble="none")(images, torch.tensor([0]))


def test_a_counter_without_the_head_says_so() -> None:
    counter = _counter(orientation=False)
    assert not any(name.startswith("orientation") for name, _ in counter.named_parameters())
    with pytest.raises(ValueError, match="orientation=True"):
        counter.orientation(counter.encode(_images(1, 3, 16, 16)))
