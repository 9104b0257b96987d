"""The predictor: counts of the ensemble's members, batches and tiles that change nothing, points in the user's
pixels.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from crowddist import storage
from crowddist.config import from_json
from crowddist.data.stream import to_tensor
from crowddist.errors import InputError
from crowddist.inference import base_predictor
from crowddist.inference.predictor import Predictor
from crowddist.methods.build import build_method
from crowddist.models.config import CounterConfig
from crowddist.models.counter import build_counter
from crowddist.ops.peaks import density_points
from crowddist.ops.views import certainty
from crowddist.run import checkpoint


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise with a gradient, so that no two places look alike."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(0, 120, height)[:, None, None] + np.linspace(0, 60, width)[None, :, None]
    return (shade + rng.integers(0, 70, (height, width, 3))).astype(np.uint8)


def member_maps(url: str, image: np.ndarray) -> np.ndarray:
    """(M, h, w): each member's own map of an image as it is, one forward after the other."""
    content = checkpoint.load(url)
    method = build_method(from_json(content["config"]))
    method.load_state_dict(content["method"])
    network = method.networks().eval()
    with torch.no_grad():
        return np.stack([network(to_tensor(image), torch.tensor([member])).numpy()[0, 0] for member in range(3)])


def test_count_and_uncertainty_are_those_of_the_members(tiny_checkpoint: str) -> None:
    image = photograph(72, 96)
    found = Predictor.from_checkpoint(tiny_checkpoint).predict(image)
    maps = member_maps(tiny_checkpoint, image).astype(np.float64)
    counts = maps.sum((1, 2))
    assert counts.std() > 0.5  # else nothing is shown below
    assert (found.count == pytest.approx(counts.mean(), rel=1e-5)
            and found.count == pytest.approx(found.density.sum(), rel=1e-5))
    assert found.uncertainty == pytest.approx(np.sqrt(np.mean((counts - counts.mean()) ** 2)), rel=1e-5)
    np.testing.assert_allclose(found.density, maps.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.spread, maps.std(0), rtol=1e-3, atol=1e-6)
    assert found.density.shape == found.spread.shape == found.keep.shape == (9, 12) and found.size == (72, 96)
    np.testing.assert_allclose(found.certainty, certainty(found.density, found.spread))
    assert found.keep.dtype == bool and (found.keep == (found.certainty >= 0.7)).all()


def test_a_single_network_is_certain(tmp_path: Path, make_checkpoint) -> None:  # type: ignore[no-untyped-def]
    found = Predictor.from_checkpoint(make_checkpoint(tmp_path,
                                                      counter=CounterConfig(
                                                          ensemble="none"))).predict(photograph(72, 96))
    assert found.count > 1 and found.uncertainty == 0 and not found.spread.any()


def test_one_pass_runs_the_decoder_once_and_has_no_uncertainty(tiny_checkpoint: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (72, 96, 3), dtype=np.uint8)
    usual, once = (Predictor.from_checkpoint(tiny_checkpoint, one_pass=one_pass) for one_pass in (False, True))
    passes: dict[bool, list[int]] = {False: [], True: []}
    for one_pass, counting in ((False, usual), (True, once)):
        counter = counting.method.networks()
        counter.decoder.rest.register_forward_hook(lambda *_, one_pass=one_pass: passes[one_pass].append(1))
    members, mean = usual.predict(image), once.predict(image)
    assert len(passes[False]) == 3 and len(passes[True]) == 1
    assert members.uncertainty > 0 == mean.uncertainty and not mean.spread.any()
    assert mean.count == pytest.approx(members.count, rel=0.5) and mean.count != members.count


def test_together_or_alone_is_the_same(tiny_checkpoint: str) -> None:
    """Equal sizes share a batch; sizes may alternate, and the order of the answers is that of the images."""
    counter = Predictor.from_checkpoint(tiny_checkpoint)
    sizes = [(72, 96), (72, 96), (96, 64), (72, 96), (144, 192), (50, 96)]
    images = [photograph(*size, seed=index) for index, size in enumerate(sizes)]
    together = list(counter.predict_views(images))
    counter.batch_px = 1
    in_ones = list(counter.predict_views(images))
    # no two images could be mistaken for each other
    assert len({round(found.count, 3) for found in together}) == len(images)
    for image, first, second in zip(images, together, in_ones, strict=True):
        alone = counter.predict(image)
        for found in (first, second):
            np.testing.assert_allclose(found.density, alone.density, rtol=1e-4, atol=1e-7)
            assert (found.count, found.uncertainty) == pytest.approx((alone.count, alone.uncertainty), rel=1e-4)
            assert found.size == alone.size and len(found.points) == len(alone.points)


def test_images_go_through_in_batches(tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Predictor.from_checkpoint(tiny_checkpoint)
    network = counter.method.networks()
    shapes, encode = [], network.encode

    def watched(images: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(images.shape))
        return encode(images)

    monkeypatch.setattr(network, "encode", watched)
    counter.batch_px = 2 * 72 * 96
    list(counter.predict_views([photograph(72, 96, seed) for seed in range(3)]))
    assert shapes == [(2, 3, 72, 96), (1, 3, 72, 96)]


def test_tiles_of_a_large_image_show_no_seam(tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photograph(300, 420)
    counter = Predictor.from_checkpoint(tiny_checkpoint, image_size=0)
    whole = counter.predict(image)
    monkeypatch.setattr(base_predictor, "TILE_PX", 128)
    tiled = counter.predict(image)
    assert tiled.density.shape == whole.density.shape == (38, 53) and tiled.size == (300, 420)
    np.testing.assert_allclose(tiled.density, whole.density, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(tiled.spread, whole.spread, rtol=1e-2, atol=1e-5)
    assert (tiled.count == pytest.approx(whole.count, rel=1e-4)
            and tiled.uncertainty == pytest.approx(whole.uncertainty, rel=0.1))
    assert len(tiled.points) == len(whole.points) == round(whole.count)
    np.testing.assert_allclose(tiled.certainty, whole.certainty, atol=1e-3)
    # Without a margin every tile is padded at its own border, which is seen there and nowhere else.
    monkeypatch.setattr(type(counter.method), "margin_px", 0)
    seams = np.abs(counter.predict(image).density - whole.density) > 1e-3
    assert seams[:, 15:17].any() and seams[31:33].any()
    reach = 10  # cells; half of the receptive field
    assert not seams[: 16 - reach, : 16 - reach].any()


@pytest.mark.parametrize(("size", "shapes"), [((96, 168), [(96, 168)]), ((104, 160), [(104, 136), (104, 40)])])
def test_an_image_is_cut_by_its_pixels_not_by_its_longer_side(
    tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], shapes: list[tuple[int, int]]
) -> None:
    counter = Predictor.from_checkpoint(tiny_checkpoint, image_size=0)
    encode, seen = counter.method.networks().encode, []

    def watched(images: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(images.shape[2:]))
        return encode(images)

    monkeypatch.setattr(counter.method.networks(), "encode", watched)
    monkeypatch.setattr(base_predictor, "TILE_PX", 128)  # 16,384 px: the first has 16,128, the second 16,640
    monkeypatch.setattr(type(counter.method), "margin_px", 8)
    counter.predict(photograph(*size))
    assert seen == shapes


def test_points_are_in_the_pixels_of_the_image_as_given(tmp_path: Path,
                                                        make_checkpoint) -> None:  # type: ignore[no-untyped-def]
    counter = Predictor.from_checkpoint(make_checkpoint(tmp_path, sigma_px=3.0))
    image = photograph(144, 192)
    found = counter.predict(image)
    assert found.size == (72, 96) and len(found.points) == round(found.count) > 3
    expected = density_points(found.density, 8, 3.0)
    # Half the size: pixel j of the small image covers the pixels 2j and 2j + 1, whose middle is 2j + 0.5.
    np.testing.assert_allclose(found.points[:, :2], np.clip(2 * expected[:, :2] + 0.5, 0, [191, 143]), atol=1e-4)
    np.testing.assert_array_equal(found.points[:, 2], expected[:, 2])
    assert len(np.unique(found.points[:, :2] // 96, axis=0)) > 1


def test_points_stay_inside_an_image_that_ends_within_a_cell(tiny_checkpoint: str) -> None:
    for size in ((9, 96), (65, 90), (33, 17)):
        points = Predictor.from_checkpoint(tiny_checkpoint, image_size=0).predict(photograph(*size)).points
        assert (points[:, :2] >= 0).all() and (points[:, 0] <= size[1]
                                               - 1).all() and (points[:, 1] <= size[0] - 1).all()


def test_the_size_looked_at_is_the_trained_one_or_another(tiny_checkpoint: str) -> None:
    image = photograph(144, 192)
    for image_size, size in ((None, (72, 96)), (48, (36, 48)), (384, (288, 384)), (0, (144, 192))):
        found = Predictor.from_checkpoint(tiny_checkpoint, image_size=image_size).predict(image)
        assert found.size == size and found.density.shape == (-(-size[0] // 8), -(-size[1] // 8))
    for wrong in (-5, -1, 7, 20_001, 10**9):
        with pytest.raises(InputError, match=f"image_size must be 0 or from 8 to 20000 px, got {wrong}"):
            Predictor.from_checkpoint(tiny_checkpoint, image_size=wrong)


def test_a_checkpoint_needs_no_file_of_weights(tmp_path: Path, make_checkpoint) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(5)
    weights = tmp_path / "encoder.pth"
    torch.save(build_counter(CounterConfig()).encoder.levels[0].state_dict(), weights)
    url = make_checkpoint(tmp_path, counter=CounterConfig(weights=str(weights)))
    before = member_maps(url, photograph(72, 96))
    weights.unlink()
    np.testing.assert_allclose(Predictor.from_checkpoint(url).predict(photograph(72, 96)).density, before.mean(0),
                               rtol=1e-4)
    # what it came from is still told
    assert json.loads(checkpoint.load(url)["config"])["counter"]["weights"] == str(weights)


def test_files_that_are_no_counter_are_refused(tmp_path: Path, tiny_checkpoint: str,
                                               make_checkpoint) -> None:  # type: ignore[no-untyped-def]
    content = checkpoint.load(tiny_checkpoint)
    deep = make_checkpoint(tmp_path / "other", counter=CounterConfig(num_masks=5))
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({key: value for key, value in content.items() if key != "config"}, tmp_path / "bare.pt")
    torch.save({**content, "method": checkpoint.load(deep)["method"]}, tmp_path / "mixed.pt")
    torch.save({**content, "config": '{"unknown": 1}'}, tmp_path / "config.pt")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><title>Sign in</title>")
    whole = Path(storage.local_file(tiny_checkpoint)).read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        largest = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
    (tmp_path / "bit.pt").write_bytes(whole.replace(largest, largest[:-1] + bytes([largest[-1] ^ 1])))
    for name, message in (
        ("text.pt", "is not a checkpoint"),
        ("pointer.pt", "is not a checkpoint: a pointer of Git LFS, not the file itself; fetch it with git lfs pull"),
        ("page.pt", "is not a checkpoint: a web page, not the file itself; download the file again"),
        ("bit.pt", "is not a checkpoint: .*/data/.* in it is damaged; copy the file again"),
        ("other.pt", "not a crowddist checkpoint of format 1"),
        ("bare.pt", r"holds no counter that can be built \('config'\)"),
        ("mixed.pt", "holds no counter that can be built"),
        ("config.pt", "not a run's configuration"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            Predictor.from_checkpoint((tmp_path / name).as_uri())
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no file at"):
        Predictor.from_checkpoint((tmp_path / "missing.pt").as_uri())


def test_numbers_that_are_not_finite_are_no_count(tmp_path: Path, tiny_checkpoint: str) -> None:
    content = checkpoint.load(tiny_checkpoint)
    content["method"]["networks"]["decoder.rest.6.bias"].fill_(torch.nan)
    torch.save(content, tmp_path / "nan.pt")
    with pytest.raises(InputError, match="numbers that are not finite: its weights are damaged"):
        Predictor.from_checkpoint((tmp_path / "nan.pt").as_uri()).predict(photograph(72, 96))


def test_one_view_is_the_usual_count(tiny_checkpoint: str) -> None:
    counter, image = Predictor.from_checkpoint(tiny_checkpoint), photograph(72, 96)
    usual, seen = counter.predict(image), next(counter.predict_views([image], (1.0,)))
    assert (usual.count == seen.count and np.array_equal(usual.density, seen.density)
            and np.array_equal(usual.keep, seen.keep))


@pytest.mark.parametrize("size", [(72, 96), (75, 100), (200, 133)])
def test_views_are_counted_apart_and_merged_on_the_cells_of_the_usual_size(tiny_checkpoint: str,
                                                                           size: tuple[int, int]) -> None:
    from crowddist.data.stream import whole_image
    from crowddist.ops.views import merge_views

    counter, image = Predictor.from_checkpoint(tiny_checkpoint), photograph(*size)  # at 96 px
    usual = whole_image(image, 96).shape[:2]
    seen = next(counter.predict_views([image], (1.0, 1.5)))
    assert (seen.size == usual
            and seen.density.shape == seen.spread.shape == seen.keep.shape == (-(-usual[0] // 8), -(-usual[1] // 8)))
    # Each view again, by itself: as the usual count of an image whose longest side is as large.
    alone = [Predictor.from_checkpoint(tiny_checkpoint, image_size=side).predict(image) for side in (96, 144)]
    rows, columns = seen.density.shape

    def moved(part: np.ndarray) -> np.ndarray:
        """Every cell of the view, cut into 60 x 60 grains, each of which falls into a cell of the usual size."""
        result = np.zeros((rows, columns))
        grains = [(np.arange(extent * 60) + 0.5) / 60 * 8 for extent in part.shape]  # px of the view
        places = [np.minimum((grain * whole / own / 8).astype(int), cells - 1)
                  for grain, whole, own, cells in zip(grains, usual, alone[1].size, (rows, columns), strict=True)]
        np.add.at(result, (places[0][:, None], places[1][None, :]), part.repeat(60, 0).repeat(60, 1) / 3600)
        return result

    views = [(alone[0].density, alone[0].spread), (moved(alone[1].density), moved(alone[1].spread))]
    density, spread, certain = merge_views(*zip(*views, strict=True))
    np.testing.assert_allclose(seen.density, density, rtol=0.03)
    np.testing.assert_allclose(seen.spread, spread, rtol=0.05, atol=0.002)
    assert seen.count == pytest.approx(float(density.sum()), rel=1e-3)
    counts, doubts = np.array([view.count for view in alone]), np.array([view.uncertainty for view in alone])
    assert seen.uncertainty == pytest.approx(np.sqrt((doubts**2).mean() + counts.var()), rel=1e-3)
    np.testing.assert_allclose(seen.certainty, certain, atol=0.01)
    assert (seen.keep == counter.method.select(seen.density, seen.certainty)).all()
