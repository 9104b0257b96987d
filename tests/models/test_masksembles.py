"""The Masksembles layer masks as its library does, and keeps its masks in checkpoints."""

from __future__ import annotations

import pytest
import torch

from crowddist.models.masksembles import Masksembles


def _features(num_samples: int, channels: int) -> torch.Tensor:
    return torch.randn(num_samples, channels, 3, 4, generator=torch.Generator().manual_seed(0))


def test_channels_are_kept_or_zeroed_without_rescaling() -> None:
    layer = Masksembles(4, 2, 2.0, seed=0)
    layer.masks.copy_(torch.tensor([[True, True, False, False], [False, True, True, True]]))
    output = layer(torch.full((3, 4, 1, 1), 5.0), torch.tensor([1, 0, 1]))
    assert output.flatten(1).tolist() == [[0, 5, 5, 5], [5, 5, 0, 0], [0, 5, 5, 5]]


def test_equals_the_library_on_its_contiguous_parts() -> None:
    library = pytest.importorskip("masksembles.torch")
    peer, layer = library.Masksembles2D(32, 4, 2.0), Masksembles(32, 4, 2.0, seed=3)
    peer.masks = layer.masks.float()
    features = _features(8, 32)
    assert torch.equal(layer(features, torch.arange(4).repeat_interleave(2)), peer(features))


def test_masks_survive_a_reload_into_another_seed() -> None:
    first, second = Masksembles(96, 3, 2.0, seed=0), Masksembles(96, 3, 2.0, seed=1)
    assert first.masks.dtype == torch.bool and first.masks.shape == (3, 96)
    assert not torch.equal(first.masks, second.masks)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.masks, second.masks)


def test_masks_come_from_their_seed_alone() -> None:
    torch.manual_seed(1)
    first = Masksembles(96, 3, 2.0, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first.masks, Masksembles(96, 3, 2.0, seed=5).masks)


def test_gradients_pass_through_kept_channels_only() -> None:
    layer = Masksembles(16, 3, 2.0, seed=0)
    features = _features(3, 16).requires_grad_()
    members = torch.tensor([2, 0, 2])
    layer(features, members).sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad[:, :, 0, 0], layer.masks[members].float())


@pytest.mark.parametrize("members", [torch.tensor([0]), torch.tensor([0.0, 1.0]), torch.tensor([[0], [1]])])
def test_members_of_another_length_or_type_are_refused(members: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="2 int64 indexes"):
        Masksembles(16, 3, 2.0, seed=0)(_features(2, 16), members)


def test_a_member_that_does_not_exist_is_refused() -> None:
    with pytest.raises(IndexError):
        Masksembles(16, 3, 2.0, seed=0)(_features(1, 16), torch.tensor([3]))
