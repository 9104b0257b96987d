"""What the parts of the check share: the bench they run on, a report each, a limit of time, and interleaved timing."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(kw_only=True)
class Bench:
    """Where the parts run, and what they tell each other."""

    device: torch.device
    tiny: bool
    """Small networks, images and repeats: shows that the check itself works, says nothing of speed."""
    disturb: float = 0.0
    """Relative change of the weights on the device, to see that the check notices one."""
    peaks: dict[str, float] = field(default_factory=dict)
    """FLOP/s of a large product of matrices, by kind of number; `peak` measures it at the first question."""
    eats: dict[str, float] = field(default_factory=dict)
    """Images that a training step eats in a second, by network; the part `training` fills it."""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def reduced(self) -> bool:
        """A run computes in bfloat16 here."""
        from crowddist.config import EngineConfig
        from crowddist.run.engine import in_bfloat16

        return in_bfloat16(EngineConfig(), self.device)

    def wait(self) -> None:
        """Waits for all that the device has to do."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def peak(self, kind: str) -> float:
        """FLOP/s of a product of two square matrices of random numbers: bfloat16, tf32 or float32."""
        if kind not in self.peaks:
            side, repeats = (192, 2) if self.tiny else (8192, 10 if kind != "float32" else 3)
            dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
            one, other = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
            with products(tf32=kind == "tf32"):
                seconds = interleaved(self, {"product": lambda: one @ other}, rounds=3, repeats=repeats)["product"]
            self.peaks[kind] = 2 * side**3 / float(np.median(seconds))
        return self.peaks[kind]


class SkippedError(Exception):
    """A part cannot run here, and why."""


class Part:
    """What a part finds: figures, and checks that a value stays below its limit."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.checks: list[dict[str, Any]] = []

    def note(self, **figures: Any) -> None:
        """Adds figures."""
        self.figures.update(figures)

    def check(self, what: str, value: float, limit: float) -> None:
        """`value` must be at most `limit`; what is no number fails."""
        self.checks.append({"what": what, "value": value if math.isfinite(value) else str(value), "limit": limit,
                            "passed": value <= limit})

    def entry(self, status: str, seconds: float, error: str = "") -> dict[str, Any]:
        """The part's entry in the result; passed only if all of its checks are."""
        if status == "passed" and not all(check["passed"] for check in self.checks):
            status = "failed"
        failed = [f"{check['what']}: {check['value']} > {check['limit']}"
                  for check in self.checks if not check["passed"]]
        said = {"error": error} if error else {"error": "; ".join(failed)} if failed else {}
        return {"status": status, "seconds": round(seconds, 1), **said, "figures": self.figures, "checks": self.checks}


def guarded(work: Callable[[Part], None], limit_s: float) -> dict[str, Any]:
    """Runs a part and gives its entry, whatever happens in it; what it found before it broke is kept."""
    part, began = Part(), time.perf_counter()
    status, error = "passed", ""
    try:
        with _time_limit(limit_s):
            work(part)
    except SkippedError as reason:
        status, error = "skipped", str(reason)
    except Exception as problem:
        status, error = "failed", f"{type(problem).__name__}: {problem}"[:500]
        traceback.print_exc(limit=-6, file=sys.stderr)
    return part.entry(status, time.perf_counter() - began, error)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside once the time is over, between two operations of Python."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def products(*, tf32: bool) -> Iterator[None]:
    """Float32 products and convolutions of a GPU inside: in TF32 (10 bits of mantissa), or in all 23 bits."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = tf32
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def interleaved(bench: Bench, ways: Mapping[str, Callable[[], Any]], *, rounds: int,
                repeats: int) -> dict[str, list[float]]:
    """Seconds of one call of each way, round by round. Each way is called twice first; the order turns every round."""
    for way in ways.values():
        way(), way()
    names, times = list(ways), {name: [] for name in ways}  # type: dict[str, list[float]]
    for number in range(rounds):
        for name in names[number % len(names):] + names[:number % len(names)]:
            bench.wait()
            began = time.perf_counter()
            for _ in range(repeats):
                ways[name]()
            bench.wait()
            times[name].append((time.perf_counter() - began) / repeats)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times longer `slow` took, round by round: median and quartiles."""
    low, median, high = np.percentile(np.divide(slow, fast), (25, 50, 75))
    return {"ratio": round(float(median), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def furthest(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest distance between tensors of one name. Norms count as at least a thousandth of the largest one, so
    that what is 0 but for rounding does not matter.
    """
    assert found.keys() == expected.keys()
    pairs = [(found[name].detach().double().cpu(), value.detach().double().cpu()) for name, value in expected.items()]
    least = max(1e-3 * max(float(value.norm()) for _, value in pairs), 1e-30)
    return max(float((one - other).norm()) / max(float(other.norm()), least) for one, other in pairs)


def joined(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """All tensors as one vector of doubles, in the order of their names."""
    return torch.cat([tensors[name].detach().double().cpu().flatten() for name in sorted(tensors)])
