"""One round of adaptation made of the parts that published crowd counters use, as people use them. Written anew.

Each habit, and where it is seen:

- density maps drawn once, in full size, and kept on disk: leeyeehoo/CSRNet-pytorch, make_dataset.ipynb (HDF5);
  gjy3035/C-3-Framework, datasets/SHHB/SHHB.py (CSV). Here .npy, which is read faster than both
- a Gaussian filter over the whole image for each head, as wide as a tenth of the distances to its three nearest
  neighbours together (part A): leeyeehoo/CSRNet-pytorch, make_dataset.ipynb
- one Gaussian filter of 15 px an image (part B): the same notebook
- PIL, then torchvision's ToTensor and Normalize: gjy3035/C-3-Framework, datasets/SHHB/loading_data.py
- crop and flip in the data set, mean squared error, Adam at 1e-5: gjy3035/C-3-Framework,
  datasets/SHHB/loading_data.py and trainer.py
- a forward pass of the whole network for each member: nikitadurasov/masksembles, masksembles/torch.py: the input
  comes once a mask
- mean and variance of the passes kept on disk as labels: the papers' text: Liu et al., CVPR 2022, section 3
  (weizheliu/Cross-Domain-Crowd-Counting has no code of it)
- peaks by 3 x 3 max-pooling, below a share of the largest dropped: dk-liang/FIDTM, test.py (LMDS_with_counting,
  LMDS_with_coordinates)
- points matched anew for each distance, with a matrix of all distances: dk-liang/FIDTM, local_eval/eval.py

Where this differs: heads in one pixel all count, of which theirs makes one. FIDTM drops peaks below 100/255 of the
largest, writes no scores, and matches by the Hungarian method for two distances that each head has. An average
precision
needs scores and weak peaks, so here a peak has its density, those from 1/100 on stay, and points are taken by falling
score for 100 distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.io
import scipy.ndimage
import scipy.spatial
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.transforms import functional as vision

CELL_PX = 8
DISTANCES = range(1, 101)
"""Of the mean average precision, px."""
RATE = 1e-5
"""Of Adam."""
WIDE_PX = 15.0
"""Of part B's filter."""


def read_points(image: Path) -> np.ndarray:
    """N x 2, x, y of the heads of an image in ShanghaiTech's layout."""
    place = image.parents[1] / "ground_truth" / f"GT_{image.stem}.mat"
    return scipy.io.loadmat(place)["image_info"][0, 0][0, 0][0].astype(np.float64).reshape(-1, 2)


def density_by_heads(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A filter a head, over the whole image: a tenth of the distances to its three nearest neighbours together."""
    density = np.zeros(size, np.float32)
    if len(points) < 4:
        return density_by_image(points, size)
    distances, _ = scipy.spatial.KDTree(points).query(points, k=4)
    for (x, y), near in zip(points, distances, strict=True):
        alone = np.zeros(size, np.float32)
        alone[min(int(y), size[0] - 1), min(int(x), size[1] - 1)] = 1
        density += scipy.ndimage.gaussian_filter(alone, near[1:].sum() * 0.1, mode="constant")
    return density


def density_by_image(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One filter over the image of all heads."""
    heads = np.zeros(size)
    for x, y in points:
        heads[min(int(y), size[0] - 1), min(int(x), size[1] - 1)] += 1
    return scipy.ndimage.gaussian_filter(heads, WIDE_PX).astype(np.float32)


def convert(images: Sequence[Path], folder: Path, *, by_heads: bool = False) -> None:
    """Draws the density map of every image and keeps it."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        width, height = Image.open(image).size
        draw = density_by_heads if by_heads else density_by_image
        np.save(folder / f"{image.stem}.npy", draw(read_points(image), (height, width)))


def to_tensor(image: Path) -> torch.Tensor:
    """(1, 3, H, W), 0 to 1; the networks here normalise themselves, which saves the peers this step."""
    return vision.to_tensor(Image.open(image).convert("RGB"))[None]


@torch.no_grad()
def member_maps(network: nn.Module, pixels: torch.Tensor, num_members: int) -> torch.Tensor:
    """(M, h, w), persons a cell: as many passes of the whole network as it has members."""
    return torch.stack([network(pixels, torch.full((1,), member))[0, 0] for member in range(num_members)])


def label(network: nn.Module, num_members: int, images: Sequence[Path], folder: Path) -> None:
    """Keeps the mean of all passes and their deviation, at the images' own size, as training reads labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        pixels = to_tensor(image)
        maps = member_maps(network, pixels, num_members)
        spread, mean = torch.std_mean(maps, dim=0, correction=0)
        grown = functional.interpolate(torch.stack([mean, spread])[None] / CELL_PX**2, size=pixels.shape[2:],
                                       mode="bilinear")
        np.save(folder / f"{image.stem}.npy", grown[0].numpy())


def evaluate(network: nn.Module, num_members: int, images: Sequence[Path], densities: Path) -> tuple[float, float]:
    """Mean absolute error, and mean average precision over `DISTANCES`."""
    errors, found, heads = [], [], []
    for image in images:
        mean = member_maps(network, to_tensor(image), num_members).mean(0)
        errors.append(abs(float(mean.sum()) - float(np.load(densities / f"{image.stem}.npy").sum())))
        found.append(peaks(mean))
        heads.append(read_points(image))
    return float(np.mean(errors)), float(np.mean([average_precision(found, heads, limit) for limit in DISTANCES]))


def peaks(density: torch.Tensor) -> np.ndarray:
    """M x 3, x, y, score of the cells that max-pooling leaves, from a hundredth of the largest on."""
    maps = density[None, None]
    kept = (functional.max_pool2d(maps, 3, stride=1, padding=1) == maps).float() * maps
    kept[kept < 0.01 * kept.max()] = 0
    rows, columns = np.nonzero(kept[0, 0].numpy())
    places = (np.c_[columns, rows] + 0.5) * CELL_PX
    return np.c_[places, kept[0, 0].numpy()[rows, columns]]


def average_precision(found: Sequence[np.ndarray], heads: Sequence[np.ndarray], limit: float) -> float:
    """The area below the precision of all points, by falling score; each head is found once."""
    scores, hits = [], []
    for points, truth in zip(found, heads, strict=True):
        order = np.argsort(-points[:, 2], kind="stable")
        gaps = scipy.spatial.distance_matrix(points[order, :2], truth) if len(truth) else np.zeros((len(order), 0))
        taken = np.zeros(len(truth), bool)
        for row, index in zip(gaps, order, strict=True):
            nearest = row.argmin() if len(truth) else -1
            hit = len(truth) > 0 and row[nearest] <= limit and not taken[nearest]
            if hit:
                taken[nearest] = True
            scores.append(points[index, 2])
            hits.append(hit)
    good = np.array(hits, float)[np.argsort(-np.array(scores), kind="stable")]
    if not len(good):
        return 0.0
    precision = np.cumsum(good) / np.arange(1, len(good) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * good).sum() / max(sum(map(len, heads)), 1))


class Crops(torch.utils.data.Dataset):
    """A random crop of an image and of its density, mirrored half of the time."""

    def __init__(self, images: Sequence[Path], densities: Path, crop_px: int) -> None:
        self.images, self.densities, self.crop_px = list(images), densities, crop_px
        self.draws = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        place, side = self.images[index], self.crop_px
        image, density = Image.open(place).convert("RGB"), np.load(self.densities / f"{place.stem}.npy")
        left, top = (int(self.draws.integers(0, max(extent - side, 0) + 1)) for extent in image.size)
        image = image.crop((left, top, left + side, top + side))
        map_ = torch.from_numpy(density[top : top + side, left : left + side].copy())
        if self.draws.random() < 0.5:
            image, map_ = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), map_.flip(1)
        cells = map_.reshape(side // CELL_PX, CELL_PX, side // CELL_PX, CELL_PX).sum((1, 3))
        return vision.to_tensor(image), cells[None]


def train(network: nn.Module, optimizer: torch.optim.Optimizer, num_members: int, images: Sequence[Path],
          densities: Path, *, steps: int, batch_size: int, crop_px: int) -> float:
    """So many steps on the squared error of the density; each sample has a member. Returns the last loss."""
    crops = torch.utils.data.DataLoader(
        Crops(images, densities, crop_px), batch_size=batch_size,
        sampler=torch.utils.data.RandomSampler(images, replacement=True, num_samples=steps * batch_size))
    network.train()
    loss = torch.zeros(())
    for number, (pixels, density) in enumerate(crops):
        optimizer.zero_grad()
        loss = functional.mse_loss(network(pixels, torch.arange(len(pixels)) % num_members), density)
        loss.backward()
        optimizer.step()
        assert number < steps
    network.eval()
    return loss.item()
