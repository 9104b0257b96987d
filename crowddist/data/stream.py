"""Streams: the samples of a plan, decoded, cropped and collated to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crowddist import storage
from crowddist.data.config import StreamConfig
from crowddist.data.mixing import mixed_position
from crowddist.data.plan import Plan, rank_positions
from crowddist.data.prefetch import Ahead
from crowddist.data.sample import Batch, Sample
from crowddist.data.scenes import SceneRule, kept_samples
from crowddist.data.shards import ShardReader, decode, decode_labels
from crowddist.data.transforms import (
    add_noise,
    covered_area,
    crop_mass,
    crop_pixels,
    crop_points,
    draw_softness,
    draw_window,
    flip_points,
    jitter_colours,
    resize_boxes,
    resize_pixels,
    resize_points,
    scaled_size,
)
from crowddist.errors import InputError
from crowddist.ops.density import density_map
from crowddist.ops.scales import head_sizes
from crowddist.randomness import derive, generator

if TYPE_CHECKING:
    from torch import Tensor


STRIDE = 8
"""Pixels of the image along one side of a cell of the density map, unless a network has other cells."""
OVERSIZE = 2
"""Images are kept at up to this many times the largest size a crop can need: shrunk to that size itself, then cut,
crops would be softer than whole images, which are resized once (ours)."""


class CropDataset(torch.utils.data.Dataset):
    """Position in the plan -> one augmented crop, as a pure function of (data, seed, stage, position).

    Args:
        url: of the image shards.
        labels_url: of pseudo-label shards with the same keys, or "".
        plan_seed: seed of order and augmentation.
        name: of the stream; two streams of one stage draw different numbers.
        open_points: False leaves points closed: the target's labels are the evaluation's alone.
        stride: pixels of a crop along a side of the density's cells.
        windows: the purpose whose patches of the pseudo-labels crops are cut from; "" cuts anywhere.
        with_heads: whether crops carry their heads, with sizes.
        with_boxes: whether these sizes must be those of boxes.
        with_masks: whether crops carry masks of persons.
        share: part of the images that are read at all, above 0 to 1; which ones follows from the seed.
        scenes: the rule that chooses the images that are read at all, before `share` does; None keeps all of them.

    Raises:
        InputError: no image that the rule keeps, or one that it cannot judge.
    """

    def __init__(
        self,
        url: str,
        config: StreamConfig,
        *,
        labels_url: str = "",
        plan_seed: int,
        name: str,
        open_points: bool = True,
        stride: int = STRIDE,
        windows: str = "",
        with_heads: bool = False,
        with_boxes: bool = False,
        with_masks: bool = False,
        share: float = 1.0,
        scenes: SceneRule | None = None,
    ) -> None:
        self.images, self.open_points = ShardReader(url), open_points
        self.stride, self.windows = stride, windows
        self.with_heads, self.with_boxes, self.with_masks = with_heads, with_boxes, with_masks
        self.labels = ShardReader(labels_url) if labels_url else None
        self.config, self.seed, self.name = config, plan_seed, name
        kept = np.arange(len(self.images)) if scenes is None else kept_samples(self.images, scenes)
        skipped = self.labels.manifest.statistics.get("skipped") if self.labels is not None else None
        if skipped:
            kept = np.array([index for index in kept if self.images.read(int(index), ())[0] not in skipped])
        ends = [self.images.shard_range(index).stop for index in range(len(self.images.manifest.shards))]
        self.plan = Plan(np.diff(np.searchsorted(kept, ends), prepend=0).tolist(), seed=plan_seed, name=name)
        order = generator(plan_seed, "share").permutation(len(kept))
        self.chosen = kept[order[: max(round(share * len(kept)), 1)]] if share < 1 else kept
        self._start()

    def _start(self) -> None:
        """What each process has its own of."""
        self._cached = self._cache()
        self._ahead = None if storage.is_local(self.images.url) else Ahead(self.images, self.plan)

    def __getstate__(self) -> dict:
        state = self.__dict__.copy()
        del state["_cached"], state["_ahead"]
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    def _cache(self) -> Callable[[int], Sample]:
        from cachetools import LRUCache, cached

        memory: LRUCache[Any, Sample] = LRUCache(self.config.cache_bytes, getsizeof=_num_bytes)
        return cached(memory)(self._read)

    def _read(self, index: int) -> Sample:
        """The sample, shrunk where it has far more pixels than a crop can need."""
        key, members = self.images.read(index)
        masks = {name: data for name, data in members.items() if name == "mask.png" and self.with_masks}
        facts = ({name: data for name, data in members.items() if name != "mask.png"} if self.open_points
                 else pixels_only(members))
        # Patches that labels chose are cut at the size the image was labelled at.
        largest = max(self.config.scale_jitter[1], 1.0) if self.windows else self.config.scale_jitter[1]
        longest_px = OVERSIZE * self.config.image_size * largest
        sample = decode(key, {**facts, **masks}, longest_px=longest_px)
        if self.labels is not None:
            labels = decode_labels(*self.labels.read(self.labels.index_of(key)))
            sample = replace(sample, labels=replace(labels, spread=None))  # nobody trains on it
        if self.open_points and self.labels is None and sample.points is None:
            raise InputError(f"sample {key} of {self.images.url} has no points, so nothing can be learnt from it; give "
                             "a labelled data set")
        if self.with_masks and sample.mask is None:
            raise InputError(f"sample {key} of {self.images.url} has no mask of persons while others of its data set "
                             "have; convert the data set again")
        if self.with_boxes:
            _require_boxes(sample, self.images.url)
        if sample.points is not None and (self.with_heads or self.config.sigma_of_size):
            sample = replace(sample, sizes=known_sizes(sample))
        return _shrink(sample, longest_px)

    def __getitem__(self, position: int) -> dict:
        if self._ahead is not None:
            self._ahead.reach(position)
        sample = self._cached(int(self.chosen[self.plan.sample_at(position) % len(self.chosen)]))
        rng = generator(self.seed, self.name, position)
        size = (self.config.crop_size, self.config.crop_size)
        cells = (size[0] // self.stride, size[1] // self.stride)
        height, width = sample.image.shape[:2]
        window = self._window(sample, rng)
        crop: dict = {"key": sample.key, "draw": derive(self.seed, self.name, position, "draw") % (1 << 31)}
        pixels = crop_pixels(sample.image, window, size, draw_softness(self.config, rng))
        flip = rng.random() < 0.5
        if sample.labels is not None:
            extent = sample.labels.extent
            to_cells = (extent[0] / height, extent[1] / width)
            cut = (window[0] * to_cells[0], window[1] * to_cells[1], window[2] * to_cells[0], window[3] * to_cells[1])
            crop["density"] = crop_mass(sample.labels.density, cut, cells, extent)
            if not self.windows:  # patches are learnt from whole
                # Kept is a cell at least half of which, and nothing outside the image, comes from kept cells.
                area = (cut[2] / cells[0]) * (cut[3] / cells[1])
                crop["keep"] = (covered_area(sample.labels.keep, cut, cells, extent) >= 0.5 * area).astype(np.float32)
            heads = sample.labels.detections[:, :3]
        elif sample.points is not None:
            heads = sample.points if sample.sizes is None else np.column_stack([sample.points, sample.sizes])
            crop["density"] = cell_density(crop_points(heads, window, size), cells, self.config, self.stride)
        if self.with_heads and (sample.labels is not None or sample.points is not None):
            crop["heads"] = crop_points(heads, window, size)
            if sample.labels is not None:
                crop["doubtful"] = crop_points(sample.labels.doubtful[:, :3], window, size)
        if sample.mask is not None:
            crop["mask"] = crop_pixels(sample.mask, window, size)
        crop["image"] = add_noise(jitter_colours(pixels, self.config, rng), self.config, rng)
        if flip:
            for name in ("image", "density", "keep", "mask"):
                if name in crop:
                    crop[name] = crop[name][:, ::-1]
            for name in ("heads", "doubtful"):
                if name in crop:
                    crop[name] = flip_points(crop[name], size, axis="horizontal")
        return crop

    def _window(self, sample: Sample, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """A random window anywhere in the image, or one of the patches that the labels chose."""
        height, width = sample.image.shape[:2]
        if not self.windows:
            return draw_window((height, width), self.config, rng)
        assert sample.labels is not None  # by the stage's plan
        chosen = sample.labels.windows[self.windows]
        pixel_y, pixel_x = height / sample.labels.extent[0], width / sample.labels.extent[1]
        top, left, rows, columns = chosen[int(rng.integers(len(chosen)))].tolist()
        return top * pixel_y, left * pixel_x, rows * pixel_y, columns * pixel_x


class MixedDataset(torch.utils.data.Dataset):
    """Crops of several data sets: position -> the crop of the data set whose turn it is.

    Args:
        datasets: the first and the others.
        shares: of the others, as in `mixed_position`.
    """

    def __init__(self, datasets: Sequence[CropDataset], shares: Sequence[Fraction]) -> None:
        self.datasets, self.shares = tuple(datasets), tuple(shares)

    @property
    def config(self) -> StreamConfig:
        """How crops are cut, of all data sets alike."""
        return self.datasets[0].config

    def __getitem__(self, position: int) -> dict[str, Any]:
        which, own = mixed_position(position, self.shares)
        return self.datasets[which][own]


def cell_density(heads: np.ndarray, cells: tuple[int, int], config: StreamConfig, stride: int = STRIDE) -> np.ndarray:
    """Density of heads at the network's resolution: persons per cell of `stride` x `stride` px, summing to their
    number.

    Args:
        heads: N x 2 x, y in pixels, all inside the frame, or N x 3 with their sizes in px, where `config.sigma_of_size`
            asks for them.
        cells: (height, width) of the map.
    """
    return density_map(cell_places(heads, cells, stride), cells, kernel_px(heads, config) / stride)


def cell_places(heads: np.ndarray, cells: tuple[int, int], stride: int = STRIDE) -> np.ndarray:
    """N x 2 x, y in cells of a map of (height, width) `cells`, of heads whose first columns are x, y in pixels."""
    # A head in the outer half of a border cell lies beyond the centres of all cells: it belongs to the border cell.
    return np.clip((heads[:, :2] + 0.5) / stride - 0.5, 0, [cells[1] - 1, cells[0] - 1])


def densest_cell(images: ShardReader, kept: Iterable[int], config: StreamConfig, *, stride: int,
                 scale: float = 1.0) -> float:
    """Most persons of a cell in whole images of a labelled data set, as the counter sees them: what density
    regularisation sets the limit to.

    Source: Wang et al., CVPR 2019 (density regularisation), there of the density maps at the images' own size.

    Args:
        kept: indexes of the images that count.
        stride: pixels along a side of a cell.
        scale: of the images, relative to `config.image_size`; in smaller ones a cell holds more.
    """
    most = 0.0
    for index in kept:
        sample = decode(*images.read(index))
        assert sample.points is not None  # labelled, by the caller
        factor = scale * config.image_size / max(sample.image.shape[:2])
        size = scaled_size(sample.image.shape[:2], factor, factor)
        heads = resize_points(sample.points, size[1] / sample.image.shape[1], size[0] / sample.image.shape[0])
        if config.sigma_of_size:
            heads = np.column_stack([heads, known_sizes(sample) * factor])
        cells = (-(-size[0] // stride), -(-size[1] // stride))
        most = max(most, float(cell_density(heads, cells, config, stride).max()))
    return most


def kernel_px(heads: np.ndarray, config: StreamConfig) -> Any:
    """Standard deviation of the heads' Gaussians in px: one number, or (N,) numbers where they follow the heads'
    sizes.
    """
    return config.sigma_of_size * heads[:, 2] if config.sigma_of_size else config.sigma_px


def known_sizes(sample: Sample) -> np.ndarray:
    """(N,) sizes of a labelled sample's heads in px: of their boxes' squares, or else as `ops.scales` guesses them from
    the points.
    """
    if sample.boxes is not None:
        return np.sqrt(sample.boxes[:, 2] * sample.boxes[:, 3])
    assert sample.points is not None  # labelled, by the caller
    return head_sizes(sample.points)


def pixels_only(members: dict[str, bytes]) -> dict[str, bytes]:
    """A sample's members without points and masks, should there be any."""
    return {name: data for name, data in members.items() if name in ("jpg", "png", "json")}


def _require_boxes(sample: Sample, url: str) -> None:
    if sample.boxes is None:
        raise InputError(f"sample {sample.key} of {url} has no boxes while others of its data set have; convert the "
                         "data set again")
    if not (sample.boxes[:, 2:] > 0).all():
        raise InputError(f"sample {sample.key} of {url} has boxes without an area; convert the data set again")


def _num_bytes(sample: Sample) -> int:
    """Memory of a sample's maps and pixels, which all else is small beside."""
    labels = sample.labels
    maps = [sample.image, sample.mask, *([labels.density, labels.keep] if labels is not None else [])]
    return sum(part.nbytes for part in maps if part is not None)


def _shrink(sample: Sample, longest_px: float) -> Sample:
    import cv2

    height, width = sample.frame or sample.image.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return sample
    size = scaled_size((height, width), factor, factor)
    box = None
    if sample.frame is not None:  # the last pixel of an image decoded at a part of its size may reach beyond it
        part = round(max(height, width) / max(sample.image.shape))
        box = (0.0, 0.0, height / part, width / part)
    scale = float(np.sqrt(size[0] * size[1] / (height * width)))
    labels = sample.labels

    def moved(heads: np.ndarray) -> np.ndarray:
        return np.column_stack([resize_points(heads[:, :2], size[1] / width, size[0] / height), heads[:, 2] * scale,
                                heads[:, 3]])

    if labels is not None:
        labels = replace(labels, detections=moved(labels.detections), doubtful=moved(labels.doubtful))
    return replace(
        sample,
        image=resize_pixels(sample.image, size, box),
        frame=None,
        labels=labels,
        boxes=None if sample.boxes is None else resize_boxes(sample.boxes, size[1] / width, size[0] / height),
        sizes=None if sample.sizes is None else sample.sizes * scale,
        points=None if sample.points is None else resize_points(sample.points, size[1] / width, size[0] / height),
        mask=None if sample.mask is None else cv2.resize(sample.mask, size[::-1], interpolation=cv2.INTER_NEAREST),
    )


def collate(crops: list[dict]) -> Batch:
    """Crops of one size to a Batch. Raises: InputError when only some of them are labelled."""

    def stack(name: str) -> Tensor | None:
        held = [crop[name] for crop in crops if name in crop]
        if not held:
            return None
        if len(held) < len(crops):
            missing = next(crop["key"] for crop in crops if name not in crop)
            raise InputError(f"sample {missing} has no {name} while others of its data set have; convert the data set "
                             "again")
        return torch.from_numpy(np.ascontiguousarray(np.stack(held)))[:, None].float()

    def each(name: str) -> list[Tensor] | None:
        return [torch.from_numpy(crop[name]) for crop in crops] if name in crops[0] else None

    images = np.ascontiguousarray(np.stack([crop["image"] for crop in crops]).transpose(0, 3, 1, 2))
    return Batch(
        images=torch.from_numpy(images).float() / 255,
        density=stack("density"),
        keep=stack("keep"),
        mask=stack("mask"),
        heads=each("heads"),
        doubtful=each("doubtful"),
        draws=torch.tensor([crop["draw"] for crop in crops], dtype=torch.int64),
        keys=[crop["key"] for crop in crops],
    )


def batches(
    dataset: CropDataset | MixedDataset, *, first_step: int, steps: int, global_batch: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """This rank's batches of the steps first_step..steps-1; any number of reader processes gives the same ones."""
    plan = [
        list(rank_positions(step * global_batch, global_batch, rank, world_size)) for step in range(first_step, steps)
    ]
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=plan, num_workers=dataset.config.num_readers,
        collate_fn=collate  # type: ignore[arg-type]
    )
    return iter(loader)


def whole_image(image: np.ndarray, image_size: int) -> np.ndarray:
    """An image resized so that its longest side is `image_size`, as labelling and evaluation show it to the network."""
    factor = image_size / max(image.shape[:2])
    return resize_pixels(image, scaled_size(image.shape[:2], factor, factor))


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 255
