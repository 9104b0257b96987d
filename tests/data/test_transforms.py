"""Geometry: points and maps move with the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowddist.data import transforms
from crowddist.data.config import StreamConfig
from crowddist.data.stream import whole_image


def spot(size: tuple[int, int], x: int, y: int) -> np.ndarray:
    """A black image with a bright square of 9x9 px centred at a point."""
    image = np.zeros((*size, 3), np.uint8)
    image[y - 4 : y + 5, x - 4 : x + 5] = 255
    return image


def centre(image: np.ndarray) -> tuple[float, float]:
    """Centre of mass of the brightness, x and y."""
    weight = image[..., 0].astype(np.float64)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return float((columns * weight).sum() / weight.sum()), float((rows * weight).sum() / weight.sum())


def test_boxes_are_resized_with_the_pixels_they_cover_and_with_their_centres() -> None:
    boxes = np.array([[0, 0, 40, 20], [10, 4, 3, 6]], np.float32)
    resized = transforms.resize_boxes(boxes, 0.5, 2)
    np.testing.assert_array_equal(resized, [[0, 0, 20, 40], [5, 8, 1.5, 12]])
    np.testing.assert_array_equal(resized[:, :2] + resized[:, 2:] / 2 - 0.5,
                                  transforms.resize_points(boxes[:, :2] + boxes[:, 2:] / 2 - 0.5, 0.5, 2))
    assert resized.dtype == np.float32 and transforms.resize_boxes(boxes[:0], 0.5, 2).shape == (0, 4)


def test_resize_by_hand() -> None:
    assert transforms.resize_points(np.array([[0.0, 0.0], [9.0, 4.0]]), 0.5, 2).tolist() == [[-0.25, 0.5], [4.25, 8.5]]


def test_flip_moves_points_with_pixels() -> None:
    moved = transforms.flip_points(np.array([[30.0, 17.0]]), 80)
    assert moved[0] == pytest.approx(centre(spot((60, 80), 30, 17)[:, ::-1]))
    assert np.array_equal(transforms.flip_points(moved, 80), [[30, 17]])


@pytest.mark.parametrize("scale_jitter", [(0.5, 0.5), (0.83, 0.83), (1.0, 1.0), (1.37, 1.37), (0.3, 0.3)])
def test_crop_moves_points_with_pixels(scale_jitter: tuple[float, float]) -> None:
    image = spot((200, 240), 121, 102)
    config = StreamConfig(image_size=240, crop_size=128, scale_jitter=scale_jitter)
    rng, found = np.random.default_rng(0), 0
    for _ in range(20):
        window = transforms.draw_window((200, 240), config, rng)
        crop = transforms.crop_pixels(image, window, (128, 128))
        points = transforms.crop_points(np.array([[121.0, 102.0]]), window, (128, 128))
        if len(points) and np.all((points[0] > 8) & (points[0] < 120)):  # the whole spot is in the crop
            crop = np.where(crop > transforms.PAD_VALUE + 1, crop, 0).astype(np.uint8)  # grey border, white spot
            assert points[0] == pytest.approx(centre(crop), abs=0.35)
            found += 1
    assert found > 5


@pytest.mark.parametrize("size", [(150, 240), (241, 163)])
@pytest.mark.parametrize("scale", [0.4, 0.77, 1.0, 1.3])
def test_a_crop_is_cut_from_the_image_as_it_is_counted(size: tuple[int, int], scale: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    config = StreamConfig(image_size=240, crop_size=64, scale_jitter=(scale, scale))
    whole = whole_image(image, round(240 * scale))
    shown = np.full((whole.shape[0] + 128, whole.shape[1] + 128, 3), transforms.PAD_VALUE, np.uint8)
    shown[64:-64, 64:-64] = whole
    rng = np.random.default_rng(2)
    for _ in range(10):
        window = transforms.draw_window(size, config, rng)
        row, column = round(window[0] * whole.shape[0] / size[0]) + 64, round(window[1] * whole.shape[1] / size[1]) + 64
        expected = shown[row : row + 64, column : column + 64]
        difference = transforms.crop_pixels(image, window, (64, 64)).astype(int) - expected
        # rows and columns are each rounded to a grey level
        assert abs(difference).max() <= 2 and abs(difference).mean() < 0.1


def test_softness_loses_detail_and_nothing_else() -> None:
    image = np.random.default_rng(3).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    window = (-10.0, 20.0, 64.0, 64.0)
    sharp, soft, softer = (transforms.crop_pixels(image, window, (64, 64), softness) for softness in (1.0, 1.5, 2.0))
    assert np.array_equal(soft[:10], sharp[:10]) and (soft[:10] == transforms.PAD_VALUE).all()
    assert sharp[10:].std() > 1.3 * soft[10:].std() > 1.5 * softer[10:].std()
    assert sharp[10:].mean() == pytest.approx(softer[10:].mean(), abs=2)
    bright = transforms.crop_pixels(spot((100, 120), 50, 40), window, (64, 64), 2.0)
    assert centre(np.where(bright > transforms.PAD_VALUE + 1, bright, 0)) == pytest.approx((30, 50), abs=0.3)


def test_the_share_of_soft_crops_is_as_configured() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([transforms.draw_softness(StreamConfig(soft_share=0.3), rng) for _ in range(2000)])
    assert (drawn > 1).mean() == pytest.approx(0.3, abs=0.04)
    assert drawn.min() == 1 and 1.9 < drawn.max() <= transforms.LARGEST_SOFTNESS
    assert all(transforms.draw_softness(StreamConfig(soft_share=0.0), rng) == 1 for _ in range(20))


def test_points_outside_the_window_go() -> None:
    points = np.array([[10.0, 10.0], [40.0, 10.0], [10.0, 40.0], [31.4, 31.4], [31.6, 3.0]])
    kept = transforms.crop_points(points, (0, 0, 32, 32), (32, 32))
    assert kept == pytest.approx(np.array([[10, 10], [31, 31]]), abs=0.5)
    assert kept.max() <= 31


def test_a_window_beside_the_image_is_grey() -> None:
    assert (transforms.crop_pixels(spot((40, 40), 20, 20), (50, 50, 20, 20), (32, 32)) == transforms.PAD_VALUE).all()


@given(st.floats(-10, 30), st.floats(-10, 30), st.floats(3, 60), st.integers(1, 24))
def test_mass_is_kept_exactly(top: float, left: float, side: float, cells: int) -> None:
    grid = np.random.default_rng(0).random((20, 28)).astype(np.float32)
    cut = transforms.crop_mass(grid, (top, left, side, side), (cells, cells))

    def covered(index: int, start: float) -> float:
        return max(min(start + side, index + 1) - max(start, index), 0.0)

    expected = sum(grid[i, j] * covered(i, top) * covered(j, left) for i in range(20) for j in range(28))
    assert cut.sum() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_mass_by_hand() -> None:
    grid = np.array([[4.0, 0.0], [2.0, 8.0]])
    assert transforms.crop_mass(grid, (0, 0, 2, 2), (1, 1)).tolist() == [[14.0]]
    assert transforms.crop_mass(grid, (0, 0, 1, 2), (2, 2)).tolist() == [[2.0, 0.0], [2.0, 0.0]]
    assert transforms.crop_mass(grid, (0.5, 1, 1, 1), (1, 1)).tolist() == [[4.0]]


def test_what_the_last_cells_hold_lies_inside_the_image() -> None:
    grid = np.array([[4.0, 2.0]])  # the image ends a quarter into the second column
    assert transforms.crop_mass(grid, (0, 0, 1, 2), (1, 2), (1, 1.25)).tolist() == [[4.0, 2.0]]
    assert transforms.crop_mass(grid, (0, 1.125, 1, 0.125), (1, 1), (1, 1.25)).tolist() == [[1.0]]
    assert transforms.crop_mass(grid, (0, 1.25, 1, 0.75), (1, 1), (1, 1.25)).tolist() == [[0.0]]
    chosen = np.array([[False, True]])
    assert transforms.covered_area(chosen, (0, 0, 1, 2), (1, 2), (1, 1.25)).tolist() == [[0.0, 0.25]]
    assert transforms.covered_area(chosen, (0, 0.5, 1, 1), (1, 1)).tolist() == [[0.5]]


def test_windows_lie_inside_and_are_of_the_jittered_scale() -> None:
    config = StreamConfig(image_size=256, crop_size=64, scale_jitter=(0.5, 2.0))
    rng = np.random.default_rng(0)
    windows = np.array([transforms.draw_window((192, 256), config, rng) for _ in range(500)])
    assert windows[:, 2] == pytest.approx(windows[:, 3], rel=0.01)  # square but for the rounding of the resized image
    assert windows[:, 2:].min() >= 31.7 and windows[:, 2:].max() <= 128.7
    assert (windows[:, :2] >= 0).all() and (windows[:, 0] + windows[:, 2] <= 192 + 1e-9).all()


def test_a_small_image_lies_anywhere_in_its_crop() -> None:
    config = StreamConfig(image_size=64, crop_size=128, scale_jitter=(1.0, 1.0))
    rng = np.random.default_rng(0)
    tops = [transforms.draw_window((48, 64), config, rng)[0] for _ in range(200)]
    assert min(tops) < -60 and max(tops) > -20 and max(tops) <= 0


def test_colours_move_and_stay_when_told_to() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    still = StreamConfig(colour_jitter=0.0, grey_share=0.0)
    assert np.array_equal(transforms.jitter_colours(image, still, np.random.default_rng(0)), image)
    grey = transforms.jitter_colours(image, StreamConfig(colour_jitter=0.0, grey_share=1.0), np.random.default_rng(0))
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    assert not np.array_equal(transforms.jitter_colours(image, StreamConfig(), np.random.default_rng(0)), image)


def test_noise_is_white_as_strong_as_drawn_and_on_its_share_of_the_crops() -> None:
    image, rng = np.full((64, 64, 3), 128, np.uint8), np.random.default_rng(0)
    noisy = [transforms.add_noise(image, StreamConfig(noisy_share=0.25), rng) for _ in range(400)]
    strengths = np.array([crop.astype(float).std() for crop in noisy if crop is not image])
    assert 0.19 < len(strengths) / 400 < 0.31
    assert strengths.max() < 12.5 and 5.3 < strengths.mean() < 6.7  # uniform from 0 to 12
    strong = max(noisy, key=lambda crop: crop.std()).astype(float) - 128
    assert abs(strong.mean()) < 0.5 and abs(np.corrcoef(strong[:, :-1].ravel(), strong[:, 1:].ravel())[0, 1]) < 0.05
    # cut off, not wrapped around
    assert transforms.add_noise(np.zeros((8, 8, 3), np.uint8), StreamConfig(noisy_share=1.0), rng).max() < 60


def test_without_noise_nothing_is_drawn() -> None:
    """Without noise, streams draw the random numbers that they drew before noise existed."""
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)
    image = np.zeros((8, 8, 3), np.uint8)
    assert transforms.add_noise(image, StreamConfig(), rng) is image and rng.random() == twin.random()
