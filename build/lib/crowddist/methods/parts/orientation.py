"""Stage 1 of self-supervision: which way is up in whole images of the target, beside the density of the source.

On whole images this is soon learnt, however small the head. Of the 79 held-out images of ShanghaiTech B, upright and
upside-down, told right (256 px, peak rate 1e-3): trained with the encoder (EfficientNet-Lite0, from A to B, 4 images a
step), 97 to 99 % after 10 to 30 steps and 100 % after 50; by the head alone (8 images a step), 100 % after 50 behind
ImageNet's frozen features and 96 % behind the compact encoder's random ones; by one linear layer on the mean of
ImageNet's features, 98 % after 50 and 100 % after 100. So the loss moves the encoder in the first steps alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch
    from crowddist.methods.settings.train import TrainConfig
    from crowddist.models.counter import Counter
    from crowddist.models.ensemble import DeepEnsemble

ORIENTATION = "orientation"
"""Name of the round."""
WHOLE = ("whole_target", "whole_source")
"""Names of the streams of whole images."""


class OrientationObjective(CountingObjective):
    """L2(D(E(x_s)), y_s) + lambda * CE(D_aux(E(x_t)), upside-down?).

    Source: Liu et al., CVPR 2022, section 3, where lambda is 1.
    """

    def __init__(self, counter: Counter | DeepEnsemble, train: TrainConfig, *, orientation_weight: float) -> None:
        super().__init__(counter, train)
        self.orientation_weight = orientation_weight

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        source, terms = self.density_loss(batches["source"]), orientation_terms(self.counter, batches)
        return {"loss": source + self.orientation_weight * terms["orientation_loss"], "source_loss": source, **terms}


def orientation_terms(counter: Counter | DeepEnsemble, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
    """CE(D_aux(E(x)), upside-down?) of the whole images, each shown upright and upside-down, and the share told right.

    Source: Liu et al., CVPR 2022, section 3.

    Args:
        batches: those of the streams in `WHOLE` are used.
    """
    images = torch.cat([batches[name].images for name in WHOLE if name in batches])
    shown = torch.cat([images, images.flip(2)])
    upside_down = torch.arange(2, device=images.device).repeat_interleave(len(images))
    logits = counter.orientation(counter.encode(shown)).float()
    upside_down = upside_down.repeat(len(logits) // len(shown))  # a deep ensemble gives every member's logits
    return {
        "orientation_loss": functional.cross_entropy(logits, upside_down),
        "orientation_accuracy": (logits.argmax(1) == upside_down).float().mean(),
    }


def whole_streams(config: RunConfig) -> dict[str, Stream]:
    """Whole images of the target and, if the settings say so, of the source."""
    settings = config.self_supervision
    target = Stream(data="target", batch_size=settings.target_batch_size, whole_px=settings.orientation_px)
    source = {"whole_source": replace(target, data="source")} if settings.orientation_on_source else {}
    return {"whole_target": target, **source}


def orientation_stages(method: CountingMethod, *, trains: str = "") -> list[Stage]:
    """The stage of `OrientationObjective`, from new networks; none where the settings give it no steps.

    Args:
        trains: the counter's name among the method's networks, "" if it has no others.
    """
    steps = method.config.self_supervision.orientation_steps
    if steps == 0:
        return []
    streams = {"source": method.source_stream(), **whole_streams(method.config)}
    # Where it trains one of several networks, the round's folder holds them all, and the stage has its own below it.
    name = f"{ORIENTATION}/{trains}" if trains else ORIENTATION
    return [Stage(name=name, steps=steps or method.config.train.steps, streams=streams, title="orientation",
                  num_round=1, trains=trains, fresh=True)]
