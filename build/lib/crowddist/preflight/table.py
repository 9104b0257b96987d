"""The rows of a dry run, one for each check, and their table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from crowddist.errors import InputError
from crowddist.process.cli import one_line
from crowddist.reports.text_table import text_table


@dataclass(frozen=True)
class Row:
    """Result of one check on one machine."""

    what: str
    where: str
    state: Literal["ok", "FAILED", "skipped"]
    detail: str
    """One line; of a failure the cause and what to do."""


def looked(what: str, where: str, look: Callable[[], str], *, advice: str = "") -> Row:
    """Runs a check and returns its row: the detail that `look` returns, or its error, with the advice if the error has
    none.
    """
    try:
        return Row(what, where, "ok", look())
    except (InputError, OSError) as error:
        text = one_line(error)
        has_advice = not advice or isinstance(error, InputError) or ";" in text
        return Row(what, where, "FAILED", text if has_advice else f"{text}; {advice}")
    except Exception as error:  # a check that breaks must not hide the others
        return Row(what, where, "FAILED",
                   f"the check itself broke: {type(error).__name__}: {one_line(error)}; please report it")


def table(rows: Sequence[Row]) -> str:
    """The rows in columns under their headings."""
    return text_table([("what", "where", "state", "detail"),
                       *((row.what, row.where, row.state, row.detail) for row in rows)])
