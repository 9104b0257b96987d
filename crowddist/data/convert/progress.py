"""Progress of a conversion: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_S = 10.0


def watched(items: Sequence[T], noun: str = "images") -> Iterator[T]:
    """The items, with their progress shown: a bar on stderr, or a line on stdout every `LINE_EVERY_S` where stderr is no terminal."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, unit=f" {noun}", dynamic_ncols=True)
        return
    started = last_line = time.monotonic()
    for number, item in enumerate(items):
        now = time.monotonic()
        if now - last_line > LINE_EVERY_S:
            last_line, per_s = now, number / (now - started)
            print(f"{number} of {len(items)} {noun}, {per_s:.1f} a second, {(len(items) - number) / per_s:.0f} s left", flush=True)
        yield item
