"""Feeds the steps of a stage with batches on the worker's device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from crowddist.data.sample import Batch


class Feed:
    """The batches of one step after the other, on a device; the same with and without looking ahead.

    A GPU computes by itself once a step is queued. Until its loss is asked for, the worker is free: it reads the
    batches of the next step, and a second stream copies them from pinned memory beside the computing.

    Args:
        loaders: name -> the batches of its steps, in order, in ordinary memory.
        device: where they are needed.
        ahead: `look_ahead` reads; else it does nothing, and `take` reads what it gives.
    """

    def __init__(self, loaders: Mapping[str, Iterator[Batch]], device: torch.device, *, ahead: bool) -> None:
        self._loaders, self._device, self._reads_ahead = loaders, device, ahead
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: dict[str, Batch] | Exception | None = None

    def take(self) -> dict[str, Batch]:
        """The next step's batches. Raises what reading them raised; StopIteration after the last."""
        batches, self._next = self._next, None
        if batches is None:
            batches = self._read()
        if isinstance(batches, Exception):
            raise batches
        if self._stream is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._stream)
            for batch in batches.values():
                batch.used_on(computing)
        return batches

    def look_ahead(self) -> None:
        """Reads the next step's batches. An error over them is that step's, so `take` raises it: the checkpoint of the
        step before is written first.
        """
        if self._reads_ahead:
            try:
                self._next = self._read()
            except Exception as error:
                self._next = error

    def _read(self) -> dict[str, Batch]:
        batches = {name: next(loader) for name, loader in self._loaders.items()}
        if self._stream is None:
            return {name: batch.to(self._device) for name, batch in batches.items()}
        with torch.cuda.stream(self._stream):
            return {name: batch.pinned().to(self._device) for name, batch in batches.items()}
