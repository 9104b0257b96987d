"""Bi-knowledge transfer: how what its networks see is fused, and which patches are chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.convert.annotations import read_mat_info
from crowddist.data.sample import Seen
from crowddist.data.stream import cell_density
from crowddist.methods.bi_knowledge import BiKnowledge
from crowddist.methods.build import build_method
from crowddist.methods.parts.detecting import distinct
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.ops.scales import head_sizes
from crowddist.recipes import mm2020_sha_to_shb

SIZE, CELLS = (192, 256), (96, 128)  # an image and its cells of 2x2 px


def make(config: RunConfig, **settings: Any) -> BiKnowledge:
    torch.manual_seed(0)
    method = build_method(replace(config, method="bi_knowledge", bi_knowledge=replace(config.bi_knowledge, **settings)))
    assert isinstance(method, BiKnowledge)
    return method


def seen(density: np.ndarray, detections: list, transformed: list) -> Seen:
    heads = [np.array(part, np.float32).reshape(-1, 4) for part in (detections, transformed)]
    return Seen(size=SIZE, density=density, spread=0 * density, member_counts=np.array([0.0]), detections=heads[0],
                transformed=heads[1])


def test_fused_by_hand(tiny_config: RunConfig) -> None:
    """Persons spread evenly and one head of weight 0.75: inside its window, the even density counts by 0.25."""
    method = make(tiny_config, sigma_px=4.0, fusion="confidence")
    even = np.full(CELLS, 0.01, np.float32)
    verdict = method.conclude(seen(even, [[100.5, 80.5, 20, 0.75]], []))
    # Sigma is 2 cells: the window has k = 6 * 2 + 1 cells a side, and holds all but the head's farthest 0.2 %.
    inside = 13 * 13
    expected = 0.01 * (even.size - inside) + 0.25 * 0.01 * inside + 0.75
    assert verdict.density.sum() == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(verdict.density[40, [43, 57]], even[0, 0])
    assert (verdict.density[40, [44, 56]] < 0.005).all()
    assert (verdict.parts["regression"].count == pytest.approx(even.sum(), rel=1e-5)
            and verdict.parts["detection"].count == 1)
    np.testing.assert_array_equal(verdict.parts["regression"].density, even)
    assert verdict.uncertainty == pytest.approx((even.sum() - 1) / 2, rel=1e-5)
    assert (verdict.points.tolist() == [[100.5, 80.5, 0.75]] and verdict.sizes is not None
            and verdict.sizes.tolist() == [20])


def test_the_drawn_density_follows_the_sizes(tiny_config: RunConfig) -> None:
    """Eq. 1: sigma proportional to the scale map."""
    heads = np.array([[60.5, 60.5, 20, 0.9], [180.5, 60.5, 40, 0.9]], np.float32)
    method, empty = make(tiny_config, sigma_of_size=0.3, fusion="heads"), np.zeros(CELLS, np.float32)
    drawn = method.conclude(seen(empty, heads.tolist(), [])).density
    assert drawn.sum() == pytest.approx(2, rel=1e-4)
    # A Gaussian of sigma s cells has the peak 1 / (2 pi s^2).
    for (x, y), sigma in (((30, 30), 3.0), ((90, 30), 6.0)):
        assert drawn[y, x] == pytest.approx(1 / (2 * np.pi * sigma**2), rel=0.02)
    alike = make(tiny_config, sigma_px=4.0, fusion="heads").conclude(seen(empty, heads.tolist(), [])).density
    assert alike[30, 30] == pytest.approx(alike[30, 90], rel=1e-6)


def test_heads_of_both_are_merged_and_get_sizes(tiny_config: RunConfig) -> None:
    """A transformed point beside a detection is the same head; others keep the detector's size in the lower half, the
    neighbours' above.
    """
    lower, upper = [200, 170, 16, 0.5], [60, 20, 99, 0.5]
    detected = [[30, 20, 20, 0.9], [100, 150, 20, 0.8]]
    verdict = make(tiny_config, nms_share=0.5, crowd_heads=0).conclude(seen(np.zeros(CELLS, np.float32), detected,
                                                                            [[105, 150, 20, 0.4], lower, upper]))
    assert verdict.sizes is not None
    found = {(float(x), float(y)): float(size) for (x, y, _), size in zip(verdict.points, verdict.sizes, strict=True)}
    assert set(found) == {(30, 20), (100, 150), (200, 170), (60, 20)}
    assert found[200, 170] == 16, "lower half: as the scale map says"
    assert found[60, 20] == pytest.approx(30, abs=0.1), "upper half: 30 px to the nearest neighbour"
    assert (verdict.parts["transformed"].count == 3
            and verdict.points[:, 2].tolist() == sorted(verdict.points[:, 2], reverse=True))


def test_a_crowd_that_is_detected_without_a_mistake_stays_whole(tiny_config: RunConfig) -> None:
    """Sizes are distances to the nearest neighbour: suppression within a whole size takes one of each closest pair."""
    places = np.random.default_rng(0).uniform(4, [SIZE[1] - 5, SIZE[0] - 5], (150, 2)).astype(np.float32)
    heads = np.column_stack([places, head_sizes(places), np.random.default_rng(1).uniform(0.4, 0.9, 150)])
    nobody = np.zeros(CELLS, np.float32)
    usual = make(tiny_config)
    assert len(usual.conclude(seen(nobody, heads.tolist(), [])).points) >= 0.98 * len(heads)
    drawn = usual.conclude(seen(nobody, heads.tolist(), heads.tolist()))
    assert len(drawn.points) >= 0.98 * len(heads), "the union does not suppress detections again"
    found = len(make(tiny_config, nms_share=1.0).conclude(seen(nobody, heads.tolist(), [])).points)
    assert 0.85 * len(heads) < found < 0.95 * len(heads)


@pytest.mark.parametrize("settings", [BiKnowledgeConfig(), mm2020_sha_to_shb().bi_knowledge],
                         ids=["default", "published"])
@pytest.mark.parametrize("part", ["A", "B"])
def test_shanghaitech_s_true_heads_survive_suppression(real_data: Path, part: str, settings: BiKnowledgeConfig) -> None:
    """Seen without a mistake, with their sizes by distance, 99.5 % of the true heads of 40 images stay."""
    folder = real_data / "shanghaitech" / f"part_{part}_final" / "train_data" / "ground_truth"
    if not folder.is_dir():
        pytest.skip(f"no ShanghaiTech at {folder}")
    scores, true, kept, by_whole_size = np.random.default_rng(0), 0, 0, 0
    for file in sorted(folder.glob("*.mat"))[::7][:40]:
        places = read_mat_info(file)[0].astype(np.float32)
        heads = np.column_stack([places, head_sizes(places), scores.random(len(places))])
        true, kept = true + len(heads), kept + len(distinct(heads, settings.nms_share))
        by_whole_size += len(distinct(heads, 1.0))
    assert true > 3000 and kept >= 0.995 * true and by_whole_size < 0.95 * true


def test_heads_that_two_tiles_have_seen_count_once(tiny_config: RunConfig) -> None:
    verdict = make(tiny_config, fusion="none").conclude(seen(np.zeros(CELLS, np.float32),
                                                             [[100, 80, 20, 0.9], [102, 80, 20, 0.8]], []))
    assert verdict.parts["detection"].count == len(verdict.points) == 1


def test_transformed_points_join_in_a_crowd(tiny_config: RunConfig) -> None:
    """One transformed point has five heads within 23 px, another three, a third none; the density is the heads'."""
    detected = [[x, y, 9, 0.9] for x, y in ((30, 40), (50, 40), (40, 30), (40, 50), (75, 40))]
    others = [[40, 40, 9, 0.4], [62, 40, 9, 0.4], [200, 150, 9, 0.9]]
    method = make(tiny_config, crowd_heads=5, crowd_px=23.0, sigma_px=4.0)
    verdict = method.conclude(seen(np.full(CELLS, 0.01, np.float32), detected, others))
    assert sorted(verdict.points[:, :2].tolist()) == sorted([x, y] for x, y, *_ in [*detected, others[0]])
    assert verdict.density.sum() == pytest.approx(6, rel=1e-4) and verdict.parts["transformed"].count == 3
    np.testing.assert_array_equal(verdict.density, cell_density(verdict.points, CELLS, method.stream, 2))
    assert len(make(tiny_config,
                    crowd_heads=0).conclude(seen(np.zeros(CELLS, np.float32), detected, others)).points) == 8


def test_a_crowd_that_the_regressor_alone_sees_can_be_left_out(tiny_config: RunConfig) -> None:
    """Two transformed points with four neighbours each: three are detections at one point, one at the other."""
    sure = [[30, 40, 9, 0.9], [50, 40, 9, 0.9], [40, 30, 9, 0.9], [200, 150, 9, 0.9]]
    others = [[40, 40, 9, 0.4], [40, 55, 9, 0.4], [190, 150, 9, 0.4], [190, 160, 9, 0.4], [190, 140, 9, 0.4],
              [180, 150, 9, 0.4]]

    def joined(share: float) -> list[list[float]]:
        method = make(tiny_config, crowd_heads=4, crowd_px=15.5, crowd_share=share)
        verdict = method.conclude(seen(np.full(CELLS, 0.01, np.float32), sure, others))
        return [point for point in verdict.points[:, :2].tolist() if point in [[40, 40], [190, 150]]]

    assert sorted(joined(0.0)) == [[40, 40], [190, 150]] and sorted(joined(0.25)) == sorted(joined(0.0))
    assert joined(0.26) == [[40, 40]] and joined(0.75) == [[40, 40]] and joined(0.76) == []


def test_crops_of_a_range_of_its_own(tiny_config: RunConfig) -> None:
    assert make(tiny_config, enlarge=2.0).stream.scale_jitter == tuple(value / 2
                                                                       for value in tiny_config.stream.scale_jitter)
    assert make(tiny_config, enlarge=2.0, scale_jitter=(0.5, 3.0)).stream.scale_jitter == (0.25, 1.5)


def test_a_crowd_that_the_detector_does_not_see_is_counted_all_the_same(tiny_config: RunConfig) -> None:
    crowd = [[40 + 8 * (index % 7), 40 + 8 * (index // 7), 9, 0.5] for index in range(49)]
    verdict = make(tiny_config).conclude(seen(np.full(CELLS, 0.01, np.float32), [], [*crowd, [220, 170, 9, 0.5]]))
    assert len(verdict.points) == 49 and verdict.density.sum() == pytest.approx(49, rel=1e-4)


def test_a_transformed_point_does_not_clear_the_image(tiny_config: RunConfig) -> None:
    """The detector's scale map is arbitrary where it saw nobody."""
    detected = [[30 + 20 * index, 40, 16, 0.6] for index in range(6)]
    verdict = make(tiny_config, crowd_heads=0).conclude(seen(np.zeros(CELLS, np.float32), detected,
                                                             [[80, 60, 500, 0.95], [120, 62, 500, 0.9]]))
    assert len(verdict.points) == 8 and verdict.sizes is not None and verdict.sizes.max() < 50


def test_what_labels_teach_and_what_they_leave_open(tiny_config: RunConfig) -> None:
    """Sure detections and a crowd's points are taught. Weaker detections and a lone point are ignored by the loss;
    those from 0.3 on are counted.
    """
    detected = [[30, 40, 9, 0.9], [50, 40, 9, 0.37], [40, 30, 9, 0.38], [40, 50, 9, 0.31], [75, 40, 9, 0.2]]
    crowd, lone = [40, 40, 9, 0.25], [200, 150, 9, 0.9]
    settings: dict[str, Any] = {"confidence": 0.3, "crowd_heads": 4, "crowd_px": 23.0}
    verdict = make(tiny_config, **settings).conclude(seen(np.zeros(CELLS, np.float32), detected, [crowd, lone]))

    def places(heads: np.ndarray | None) -> list[list[float]]:
        assert heads is not None
        return sorted(heads[:, :2].tolist())

    assert places(verdict.points) == sorted([[30, 40], [50, 40], [40, 30], [40, 50], [40, 40]]), "counted"
    assert places(verdict.taught) == sorted([[30, 40], [40, 30], [40, 40]])
    assert places(verdict.doubtful) == sorted([[50, 40], [40, 50], [75, 40], [200, 150]])
    assert verdict.taught is not None and verdict.taught.shape == (3, 4) and verdict.parts["detection"].count == 4
    published = make(tiny_config, sure_confidence=0.0,
                     **settings).conclude(seen(np.zeros(CELLS, np.float32), detected[:4], [crowd, lone]))
    assert places(published.taught) == places(published.points) and published.doubtful is None


def test_the_detector_tells_what_is_doubtful_only_where_that_is_asked_for(tiny_config: RunConfig) -> None:
    image = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))

    def scores(**settings: Any) -> np.ndarray:
        detections = make(tiny_config, nms_share=0.0, **settings).predict(image).detections
        assert detections is not None
        return np.sort(detections[0][:, 3])

    everything = scores(confidence=1e-6, sure_confidence=0.0)
    weak, strong = float(everything[len(everything) // 3]), float(everything[len(everything) // 3 * 2])
    assert len(everything) > 6 and weak < strong
    np.testing.assert_array_equal(scores(confidence=strong, sure_confidence=0.0, doubtful_confidence=weak),
                                  everything[everything >= strong])
    np.testing.assert_array_equal(scores(confidence=strong, sure_confidence=0.9, doubtful_confidence=weak),
                                  everything[everything >= weak])
    np.testing.assert_array_equal(scores(confidence=weak, sure_confidence=0.9, doubtful_confidence=strong),
                                  everything[everything >= weak])


def test_without_fusion_each_believes_itself(tiny_config: RunConfig) -> None:
    even = np.full(CELLS, 0.01, np.float32)
    verdict = make(tiny_config, fusion="none").conclude(seen(even, [[100, 80, 20, 0.75]], [[30, 30, 9, 0.9]]))
    np.testing.assert_array_equal(verdict.density, even)
    assert verdict.points.tolist() == [[100, 80, 0.75]]


def test_patches_are_chosen_as_published(tiny_config: RunConfig) -> None:
    """12 patches of 64 px, the i-th with i persons: ranks 50 to 70 % are the 7th to the 9th. The detector gets its most
    confident patches.
    """
    density = np.zeros(CELLS, np.float32)
    order = np.random.default_rng(0).permutation(12)
    for rank, patch in enumerate(order):
        row, column = divmod(int(patch), 4)
        density[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = rank / 32**2
    points = np.array([[10, 10, 0.9], [20, 20, 0.8], [70, 10, 0.95], [80, 20, 0.2], [200, 150, 0.7]], np.float32)
    method = make(tiny_config)
    windows = method.windows(density, points, "a")
    medium = {(32.0 * (patch // 4), 32.0 * (patch % 4)) for patch in order[6:9]}
    assert (len(windows["regressor"]) == 2
            and {(top, left) for top, left, _, _ in windows["regressor"].tolist()} <= medium)
    assert windows["detector"].tolist() == [[0, 0, 32, 32],
                                            [64, 96, 32, 32]], "means 0.85 and 0.7; the second patch has 0.575"
    drawn = {tuple(map(tuple, method.windows(density, points, key)["regressor"].tolist())) for key in "abcdefgh"}
    assert (len(drawn) > 1 and all({(top, left) for top, left, _, _ in pair} <= medium
                                   for pair in drawn)), "two of the three, by the image's name"
    rounds = {tuple(map(tuple, method.windows(density, points, f"cycle-{cycle}/a")["regressor"].tolist()))
              for cycle in range(8)}
    assert len(rounds) > 1, "drawn anew in every cycle"
    nobody = method.windows(density, points[:0], "a")
    np.testing.assert_array_equal(nobody["detector"], nobody["regressor"])
    anywhere = {tuple(window) for key in "abcdefghijklmnop"
                for window in make(tiny_config, patches="random").windows(density, points, key)["regressor"]}
    assert len(anywhere) > 6
    keep = method.select(density, density)
    assert keep.sum() == 3 * 32 * 32 and {(float(y), float(x)) for y, x in np.argwhere(keep) // 32 * 32} == medium
