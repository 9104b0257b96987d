"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_S = 10.0
_print_now = partial(print, flush=True)


class Progress:
    """Shows progress: a bar on stderr, or lines through `say` every `LINE_EVERY_S` if stderr is no terminal.

    Args:
        total: number of items.
        noun: the items' name.
        say: prints a line.
        title: name of the work, shown first.
    """

    def __init__(self, total: int, noun: str, say: Callable[[str], None] = _print_now, *, title: str = "") -> None:
        from tqdm import tqdm

        self.total, self.noun, self.say, self.title = total, noun, say, title
        self.started_s = self.last_line_s = time.monotonic()
        self.bar = tqdm(total=total, unit=f" {noun}", desc=title, dynamic_ncols=True, disable=not sys.stderr.isatty())

    def show(self, done: int, facts: str = "") -> None:
        """Shows how many items are done, and the facts instead of the rate and the time left."""
        if not self.bar.disable:
            if facts:
                self.bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"
                self.bar.set_postfix_str(facts, refresh=False)
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if done and (done >= self.total or now - self.last_line_s > LINE_EVERY_S):
            self.last_line_s, per_s = now, done / max(now - self.started_s, 1e-9)
            facts = facts or f"{per_s:.1f} a second, {(self.total - done) / per_s:.0f} s left"
            self.say(f"{self.title}{': ' if self.title else ''}{done} of {self.total} {self.noun}, {facts}")

    def close(self) -> None:
        """Ends the bar's line."""
        self.bar.close()


def watched(items: Iterable[T], noun: str = "images", *, number: int | None = None,
            say: Callable[[str], None] = _print_now) -> Iterator[T]:
    """The items, with their progress shown, see `Progress`. `number`: of the items; None: their length."""
    progress = Progress(len(items) if number is None else number, noun, say)  # type: ignore[arg-type]
    for done, item in enumerate(items):
        progress.show(done)
        yield item
    progress.bar.update(progress.total - progress.bar.n)
    progress.close()
