"""A run's pictures: the same images in every round, true heads only where allowed, curves and errors at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist import storage
from crowddist.data.shards import ShardReader
from crowddist.inference.evaluation import evaluate_data
from crowddist.inference.predictor import Predictor
from crowddist.methods.base import Stage
from crowddist.reports.round_pictures import (
    NUM_PICTURES,
    chosen_images,
    round_pictures,
    summary_pictures,
    translation_picture,
)


def stage(num_round: int, title: str = "no adaptation") -> Stage:
    return Stage(name="source", steps=1, streams={}, title=title, num_round=num_round)


@pytest.mark.parametrize(("count", "chosen"),
                         [(1, [0]), (3, [0, 1, 2]), (6, [0, 1, 2, 3, 4, 5]), (11, [0, 2, 4, 6, 8, 10])])
def test_images_are_spread_over_the_data_set(tmp_path: Path, make_images: Callable[..., str], count: int,
                                             chosen: list[int]) -> None:
    assert chosen_images(ShardReader(make_images(tmp_path, count=count)), NUM_PICTURES) == chosen and NUM_PICTURES == 6


def test_every_round_shows_the_same_images(tmp_path: Path, tiny_checkpoint: str, tiny_evaluation: str,
                                           tiny_target: str) -> None:
    run = tmp_path.as_uri()
    first = round_pictures(tiny_checkpoint, tiny_evaluation, run, stage(0), {})
    second = round_pictures(tiny_checkpoint, tiny_evaluation, run, stage(1, "labels, round 1"), {})
    assert list(first) == list(second) == ShardReader(tiny_evaluation).keys()
    for key, picture in first.items():
        # the title
        assert picture.dtype == np.uint8 and picture.shape == second[key].shape and (picture != second[key]).any()
        kept = cv2.imread(str(tmp_path / "pictures" / key / "round-0.png"))
        np.testing.assert_array_equal(kept[:, :, ::-1], picture)
        assert (tmp_path / "pictures" / key / "round-1.png").exists()
    assert len(round_pictures(tiny_checkpoint, tiny_target, run, stage(0), {})) == 6


def test_truth_is_not_drawn_where_it_may_not_be_seen(tmp_path: Path, tiny_checkpoint: str,
                                                     tiny_evaluation: str) -> None:
    evaluated = evaluate_data(Predictor.from_checkpoint(tiny_checkpoint), ShardReader(tiny_evaluation))
    results = {result.key: replace(result, truth=np.array([[20.0, 20.0]])) for result in evaluated}
    seen, unseen = (round_pictures(tiny_checkpoint, tiny_evaluation, tmp_path.as_uri(), stage(0), told)
                    for told in (results, {}))
    true_heads = np.array([255, 80, 205])  # the colour of true heads
    for key in seen:
        assert (seen[key] == true_heads).all(2).any() and not (unseen[key] == true_heads).all(2).any()


def test_a_picture_tells_the_count_that_was_evaluated(tmp_path: Path, tiny_checkpoint: str,
                                                      tiny_evaluation: str) -> None:
    """E.g. the count inside a region of interest."""
    evaluated = {result.key: result
                 for result in evaluate_data(Predictor.from_checkpoint(tiny_checkpoint), ShardReader(tiny_evaluation))}
    inside = {key: replace(result, count=result.count / 2) for key, result in evaluated.items()}
    told, asked = (round_pictures(tiny_checkpoint, tiny_evaluation, tmp_path.as_uri(), stage(0), results)
                   for results in (evaluated, inside))
    for key, picture in told.items():
        changed = (picture != asked[key]).any(2)
        assert changed.any() and not changed[130:].any(), "in the caption alone"


def write_curve(folder: Path, losses: list[float], **others: float) -> None:
    folder.mkdir()
    lines = [json.dumps({"step": 10 * index, "loss": loss, "seconds_per_step": 1, **others})
             for index, loss in enumerate(losses)]
    (folder / "curve.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_a_run_ends_with_its_curves_and_its_errors(tmp_path: Path) -> None:
    rows = [{"round": index, "stages": [name], "title": title}
            for index, (name, title) in enumerate((("source", "no adaptation"), ("labels-1", "round 1")))]
    write_curve(tmp_path / "source", [1.0, 0.5, 0.3])
    assert list(summary_pictures(rows[:1], tmp_path.as_uri())) == ["curves"], "no errors, no chart of them"
    write_curve(tmp_path / "labels-1", [0.9, 0.8])
    rows = [{**row, "target/mae": 20.0 - row["round"]} for row in rows]
    pictures = summary_pictures(rows, tmp_path.as_uri())
    assert list(pictures) == ["rounds", "curves"]
    for name, picture in pictures.items():
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "pictures" / f"{name}.png"))[:, :, ::-1], picture)
    first = summary_pictures(rows[:1], tmp_path.as_uri())
    assert (first["curves"] != pictures["curves"]).any() and (first["rounds"]
                                                              != pictures["rounds"]).any(), "each stage is drawn"


def test_what_classifiers_tell_is_a_chart_of_its_own(tmp_path: Path) -> None:
    rows = [{"round": index, "stages": [name], "title": name} for index, name in enumerate(("source", "semantic"))]
    write_curve(tmp_path / "source", [1.0, 0.5])
    write_curve(tmp_path / "semantic", [0.9, 0.8], discriminator_accuracy=0.7)
    pictures = summary_pictures(rows, tmp_path.as_uri())
    assert list(pictures) == ["curves", "accuracies"] and (tmp_path / "pictures" / "accuracies.png").exists()


def test_without_any_point_there_is_no_picture(tmp_path: Path) -> None:
    """Stages too short for a point of their curves."""
    assert summary_pictures([{"round": 0, "stages": ["source"], "title": "no adaptation"}], tmp_path.as_uri()) == {}
    assert not storage.exists(storage.join(tmp_path.as_uri(), "pictures"))


def test_a_translation_is_shown_beside_its_source(tmp_path: Path, tiny_source: str, tiny_target: str,
                                                  make_images: Callable[..., str]) -> None:
    translated = make_images(tmp_path / "translated", count=12, seed=9)
    urls = {"source": tiny_source, "target": tiny_target, "translated": translated}
    picture = translation_picture(urls, tmp_path.as_uri())
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "pictures" / "translation.png"))[:, :, ::-1], picture)
    # Images of 96 x 72 px, five times as large, in four rows under a heading.
    assert picture.shape[1] == 3 * 480 + 2 * 16 and 4 * (360 + 16) < picture.shape[0] < 4 * (360 + 16) + 100
    other = translation_picture({**urls, "translated": tiny_source}, tmp_path.as_uri())
    assert np.array_equal(other[:, :496], picture[:, :496]) and np.array_equal(other[:, 976:], picture[:, 976:])
    heading = picture.shape[0] - 4 * (360 + 16)
    assert (other[heading:, 496:976]
            != picture[heading:, 496:976]).any() and np.array_equal(other[heading:, 496:976], other[heading:, :480])
