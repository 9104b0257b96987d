"""What a dry run says: a row for each thing that was looked at, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from crowddist.errors import InputError
from crowddist.process.cli import one_line


@dataclass(frozen=True)
class Row:
    """One thing at one place."""

    what: str
    where: str
    state: Literal["ok", "FAILED", "skipped"]
    detail: str
    """A line; of a failure the cause and what to do."""


def looked(what: str, where: str, look: Callable[[], str], *, advice: str = "") -> Row:
    """The row of what `look` finds: the detail that it returns, or what it raises and, where that says nothing to do,
    the advice.
    """
    try:
        return Row(what, where, "ok", look())
    except (InputError, OSError) as error:
        text = one_line(error)
        return Row(what, where, "FAILED",
                   text if not advice or isinstance(error, InputError) or ";" in text else f"{text}; {advice}")
    except Exception as error:  # a check that breaks must not hide the others
        return Row(what, where, "FAILED",
                   f"the check itself broke: {type(error).__name__}: {one_line(error)}; please report it")


def table(rows: Sequence[Row]) -> str:
    """The rows in columns under their headings."""
    lines = [("what", "where", "state", "detail"), *((row.what, row.where, row.state, row.detail) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]])
                     for line in lines)
