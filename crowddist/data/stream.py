"""Streams: the samples of a plan, decoded, cropped and collated to batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crowddist import storage
from crowddist.data import transforms
from crowddist.data.config import STRIDE, StreamConfig
from crowddist.data.denser import Layer, denser
from crowddist.data.mixing import mixed_position
from crowddist.data.plan import Plan, rank_positions
from crowddist.data.prefetch import Prefetcher
from crowddist.data.regions import counts_whole, find_region
from crowddist.data.sample import Batch, Sample
from crowddist.data.scenes import SceneRule, kept_samples
from crowddist.data.shards import ShardReader, decode, decode_labels
from crowddist.errors import InputError
from crowddist.ops.density import density_map
from crowddist.ops.scales import head_sizes
from crowddist.randomness import derive, generator

OVERSIZE = 2
"""Largest size of cached images, in multiples of the largest size that a crop needs (ours). With 1, crops would be
resized twice and be softer than whole images, which are resized once."""


class CropDataset(torch.utils.data.Dataset):
    """Position in the plan -> one augmented crop; a pure function of (data, seed, stage, position).

    Raises InputError if `scenes` keeps no image or cannot judge one.

    Args:
        url: image shards.
        labels_url: shards of pseudo-labels with the same keys, or "".
        plan_seed: seed of order and augmentation.
        name: name of the stream; streams with other names draw other random numbers.
        open_points: False keeps points closed: only the evaluation may read the target's annotations.
        stride: side of a density cell in px of the crop.
        windows: purpose of the pseudo-labels' patches to cut crops from; "" cuts anywhere.
        with_heads: crops carry their heads, with sizes.
        with_boxes: the heads' sizes must come from boxes.
        with_masks: crops carry masks of persons.
        whole_px: width in px, a multiple of 32, of whole images that stand in the place of crops; 0: crops. All are
            resized to 4:3, the shape of most photographs: so a batch has one shape, and no border to compute and to
            learn from. Images of 16:9 become a third taller than they are.
        share: share of the images to use, above 0 to 1; the seed selects them.
        scenes: rule that selects images, before `share` does; None keeps all.
        weak_scales, weak_zoom, erased_share: see `methods.base.Stream`.
    """

    def __init__(self, url: str, config: StreamConfig, *, labels_url: str = "", plan_seed: int, name: str,
                 open_points: bool = True, stride: int = STRIDE, windows: str = "", with_heads: bool = False,
                 with_boxes: bool = False, with_masks: bool = False, whole_px: int = 0, share: float = 1.0,
                 scenes: SceneRule | None = None, weak_scales: tuple[float, float] | None = None,
                 weak_zoom: float = 1.0, erased_share: float = 0.0) -> None:
        self.images, self.open_points = ShardReader(url), open_points
        self.stride, self.windows, self.whole_px = stride, windows, whole_px
        self.with_heads, self.with_boxes, self.with_masks = with_heads, with_boxes, with_masks
        self.labels = ShardReader(labels_url) if labels_url else None
        self.config, self.seed, self.name = config, plan_seed, name
        self.weak_scales, self.weak_zoom, self.erased_share = weak_scales, weak_zoom, erased_share
        self.denser_share = config.denser_share if open_points and not (labels_url or weak_scales) else 0.0
        kept = np.arange(len(self.images)) if scenes is None else kept_samples(self.images, scenes)
        skipped = self.labels.manifest.statistics.get("skipped") if self.labels is not None else None
        if skipped:  # images that killed workers have no labels
            kept = np.array([index for index in kept if self.images.read(int(index), ())[0] not in skipped])
        ends = [self.images.shard_range(index).stop for index in range(len(self.images.manifest.shards))]
        self.plan = Plan(np.diff(np.searchsorted(kept, ends), prepend=0).tolist(), seed=plan_seed, name=name)
        order = generator(plan_seed, "share").permutation(len(kept))
        self.chosen = kept[order[: max(round(share * len(kept)), 1)]] if share < 1 else kept
        self._start()

    def _start(self) -> None:
        """Makes the cache and the prefetcher, which each process has for itself."""
        from cachetools import LRUCache, cached

        memory: LRUCache[Any, Sample] = LRUCache(self.config.cache_bytes, getsizeof=_num_bytes)
        self._cached = cached(memory)(self._read)
        self._prefetcher = None if storage.is_local(self.images.url) else Prefetcher(self.images, self.plan)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_cached", "_prefetcher")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    def _read(self, index: int) -> Sample:
        """The sample, shrunk if it has far more pixels than a crop needs."""
        key, members = self.images.read(index)
        opened = {**members} if self.open_points else pixels_only(members)
        opened.pop("mask.png", None)
        if (self.with_masks or self.denser_share) and "mask.png" in members:
            opened["mask.png"] = members["mask.png"]
        # Patches of the labels are cut at the size at which the image was labelled.
        largest = max(self.config.scale_jitter[1], 1.0) if self.windows else self.config.scale_jitter[1]
        largest = max(largest, self.weak_scales[1]) if self.weak_scales else largest
        longest_px = OVERSIZE * (self.whole_px or self.config.image_size * largest)
        sample = decode(key, opened, longest_px=longest_px)
        if self.labels is not None:
            labels = decode_labels(*self.labels.read(self.labels.index_of(key)))
            sample = replace(sample, labels=replace(labels, spread=None))  # training does not use it
        problem = self._problem(sample)
        if problem:
            raise InputError(f"sample {key} of {self.images.url} {problem}")
        if sample.points is not None and (self.with_heads or self.config.sigma_of_size or self.denser_share):
            sample = replace(sample, sizes=known_sizes(sample))
        if self.labels is not None and sample.region is not None:  # pseudo-labels have their own cells to train on
            sample = replace(sample, region=None)
        if (sample.points is not None and sample.region is None and self.labels is None
                and not counts_whole(self.images.manifest)):
            region = find_region(sample)
            if region is not None and not region.pixels.all():
                sample = replace(sample, region=region.pixels)
        return _shrink(sample, longest_px)

    def _problem(self, sample: Sample) -> str:
        """Says what the sample lacks; "" if nothing."""
        if self.open_points and self.labels is None and sample.points is None:
            return "has no points, so nothing can be learnt from it; give a labelled data set"
        if self.with_masks and sample.mask is None:
            return "has no mask of persons while others of its data set have; convert the data set again"
        if self.with_boxes and sample.boxes is None:
            return "has no boxes while others of its data set have; convert the data set again"
        if self.with_boxes and sample.boxes is not None and not (sample.boxes[:, 2:] > 0).all():
            return "has boxes without an area; convert the data set again"
        return ""

    def __getitem__(self, position: int) -> dict:
        if self._prefetcher is not None:
            self._prefetcher.reach(position)
        sample = self._cached(int(self.chosen[self.plan.sample_at(position) % len(self.chosen)]))
        rng = generator(self.seed, self.name, position)
        size = (3 * self.whole_px // 4, self.whole_px) if self.whole_px else self.config.crop
        cells = (size[0] // self.stride, size[1] // self.stride)
        height, width = sample.image.shape[:2]
        window = self._window(sample, rng)
        crop: dict = {"key": sample.key, "draw": derive(self.seed, self.name, position, "draw") % (1 << 31)}
        softness = transforms.draw_softness(self.config, rng)
        flip = rng.random() < 0.5

        def layer_of(window: transforms.Window) -> Layer:
            mask = None if sample.mask is None else transforms.crop_pixels(sample.mask, window, size)
            return Layer(pixels=transforms.crop_pixels(sample.image, window, size, softness), mask=mask,
                         heads=transforms.crop_points(sample.heads, window, size))

        layer = layer_of(window)
        if self.denser_share and sample.region is None:  # outside a region people are unknown
            draws = generator(self.seed, self.name, position, "denser")
            if draws.random() < self.denser_share:
                layer = denser(layer, layer_of, window, (height, width), draws)
        if sample.labels is not None:
            extent = sample.labels.extent
            to_y, to_x = extent[0] / height, extent[1] / width
            cut = (window[0] * to_y, window[1] * to_x, window[2] * to_y, window[3] * to_x)
            crop["density"] = transforms.crop_mass(sample.labels.density, cut, cells, extent)
            if not self.windows:  # chosen patches train as a whole
                # Keep a cell if kept cells cover at least half of it; nothing outside the image counts as kept.
                area = (cut[2] / cells[0]) * (cut[3] / cells[1])
                covered = transforms.covered_area(sample.labels.keep, cut, cells, extent)
                crop["keep"] = (covered >= 0.5 * area).astype(np.float32)
        elif sample.points is not None:
            crop["density"] = cell_density(layer.heads, cells, self.config, self.stride)
        if sample.region is not None:  # nobody outside it is annotated
            covered = transforms.covered_area(sample.region, window, cells)
            crop["keep"] = (covered >= 0.5 * (window[2] / cells[0]) * (window[3] / cells[1])).astype(np.float32)
        if self.with_heads and (sample.labels is not None or sample.points is not None):
            crop["heads"] = layer.heads
            crop["boxed"] = sample.labels is None and sample.boxes is not None
            if sample.labels is not None:
                crop["doubtful"] = transforms.crop_points(sample.labels.doubtful[:, :3], window, size)
        if self.with_masks and layer.mask is not None:
            crop["mask"] = layer.mask
        crop["image"] = transforms.jitter_colours(layer.pixels, self.config, rng)
        crop["image"] = transforms.add_noise(crop["image"], self.config, rng)
        if self.weak_scales:
            crop["weak"] = self._weak_view(sample, window, size, position, self.weak_scales)
        if self.erased_share:
            self._erase(crop, cells, position)
        if flip:
            for name in crop.keys() & {"image", "weak", "density", "keep", "mask"}:
                crop[name] = crop[name][:, ::-1]
            for name in crop.keys() & {"heads", "doubtful"}:
                crop[name] = transforms.flip_points(crop[name], size[1])
        return crop

    def _weak_view(self, sample: Sample, window: transforms.Window, size: tuple[int, int], position: int,
                   scales: tuple[float, float]) -> np.ndarray:
        """The pixels of a crop's window: at its own scale, or at one within `scales` or on the way there, at most
        `weak_zoom` times larger or smaller.
        """
        scale = size[0] / window[2] * max(sample.image.shape[:2]) / self.config.image_size
        least, most = max(1 / self.weak_zoom, min(scales[0] / scale, 1)), min(self.weak_zoom, max(scales[1] / scale, 1))
        # Draws of its own: the crop is the same with and without this view.
        zoom = least * (most / least) ** generator(self.seed, self.name, position, "weak").random()
        # Whole cells, so that its maps end where the crop's do.
        height, width = (max(round(zoom * side / STRIDE), 1) * STRIDE for side in size)
        return transforms.crop_pixels(sample.image, window, (height, width))

    def _erase(self, crop: dict, cells: tuple[int, int], position: int) -> None:
        """Turns a patch of some crops grey; its cells teach nothing."""
        rng = generator(self.seed, self.name, position, "erased")
        if rng.random() >= self.erased_share:
            return
        top, left, height, width = transforms.draw_patch(cells, rng)
        keep = crop.setdefault("keep", np.ones(cells, np.float32))
        keep[top : top + height, left : left + width] = 0
        top, left, height, width = (self.stride * edge for edge in (top, left, height, width))
        crop["image"][top : top + height, left : left + width] = transforms.PAD_VALUE

    def _window(self, sample: Sample, rng: np.random.Generator) -> transforms.Window:
        """The whole image, a random window anywhere in it, or one of the labels' patches."""
        height, width = sample.image.shape[:2]
        if self.whole_px:
            return 0.0, 0.0, float(height), float(width)
        if not self.windows:
            return transforms.draw_window((height, width), self.config, rng)
        assert sample.labels is not None  # the stage's plan says so
        chosen = sample.labels.windows[self.windows]
        pixel_y, pixel_x = height / sample.labels.extent[0], width / sample.labels.extent[1]
        top, left, rows, columns = chosen[int(rng.integers(len(chosen)))].tolist()
        return top * pixel_y, left * pixel_x, rows * pixel_y, columns * pixel_x


class MixedDataset(torch.utils.data.Dataset):
    """Crops of several data sets: position -> crop of the data set whose turn it is.

    Args:
        shares: shares of all data sets but the first, as in `mixed_position`.
    """

    def __init__(self, datasets: Sequence[CropDataset], shares: Sequence[Fraction]) -> None:
        self.datasets, self.shares = tuple(datasets), tuple(shares)

    @property
    def config(self) -> StreamConfig:
        """Configuration of the first data set; all cut crops alike."""
        return self.datasets[0].config

    def __getitem__(self, position: int) -> dict[str, Any]:
        which, own = mixed_position(position, self.shares)
        return self.datasets[which][own]


def cell_density(heads: np.ndarray, cells: tuple[int, int], config: StreamConfig, stride: int = STRIDE) -> np.ndarray:
    """Density of heads at the network's resolution: persons per cell of `stride` x `stride` px; sums to their number.

    Args:
        heads: N x 2 x, y in px, all inside the frame; N x 3 with sizes in px if `config.sigma_of_size` is not 0.
        cells: (height, width) of the map.
    """
    return density_map(cell_places(heads, cells, stride), cells, kernel_px(heads, config) / stride)


def cell_places(heads: np.ndarray, cells: tuple[int, int], stride: int = STRIDE) -> np.ndarray:
    """Places of heads (first columns x, y in px): N x 2 x, y in cells of a map of (height, width) `cells`."""
    # A head in the outer half of a border cell lies beyond the centres of all cells: it belongs to the border cell.
    return np.clip((heads[:, :2] + 0.5) / stride - 0.5, 0, [cells[1] - 1, cells[0] - 1])


def densest_cell(images: ShardReader, kept: Iterable[int], config: StreamConfig, *, stride: int,
                 scale: float = 1.0) -> float:
    """Most persons in a cell over whole images of a labelled data set, as the counter sees them: the limit of density
    regularisation.

    Source: Wang et al., CVPR 2019 (density regularisation), who take density maps at the images' own size.

    Args:
        kept: indexes of the images to use.
        stride: side of a cell, px.
        scale: scale of the images relative to `config.image_size`; in smaller ones a cell holds more.
    """
    most = 0.0
    for index in kept:
        sample = decode(*images.read(index))
        assert sample.points is not None  # the caller gives a labelled set
        height, width = sample.image.shape[:2]
        factor = scale * config.image_size / max(height, width)
        size = transforms.scaled_size((height, width), factor, factor)
        heads = transforms.resize_points(sample.points, size[1] / width, size[0] / height)
        if config.sigma_of_size:
            heads = np.column_stack([heads, known_sizes(sample) * factor])
        cells = (-(-size[0] // stride), -(-size[1] // stride))
        most = max(most, float(cell_density(heads, cells, config, stride).max()))
    return most


def kernel_px(heads: np.ndarray, config: StreamConfig) -> Any:
    """Standard deviation of the heads' Gaussians in px: one number, or (N,) if it follows the heads' sizes."""
    return config.sigma_of_size * heads[:, 2] if config.sigma_of_size else config.sigma_px


def known_sizes(sample: Sample) -> np.ndarray:
    """(N,) head sizes of a labelled sample in px: root of the box's area, or else estimated from the points."""
    if sample.boxes is not None:
        return np.sqrt(sample.boxes[:, 2] * sample.boxes[:, 3])
    assert sample.points is not None  # the caller gives a labelled sample
    return head_sizes(sample.points)


def pixels_only(members: dict[str, bytes]) -> dict[str, bytes]:
    """A sample's members without annotations."""
    return {name: data for name, data in members.items() if name in ("jpg", "png", "json")}


def _num_bytes(sample: Sample) -> int:
    """Memory of a sample's pixels and maps; the rest is small."""
    labels = sample.labels
    maps = [sample.image, sample.mask, sample.region, *([labels.density, labels.keep] if labels is not None else [])]
    return sum(part.nbytes for part in maps if part is not None)


def _shrink(sample: Sample, longest_px: float) -> Sample:
    import cv2

    height, width = sample.frame or sample.image.shape[:2]
    factor = longest_px / max(height, width)
    if factor >= 1:
        return sample
    size = transforms.scaled_size((height, width), factor, factor)
    scale_y, scale_x = size[0] / height, size[1] / width
    box = None
    if sample.frame is not None:  # the last pixel of an image decoded at a part of its size may reach beyond it
        part = round(max(height, width) / max(sample.image.shape))
        box = (0.0, 0.0, height / part, width / part)
    scale = float(np.sqrt(size[0] * size[1] / (height * width)))

    def moved(heads: np.ndarray) -> np.ndarray:
        places = transforms.resize_points(heads[:, :2], scale_x, scale_y)
        return np.column_stack([places, heads[:, 2] * scale, heads[:, 3]])

    labels = sample.labels
    if labels is not None:
        labels = replace(labels, detections=moved(labels.detections), doubtful=moved(labels.doubtful))
    return replace(
        sample, image=transforms.resize_pixels(sample.image, size, box), frame=None, labels=labels,
        boxes=None if sample.boxes is None else transforms.resize_boxes(sample.boxes, scale_x, scale_y),
        sizes=None if sample.sizes is None else sample.sizes * scale,
        points=None if sample.points is None else transforms.resize_points(sample.points, scale_x, scale_y),
        **{name: cv2.resize(part.view(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).view(part.dtype)
           for name in ("mask", "region") if (part := getattr(sample, name)) is not None},
    )


def collate(crops: list[dict]) -> Batch:
    """Crops of one size to a Batch. Raises InputError if only some of them are labelled."""
    regions = [crop["keep"] for crop in crops if "keep" in crop]
    if regions:  # beside images with regions of interest, others train as a whole
        crops = [{"keep": np.ones_like(regions[0]), **crop} for crop in crops]

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
    return Batch(images=torch.from_numpy(images).float() / 255, density=stack("density"), keep=stack("keep"),
                 mask=stack("mask"), heads=each("heads"), doubtful=each("doubtful"),
                 weak=[to_tensor(crop["weak"])[0] for crop in crops] if "weak" in crops[0] else None,
                 boxed=torch.tensor([crop["boxed"] for crop in crops]) if "boxed" in crops[0] else None,
                 draws=torch.tensor([crop["draw"] for crop in crops], dtype=torch.int64),
                 keys=[crop["key"] for crop in crops])


def batches(
    dataset: CropDataset | MixedDataset, *, first_step: int, steps: int, global_batch: int, rank: int, world_size: int
) -> Iterator[Batch]:
    """This rank's batches of steps first_step..steps-1; the number of reader processes does not change them."""
    plan = [list(rank_positions(step * global_batch, global_batch, rank, world_size))
            for step in range(first_step, steps)]
    return iter(torch.utils.data.DataLoader(dataset, batch_sampler=plan, num_workers=dataset.config.num_readers,
                                            collate_fn=collate))  # type: ignore[arg-type]


def whole_image(image: np.ndarray, image_size: int) -> np.ndarray:
    """Resizes an image to a longest side of `image_size`, as labelling and evaluation show it to the network."""
    factor = image_size / max(image.shape[:2])
    return transforms.resize_pixels(image, transforms.scaled_size(image.shape[:2], factor, factor))


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 255
