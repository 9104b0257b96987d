"""Terms of losses that more than one method adds to the density's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from crowddist.losses.adversarial import domain_accuracy, domain_loss
from crowddist.losses.segmentation import background_bce
from crowddist.methods.base import mean_over_workers
from crowddist.models.frozen import frozen_forward
from crowddist.models.segmenter import mask_cells

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.models.counter import Counter
    from crowddist.models.discriminator import FeatureDiscriminator
    from crowddist.models.ensemble import DeepEnsemble


def orientation_terms(counter: Counter | DeepEnsemble, images: Tensor) -> dict[str, Tensor]:
    """CE(D_aux(E(x_t)), upside-down?) of target images, each shown upright and upside-down, and the share that was told
    right.

    Source: Liu et al., CVPR 2022, section 3.
    """
    shown = torch.cat([images, images.flip(2)])
    upside_down = torch.arange(2, device=images.device).repeat_interleave(len(images))
    logits = counter.orientation(counter.encode(shown))
    upside_down = upside_down.repeat(len(logits) // len(shown))  # a deep ensemble gives every member's logits
    return {
        "orientation_loss": functional.cross_entropy(logits, upside_down),
        "orientation_accuracy": (logits.argmax(1) == upside_down).float().mean(),
    }


def person_mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of the mask of persons, each cell's truth the share of it that persons cover.

    Source: Han et al., ICASSP 2020, Eq. 7, there in pixels; with all of a cell's pixels predicted alike the two are the
    same.

    Args:
        logits: (N, 1, h, w) of "person".
        mask: (N, 1, H, W), 1 = person.
    """
    return functional.binary_cross_entropy_with_logits(logits.float(),
                                                       mask_cells(mask, (logits.shape[2], logits.shape[3])))


def background_loss(logits: Tensor, persons: Tensor) -> Tensor:
    """Cross-entropy of the background alone, of which every cell of all workers' crops counts alike.

    Source: Han et al., ICASSP 2020, Eqs. 8 and 9.

    Args:
        logits: (N, 1, h, w) of "person".
        persons: same shape, bool, the cells where some may be.
    """
    background = (~persons).sum().float()
    share = background / mean_over_workers(background, least=1.0)
    return share * background_bce(logits.float(), persons, from_logits=True)


def adversarial_terms(discriminator: FeatureDiscriminator, source_features: Tensor,
                      target_features: Tensor) -> dict[str, Tensor]:
    """The loss of the features, which reaches the encoder alone, that of the discriminator, which reaches it alone, and
    its accuracy.

    Source: Han et al., ICASSP 2020, Eq. 10; Tsai et al., CVPR 2018. Both are of the same pass and the same weights, as
    if the encoder stepped first and the discriminator then, on the features it was deceived with.
    """
    deceived = frozen_forward(discriminator, target_features).float()
    of_source, of_target = (discriminator(features.detach()).float() for features in (source_features, target_features))
    return {
        "adversarial_loss": domain_loss(deceived, source=True),
        "discriminator_loss": (domain_loss(of_source, source=True) + domain_loss(of_target, source=False)) / 2,
        "discriminator_accuracy": domain_accuracy(of_source, of_target),
    }
