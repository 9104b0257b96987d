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
        self.before: int | None = None
        self.bar = tqdm(total=total, unit=f" {noun}", desc=title, dynamic_ncols=True, disable=not sys.stderr.isatty())

    def show(self, done: int, facts: str = "") -> None:
        """Shows how many items are done, and the facts instead of the rate and the time left. What was done at the
        first call, by an earlier start, counts for no rate.
        """
        if self.before is None:
            self.before = self.bar.initial = done
        if not self.bar.disable:
            if facts:
                self.bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"
                self.bar.set_postfix_str(facts, refresh=False)
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if done and (done >= self.total or now - self.last_line_s > LINE_EVERY_S):
            self.last_line_s, per_s = now, (done - self.before) / max(now - self.started_s, 1e-9)
            if per_s:
                facts = facts or f"{per_s:.1f} a second, {in_words((self.total - done) / per_s)} left"
            what = f"{self.title}{': ' if self.title else ''}{done} of {self.total} {self.noun}"
            self.say(", ".join(filter(None, [what, facts])))

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


def in_words(seconds: float) -> str:
    """A length of time in its largest unit: "36 s", "17 min", "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
