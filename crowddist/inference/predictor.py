"""Predictor: a trained counter behind one call, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from crowddist.config import RunConfig, from_json
from crowddist.data.sample import Seen
from crowddist.data.stream import to_tensor
from crowddist.errors import InputError
from crowddist.inference.base_predictor import CPU_BATCH_PX, BasePredictor, ImagePrediction, judge, require_sizes
from crowddist.inference.intervals import LEVEL, find_intervals
from crowddist.methods.base import Method
from crowddist.methods.build import build_method
from crowddist.models.counter import Counter
from crowddist.models.folding import fold_norms
from crowddist.run import checkpoint

__all__ = ["ImagePrediction", "Predictor", "judge"]


class Predictor(BasePredictor):
    """Runs a method's networks on images.

    Args:
        method: with its weights loaded.
        image_size: images are resized to this longest side, px; 0: not resized.
        zooms: sizes, relative to `image_size`, that images are counted at; None: those of the method's settings.
    """

    method: Method

    def __init__(self, method: Method, *, image_size: int, zooms: Sequence[float] | None = None,
                 device: str = "cpu") -> None:
        super().__init__(method, image_size=image_size, zooms=method.stream.zooms if zooms is None else zooms)
        self.device = torch.device(device)
        if self.device.type == "cpu":
            self.batch_px = CPU_BATCH_PX
        method.networks().to(self.device)

    @classmethod
    def from_checkpoint(cls, url: str, *, image_size: int | None = None, zooms: Sequence[float] | None = None,
                        device: str = "cpu", one_pass: bool = False, level: float = LEVEL) -> Predictor:
        """The predictor of a checkpoint's counter.

        Folds batch normalisation into the convolutions: the same results but for rounding, in less time.

        Args:
            image_size: None: as in training.
            zooms: None: those that the run evaluated at.
            one_pass: count by the mean of the masks alone, see `Counter.one_pass`.
            level: share of images like the source's whose true count lies in its interval, above 0 and below 1.

        Raises:
            FileNotFoundError, InputError: there is no checkpoint, it cannot be read, or no image has such a size, or no
                interval such a level.
        """
        require_sizes(image_size, zooms)
        content = checkpoint.load(url)
        try:
            if trained := content["method"].get("trained"):
                raise InputError(f"the checkpoint of a {trained} alone counts nothing; give the one that result.json "
                                 "names")
            method = build_method(from_json(content["config"]), weights="none")
            method.load_state_dict(content["method"], optimizers=False)
        except InputError:
            raise
        except (KeyError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"{url} holds no counter that can be built ({reason}); give a .pt file of a run's "
                             "checkpoints folder") from error
        for network in fold_norms(method.networks()).modules():
            if isinstance(network, Counter):
                network.one_pass = one_pass
        predictor = cls(method, image_size=method.stream.image_size if image_size is None else image_size, zooms=zooms,
                        device=device)
        predictor.intervals = find_intervals(url, level, image_size=predictor.image_size, zooms=predictor.zooms,
                                             one_pass=one_pass)
        return predictor

    def with_config(self, config: RunConfig) -> Predictor:
        """The same networks with another configuration, see `Method.with_config`."""
        other = Predictor(self.method.with_config(config), image_size=self.image_size, zooms=self.zooms,
                          device=str(self.device))
        other.one_at_a_time = self.one_at_a_time
        return other

    def _on_device(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """(N, 3, H, W) float32 in [0, 1], on the device."""
        if self.device.type != "cuda":
            return torch.cat([to_tensor(image) for image in images]).to(self.device)
        # Bytes are a quarter of the copy, and a GPU turns them into numbers in no time.
        pixels = torch.from_numpy(np.stack(images)).pin_memory().to(self.device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2).float() / 255

    def see_batch(self, images: Sequence[np.ndarray]) -> list[Seen]:
        prediction = self.method.predict(self._on_device(images))
        # Contiguous, as when read back from a file: a sum over a view of a larger array adds in another order.
        density, spread = (np.ascontiguousarray(part.cpu().numpy()[:, 0])
                           for part in (prediction.density, prediction.spread))
        counts = (prediction.member_counts.cpu().numpy().T if prediction.member_counts is not None
                  else density.sum((1, 2))[:, None])
        counts = np.ascontiguousarray(counts, np.float64)
        size = (images[0].shape[0], images[0].shape[1])
        return [
            Seen(size=size, density=density[index], spread=spread[index], member_counts=counts[index],
                 detections=None if prediction.detections is None else prediction.detections[index],
                 transformed=None if prediction.transformed is None else prediction.transformed[index])
            for index in range(len(images))
        ]
