"""Attacks by way of what is installed: everything is pinned by hash and comes from nowhere but where the user's
installer looks.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
LOCK = (PROJECT / "requirements.lock").read_text()


def faults(lock: str) -> list[str]:
    """Requirements of a lock that are not one version with hashes, and lines that say where to look."""
    entries = [entry.replace("\\\n", " ")
               for entry in re.split(r"\n(?=\S)", re.sub(r"^ *#.*\n", "", lock, flags=re.MULTILINE)) if entry.strip()]
    pinned = re.compile(r"[a-z0-9._-]+(\[[a-z0-9,._-]+\])?==[^\s;@]+( ; [^#]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    return [entry for entry in entries if not pinned.fullmatch(entry)]


def test_everything_is_pinned_by_hash() -> None:
    assert LOCK.count("==") > 150 and not faults(LOCK)
    setup = (PROJECT / "Makefile").read_text()
    assert "--require-hashes -r requirements.lock" in setup


@pytest.mark.parametrize("line", [
    "evil==1.0", "evil>=1.0 --hash=sha256:" + "0" * 64, "evil @ https://example.org/evil.whl --hash=sha256:" + "0" * 64,
    "--index-url https://example.org/simple",
    "--extra-index-url https://example.org/simple", "-e git+https://example.org/evil",
    "evil==1.0 --hash=md5:" + "0" * 32, "--find-links /tmp", "https://a.org/a.whl",
])
def test_what_is_not_pinned_is_seen(line: str) -> None:
    assert faults(f"{LOCK}{line}\n") == [f"{line}\n"]


def test_an_audit_that_asked_nothing_is_none() -> None:
    """The tool itself passes where the database knows none of the packages."""
    recipe = (PROJECT / "Makefile").read_text().partition("\naudit:")[2].partition("\n\n")[0]
    command = shlex.split(recipe.partition("pip-audit")[2].partition("||")[0])
    assert "--strict" in command and command[command.index("-r") + 1] == "requirements.lock"
    assert "audit" not in (PROJECT / ".ci" / "run").read_text(), "it needs the internet"
