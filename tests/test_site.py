"""The site of the docs: what its hook makes from the code, and the whole of it, built as `make site` does."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from crowddist.cli.adapt import read_config
from crowddist.config import RunConfig
from crowddist.inference.metrics import METRICS
from crowddist.models.backbones.table import BACKBONES
from crowddist.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_shown_of_a_recipe_make_it(hooks: ModuleType) -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", hooks.recipes(), re.DOTALL | re.MULTILINE))
    assert list(sections) == [recipe.__name__ for recipe in by_module()]
    for recipe in {recipe.__module__: recipe for recipe in by_module()}.values():  # the last one of each module
        shown = re.findall(r"^    (--.*)$", sections[recipe.__name__], re.MULTILINE)
        options = [word for line in shown for word in shlex.split(line)]
        assert read_config(RunConfig(recipe=recipe.__name__, source="a", target="b"), "", "", options) == recipe()


def by_module() -> list[Callable[[], RunConfig]]:
    modules = [recipe.__module__ for recipe in RECIPES]
    return sorted(RECIPES, key=lambda recipe: modules.index(recipe.__module__))


def test_the_tables_have_every_row(hooks: ModuleType) -> None:
    for made, names in ((hooks.metrics(), [row.key for row in METRICS]), (hooks.backbones(), list(BACKBONES))):
        head, _, *rows = made.splitlines()
        assert [row.split("`")[1] for row in rows] == names
        assert {line.count("|") for line in (head, *rows)} == {head.count("|")}


@pytest.mark.slow
def test_the_site_is_whole_and_needs_no_other(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
                          cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "front.html", "methods/translation.html", "cluster/SECURITY.html",
            "cluster/slurm/index.html"} <= set(pages)
    assert "count_many" in pages["api.html"]
    for name, page in pages.items():
        assert "<!-- made:" not in page, name
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=[\"']?([^\"' >]+)", page)
        loaded += re.findall(r"<link[^>]* href=[\"']?([^\"' >]+)", page)
        assert not [link for link in loaded if re.match(r"(https?:)?//", link)], name
