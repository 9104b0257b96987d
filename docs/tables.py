"""Writes the tables of results anew from their CSV files: `python docs/tables.py`.

A table stands in a page between `<!-- table: docs/results/NAME.csv -->` and `<!-- end of table -->`. The columns seed,
split, machine and command are told once, below the table; where rows differ in seed, split or machine, it is a column.
"""

from __future__ import annotations

import csv
import re
import sys
import textwrap
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/adaptation.md", "docs/composites.md", "docs/networks.md", "docs/results.md",
         "docs/search.md", "docs/results/speed.md")
FOLDER = "docs/results"
TOLD = ("seed", "split", "machine", "command")
_MARK = re.compile(r"(?<=^<!-- table: )(\S+)( -->\n).*?(?=^<!-- end of table -->$)", re.DOTALL | re.MULTILINE)


def written(page: str, text: str) -> str:
    """The page's text with its tables as the CSV files have them. `page`: its place in the repository."""
    return _MARK.sub(lambda mark: f"{mark[1]}{mark[2]}{_table(mark[1], page)}", text)


def tables(text: str) -> list[str]:
    """The places of the CSV files whose tables a page has."""
    return [mark[1] for mark in _MARK.finditer(text)]


def _table(place: str, page: str) -> str:
    with (ROOT / place).open(newline="") as file:
        rows = list(csv.DictReader(file))
    same = {name: rows[0][name] for name in TOLD if len({row[name] for row in rows}) == 1}
    names = [name for name in rows[0] if name not in (*same, "command")]
    head = [_line(names), _line("---" if _words(rows, name) else "---:" for name in names)]
    told = [f"`{same['command']}`" if "command" in same else "which has each row's command",
            *(f"seed {same[name]}" if name == "seed" else same[name] for name in TOLD[:3] if same.get(name))]
    link = relpath(ROOT / place, (ROOT / page).parent)
    below = textwrap.wrap(f"*[CSV]({link}), {'; '.join(told)}.*", 120, break_on_hyphens=False)
    return "\n".join(["", *head, *(_line(row[name] for name in names) for row in rows), "", *below, "", ""])


def _words(rows: Sequence[dict[str, str]], name: str) -> bool:
    """Whether a column holds anything but numbers."""
    return any(row[name] and not re.fullmatch(r"[-+]?[\d,.]+", row[name]) for row in rows)


def _line(cells) -> str:  # type: ignore[no-untyped-def]
    return f"| {' | '.join(cell or '-' for cell in cells)} |"


def main() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text()
        if (new := written(page, text)) != text:
            (ROOT / page).write_text(new)
            print(f"written: {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
