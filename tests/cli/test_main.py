"""The command: what it says of itself, how little it imports for that, and that it and the jobs are one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import crowddist as package
from crowddist.cli import main as cli_main
from crowddist.cli.called import as_called
from crowddist.cli.main import COMMANDS
from tests.cli.conftest import ROOT, Command

HEAVY = ["torch", "torchvision", "ray", "mlflow", "numpy", "scipy", "cv2", "PIL", "tyro", "pandas", "matplotlib",
         "boto3", "webdataset", "simplejpeg", "fastapi", "uvicorn"]


def imported(*calls: list[str]) -> dict[str, set[str]]:
    """The heavy libraries that a fresh process has imported after each of some calls, one after another."""
    code = f"""
import sys
from crowddist.cli.main import main
for words in {calls!r}:
    try:
        main(words)
    except SystemExit:
        pass
    print("\\nimported", *[name for name in {HEAVY} if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=True)
    told = [set(line.split()[1:]) for line in done.stdout.splitlines() if re.match(r"imported( |$)", line)]
    return dict(zip(map(" ".join, calls), told, strict=True))


def test_what_it_says_of_itself_imports_nothing_heavy() -> None:
    for words, heavy in imported([], ["--help"], ["-h"], ["help"], ["--version"]).items():
        assert heavy == set(), words


def test_the_help_of_each_command_needs_no_network_and_tells_its_exit_codes(crowddist: Command) -> None:
    light = {"tyro", "numpy"}  # what reads the options, and fields of the configuration
    names = ("count", "video", "zones", "serve", "adapt", "check", "evaluate", "export", "tune", "compare", "folds",
             "convert")
    for words, heavy in imported(*([name, "--help"] for name in names)).items():
        assert heavy <= light, words
    for name in names:
        done = crowddist(name, "--help")
        assert (done.returncode, done.stderr) == (0, ""), name
        assert "Exit: 0 " in done.stdout and "2 wrong input" in done.stdout, name
        assert f"crowddist {name} " in done.stdout, name
        assert "jobs/" not in done.stdout.replace("-- python jobs/adapt.py", ""), name


def test_alone_it_shows_all_commands(crowddist: Command) -> None:
    done = crowddist()
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == crowddist("--help").stdout
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", done.stdout, re.MULTILINE)
    assert "--tyro-print-completion" in done.stdout and max(map(len, done.stdout.splitlines())) <= 120
    files = {path.stem for path in (ROOT / "crowddist" / "cli").glob("*.py")}
    assert set(COMMANDS) == files - {"__init__", "__main__", "main", "called", "counting", "completion"}


def test_its_version_is_the_package_s(crowddist: Command) -> None:
    assert crowddist("--version").stdout == f"crowddist {package.__version__}\n"


@pytest.mark.parametrize(("word", "words"), [("conut", "perhaps you meant count"), ("zzz", "choose one of count, "),
                                             ("--modle", "choose one of"), ("\x1b[2J", r"'\x1b[2J'")])
def test_another_word_is_one_line(crowddist: Command, word: str, words: str) -> None:
    done = crowddist(word, "x")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: no command is called ") and words in done.stderr


def test_a_shell_learns_commands_options_and_files(crowddist: Command, tmp_path: Path) -> None:
    done = crowddist("--tyro-print-completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "completion").write_text(done.stdout)
    asked = r"""source completion
        ask() { COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=(); _tyro_crowddist; echo "${COMPREPLY[@]}"; }
        ask crowddist co; ask crowddist count --skip; ask crowddist convert csv a b --unl
        ask crowddist adapt quickstart --train.step; ask crowddist check smoke --self-supervision.roun
        complete -p crowddist"""
    told = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True,
                          env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}).stdout
    first, count, convert, adapt, check, files = told.splitlines()
    assert set(first.split()) == {"count", "convert", "compare"}
    assert "--skip-bad" in count.split() and convert.split() == ["--unlabelled"]
    assert "--train.steps" in adapt.split() and "--self-supervision.rounds" in check.split()
    assert "-o default" in files, "where no option fits, files do"
    for shell in ("zsh", "fish"):
        assert len(crowddist("--tyro-print-completion", shell).stdout) > 10_000
    for words in (["ksh"], []):
        done = crowddist("--tyro-print-completion", *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "choose one of bash, zsh" in done.stderr


def test_examples_are_called_as_the_user_called_them() -> None:
    text = "crowddist adapt x; crowddist count y; crowddist convert z; crowddist counts crowds"
    assert as_called(text, "crowddist count") == text
    assert as_called(text, "jobs/adapt.py") == ("python jobs/adapt.py x; python jobs/predict.py y; "
                                                "python jobs/convert.py z; crowddist counts crowds")


def test_the_jobs_are_thin() -> None:
    for path in (ROOT / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 10


def test_check_is_adapt_without_a_run(crowddist: Command, tmp_path: Path) -> None:
    for words in (("check", "smoke"), ("adapt", "smoke", "--check")):
        done = crowddist(*words, "--target", "renderer:moon:3", "--storage", tmp_path / "runs")
        assert done.returncode == 2 and "not a rendered data set: 'renderer:moon:3'" in done.stderr
    assert crowddist("check", "nosuch").stderr.startswith("error: no recipe is called 'nosuch'")
    assert "usage: crowddist check smoke [--check] [--fresh]" in crowddist("check", "smoke", "--help").stdout
    assert not (tmp_path / "runs").exists()


def test_the_wheel_has_the_command_and_tells_type_checkers(tmp_path: Path) -> None:
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text())
    module, _, function = facts["project"]["scripts"]["crowddist"].partition(":")
    assert getattr(sys.modules[module], function) is cli_main.main
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "crowddist").symlink_to(ROOT / "crowddist")
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1]) as wheel:
        names = wheel.namelist()
        (scripts,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "crowddist = crowddist.cli.main:main" in wheel.read(scripts).decode()
    assert {"crowddist/py.typed", "crowddist/cli/count.py", "crowddist/reports/report.html",
            "crowddist/service/page.html"} <= set(names)
