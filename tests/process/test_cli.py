"""How jobs end: one line and an exit code for what users and machines cause, a traceback for bugs alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import pytest
import tyro

from crowddist import storage
from crowddist.config import SHORT_HELP, RunConfig, flat
from crowddist.errors import InputError
from crowddist.process.cli import HELP_COLUMNS, one_line_errors, read_arguments, short_help
from crowddist.recipes import RECIPES


def end(error: BaseException) -> int:
    """The exit code of a job that raises this."""
    with pytest.raises(SystemExit) as ending, one_line_errors():
        raise error
    assert isinstance(ending.value.code, int)
    return ending.value.code


def test_wrong_input_is_one_line_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(InputError("bad.jpg: the file\n  is\tempty")) == 2
    assert capsys.readouterr() == ("", "error: bad.jpg: the file is empty\n")


def test_a_missing_file_is_told_with_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ending, one_line_errors():
        (tmp_path / "missing").read_bytes()
    assert (ending.value.code == 2
            and capsys.readouterr().err == f"error: No such file or directory: {tmp_path}/missing\n")
    assert end(FileNotFoundError("no folder at /a; give one that holds images")) == 2
    assert capsys.readouterr().err == "error: no folder at /a; give one that holds images\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending, one_line_errors(), open("/dev/full", "wb") as stream:
        stream.write(bytes(10))
    assert ending.value.code == 2
    assert capsys.readouterr().err == "error: No space left on device; make room, then give the same command again\n"


def test_a_name_the_system_refuses_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ending, one_line_errors():
        (tmp_path / ("a" * 300)).write_bytes(b"")
    assert ending.value.code == 2 and capsys.readouterr().err.startswith("error: File name too long: ")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SystemExit) as ending, one_line_errors():
        (tmp_path / "file" / "below").mkdir()
    assert ending.value.code == 2 and capsys.readouterr().err == f"error: Not a directory: {tmp_path}/file/below\n"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_too_little_memory_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 7 bytes"),
                  ImportError("libtorch_cpu.so: failed to map segment from shared object")):
        assert end(error) == 2
        assert capsys.readouterr().err.startswith("error: the memory is full; close other programs or take a machine ")
    with pytest.raises(SystemExit) as ending, one_line_errors(), ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(die).result()
    said = capsys.readouterr().err
    assert ending.value.code == 2 and said.count("\n") == 1
    assert said.startswith("error: a process of this command was killed, as the system does where memory runs out; ")


def test_a_folder_that_is_gone_is_told_before_a_library_ends_the_process(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as ending, one_line_errors():
        pytest.fail("it goes on")
    monkeypatch.undo()
    assert ending.value.code == 2
    assert capsys.readouterr().err == ("error: the current folder is gone; change to another one (cd), and give the "
                                       "command again\n")


def test_a_file_that_cannot_take_its_place_is_told_by_that_place(capsys: pytest.CaptureFixture[str],
                                                                 tmp_path: Path) -> None:
    (tmp_path / "counts.csv").mkdir()
    with pytest.raises(SystemExit), one_line_errors():
        storage.write_bytes(str(tmp_path / "counts.csv"), b"")
    assert capsys.readouterr().err == f"error: Is a directory: {tmp_path}/counts.csv\n"


def test_a_training_that_diverged_is_no_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(FloatingPointError("loss of stage source is nan at step 3; samples: a, b")) == 1
    assert capsys.readouterr().err == "error: loss of stage source is nan at step 3; samples: a, b\n"


def test_an_interruption_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted; the same command takes the run up again\n"


@pytest.mark.parametrize("bug", [ValueError("x"), KeyError("x"), RuntimeError("x"), ImportError("x"),
                                 ZeroDivisionError("x"), AssertionError("x")])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)) as caught, one_line_errors():
        raise bug
    assert caught.value is bug


def test_an_exit_keeps_its_code() -> None:
    assert end(SystemExit(143)) == 143


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size must be positive, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    name: str = "a"

    def __post_init__(self) -> None:
        if "/" in self.name:
            raise InputError(f"name must be plain, got {self.name}")


def read(*arguments: str) -> Outer:
    return read_arguments(lambda: tyro.cli(Outer, args=arguments))


def test_arguments_are_read_and_refused_by_the_configuration_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert read("--inner.size", "5", "--name", "b") == Outer(inner=Inner(size=5), name="b")
    for arguments, message in ((("--inner.size", "0"), "size must be positive, got 0"),
                               (("--name", "a/b"), "name must be plain, got a/b")):
        with pytest.raises(InputError) as caught:
            read(*arguments)
        assert str(caught.value) == message
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("arguments", "message"), [
    (("--colour", "red"), "Unrecognized options: --colour, red"),
    (("--inner.sizes", "4"), "Unrecognized options: --inner.sizes, 4; perhaps you meant --inner.size"),
    (("--inner.size", "many"), "Error parsing --inner.size: invalid literal for int() with base 10: 'many'"),
    (("--name",), "Missing value for argument '--name'. Expected 1 values"),
    (("stray",), "Unrecognized options: stray"),
    (("-x.jpg",), "Unrecognized options: -x.jpg; write a file as ./-x.jpg"),
])
def test_what_tyro_refuses_becomes_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                                            tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.jpg").touch()
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        with pytest.raises(InputError) as caught:
            read(*arguments)
        assert str(caught.value) == message
    assert capsys.readouterr() == ("", "")


def test_missing_arguments_are_named_in_one_line() -> None:
    def main(first: int, second_one: str) -> None:
        """Needs both."""

    with pytest.raises(InputError, match=r"^missing: --first, --second-one; see --help$"):
        read_arguments(lambda: tyro.cli(main, args=[]))
    with pytest.raises(InputError, match=r"^missing: --second-one; unrecognized: --third, 4; see --help$"):
        read_arguments(lambda: tyro.cli(main, args=["--first", "1", "--third", "4"]))
    with pytest.raises(InputError, match=r"unrecognized: --secnd-one, 4; perhaps you meant --second-one; see --help$"):
        read_arguments(lambda: tyro.cli(main, args=["--first", "1", "--secnd-one", "4"]))
    about = "Adds.\n\n    add --first 1 --second-one 2    (to get 3)\n    add --help\n"
    with pytest.raises(InputError, match=r"^missing: .*; for example: add --first 1 --second-one 2; see --help$"):
        read_arguments(lambda: tyro.cli(main, args=[]), about)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        read("--help")
    words = capsys.readouterr()
    assert ending.value.code in (0, None) and "--inner.size" in words.out and words.err == ""


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_short_help_has_few_options_that_exist(recipe: Callable[[], RunConfig]) -> None:
    names = [name for group in SHORT_HELP.values() for name in group]
    assert len(names) == len(set(names)) <= 25 and set(names) <= flat(asdict(recipe())).keys()
    lines = short_help(recipe(), SHORT_HELP).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  --")] == [f"--{name.replace('_', '-')}"
                                                                              for name in names]
    assert len(lines) <= 40 and max(map(len, lines)) <= HELP_COLUMNS


@dataclass(frozen=True, kw_only=True)
class Documented:
    """A configuration."""

    size: tuple[float, ...] = (1.0, 2.5)
    """Sizes in px. Larger is
    slower."""
    share: float = 0.1
    on: bool = False
    """Switch it on."""
    name: str = ""
    """Name, e.g. a."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    inner: Documented = field(default_factory=Documented)


def test_the_short_help_has_first_sentences_and_values() -> None:
    assert short_help(Whole(), {"first": ("inner.size", "inner.on"), "then": ("inner.name",)}).splitlines() == [
        "first:",
        "  --inner.size                    Sizes in px [1.0 2.5]",
        "  --inner.on                      Switch it on [off]",
        "then:",
        "  --inner.name                    Name, e.g. a [empty]",
    ]


def test_a_terminal_that_is_gone_stops_no_work() -> None:
    """As of a connection that is lost: the system answers EIO then, not EPIPE."""
    code = ("import sys\nfrom crowddist.process.cli import one_line_errors\nwith one_line_errors():\n"
            "    for number in range(20000): print('line', number)\n    print('all done', file=sys.stderr)")
    terminal, end = os.openpty()
    job = subprocess.Popen([sys.executable, "-c", code], stdout=end, stderr=subprocess.PIPE, text=True)
    os.close(end)
    assert os.read(terminal, 4) == b"line"
    os.close(terminal)  # long before all lines fit into its buffer
    assert job.stderr is not None
    assert (job.stderr.read(), job.wait()) == ("all done\n", 0)


@pytest.mark.parametrize("environment", [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONUNBUFFERED": "1"}])
def test_a_reader_that_leaves_and_a_poor_terminal_stop_no_work(environment: dict[str, str]) -> None:
    code = ("import sys\nfrom crowddist.process.cli import one_line_errors\nwith one_line_errors():\n"
            "    for number in range(20000): print('\\u00b1', number)\n    print('all done', file=sys.stderr)")
    job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1", **environment})
    assert job.stdout is not None and job.stderr is not None
    assert job.stdout.readline() == ("\\xb1 0\n" if environment.get("PYTHONIOENCODING") else "\u00b1 0\n")
    job.stdout.close()
    assert (job.stderr.read(), job.wait()) == ("all done\n", 0)


def test_closed_streams_stop_no_work(tmp_path: Path) -> None:
    """As of services that start without them: Python has None in their place."""
    code = ("from pathlib import Path\nfrom crowddist.process.cli import one_line_errors\n"
            "from crowddist.process.progress_bar import watched\nwith one_line_errors():\n"
            "    for number in watched(range(3)): print(number, flush=True)\n    Path('done').write_text('x')")
    job = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" >&- 2>&- <&-', sys.executable, code], cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert job.returncode == 0 and (tmp_path / "done").exists()
