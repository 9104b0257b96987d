"""The combination: its first stage's loss, its labels, and a whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.sample import Seen
from crowddist.data.shard_codec import decode_labels
from crowddist.data.shards import ShardReader
from crowddist.data.stream import cell_density
from crowddist.errors import InputError
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.methods.combined import Combined
from crowddist.methods.parts.detecting import confidence_weight
from crowddist.models.config import CounterConfig
from crowddist.ops.fusion import fuse_density
from crowddist.pipeline import adapt
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime
from crowddist.tracking.tracker import NullTracker
from tests.methods.test_contract import made_up_batches

CELLS = (24, 32)


def make(config: RunConfig, **settings: Any) -> Combined:
    torch.manual_seed(0)
    heads = replace(config.bi_knowledge, confidence=0.3, sure_confidence=0.5, doubtful_confidence=0.1, **settings)
    method = build_method(replace(config, method="combined", bi_knowledge=heads))
    assert isinstance(method, Combined)
    return method


def seen(density: np.ndarray, spread: np.ndarray, detections: list) -> Seen:
    heads = np.array(detections, np.float32).reshape(-1, 4)
    return Seen(size=(8 * CELLS[0], 8 * CELLS[1]), density=density, spread=spread, member_counts=np.array([1.0, 3.0]),
                detections=heads)


def one_head(x: float, y: float) -> np.ndarray:
    """The source's density of one head at x, y in px."""
    from crowddist.data.config import StreamConfig

    return cell_density(np.array([[x, y]]), CELLS, StreamConfig())


def test_alignment_adds_up_what_it_says(tiny_config: RunConfig) -> None:
    method = make(tiny_config)
    stage = next(stage for stage in method.plan() if stage.name == "alignment")
    method.start(stage, LocalRuntime())
    found = {name: float(value.detach()) for name, value in method.objective(stage)(made_up_batches(stage, 0)).items()}
    semantic, rounds = tiny_config.semantic_consistency, tiny_config.self_supervision
    weights = {
        "source_loss": 1.0,
        "source_mask_loss": semantic.source_mask_weight,
        "target_mask_loss": semantic.target_mask_weight,
        "adversarial_loss": semantic.adversarial_weight,
        "discriminator_loss": 1.0,
        "orientation_loss": rounds.orientation_weight,
    }
    assert found["loss"] == pytest.approx(sum(weight * found[name] for name, weight in weights.items()), rel=1e-5)
    assert {"orientation_accuracy", "discriminator_accuracy"} == found.keys() - {"loss", *weights}


def test_a_sure_detection_counts_where_the_ensemble_is_not(tiny_config: RunConfig) -> None:
    """The counter sees half a person on the left and on the right, each with a detection; members agree on the left."""
    method = make(tiny_config)
    left, right = one_head(44, 92), one_head(212, 92)
    density = 0.5 * (left + right)
    unsure = 0.3 * right
    verdict = method.conclude(seen(density, unsure, [[44, 92, 12, 0.8], [212, 92, 12, 0.8]]))
    halves = verdict.density[:, :16].sum(), verdict.density[:, 16:].sum()
    assert halves[0] == pytest.approx(0.5, abs=0.02) and 0.6 < halves[1] < 0.5 + 0.8 * 0.5 + 1e-3
    alike = method.conclude(seen(density, np.zeros(CELLS, np.float32), [[44, 92, 12, 0.8], [212, 92, 12, 0.8]]))
    # without spread it is Eq. 8
    assert alike.density[:, :16].sum() == pytest.approx(alike.density[:, 16:].sum(), rel=1e-4)
    np.testing.assert_allclose(
        alike.density, fuse_density(density, left + right, (0.8 * ((left + right) > 0)).astype(np.float32)), atol=0.02
    )


def test_what_labels_teach_and_leave_open(tiny_config: RunConfig) -> None:
    method = make(tiny_config)
    density = one_head(44, 92) + one_head(212, 92)
    verdict = method.conclude(seen(density, 0.1 * density, [[44, 92, 12, 0.9], [120, 20, 10, 0.4], [30, 150, 9, 0.2]]))
    assert verdict.taught is not None and verdict.doubtful is not None
    np.testing.assert_allclose(verdict.taught, [[44, 92, 12, 0.9]])
    np.testing.assert_allclose(verdict.doubtful[:2], [[120, 20, 10, 0.4], [30, 150, 9, 0.2]])
    assert (len(verdict.doubtful) == 3
            and verdict.doubtful[2, :2] == pytest.approx([212, 92], abs=8)), "a head that the counter alone sees"
    assert verdict.density.sum() == pytest.approx(2.4, abs=0.1)
    assert verdict.points[:, :2] == pytest.approx(np.array([[212, 92], [44, 92]]),
                                                  abs=8), "as many as are counted, a peak and a sure detection"
    assert verdict.parts["detection"].count == 2 and verdict.parts["regression"].count == pytest.approx(2.0, rel=1e-3)
    np.testing.assert_array_equal(verdict.parts["regression"].density, density)


def test_nobody_is_nobody(tiny_config: RunConfig) -> None:
    empty = np.zeros(CELLS, np.float32)
    verdict = make(tiny_config).conclude(seen(empty, empty, []))
    assert verdict.density.sum() == 0 and len(verdict.points) == 0
    assert (verdict.taught is not None and verdict.doubtful is not None
            and len(verdict.taught) == len(verdict.doubtful) == 0)


def test_without_orientation_the_alignment_is_semantic(tiny_config: RunConfig) -> None:
    method = make(replace(tiny_config, self_supervision=replace(tiny_config.self_supervision, orientation_steps=0)))
    assert [(stage.num_round, stage.round_name) for stage in method.plan()][3:5] == [(1, "alignment"), (2, "labels-1")]
    stage = next(stage for stage in method.plan() if stage.name == "alignment")
    method.start(stage, LocalRuntime())
    found = method.objective(stage)(made_up_batches(stage, 0))
    assert stage.streams.keys() == {"source", "target"} and "orientation_loss" not in found


def test_a_counter_without_the_orientation_head_is_refused(tiny_config: RunConfig) -> None:
    with pytest.raises(InputError, match="needs a counter with the head"):
        replace(tiny_config, method="combined", counter=CounterConfig(orientation=False))


def test_a_whole_run_labels_by_both(tiny_config: RunConfig, tmp_path: Path) -> None:
    views = replace(tiny_config.self_supervision, label_views=(1.0, 1.4), rounds=1)
    config = replace(tiny_config, method="combined", self_supervision=views)
    result = adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)
    assert [row["title"] for row in result["rounds"]] == ["no adaptation", "orientation", "alignment",
                                                          "labels, round 1"]
    assert {"target/regression_mae", "target/detection_mae", "target/detection_map"} <= result["final"].keys()
    before, after = (checkpoint.load(row["checkpoint"])["method"]["networks"] for row in result["rounds"][:2])
    kept = {name.partition(".")[0] for name in before if torch.equal(before[name], after[name])}
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"counter"} and {"semantics", "detector"} <= kept, "a new counter beside the networks of the source"
    labels = ShardReader((tmp_path / "runs" / "tiny" / "labels-1" / "labels").as_uri())
    found = [decode_labels(*labels.read(index)) for index in range(len(labels))]
    assert len(found) == 10 and any(len(one.doubtful) for one in found) and all(one.keep.any() for one in found)


@pytest.mark.parametrize("place", [(-0.5, -0.5), (203.5, 151.5), (203.5, 60.0), (100.2, 151.5), (60.0, 70.0)])
def test_a_window_of_the_weight_lies_round_its_kernel(tiny_config: RunConfig, place: tuple[float, float]) -> None:
    """Also of a head that the detector, whose cells are larger, sees beyond the last cell of the density."""
    head, stream = np.array([[*place, 20.0, 0.5]], np.float32), replace(tiny_config.stream, sigma_px=4.0)
    nobody = np.zeros((75, 101), np.float32)
    said = Seen(size=(150, 202), density=nobody, spread=nobody, member_counts=np.zeros(1), detections=head)
    drawn = cell_density(head[:, :3], (75, 101), stream, 2)
    weight = confidence_weight(said, tiny_config.bi_knowledge, stream, 2)
    # Sigma is 2 cells: k = 6 * 2 + 1, and the border cuts window and kernel at the same cells.
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    expected = np.zeros((75, 101), np.float32)
    expected[max(row - 6, 0) : row + 7, max(column - 6, 0) : column + 7] = 0.5
    np.testing.assert_array_equal(weight, expected)
    assert drawn[weight > 0].sum() > 0.99
