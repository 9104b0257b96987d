"""The round beside published parts: what the peers compute, and the table that is made of the times. Not timed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from crowddist.ops.localization import mean_average_precision
from tests.benchmarks.end_to_end import BY_HEADS, Options, rows_of, write_rows
from tests.benchmarks.peers import habits


def test_the_peers_parts(tmp_path: Path) -> None:
    """Densities hold all heads, peaks are local maxima, and the precision is that of our metric."""
    draws = np.random.default_rng(0)
    points = draws.uniform(40, 88, (6, 2))
    for drawn in (habits.density_by_image(points, (128, 128)), habits.density_by_heads(points, (128, 128))):
        assert drawn.shape == (128, 128) and drawn.sum() == pytest.approx(6, rel=0.02)

    cells = torch.zeros(4, 5)
    cells[1, 2], cells[1, 3], cells[3, 0] = 1.0, 0.5, 0.009
    assert habits.peaks(cells).tolist() == [[20.0, 12.0, 1.0]], "no neighbour of a peak, none below a hundredth"

    truths = [draws.uniform(0, 300, (number, 2)) for number in (30, 0, 12)]
    found = [np.column_stack([draws.uniform(0, 300, (number, 2)), draws.random(number)]) for number in (40, 3, 9)]
    precisions = [habits.average_precision(found, truths, limit) for limit in habits.DISTANCES]
    assert np.mean(precisions) == pytest.approx(mean_average_precision(found, truths, len(precisions)))

    (tmp_path / "images").mkdir()
    (tmp_path / "ground_truth").mkdir()
    image = tmp_path / "images" / "IMG_1.jpg"
    Image.fromarray(draws.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(image)
    info = np.empty((1, 1), object)
    info[0, 0] = {"location": points[:, ::-1] / 2 + 30, "number": 6}
    scipy.io.savemat(tmp_path / "ground_truth" / "GT_IMG_1.mat", {"image_info": info})
    habits.convert([image], tmp_path / "densities")
    crops = habits.Crops([image], tmp_path / "densities", 64)
    for pixels, density in (crops[0] for _ in range(4)):
        assert pixels.shape == (3, 64, 64) and density.shape == (1, 8, 8) and density.sum() <= 6.001


def test_rows_of_times(tmp_path: Path) -> None:
    seconds = {"convert": [(2.0, 1.0), (2.0, 1.0)], BY_HEADS: [(100.0, 1.0), (200.0, 1.0)],
               "label": [(3.0, 1.0), (5.0, 1.0)], "evaluate": [(1.0, 1.0), (1.0, 1.0)], "train": [(6.0, 3.0)] * 2}
    found = {"data": "drawn", "images": 4, "persons": 1000, "steps": 8, "instructions": "AVX2", "seconds": seconds}
    rows = {row["part"]: row for row in rows_of(found, "python -m tests.benchmarks.end_to_end")}
    assert list(rows)[:5] == list(seconds)
    assert rows["without training"]["times faster (quartiles)"] == "2.3 (2.2 to 2.5)"  # of 6 / 3 and 8 / 3
    assert rows["with training"]["peers, s an image"] == "6.500"
    assert rows["with training, a filter a head"]["times faster (quartiles)"] == "26.8 (22.6 to 31.1)"
    del seconds[BY_HEADS]
    assert not [row for row in rows_of(found, "") if "head" in row["part"]]

    file = tmp_path / "rows.csv"
    for data in ("A", "B", "A"):
        write_rows(file, rows_of(found | {"data": data}, ""))
    kept = [row["images"][-1] for row in csv.DictReader(file.open(newline=""))]
    assert kept == ["B"] * (len(kept) // 2) + ["A"] * (len(kept) // 2)


def test_options_that_cannot_be() -> None:
    for given in ({"images": 2, "groups": 3}, {"held_out": 0}, {"size": (192, 256)}):
        with pytest.raises(SystemExit, match="256 px"):
            Options(**given)  # type: ignore[arg-type]
