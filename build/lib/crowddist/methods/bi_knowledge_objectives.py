"""Losses of bi-knowledge transfer's regressor and localiser; the detector's are in `parts.detecting`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from crowddist.losses.density import count_map_loss
from crowddist.losses.structure import dms_ssim_loss, focal_cross_entropy, focal_mse

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.data.sample import Batch
    from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
    from crowddist.methods.settings.train import TrainConfig
    from crowddist.models.dssinet import Dssinet
    from crowddist.models.nested_unet import NestedUnet

COUNT_CELL_PX = 8
"""Side of the cells of the regressor's count loss (ours; as large as the other methods' cells)."""
NUM_BLURS = 1024
"""Number of different blurs of the localiser's densities (ours)."""


class RegressionObjective(nn.Module):
    """DMS-SSIM of the density and the error of its counts, on source crops or pseudo-labelled patches; mean over the
    streams.
    """

    def __init__(self, regressor: Dssinet, settings: BiKnowledgeConfig, train_config: TrainConfig) -> None:
        super().__init__()
        self.regressor, self.settings, self.train_config = regressor, settings, train_config

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        losses = {name: self._loss(batch) for name, batch in batches.items()}
        return {"loss": torch.stack(list(losses.values())).mean(),
                **{f"{name}_loss": loss for name, loss in losses.items()}}

    def _loss(self, batch: Batch) -> Tensor:
        assert batch.density is not None  # by the stage's plan
        predicted, density = self.regressor(self._shown(batch)).float(), batch.density
        if batch.keep is not None:  # outside the region of interest both are empty, so they agree
            predicted, density = predicted * batch.keep, density * batch.keep
        loss = predicted.new_zeros(())
        if self.settings.structure_weight:
            peak = self.regressor.output_stride**2 / (2 * math.pi * self.settings.sigma_px**2)
            loss = loss + self.settings.structure_weight * dms_ssim_loss(predicted, density, empty_peak=peak)
        if self.settings.count_weight:
            factor = COUNT_CELL_PX // self.regressor.output_stride
            counts, target = (functional.avg_pool2d(maps, factor) * factor**2 for maps in (predicted, density))
            error = count_map_loss(counts, target, block_weight=self.train_config.block_weight,
                                   cell_error=self.train_config.cell_error, cell_px=COUNT_CELL_PX)
            loss = loss + self.settings.count_weight * error
        return loss

    def _shown(self, batch: Batch) -> Tensor:
        """The images, in training with uniform noise in units of the encoder's normalised input.

        Source: DSSINet's released code (C). Drawn by sample: the same on any number of workers.
        """
        if not (self.training and self.settings.regressor_noise):
            return batch.images
        noise = [torch.rand(batch.images.shape[1:], generator=torch.Generator().manual_seed(draw)) * 2 - 1
                 for draw in batch.draws.tolist()]
        std = self.regressor.encoder.normalise.std
        return batch.images + self.settings.regressor_noise * std * torch.stack(noise).to(batch.images.device)


class LocalisationObjective(nn.Module):
    """Phi, Eqs. 3 to 7: from a density to a map that is 1 at heads and 0 elsewhere.

    Densities are blurred at random first (ours), because a regressor's are blurred: a localiser that has only seen
    sharp Gaussians finds hardly any head in them.
    """

    def __init__(self, localiser: NestedUnet, loss: str, stride: int, blur_px: float = 0.0) -> None:
        super().__init__()
        self.localiser, self.loss, self.stride, self.blur_px = localiser, loss, stride, blur_px

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        batch = batches["source"]
        assert batch.density is not None and batch.heads is not None  # by the stage's plan
        blur = batch.draws.remainder(NUM_BLURS) / NUM_BLURS  # by sample: the same on any number of workers
        sigma = self.blur_px / self.stride
        density = blurred(batch.density, sigma * blur, largest=sigma)
        answer = self.localiser(density, self.stride).float()
        truth = localisation_map(batch.heads, (answer.shape[2], answer.shape[3]), self.stride)
        if self.loss == "mse":
            return {"loss": functional.mse_loss(answer, truth)}
        if self.loss == "focal_cross_entropy":
            return {"loss": focal_cross_entropy(answer, truth)}
        focal = focal_mse(answer, truth)
        if self.loss == "focal_mse":
            return {"loss": focal}
        structure = dms_ssim_loss(answer, truth, empty_peak=1.0)
        return {"loss": focal + structure, "focal_mse": focal, "dms_ssim": structure}


def localisation_map(heads: list[Tensor], cells: tuple[int, int], stride: int) -> Tensor:
    """M^D: (N, 1, h, w), 1 in the cell of each head's centre, else 0. `heads`: by image, (M, 2 or more) x, y in px."""
    truth = torch.zeros(len(heads), 1, *cells, device=heads[0].device)
    for one, points in zip(truth, heads, strict=True):
        column, row = (((points[:, axis] + 0.5) / stride).long().clamp(0, cells[1 - axis] - 1) for axis in (0, 1))
        one[0, row, column] = 1.0
    return truth


def blurred(maps: Tensor, sigma: Tensor, *, largest: float) -> Tensor:
    """(N, 1, h, w) maps, each smoothed by a Gaussian of its own sigma, (N,) in cells; 0 leaves a map as it is.

    All kernels have the reach of the `largest` sigma, so a map's result does not depend on the other maps.
    """
    reach = max(math.ceil(3 * largest), 1)
    offsets = torch.arange(-reach, reach + 1, device=maps.device)
    kernels = torch.exp(-offsets.square() / (2 * sigma.to(maps.device).clamp(min=1e-3)[:, None].square()))
    kernels = (kernels / kernels.sum(1, keepdim=True))[:, None]
    rows = functional.pad(maps.transpose(0, 1), (reach, reach, 0, 0), mode="replicate")
    rows = functional.conv2d(rows, kernels[:, :, None, :], groups=len(maps))
    columns = functional.pad(rows, (0, 0, reach, reach), mode="replicate")
    return functional.conv2d(columns, kernels[:, :, :, None], groups=len(maps)).transpose(0, 1)
