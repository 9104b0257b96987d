"""Counter: the network that turns images into persons per cell, for every member of an ensemble."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.encoder import Encoder
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import CounterConfig
from crowddist.models.decoder import Decoder, OrientationHead, build_decoder, build_orientation_head
from crowddist.models.masksembles import Masksembles
from crowddist.models.weights import load_start

MASK_SCALE = 2.0  # C
"""How little the masks share: 1 = all masks alike, large = disjoint sub-networks."""
MASK_SEED = 0
"""Seed the masks are drawn from; every checkpoint stores them."""
DROPOUT = 0.5
"""Share of channels that a dropout ensemble drops (ours): (512, 3, 2.0) masks drop about as many, 43 %."""


class Counter(nn.Module):
    """A crowd counter with an ensemble in its decoder and optionally an orientation head.

    Images of any size are padded at the right and the bottom to multiples of the encoder's stride. A density is persons
    per cell of `output_stride` px (8 but for the upsampling decoders); its sum is the count. The published x8
    upsampling is left to callers that need a full-size map: its sum is right only after dividing by 64.

    With a `density_factor` the decoder's last layer gives that many times the persons; all maps that leave the counter
    are persons. The factor is part of the weights: a counter that starts from a run's keeps that run's unit.
    """

    density_factor: Tensor | None

    def __init__(self, *, encoder: Encoder, decoder: Decoder, masks: Masksembles | None, dropout: float | None,
                 num_members: int, orientation: OrientationHead | None, density_factor: float = 1.0) -> None:
        super().__init__()
        # None where it is 1: checkpoints from before there was a factor hold none.
        self.register_buffer("density_factor", None if density_factor == 1 else torch.tensor(float(density_factor)))
        self.encoder, self.decoder = encoder, decoder
        self.masks, self.dropout, self.num_members = masks, dropout, num_members
        self.orientation_head = orientation
        self.output_stride = encoder.stride // decoder.upsampling
        self.one_pass = False
        """`members` gives one map, by the mean of the masks: the cost of a single network, and no uncertainty."""

    def forward(self, images: Tensor, members: Tensor | None = None) -> Tensor:
        """`density(encode(images), members)`."""
        return self.density(self.encode(images), members)

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images, 0 to 1 -> (N, C, ceil(H/s), ceil(W/s)), s the encoder's stride. Raises: as `Encoder`."""
        return self.encoder(images)

    def density(self, features: Tensor, members: Tensor | None = None) -> Tensor:
        """Persons per cell by one member of the ensemble for each image.

        Args:
            features: (N, C, h, w) of `encode`
            members: (N,) int64 indexes of masks, of `member_indexes`; None without masks

        Returns:
            (N, 1, h, w), persons per cell, >= 0; with an upsampling decoder the last cells may lie outside the
            image. In training mode dropout drops channels by torch's own generator, which the caller seeds.

        Raises:
            ValueError: `members` is missing for an ensemble with masks, or given for one without.
        """
        if (members is None) != (self.masks is None):
            raise ValueError("members must be None exactly where the ensemble has no masks: pass member_indexes(...)")
        trunk = self.decoder.trunk(features)
        if self.dropout is not None:
            trunk = functional.dropout2d(trunk, self.dropout, self.training)
        if self.masks is not None:
            trunk = self.masks(trunk, members)
        return self._persons(trunk)

    def members(self, features: Tensor) -> Tensor:
        """Persons per cell by every member for every image.

        The part before the masks runs once, the rest once a member, one after the other: peak memory does not grow with
        the members, and each map equals `density` with that mask bit for bit. With dropout, a member drops the same
        channels of every image at any time, so labels do not depend on their order.

        Args:
            features: (N, C, h, w) of `encode`

        Returns:
            (M, N, 1, h, w), persons per cell, >= 0; M is `num_members`, or 1 with `one_pass`.
        """
        trunk = self.decoder.trunk(features)
        if self.one_pass:
            return self._persons(trunk if self.masks is None else self.masks.mean(trunk))[None]
        maps = []
        for member in range(self.num_members):
            if self.masks is not None:
                part = self.masks(trunk, torch.full(trunk.shape[:1], member, device=trunk.device))
            else:
                part = trunk if self.dropout is None else trunk * self._kept_channels(member).to(trunk)
            maps.append(self._persons(part))
        return torch.stack(maps)

    def _persons(self, trunk: Tensor) -> Tensor:
        """Persons per cell from the trunk's channels that a member keeps."""
        maps = self.decoder.rest(trunk)
        return maps if self.density_factor is None else maps.float() / self.density_factor

    def _kept_channels(self, member: int) -> Tensor:
        """(C, 1, 1) factors of a dropout member: 0 for a dropped channel, 1 / (1 - dropout) for a kept one."""
        assert self.dropout is not None
        kept = torch.rand(self.decoder.channels, generator=torch.Generator().manual_seed(member)) >= self.dropout
        return (kept / (1 - self.dropout))[:, None, None]

    def member_indexes(self, draws: Tensor) -> Tensor | None:
        """Draw the masks that samples train with: (N,) int64 random numbers -> (N,) int64, or None without masks."""
        return None if self.masks is None else draws.remainder(self.num_members)

    def training_maps(self, features: Tensor, draws: Tensor) -> Tensor:
        """(N, 1, h, w), persons per cell, each sample by a random member. Args: `draws`, (N,) int64 random numbers."""
        return self.density(features, self.member_indexes(draws))

    def orientation_parameters(self) -> list[nn.Parameter]:
        """Parameters of the orientation head, if any."""
        return [] if self.orientation_head is None else list(self.orientation_head.parameters())

    def orientation(self, features: Tensor) -> Tensor:
        """(N, C, h, w) features -> (N, 2) logits: upright, upside-down. Raises: ValueError if there is no such head."""
        if self.orientation_head is None:
            raise ValueError("this counter has no orientation head; build it with orientation=True")
        return self.orientation_head(features)


def build_counter(config: CounterConfig) -> Counter:
    """The counter that `config` describes.

    Random weights come from torch's own generator: seed it for equal counters. The masks depend on MASK_SEED alone.

    Raises:
        InputError: the weights are unavailable or of another network; FileNotFoundError if a file is missing.
    """
    backbone = BACKBONES[config.backbone]
    encoder = Encoder(backbone, "upsampling" if config.upsamples else "counter", pretrained=config.weights != "none")
    decoder = build_decoder(config.decoder, encoder.channels, encoder.stride, backbone.heads,
                            factor=config.density_factor, norm=config.decoder_norm)
    orientation = build_orientation_head(encoder.channels, backbone.heads) if config.orientation else None
    masks = None
    if config.ensemble == "masksembles":
        masks = Masksembles(decoder.channels, config.num_masks, MASK_SCALE, MASK_SEED)
    counter = Counter(encoder=encoder, decoder=decoder, masks=masks,
                      dropout=DROPOUT if config.ensemble == "dropout" else None,
                      num_members=config.num_members, orientation=orientation, density_factor=config.density_factor)
    load_start(counter, encoder, name="counter", weights=config.weights, backbone=backbone)
    # ours: a training step of the compact counter on a CPU takes three quarters of the time of the default layout.
    return counter.to(memory_format=torch.channels_last)
