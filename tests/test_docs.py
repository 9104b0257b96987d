"""The README and the pages of docs and cluster: their commands are accepted, and what they link to and name exists."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tyro

from crowddist.cli.main import COMMANDS as SUBCOMMANDS
from crowddist.cli.main import main as crowddist
from crowddist.config import flat, to_json
from crowddist.data.config import parse_data
from crowddist.process.cli import one_line
from crowddist.recipes import RECIPES, quickstart
from crowddist.recipes.folds import folds

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("cluster/**/*.md")),
         *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")), *sorted(ROOT.glob(".github/**/*.md")))
DATA_OPTIONS = ("data", "target", "labelled", "evaluation")
"""Options of jobs other than adapt.py that name data; a run's configuration checks its own."""


class ParsedError(BaseException):
    """Ends a job when its command line is read; no job catches it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def blocks(text: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```[^\n]*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[list[str]]:
    """The words of each `python jobs/NAME.py ...` of a block, from NAME.py on, and of each `crowddist NAME ...`; a
    loop's command once for each value.
    """
    loops: dict[str, list[str]] = {}
    for line in block.replace("\\\n", " ").splitlines():
        if loop := re.fullmatch(r"for (\w+) in (.*); do", line.strip()):
            loops[loop[1]] = loop[2].split()
        elif "jobs/" in line or "crowddist " in line:
            looped = next((name for name in loops if f"${name}" in line), "")
            for value in loops.get(looped, [""]):
                yield from _jobs(shlex.split(line.replace(f"${looped}", value) if looped else line, comments=True))


def _jobs(words: list[str]) -> Iterator[list[str]]:
    for index, word in enumerate(words):
        is_job = re.fullmatch(r"(.*/)?jobs/\w+\.py", word) and words[index - 1].endswith("python")
        is_command = word == "crowddist" and (words[index + 1:] or [""])[0] in SUBCOMMANDS
        if " " in word and "jobs/" in word:  # a command in quotes, of another one
            yield from _jobs(shlex.split(word))
        elif is_job or is_command:
            end = next((place for place in range(index, len(words)) if words[place] in ("&&", "||", "|", ";")), None)
            yield [Path(word).name, *words[index + 1:end]]


def spans(text: str) -> list[str]:
    """What stands between backticks in a page's sentences."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def told(text: str) -> Iterator[list[str]]:
    """The commands of a page's sentences, and their options of adapt.py that have a value (`--launcher local`), as a
    command of a recipe. What holds a placeholder (RECIPE, N, ...) is none.
    """
    for span in spans(text):
        if re.search(r"\b(?:[A-Z]+|\.\.\.)$|\b(?:RECIPE|METHOD)\b|\.\.\. ", span) and not span.endswith("SHB"):
            continue
        # A name alone is no command.
        yield from (command for command in commands(span) if len(command) > (2 if command[0] == "crowddist" else 1))
        words = shlex.split(span) if re.match(r"--[a-z.-]+ ", span) else []
        if words and {option(word) for word in words if word.startswith("--")} <= SETTINGS:
            one_worker = [] if "--num-workers" in words else ["--num-workers", "1"]
            yield ["adapt.py", "renderer_to_shb", *one_worker, *words]


def option(word: str) -> str:
    """A setting's name as an option has it: --counter.no-orientation sets counter.orientation."""
    return word.removeprefix("--").replace(".no-", ".")


SETTINGS = {name.replace("_", "-") for name in flat(asdict(quickstart()))}
COMMANDS = [pytest.param(shlex.split(command), id=f"{page.relative_to(ROOT)}: {command[:150]}")
            for command, page in {  # the same words once, with the last page that has them
                shlex.join(words): page for page in PAGES for text in [page.read_text()]
                for words in (*(words for block in blocks(text) for words in commands(block)), *told(text))}.items()]


def read(words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the job makes of its command line. It runs as `python jobs/NAME.py` would, up to there."""
    whole = {"tyro": tyro.cli, "argparse": argparse.ArgumentParser.parse_args}

    def read_by_tyro(*arguments: Any, **options: Any) -> Any:
        raise ParsedError(whole["tyro"](*arguments, **options))

    def read_by_argparse(parser: argparse.ArgumentParser, *arguments: Any, **options: Any) -> Any:
        raise ParsedError(whole["argparse"](parser, *arguments, **options))

    monkeypatch.setattr(tyro, "cli", read_by_tyro)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read_by_argparse)
    monkeypatch.setattr(sys, "argv", [f"jobs/{words[0]}", *words[1:]])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # jobs set their own
    monkeypatch.chdir(place)
    (place / "runs" / "first").mkdir(parents=True)
    (place / "runs" / "first" / "config.json").write_text(to_json(quickstart()))  # what --from-run asks for
    try:
        if words[0] == "crowddist":
            crowddist(words[1:])
        else:
            runpy.run_path(str(ROOT / "jobs" / words[0]), run_name="__main__")
    except ParsedError as parsed:
        return parsed.value
    raise AssertionError("the job ended before it had read its command line")


def accepted(words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises SystemExit with a code or InputError where the job refuses the command."""
    try:
        given = read(words, place, monkeypatch)
    except SystemExit as ending:
        if ending.code:
            raise
        return  # help
    command = words[1] if words[0] == "crowddist" else words[0].removesuffix(".py")
    if command == "folds":
        folds(given)
    for name in DATA_OPTIONS if command in ("evaluate", "tune") else ():
        if text := getattr(given, name, ""):
            parse_data(text)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_is_accepted(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    try:
        accepted(words, tmp_path, monkeypatch)
    except (SystemExit, ValueError) as problem:
        said = capsys.readouterr().err or one_line(problem)
        pytest.fail(f"{shlex.join(words)}\n{said}", pytrace=False)


@pytest.mark.parametrize("command", [
    "adapt.py nosuch", "adapt.py quickstart --speed 9", "adapt.py quickstart --train.steps many",
    "adapt.py quickstart --target renderer:moon:3", "adapt.py quickstart --num-workers 3",
    "adapt.py --from-run runs/second", "predict.py --checkpoint runs/mine --input photos", "convert.py nosuch a b",
    "convert.py verify", "evaluate.py --report runs/mine --data csv:labels", "folds.py quickstart",
    "evaluate.py --checkpoint a --data renderer:moon:3 --output b", "tune.py --checkpoint a --target b",
    "compare.py", "adapt.py shb_to_sha --search.objective proxy", "adapt.py smoke --train.density-limit True",
    "crowddist count", "crowddist count a.jpg --model runs/mine", "crowddist check nosuch",
])
def test_a_wrong_command_is_not_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((SystemExit, ValueError)):
        accepted(command.split(), tmp_path, monkeypatch)


def test_every_job_is_shown() -> None:
    shown = {parameter.values[0][0] for parameter in COMMANDS}
    assert shown - {"crowddist"} == {path.name for path in (ROOT / "jobs").glob("*.py")}


def test_commands_are_found_wherever_they_stand() -> None:
    block = ("for method in source_only combined; do\n    python jobs/adapt.py smoke --method $method\ndone\n"
             "ray job submit --working-dir . -- python jobs/adapt.py smoke \\\n  --storage /shared  # a comment\n"
             "sh -c 'ray job submit -- python /home/crowddist/jobs/adapt.py smoke --check'\n"
             "python jobs/predict.py --checkpoint a && ls\nls jobs/*.py\n"
             "crowddist count a.jpg  # one\ncrowddist --help\n")
    assert list(commands(block)) == [
        ["adapt.py", "smoke", "--method", "source_only"], ["adapt.py", "smoke", "--method", "combined"],
        ["adapt.py", "smoke", "--storage", "/shared"], ["adapt.py", "smoke", "--check"],
        ["predict.py", "--checkpoint", "a"], ["crowddist", "count", "a.jpg"],
    ]


def test_options_are_found_in_sentences() -> None:
    text = ("With `--launcher local` or `--stream.zooms\n0.5 1`, `python jobs/adapt.py smoke\n--check`, but not "
            "`--min-workers N`, `--max-size 9`, `--seed` or `python jobs/adapt.py RECIPE --check`.\n"
            "```\n`--seed 1`\n```\n")
    begun = ["adapt.py", "renderer_to_shb", "--num-workers", "1"]
    assert list(told(text)) == [[*begun, "--launcher", "local"], [*begun, "--stream.zooms", "0.5", "1"],
                                ["adapt.py", "smoke", "--check"]]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        same = sum(anchor == slug or re.fullmatch(f"{re.escape(slug)}-\\d+", anchor) is not None for anchor in found)
        found.add(f"{slug}-{same}" if same else slug)
    return found


def links(text: str) -> list[str]:
    """Where the links and pictures of a page lead, but for other sites; what stands between backticks is no link."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(text)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def broken(page: Path, text: str) -> list[str]:
    """The links that lead nowhere."""
    missing = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        place = (page.parent / path).resolve() if path else page
        there = text if place == page else place.read_text() if place.suffix == ".md" and place.is_file() else ""
        if not place.exists() or not place.is_relative_to(ROOT) or (anchor and anchor not in anchors(there)):
            missing.append(link)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_links_that_lead_nowhere_are_found() -> None:
    text = ("# One *word*, and `code`\n## Twice\n## Twice\n[a](#one-word-and-code) [b](#twice-1) [c](LICENSE)\n"
            "[d](#nowhere) [e](nothing.md) [f](docs/README.md#nowhere) [g](https://example.org) `[h](x)`\n"
            "```\n# no heading\n[i](x)\n```\n[j](#no-heading)")
    assert broken(ROOT / "README.md", text) == ["#nowhere", "nothing.md", "docs/README.md#nowhere", "#no-heading"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_named_exists(page: Path) -> None:
    """Targets of make, settings of a run, and files."""
    text = page.read_text()
    code = "\n".join([*blocks(text), *spans(text)])
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (?:-C \S+ )?([a-z][a-z0-9-]*)", code)) <= targets
    assert {option(word) for word in re.findall(r"--[a-z-]+\.[a-z.-]*[a-z]", code)} <= SETTINGS
    files = re.findall(r"(?<![\w/])((?:tests|jobs|crowddist|cluster|docs|recipes|methods|models|losses|ops|inference)/"
                       r"[\w/.-]+\.(?:py|md|sh|yaml))", code)
    assert [name for name in files if not name.endswith("/NAME.py")  # a file to be written
            and not (ROOT / name).exists() and not (ROOT / "crowddist" / name).exists()] == []


def test_every_page_is_reached_from_the_index() -> None:
    reached, todo = set(), [ROOT / "docs" / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        linked = {(page.parent / link.partition("#")[0]).resolve() for link in links(page.read_text())}
        todo += [path for path in linked - reached if path.suffix == ".md"]
    assert {page for page in PAGES if ".github" not in page.parts} <= reached


def test_every_recipe_is_in_the_table_of_recipes() -> None:
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(table))) == sorted(recipe.__name__ for recipe in RECIPES)


@pytest.mark.parametrize(("page", "run"), [("README.md", '"runs/mine"'), ("docs/start.md", '"rendered"')])
def test_the_python_of_the_first_pages_runs(page: str, run: str, tiny_checkpoint: str, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    import cv2
    import numpy as np

    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert run in block and '"street.jpg"' in block
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", np.full((96, 128, 3), 90, np.uint8))
    exec(compile(block.replace(run, repr(tiny_checkpoint)), page, "exec"), {})
    count = float(capsys.readouterr().out.split()[0])
    assert count >= 0 and Path("overlay.png").stat().st_size > 0


def test_the_citation_names_this_version() -> None:
    facts = dict(re.findall(r"^([a-z-]+): (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert facts["version"] == project["version"] and facts["license"] == project["license"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
