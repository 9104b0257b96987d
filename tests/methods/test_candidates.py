"""Trials of thresholds on what is found once an image, against the plain way: everything anew, by loops over pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crowddist.config import RunConfig
from crowddist.data.sample import Seen
from crowddist.data.stream import cell_density, cell_places, kernel_px
from crowddist.methods.build import build_method
from crowddist.methods.parts.detecting import WINDOW_SIGMAS, distinct
from crowddist.methods.thresholds import with_values
from crowddist.ops.density import density_map
from crowddist.ops.fusion import fuse_density, relative_uncertainty
from crowddist.ops.peaks import clear_squares, density_points
from crowddist.ops.scales import transformed_sizes
from crowddist.search.trial_values import trial_values

SIZE = (192, 256)


def crowded(method: Any, seed: int) -> Seen:
    """Detections, half of them seen twice, and peaks, some above 1, some side by side, on scores that are often equal.
    """
    rng, stride = np.random.default_rng(seed), method.output_stride
    cells = (SIZE[0] // stride, SIZE[1] // stride)
    places = rng.uniform(0, [SIZE[1] - 1, SIZE[0] // 2 if seed else SIZE[0] - 1], (90, 2))
    density = density_map((places + 0.5) / stride - 0.5, cells, method.stream.sigma_px / stride)
    found = np.concatenate([places[::2], places[::4] + 1]).clip(0, SIZE[0] - 1)
    peaks = np.unique(np.rint(np.concatenate([places, places + 8]) / stride), axis=0) * stride + (stride - 1) / 2
    heads, points = (np.column_stack([part, rng.uniform(6, 20, len(part)), rng.uniform(0.1, most, len(part)).round(2)])
                     for part, most in ((found, 1.0), (peaks.clip(0, SIZE[0] - 1), 1.2)))
    return Seen(size=SIZE, density=density, spread=(0.3 * density * rng.random(cells)).astype(np.float32),
                member_counts=np.array([80.0, 90.0]), detections=heads.astype(np.float32),
                transformed=points.astype(np.float32))


def plain_weight(detections: np.ndarray, method: Any) -> np.ndarray:
    """W of Eq. 8, painted from the weakest detection to the best."""
    stream, stride, exponent = method.stream, method.output_stride, method.config.bi_knowledge.weight_exponent
    weight = np.zeros((SIZE[0] // stride, SIZE[1] // stride), np.float32)
    reach = np.broadcast_to(np.floor(WINDOW_SIGMAS * kernel_px(detections, stream) / stride), len(detections))
    places = np.rint(cell_places(detections, weight.shape, stride)).astype(int)
    powers = detections[:, 3] ** exponent
    for index in np.argsort(detections[:, 3], kind="stable"):
        (x, y), half = places[index], int(reach[index])
        weight[max(y - half, 0):y + half + 1, max(x - half, 0):x + half + 1] = powers[index]
    return weight


def free(points: np.ndarray, detections: np.ndarray, share: float) -> np.ndarray:
    """The points that no detection clears, within a share of its size."""
    kept = [not any(np.sum(np.square(np.float64(head[:2]) - point[:2])) <= np.float64(np.float32(share) * head[2]) ** 2
                    for head in detections) for point in points]
    return points[np.array(kept, bool)]


def plain_bi_knowledge(method: Any, seen: Seen) -> dict[str, np.ndarray]:
    settings, stride, stream, cells = method.settings, method.output_stride, method.stream, seen.density.shape
    assert seen.detections is not None and seen.transformed is not None
    found = distinct(seen.detections, settings.nms_share)
    detections = found[found[:, 3] >= settings.confidence]
    strong = seen.transformed[seen.transformed[:, 3] >= settings.localiser_threshold]
    square = np.column_stack([np.rint((strong[:, :2] + 0.5) / stride - 0.5), strong[:, 3]])
    peaks = strong[clear_squares(square, max(settings.merge_px // stride, 1))]
    peaks[:, 3] = np.clip(peaks[:, 3], 0, 1)
    drawn = cell_density(detections[:, :3], cells, stream, stride)
    union = np.concatenate([detections, free(peaks, detections, settings.union_share)])
    detected = np.arange(len(union)) < len(detections)
    order = np.argsort(-union[:, 3], kind="stable")
    heads, detected = union[order], detected[order]
    near = np.sum(np.square(np.float64(heads[:, None, :2]) - heads[None, :, :2]), axis=2) <= settings.crowd_px**2
    number, seen_number = near.sum(1) - 1, near[:, detected].sum(1)
    chosen = detected | ((number >= settings.crowd_heads) & (seen_number >= settings.crowd_share * number))
    rejected, heads, detected = heads[~chosen], heads[chosen], detected[chosen]
    heads[:, 2] = np.where(detected, heads[:, 2], transformed_sizes(heads[:, :2], heads[:, 2], seen.size[0]))
    if settings.fusion == "heads":
        density = cell_density(heads[:, :3], cells, stream, stride)
    else:
        density = fuse_density(seen.density, drawn, plain_weight(detections, method))
    sure = ~detected | (heads[:, 3] >= settings.sure_confidence)
    return {"density": density, "spread": np.abs(seen.density - drawn) / 2, "points": heads[:, [0, 1, 3]],
            "sizes": heads[:, 2], "taught": heads[sure], "transformed": peaks[:, [0, 1, 3]],
            "doubtful": np.concatenate([heads[~sure], found[found[:, 3] < settings.confidence], rejected])}


def plain_combined(method: Any, seen: Seen) -> dict[str, np.ndarray]:
    settings, stride, stream = method.config.bi_knowledge, method.output_stride, method.stream
    assert seen.detections is not None
    found = distinct(seen.detections, settings.nms_share)
    detections, sure = found[found[:, 3] >= settings.confidence], found[:, 3] >= max(settings.sure_confidence,
                                                                                     settings.confidence)
    drawn = cell_density(detections[:, :3], seen.density.shape, stream, stride)
    weight = plain_weight(detections, method) * relative_uncertainty(seen.density, seen.spread)
    density = fuse_density(seen.density, drawn, weight.astype(np.float32))
    peaks = np.insert(density_points(seen.density, stride, stream.sigma_px), 2,
                      np.median(detections[:, 2]) if len(detections) else stride, axis=1)
    alone = free(peaks[np.argsort(-peaks[:, 3], kind="stable")], detections, settings.union_share)
    union = np.concatenate([detections, alone])[:, [0, 1, 3]]
    points = union[np.argsort(-union[:, 2], kind="stable")][:round(float(density.sum(dtype=np.float64)))]
    return {"density": density, "points": points, "taught": found[sure],
            "doubtful": np.concatenate([found[~sure], alone])}


@pytest.mark.parametrize(("name", "settings"), [
    ("bi_knowledge", {}),
    ("bi_knowledge", {"crowd_heads": 3, "crowd_share": 0.4, "union_share": 0.5, "sigma_of_size": 0.3}),
    ("bi_knowledge", {"fusion": "confidence", "crowd_heads": 0}),
    ("combined", {}),
    ("combined", {"sigma_of_size": 0.3}),
])
def test_trials_conclude_what_the_plain_way_does_to_the_bit(tiny_config: RunConfig, name: Any,
                                                             settings: dict[str, Any]) -> None:
    config = replace(tiny_config, method=name, bi_knowledge=replace(tiny_config.bi_knowledge, **settings))
    method = build_method(config)
    plain = {"bi_knowledge": plain_bi_knowledge, "combined": plain_combined}[name]
    for seed in range(2):
        seen, counts = crowded(method, seed), set()
        for values in trial_values(config, 20):
            tried = method.with_config(with_values(config, values))
            ours, trial, theirs = tried.conclude(seen), tried.conclude(seen, labels=False), plain(tried, seen)
            if name == "bi_knowledge":
                np.testing.assert_array_equal(ours.parts["transformed"].points, theirs.pop("transformed"))
            for field, expected in theirs.items():
                np.testing.assert_array_equal(getattr(ours, field), expected, field)
            for field in ("density", "spread", "points", "uncertainty"):
                np.testing.assert_array_equal(getattr(ours, field), getattr(trial, field), field)
            counts.add(len(ours.points))
        assert len(counts) > 5, "thresholds matter"
