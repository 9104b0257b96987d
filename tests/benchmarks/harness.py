"""Side-by-side timing: two ways of one piece of work, interleaved in one process on one thread, compared by the median
of their ratios.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times longer the peer took than ours, round by round, and both median times."""

    ratio: float
    """Median over rounds of peer time / our time."""
    low: float
    """The first quartile of the ratios."""
    high: float
    """The third quartile of the ratios."""
    peer_s: float
    ours_s: float

    def __str__(self) -> str:
        return (f"{self.ratio:.1f}x (quartiles {self.low:.1f} to {self.high:.1f}), "
                f"peer {self.peer_s * 1e3:.3f} ms, ours {self.ours_s * 1e3:.3f} ms")


def compare(
    peer: Callable[[], Any],
    ours: Callable[[], Any],
    rounds: int = 9,
    agree: Callable[[Any, Any], bool] | None = None,
    peer_share: float = 1.0,
    clock: Callable[[], float] = time.process_time,
) -> Comparison:
    """Time `peer` and `ours` in turn, the order swapped each round, after one run of each that also compares what they
    return.

    Absolute times move with the load of the machine; a ratio of two neighbours in time hardly does.

    Args:
        peer: the way to compare with.
        ours: our way.
        rounds: how often each is timed.
        agree: says whether the two results are the same; None where the peer does only a part of the work.
        peer_share: the share of the work that `peer` does, where all of it would take too long: its times are divided
            by this.
        clock: the time of the process, which waits for no other; `time.perf_counter` for work that reads files or has
            other processes.

    Raises:
        AssertionError: the results do not agree.
    """
    with single_thread():
        results = peer(), ours()
        assert agree is None or agree(*results), "the two ways do not agree"
        times = np.empty((rounds, 2))
        for number in range(rounds):
            for which in ((0, 1) if number % 2 == 0 else (1, 0)):
                start = clock()
                (peer, ours)[which]()
                times[number, which] = clock() - start
    times[:, 0] /= peer_share
    low, ratio, high = np.percentile(times[:, 0] / times[:, 1], (25, 50, 75))
    peer_s, ours_s = np.median(times, axis=0)
    return Comparison(ratio=float(ratio), low=float(low), high=float(high), peer_s=float(peer_s), ours_s=float(ours_s))


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """One thread for torch, OpenCV and the BLAS behind NumPy, as a worker process has."""
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
