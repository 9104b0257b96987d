"""Progress of a conversion: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_S = 10.0


def watched(items: Iterable[T], noun: str = "images", *, number: int | None = None) -> Iterator[T]:
    """Shows progress: a bar on stderr if that is a terminal, else lines on stdout. `number`: default is the length."""
    total = len(items) if number is None else number  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, unit=f" {noun}", dynamic_ncols=True)
        return
    started = last_line = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last_line > LINE_EVERY_S:
            last_line, per_s = now, done / (now - started)
            print(f"{done} of {total} {noun}, {per_s:.1f} a second, {(total - done) / per_s:.0f} s left", flush=True)
        yield item
