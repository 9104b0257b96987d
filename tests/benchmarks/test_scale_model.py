"""The model of scale against hand-worked values, sampled ones and a closed form; nothing here is timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.scale_model import (
    Assumptions,
    all_reduce_s,
    failure_share,
    how_long,
    report,
    round_s,
    row,
    slowest,
)

GIVEN = Assumptions()
SPEED = Path(__file__).parents[2] / "docs" / "results" / "speed.md"


def test_gradients_by_hand() -> None:
    # 8 GPUs of one machine: 2 * 7/8 * 65 MB at 100 GB/s.
    assert all_reduce_s(8, 65, GIVEN) == pytest.approx(1.1375e-3)
    # Two machines: as much within, then 2 * 1/2 * 65 MB at 12.5 GB/s and two messages of 30 us.
    assert all_reduce_s(16, 65, GIVEN) == pytest.approx(1.1375e-3 + 5.2e-3 + 6e-5)


@pytest.mark.parametrize("num_gpus", [2, 8, 64, 512])
def test_the_slowest_is_that_of_drawn_steps(num_gpus: int) -> None:
    drawn = np.random.default_rng(0).normal(1, 0.05, (4000, num_gpus)).max(1).mean()
    assert slowest(num_gpus, 0.05) == pytest.approx(drawn, abs=0.002)


@pytest.mark.parametrize(("num_nodes", "interval_s"), [(1, 300), (64, 300), (64, 3600)])
def test_failures_in_closed_form(num_nodes: int, interval_s: float) -> None:
    """Losses at a constant rate: the work since the last checkpoint is M - T e / (1 - e) on average, e = exp(-T /
    M).
    """
    given = replace(GIVEN, node_mtbf_h=200)
    mean_s = given.node_mtbf_h * 3600 / num_nodes
    left = np.exp(-interval_s / mean_s)
    expected = (mean_s - interval_s * left / (1 - left) + given.restart_s) / (mean_s + given.restart_s)
    assert failure_share(num_nodes, interval_s, given) == pytest.approx(expected, rel=0.2)


def test_a_round_on_cores_by_hand() -> None:
    given = replace(GIVEN, images=1000, convert_s=0.01, label_s=0.97, core_step_s=0.5, steps=100, start_s=10)
    assert round_s(1, given) == pytest.approx({"convert": 10, "train": 50, "label": 1000, "start": 20})
    many = round_s(64, replace(given, step_spread=0))
    assert many == pytest.approx({"convert": 10 / 64, "train": 50 / 8, "label": 1000 / 64, "start": 20})
    assert [line.split()[0] for line in how_long(given).splitlines()[2:]] == ["1", "2", "4", "8", "16", "64"]


def test_what_costs_most_is_named() -> None:
    alone = replace(GIVEN, step_spread=0, gpus_per_node=1, gradient_mb=0.0, node_mtbf_h=1e9, store_gbit=1e9)
    assert row(1, replace(alone, checkpoint_mb=0)).efficiency == pytest.approx(1)
    assert row(512, replace(GIVEN, network_gbit=1)).limit == "gradients"
    assert row(512, replace(GIVEN, store_gbit=5)).limit == "the object store"
    assert row(512, replace(GIVEN, store_gbit=5, cached_share=1)).limit != "the object store"
    assert row(512, replace(GIVEN, node_mtbf_h=2)).limit == "failures"
    assert row(8, replace(GIVEN, step_spread=0, checkpoint_every=5)).limit == "checkpoints"
    efficiencies = [row(num_gpus, GIVEN).efficiency for num_gpus in (8, 64, 512)]
    assert efficiencies == sorted(efficiencies, reverse=True) and 0.5 < efficiencies[-1] < 1


def test_the_report_has_its_assumptions_above_a_row_for_each_size() -> None:
    text = report(GIVEN)
    assert ("node_mtbf_h       1000" in text
            and [line.split()[0] for line in text.splitlines()[-7:]] == ["8", "16", "32", "64", "128", "256", "512"])


def test_the_tables_of_the_docs_are_the_models() -> None:
    lines = SPEED.read_text().splitlines()
    for num_gpus in (8, 64, 512):
        found = row(num_gpus, GIVEN)
        assert (f"| {num_gpus} | {1e3 * found.step_s:.0f} | {1e3 * found.sync_s:.1f} | "
                f"{100 * found.checkpoint_share:.1f} % | {100 * found.failure_share:.1f} % | "
                f"{100 * found.efficiency:.0f} % | {found.limit} |") in lines
    for num_cores in (1, 2, 4, 8, 16, 64):
        hours = [seconds / 3600 for seconds in round_s(num_cores, GIVEN).values()]
        assert (f"| {num_cores} | " + " | ".join(f"{part:.2f}" for part in hours) + f" | {sum(hours):.1f} |") in lines
