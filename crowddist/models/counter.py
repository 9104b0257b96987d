"""Counter: the network that turns images into persons per cell, for every member of an ensemble."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.encoder import Encoder
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import CounterConfig
from crowddist.models.decoder import (
    UPSAMPLING,
    Decoder,
    OrientationHead,
    build_orientation_head,
    published_decoder,
    small_decoder,
    upsampling_decoder,
)
from crowddist.models.masksembles import Masksembles
from crowddist.models.weights import load_start

MASK_SCALE = 2.0  # C
"""How little the masks share: 1 = all masks alike, large = disjoint sub-networks."""
MASK_SEED = 0
"""Seed the masks are drawn from; every checkpoint stores them."""
DROPOUT = 0.5
"""Share of channels that a dropout ensemble drops (ours): (512, 3, 2.0) masks drop about as many, 43 %."""


class Counter(nn.Module):
    """A crowd counter with an ensemble in its decoder and, where asked for, an orientation head.

    Images of any size are padded at the right and the bottom to multiples of the encoder's stride. A density is persons
    per cell of `output_stride` px, 8 but for the upsampling decoders; its sum is the count. The published x8 upsampling
    is left to whoever needs a map of the image's size, because a sum survives only if the upsampled map is divided by
    64.
    """

    def __init__(self, *, encoder: Encoder, decoder: Decoder, masks: Masksembles | None = None,
                 dropout: float | None = None,
                 num_members: int = 1, orientation: OrientationHead | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.masks, self.dropout, self.num_members = masks, dropout, num_members
        self.orientation_head = orientation
        self.output_stride = encoder.stride // decoder.upsampling
        self.one_pass = False
        """Whether `members` is one map alone, by the mean of the masks: no uncertainty, and no more computation than a
        single network."""

    def forward(self, images: Tensor, members: Tensor | None = None) -> Tensor:
        """`density(encode(images), members)`."""
        return self.density(self.encode(images), members)

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images in [0, 1], any size -> (N, C, ceil(H/s), ceil(W/s)) features, s the encoder's stride.

        Raises:
            ValueError: `images` is not a batch of RGB images.
        """
        return self.encoder(images)

    def density(self, features: Tensor, members: Tensor | None = None) -> Tensor:
        """Persons per cell by one member of the ensemble for each image.

        Args:
            features: (N, C, h, w) of `encode`.
            members: (N,) int64 indexes of masks, as `member_indexes` gives them; None where the ensemble has no masks.
                With dropout, channels are dropped in training mode only, from torch's own generator, which the caller
                seeds.

        Returns:
            (N, 1, h, w) float, not negative; with an upsampling decoder the last cells may lie wholly beyond the image.

        Raises:
            ValueError: `members` are missing where the ensemble has masks, or given where it has none.
        """
        if (members is None) != (self.masks is None):
            raise ValueError("members must be None exactly where the ensemble has no masks: pass what member_indexes "
                             "gives")
        trunk = self.decoder.trunk(features)
        if self.dropout is not None:
            trunk = functional.dropout2d(trunk, self.dropout, self.training)
        if self.masks is not None:
            trunk = self.masks(trunk, members)
        return self.decoder.rest(trunk)

    def members(self, features: Tensor) -> Tensor:
        """Persons per cell by every member for every image.

        What comes before the masks runs once, what follows once a member, one after the other: peak memory does not
        grow with the members, and each map equals `density` with that mask bit for bit. With dropout,
        a member drops the same channels of every image, whatever ran before, so labels do not depend on their order.

        Args:
            features: (N, C, h, w) of `encode`.

        Returns:
            (M, N, 1, h, w) float, not negative; M = `num_members`, or 1 where `one_pass` is set.
        """
        trunk = self.decoder.trunk(features)
        if self.one_pass:
            return self.decoder.rest(trunk if self.masks is None else self.masks.mean(trunk))[None]
        maps = []
        for member in range(self.num_members):
            if self.masks is not None:
                part = self.masks(trunk, torch.full((len(trunk),), member, device=trunk.device))
            else:
                part = trunk if self.dropout is None else trunk * self._kept_channels(member).to(trunk)
            maps.append(self.decoder.rest(part))
        return torch.stack(maps)

    def _kept_channels(self, member: int) -> Tensor:
        """(C, 1, 1) factors of a member of a dropout ensemble: 0 for a dropped channel, 1 / (1 - dropout) for a kept
        one.
        """
        assert self.dropout is not None  # by the caller
        kept = torch.rand(self.decoder.channels, generator=torch.Generator().manual_seed(member)) >= self.dropout
        return (kept / (1 - self.dropout))[:, None, None]

    def member_indexes(self, draws: Tensor) -> Tensor | None:
        """The masks that samples train with: (N,) int64 random numbers -> (N,) indexes, or None where the ensemble has
        no masks.
        """
        return None if self.masks is None else draws.remainder(self.num_members)

    def training_maps(self, features: Tensor, draws: Tensor) -> Tensor:
        """(N, 1, h, w) persons per cell, each sample by the member that its random number draws. Args: `draws` (N,)
        int64.
        """
        return self.density(features, self.member_indexes(draws))

    def orientation_parameters(self) -> list[nn.Parameter]:
        """The parameters of the orientation head; none without one."""
        return [] if self.orientation_head is None else list(self.orientation_head.parameters())

    def orientation(self, features: Tensor) -> Tensor:
        """(N, C, h, w) features -> (N, 2) logits: upright, upside-down.

        Raises:
            ValueError: the counter was built without the head.
        """
        if self.orientation_head is None:
            raise ValueError("this counter has no orientation head; build it with orientation=True")
        return self.orientation_head(features)


def build_counter(config: CounterConfig) -> Counter:
    """The counter that `config` describes.

    Random weights come from torch's own generator: seed it for equal counters. The masks come from MASK_SEED alone.

    Raises:
        InputError: the weights cannot be had, or are of another architecture.
        FileNotFoundError: there is no file of weights at the place given.
    """
    backbone = BACKBONES[config.backbone]
    encoder = Encoder(backbone, "upsampling" if config.upsamples else "counter", pretrained=config.weights != "none")
    decoder = _build_decoder(config, encoder)
    orientation = build_orientation_head(encoder.channels, backbone.heads) if config.orientation else None
    masks = None
    if config.ensemble == "masksembles":
        masks = Masksembles(decoder.channels, config.num_masks, MASK_SCALE, MASK_SEED)
    counter = Counter(encoder=encoder, decoder=decoder, masks=masks,
                      dropout=DROPOUT if config.ensemble == "dropout" else None,
                      num_members=config.num_members, orientation=orientation)
    load_start(counter, encoder, name="counter", weights=config.weights, backbone=backbone)
    # ours: a training step of the compact counter on a CPU takes three quarters of the time that the default layout
    # takes.
    return counter.to(memory_format=torch.channels_last)


def _build_decoder(config: CounterConfig, encoder: Encoder) -> Decoder:
    if config.upsamples:
        return upsampling_decoder(encoder.channels, encoder.stride / UPSAMPLING,
                                  large=config.decoder == "upsampling_large")
    return {"small": small_decoder, "published": published_decoder}[BACKBONES[config.backbone].heads](encoder.channels)
