"""Hooks of MkDocs (`make site`): which files the site has, and the parts of its pages that are made from the code.

Every file is known to MkDocs by its place in the repository, also those outside docs/. So links between pages are the
same on the site as on a code host, and MkDocs checks them all.
"""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from crowddist.config import RunConfig, flat
from crowddist.inference.metrics import METRICS
from crowddist.models.backbones.table import BACKBONES
from crowddist.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
PAGES_OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "cluster/**/*.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages of docs/ and outside it, and what they show or link to."""
    pages = [ROOT / "docs" / file.src_uri for file in files if file.is_documentation_page()]
    pages += [path for pattern in PAGES_OUTSIDE for path in sorted(ROOT.glob(pattern))]
    linked = {path for page in pages for path in linked_files(page)} - set(pages)
    others = [file for file in files if not file.is_documentation_page()]
    return Files([*others, *(_file(path, config) for path in (*pages, *sorted(linked)))])


def linked_files(page: Path) -> Iterator[Path]:
    """The files of the repository that a page links to; what is in a code block, or is no file, is left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s#]+)", text):
        path = (page.parent / link).resolve()
        if path.is_relative_to(ROOT) and path.is_file():
            yield path


def _file(path: Path, config: MkDocsConfig) -> File:
    """Known by its place in the repository; on the site docs/ is the top, and the front page is beside it."""
    place = path.relative_to(ROOT).as_posix()
    on_site = "front.md" if place == "README.md" else place.removeprefix("docs/").removeprefix(".")
    address = File(on_site, None, config.site_dir, config.use_directory_urls).dest_uri
    return File(place, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=address,
                inclusion=InclusionLevel.INCLUDED)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts what is made from the code in the place of its mark, `<!-- made: recipes -->`."""
    return re.sub(r"^<!-- made: (\w+) -->$", lambda mark: MADE[mark[1]](), markdown, flags=re.MULTILINE)


def recipes() -> str:
    """A section for each module of recipes, what it says of itself, and its recipes with the settings they change."""
    modules = list(dict.fromkeys(recipe.__module__ for recipe in RECIPES))
    return "\n\n".join(part for name in modules for part in (
        _module(name), *(_recipe(recipe) for recipe in RECIPES if recipe.__module__ == name)))


def _module(name: str) -> str:
    summary, _, origins = inspect.cleandoc(sys.modules[name].__doc__ or "").partition("\n\n")
    title, _, more = summary.partition(": ")
    return f"## {title}\n\n`{name}`: {more}\n\n" + _folded("Where every value comes from", origins)


def _recipe(recipe: Callable[[], RunConfig]) -> str:
    config = recipe()
    usual = flat(asdict(RunConfig(recipe="", source=config.source, target=config.target)))
    changed = [_option(name, value) for name, value in flat(asdict(config)).items()
               if name in ("source", "target") or (name != "recipe" and value != usual[name])]
    settings = "```\n" + "\n".join(changed) + "\n```"
    told = re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", inspect.getdoc(recipe) or "")
    return "\n\n".join((f"### {recipe.__name__}", told,
                        _folded(f"{len(changed)} settings that are not the defaults", settings)))


def _option(name: str, value: Any) -> str:
    """A setting as `adapt.py` takes it."""
    group, dot, last = name.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        return f"--{group}{dot}{'' if value else 'no-'}{last}"
    return f"--{group}{dot}{last} {shlex.join(map(str, value if isinstance(value, list | tuple) else [value]))}"


def _folded(title: str, text: str) -> str:
    return f'??? note "{title}"\n\n{textwrap.indent(text, "    ")}' if text else ""


def metrics() -> str:
    """The table of metrics, in the order of display."""
    return table(("key", "heading", "unit", "what it says", "better", "comes from"), (
        (f"`{row.key}`", row.heading, row.unit, row.meaning, row.better,
         "evaluation" if row.of else "labels, search or training") for row in METRICS))


def backbones() -> str:
    """The table of backbones: strides of each use, and whether ImageNet's weights can be had."""
    rows = []
    for row in BACKBONES.values():
        strides = "; ".join(f"{use} {', '.join(map(str, what.strides))}" for use, what in row.uses.items())
        weights = "none" if row.weights is None else f"`{row.weights.package}`" if row.weights.package else "a download"
        rows.append((f"`{row.name}`", strides, weights))
    return table(("name", "strides of each use, px", "ImageNet's weights"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


MADE = {"recipes": recipes, "metrics": metrics, "backbones": backbones}
"""Mark in a page -> what stands there on the site."""
