"""The plan: exact once-per-epoch order, equal batches, and resume at any world size."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowddist.data.plan import Plan, rank_positions, work_units

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=40)


@given(sizes, st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_holds_every_sample_once(shard_sizes: list[int], seed: int, epoch: int) -> None:
    order = Plan(shard_sizes, seed=seed, name="s").epoch(epoch).order
    assert sorted(order) == list(range(sum(shard_sizes)))


def test_order_depends_on_seed_name_and_epoch_and_on_nothing_else() -> None:
    plan = Plan([50, 50], seed=1, name="a")
    assert np.array_equal(plan.epoch(3).order, Plan([50, 50], seed=1, name="a").epoch(3).order)
    for other in (Plan([50, 50], seed=2, name="a").epoch(3).order, Plan([50, 50], seed=1, name="b").epoch(3).order,
                  plan.epoch(4).order):
        assert not np.array_equal(plan.epoch(3).order, other)


def test_the_order_is_the_recorded_one() -> None:
    # A change of the order would silently change every resumed run: it must be a decision.
    assert Plan([3, 4], seed=0, name="source/source").epoch(0).order.tolist() == RECORDED


RECORDED = [2, 3, 5, 1, 4, 6, 0]


def test_samples_mix_within_a_window_of_shards_only() -> None:
    plan = Plan([10] * 40, seed=0, name="s")
    windows = [set(part // 10) for part in np.split(plan.epoch(0).order, [160, 320])]
    assert [len(window) for window in windows] == [16, 16, 8]
    assert not windows[0] & windows[1]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40).filter(any), st.integers(0, 2))
def test_a_window_holds_the_shards_of_its_samples(shard_sizes: list[int], epoch: int) -> None:
    plan = Plan(shard_sizes, seed=3, name="s")
    ends = np.cumsum(shard_sizes)
    drawn: dict[tuple[int, int], set[int]] = {}
    for position in range(epoch * plan.num_samples, (epoch + 1) * plan.num_samples):
        shard = int(np.searchsorted(ends, plan.sample_at(position), side="right"))
        drawn.setdefault(plan.window_at(position), set()).add(shard)
    assert {key: set(plan.window_shards(*key)) for key in drawn} == drawn and {key[0] for key in drawn} == {epoch}
    assert len(drawn) <= -(-len(shard_sizes) // 16)


def test_behind_the_last_window_comes_the_next_epochs_first() -> None:
    plan = Plan([2] * 20, seed=0, name="s")
    assert [plan.window_at(position) for position in (0, 31, 32, 39, 40)] == [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0)]
    assert plan.window_shards(0, 2) == plan.window_shards(1, 0) and len(plan.window_shards(0, 1)) == 4
    before = plan.epoch(0).order.tolist()
    plan.window_shards(0, 2)
    assert plan.epoch(0).order.tolist() == before == Plan([2] * 20, seed=0, name="s").epoch(0).order.tolist()


@given(sizes, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.integers(0, 6), st.integers(1, 6))
def test_any_world_size_reads_the_same_global_order_and_resumes_exactly(
    shard_sizes: list[int], world: int, new_world: int, steps_before: int, steps_after: int
) -> None:
    plan, batch = Plan(shard_sizes, seed=7, name="s"), 8

    def read(first: int, steps: int, size: int) -> list[int]:
        positions = [p for step in range(first, first + steps) for rank in range(size)
                     for p in rank_positions(step * batch, batch, rank, size)]
        return [plan.sample_at(position) for position in positions]

    whole = read(0, steps_before + steps_after, 1)
    assert read(0, steps_before, world) + read(steps_before, steps_after, new_world) == whole


def test_ranks_get_equal_shares_that_do_not_overlap() -> None:
    shares = [rank_positions(24, 12, rank, 3) for rank in range(3)]
    assert [list(share) for share in shares] == [[24, 25, 26, 27], [28, 29, 30, 31], [32, 33, 34, 35]]


@pytest.mark.parametrize(("batch", "rank", "world"), [(8, 0, 3), (8, 2, 2), (8, -1, 2)])
def test_impossible_shares_are_refused(batch: int, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match=r"shared equally|does not exist"):
        rank_positions(0, batch, rank, world)


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Plan([0], seed=0, name="s")


def test_a_plan_can_be_sent_to_another_process() -> None:
    plan = Plan([3, 4], seed=1, name="s")
    assert [pickle.loads(pickle.dumps(plan)).sample_at(position)
            for position in range(20)] == [plan.sample_at(position) for position in range(20)]


@given(st.integers(0, 1000))
def test_work_units_hold_every_sample_once(num_samples: int) -> None:
    units = work_units(num_samples)
    assert [index for unit in units for index in unit] == list(range(num_samples))
    assert len(units) == num_samples or len(units) >= 9  # two actors share 17 images nine to eight
    assert max(map(len, units), default=0) <= 64
