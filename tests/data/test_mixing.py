"""Mixtures: hand-worked turns, shares, nothing skipped or repeated, and the same crops at any world size."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowddist.data.config import StreamConfig
from crowddist.data.mixing import mixed_position
from crowddist.data.stream import CropDataset, MixedDataset, batches

QUARTER, THIRD = Fraction(1, 4), Fraction(1, 3)


def test_turns_by_hand() -> None:
    turns = [mixed_position(position, [QUARTER, THIRD]) for position in range(12)]
    # Every fourth crop is the second's. Of the nine others, the third has 1/3 / (3/4) = 4/9: the 3rd, 5th, 7th and 9th.
    assert turns == [(0, 0), (0, 1), (2, 0), (1, 0), (0, 2), (2, 1), (0, 3), (1, 1), (2, 2), (0, 4), (2, 3), (1, 2)]


def test_nothing_mixed_in_changes_nothing() -> None:
    assert [mixed_position(position, []) for position in range(3)] == [(0, 0), (0, 1), (0, 2)]


shares = st.lists(st.fractions(Fraction(1, 50), Fraction(49, 50), max_denominator=50), min_size=1,
                  max_size=4).filter(lambda parts: sum(parts) < 1)


@given(shares, st.integers(1, 400))
def test_each_data_set_has_its_share_and_reads_its_own_plan_without_a_gap(parts: list[Fraction], length: int) -> None:
    turns = [mixed_position(position, parts) for position in range(length)]
    for which, share in enumerate([1 - sum(parts), *parts]):
        own = [position for chosen, position in turns if chosen == which]
        assert own == list(range(len(own)))
        assert abs(len(own) - share * length) <= len(parts)


@pytest.fixture
def mixture(make_images: Callable[..., str], tmp_path: Path) -> MixedDataset:
    config = StreamConfig(image_size=64, crop_size=32)
    urls = {name: make_images(tmp_path / name, count=count, seed=count) for name, count in (("many", 9), ("few", 3))}
    return MixedDataset([CropDataset(url, config, plan_seed=5, name=name) for name, url in urls.items()], [QUARTER])


def test_a_mixture_holds_the_crops_of_its_data_sets(mixture: MixedDataset) -> None:
    many, few = mixture.datasets
    for position, (dataset, own) in enumerate([(many, 0), (many, 1), (many, 2), (few, 0), (many, 3), (many, 4),
                                               (many, 5), (few, 1)]):
        crop, wanted = mixture[position], dataset[own]
        assert (crop["key"] == wanted["key"] and crop["draw"] == wanted["draw"]
                and (crop["image"] == wanted["image"]).all())


@pytest.mark.parametrize("readers", [0, 2])
def test_any_world_size_and_readers_read_the_same_mixture(mixture: MixedDataset, readers: int) -> None:
    def draws(dataset: MixedDataset, first: int, steps: int, world_size: int) -> list[int]:
        ranks = [list(batches(dataset, first_step=first, steps=steps, global_batch=8, rank=rank, world_size=world_size))
                 for rank in range(world_size)]
        return [int(draw) for parts in zip(*ranks, strict=True) for part in parts for draw in part.draws]

    whole = draws(mixture, 0, 4, 1)
    assert len(set(whole)) == len(whole) == 32
    copied: MixedDataset = pickle.loads(pickle.dumps(mixture))
    for dataset in copied.datasets:
        dataset.config = replace(dataset.config, num_readers=readers)
    assert draws(copied, 0, 2, 2) + draws(copied, 2, 4, 4) == whole
