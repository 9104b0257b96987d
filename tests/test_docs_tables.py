"""The tables of results: each is made from its CSV file, which says how to measure it again."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))


def test_tables_are_those_of_their_files() -> None:
    shown = set()
    for page in TABLES["PAGES"]:
        text = (ROOT / page).read_text()
        assert TABLES["written"](page, text) == text, f"{page} is not what its CSV files say: python docs/tables.py"
        shown |= set(TABLES["tables"](text))
    assert shown == {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "results").glob("*.csv")}


def test_every_row_says_where_it_comes_from() -> None:
    for path in (ROOT / "docs" / "results").glob("*.csv"):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            assert None not in row and row["split"] and row["machine"], (path.name, row)
            assert row["command"].startswith(("python jobs/", "python -m tests.", "make ")), (path.name, row)


def test_a_changed_figure_is_written_into_its_page(tmp_path: Path) -> None:
    mark = "a\n<!-- table: {} -->\nold\n<!-- end of table -->\nb\n"
    (tmp_path / "x.csv").write_text("what,MAE,seed,split,machine,command\nx,1.50,0,s,m,make a\ny,,1,s,m,make b\n")
    text = TABLES["written"]("README.md", mark.format(tmp_path / "x.csv"))
    assert "-->\n\n| what | MAE | seed |\n| --- | ---: | ---: |\n| x | 1.50 | 0 |\n| y | - | 1 |\n\n*[CSV](" in text
    assert "which has each row's command; s; m.* <!-- end of table --> b" in " ".join(text.split())
    assert "old" not in text
