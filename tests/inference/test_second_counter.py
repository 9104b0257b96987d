"""A second counter: labels are the mean of both, cell by cell; a run keeps a copy; what is no counter is one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.data.sample import Seen
from crowddist.data.shards import ShardReader, decode, decode_labels
from crowddist.errors import InputError
from crowddist.inference.prediction_cache import CachedPrediction
from crowddist.inference.predictor import Predictor
from crowddist.inference.second_counter import averaged
from crowddist.launch.local import LocalLauncher
from crowddist.pipeline import adapt
from crowddist.tracking.tracker import NullTracker


def seen(density: np.ndarray, size: tuple[int, int]) -> Seen:
    return Seen(size=size, density=density, spread=np.zeros_like(density),
                member_counts=np.full(2, float(density.sum())), zoom_counts={1.0: float(density.sum())})


def test_both_in_the_cells_of_the_first_by_hand() -> None:
    """A person each: the first sees it in the upper left cell of two by two, the second, at twice the size, in one of
    four by four; and the first sees a second person where the second sees nobody.
    """
    first, second = np.zeros((2, 2), np.float32), np.zeros((4, 4), np.float32)
    first[0, 0] = first[1, 1] = second[1, 0] = 1
    found = averaged(seen(first, (16, 16)), (2, 2),
                     CachedPrediction(key="a", seen=seen(second, (32, 32)), size=(100, 100), extent=(4, 4)))
    assert found.density.tolist() == [[1, 0], [0, 0.5]] and found.size == (16, 16)
    assert found.spread == pytest.approx(np.array([[0, 0], [0, 0.5]]))
    assert found.member_counts.std() == pytest.approx(0.5)  # they count 2 and 1
    assert found.zoom_counts == {1.0: 2.0}, "the zooms are the first counter's: they tell whether a round is kept"
    assert found.certainty[1, 1] < 0.9


def test_no_person_is_lost_between_cells_of_any_size() -> None:
    random = np.random.default_rng(0)
    one, other = random.random((13, 9), np.float32), random.random((7, 17), np.float32)
    # The image reaches into the last cells alone.
    found = averaged(seen(one, (99, 66)), (99 / 8, 66 / 8),
                     CachedPrediction(key="a", seen=seen(other, (51, 131)), size=(400, 300), extent=(51 / 8, 131 / 8)))
    assert found.density.sum() == pytest.approx((one.sum() + other.sum()) / 2, rel=1e-5)
    assert found.certainty.shape == (13, 9) and ((found.certainty > 0) & (found.certainty <= 1)).all()


def labels_of(run: Path, name: str = "labels-1") -> dict[str, np.ndarray]:
    labels = ShardReader((run / name / "labels").as_uri())
    keys = labels.keys()
    return {key: decode_labels(*labels.read(labels.index_of(key))).density for key in keys}


def test_labels_are_the_mean_of_both_and_resumed_they_are_the_same(
        short_config: RunConfig, make_checkpoint: Callable[..., str], tmp_path: Path) -> None:
    other = storage.local_file(make_checkpoint(tmp_path / "other", seed=5))
    config = replace(short_config, run_name="both", self_supervision=replace(
        short_config.self_supervision, orientation_steps=0, rounds=1, second_counter=str(other)))
    said: list[str] = []
    adapt(config, LocalLauncher(config), NullTracker(), say=said.append)
    runs = Path(config.storage)
    assert any(line.startswith("second counter: predicting") for line in said)
    assert (runs / "both" / "second_counter.pt").read_bytes() == other.read_bytes()

    images = ShardReader(config.target)
    first = Predictor.from_checkpoint(next((runs / "both" / "source" / "checkpoints").glob("*.pt")).as_uri())
    second = Predictor.from_checkpoint(other.as_uri())
    for key, density in labels_of(runs / "both").items():
        image = decode(*images.read(images.index_of(key))).image
        one = next(first.predict_views([image], (1.0, 1.4)))
        two = next(second.predict_views([image], second.method.label_views()))
        assert one.count != pytest.approx(two.count, rel=0.01)
        assert density.sum() == pytest.approx((one.count + two.count) / 2, rel=0.01)  # stored in half precision

    # Killed before its labels were made, it goes on without the other counter's file, to the same bits.
    again = replace(config, run_name="again")
    launcher = LocalLauncher(again)
    launcher.run = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        adapt(again, launcher, NullTracker(), say=said.append)
    other.unlink()
    for folder in (runs / "data" / "predictions").iterdir():
        storage.remove_tree(folder.as_uri())
    adapt(again, LocalLauncher(again), NullTracker(), say=said.append)
    for key, density in labels_of(runs / "again").items():
        np.testing.assert_array_equal(density, labels_of(runs / "both")[key])


def stopped(job: object) -> None:
    raise KeyboardInterrupt


def test_what_is_no_counter_is_one_line_and_leaves_no_run(short_config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "no.pt").write_bytes(b"no checkpoint")
    for where, words in ((str(tmp_path / "gone.pt"), "gone.pt"), (str(tmp_path / "no.pt"), "no.pt"),
                         (str(tmp_path), "not the folder of a run that has ended")):
        config = replace(short_config, self_supervision=replace(short_config.self_supervision, second_counter=where))
        with pytest.raises(InputError, match=r"self_supervision\.second_counter: ") as refused:
            adapt(config, LocalLauncher(config), NullTracker(), say=print)
        assert words in str(refused.value) and "\n" not in str(refused.value)
        assert not (Path(config.storage) / "tiny" / "config.json").exists()
    # A method without labels does not look for it.
    adapt(replace(config, method="source_only"), LocalLauncher(config), NullTracker(), say=print)
