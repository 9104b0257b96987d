"""Shared by all jobs: turns a user's mistake into one line and exit code 2, and shortens the help of many options."""

from __future__ import annotations

import ast
import difflib
import errno
import inspect
import io
import itertools
import logging
import operator
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, redirect_stderr
from types import TracebackType
from typing import Any, TypeVar

from crowddist.errors import InputError
from crowddist.process.safe_text import readable, redacted

Arguments = TypeVar("Arguments")

HELP_COLUMNS = 100


@contextmanager
def one_line_errors(interrupted: str = "the same command takes the run up again") -> Iterator[None]:
    """Turns errors of users and machines into one line on stderr; bugs keep their traceback. Hides secrets in both.

    Exit code 2: wrong input, a file system that is full, forbids or fails, or too little memory. Exit code 1: a
    training that diverged.

    Args:
        interrupted: what Ctrl-C leaves.
    """
    sys.excepthook = _tell_bug
    sys.stdout, sys.stderr = (_patient(stream) for stream in (sys.stdout, sys.stderr))
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_redact)
    try:
        _require_folder()
        yield
    except (InputError, OSError, FloatingPointError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1 if isinstance(error, FloatingPointError) else 2)
    except (MemoryError, RuntimeError, ImportError) as error:
        what = _lack_of_memory(error)
        if not what:
            raise
        print(f"error: {what}; close other programs or take a machine with more memory, then give the same command "
              "again", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        sys.exit(130)


def _require_folder() -> None:
    """Raises InputError where the current folder was removed: libraries then end the process with words of their own.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the current folder is gone; change to another one (cd), and give the command again") from None


def _lack_of_memory(error: BaseException) -> str:
    """What happened, in words, where memory was lacking; "" for other errors."""
    if isinstance(error, BrokenExecutor):
        return "a process of this command was killed, as the system does where memory runs out"
    # PyTorch's error over a GPU's memory, and over the machine's, is a RuntimeError.
    # A library that finds no room is an ImportError, e.g. under ulimit -v.
    full = isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory|failed to map segment",
                                                       str(error))
    return "the memory is full" if full else ""


class _Pipe(io.FileIO):
    """A stream's end whose reader, a program or a terminal, may leave: what is written after that goes nowhere, and the
    work goes on.
    """

    def write(self, data: Any) -> int:  # type: ignore[override]
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal of a connection that is lost
                raise
            return len(data)


def _patient(stream: Any) -> Any:
    """The stream of this process, made safe against a reader that leaves (`| head`), against any encoding, and where it
    was closed before the start (`>&-`); another stream, as tests and notebooks have, stays as it is.
    """
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper) or stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    stream.flush()
    pipe = _Pipe(stream.fileno(), "w", closefd=False)
    # Unbuffered (python -u) means a raw stream below.
    buffer: Any = pipe if stream.write_through else io.BufferedWriter(pipe)
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors="backslashreplace",
                            line_buffering=stream.line_buffering, write_through=stream.write_through)


def read_arguments(read: Callable[[], Arguments], about: str = "") -> Arguments:
    """What `read` (a call of tyro) makes of the command line.

    tyro shows every mistake in a box of several lines and exits; here it becomes an InputError, which is one line.

    Args:
        about: the command's help. Its first example is told where something is missing.
    """
    words = io.StringIO()
    try:
        with redirect_stderr(words):
            return read()
    except SystemExit as ending:
        cause = ending.__context__
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        if message := _boxed(words.getvalue()):
            raise InputError(with_example(message, about)) from None
        print(words.getvalue(), end="", file=sys.stderr)
        raise


def with_example(message: str, about: str) -> str:
    """The message of a missing argument, with the first example of a command's help, which is indented there."""
    example = re.search(r"^ {4}(\S.*?)(?: {2,}|$)", about, re.MULTILINE)
    return message.replace("; see --help", f"; for example: {example[1]}; see --help") if example else message


def _boxed(text: str) -> str:
    """The first message in tyro's box, in one line with the options that it names; "" if there is no box."""
    # Its first line is the title. Where the terminal knows no UTF-8 the box is drawn with spaces and hyphens.
    lines = [re.sub("-{3,}|─+", "─", line.strip("│╭╮╰╯ ")) for line in text.splitlines()[1:]]
    below = itertools.dropwhile(lambda line: line == "─", lines)
    message = list(itertools.takewhile(lambda line: line != "─", below))
    if message and message[0].startswith("Missing from"):
        after = itertools.dropwhile(lambda line: line != "Unrecognized options:", lines)
        unknown = list(itertools.takewhile(lambda line: line != "─", after))[1:]
        also = f"; unrecognized: {', '.join(unknown)}" if unknown else ""
        near = [name for name in _options(message) if difflib.get_close_matches(name, unknown)]
        also += f"; perhaps you meant {' or '.join(near)}" if near else ""
        return f"missing: {', '.join(_options(message))}{also}; see --help"
    meant = f"; perhaps you meant {' or '.join(_options(lines))}" if "Perhaps you meant:" in lines else ""
    return " ".join(message).rstrip(".") + meant + files_among_options(re.split("[ ,]+", " ".join(message)))


def files_among_options(words: Sequence[str]) -> str:
    """What to add to a message where the first of the words that look like options is a file; else ""."""
    files = [word for word in words if word.startswith("-") and os.path.exists(word)]
    return f"; write a file as ./{files[0]}" if files else ""


def _options(lines: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(line.split()[0] for line in lines if line.startswith("--")))


def short_help(config: Any, shown: Mapping[str, Sequence[str]]) -> str:
    """The options in `shown` (heading -> names), a line each: flag, first sentence of the field's docstring, and the
    field's value in `config`, a dataclass of dataclasses.
    """
    blocks = []
    for heading, names in shown.items():
        rows = {}
        for name in names:
            group, _, field = name.rpartition(".")
            owner = operator.attrgetter(group)(config) if group else config
            text = first_sentence(_docstrings(type(owner))[field])
            rows[f"--{name.replace('_', '-')}"] = f"{text} [{_shown(getattr(owner, field))}]"
        blocks.append(f"{heading}:\n{table(rows, width=30)}")
    return "\n".join(blocks)


def first_sentence(text: str) -> str:
    """The first sentence of a text in one line, without its full stop."""
    return re.split(r"(?<!e\.g)\. ", text, maxsplit=1)[0].rstrip(".")


def table(rows: Mapping[str, str], *, width: int) -> str:
    """Name and text of each row, the text in a column behind names of at most `width` characters."""
    return "\n".join(
        textwrap.fill(text, HELP_COLUMNS, initial_indent=f"  {name:{width}}  ", subsequent_indent=" " * (width + 4),
                      break_long_words=False, break_on_hyphens=False)
        for name, text in rows.items()
    )


def _docstrings(kind: type) -> dict[str, str]:
    """Field of a dataclass -> the docstring below it, in one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for pair in itertools.pairwise(definition.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return {"": "empty", "True": "on", "False": "off"}.get(str(value), str(value))


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, secrets and terminal controls; a system error's words and file."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        place = error.filename2 or error.filename  # of a file that could not take its place: that place
        text = error.strerror if place is None else f"{error.strerror}: {place}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text += "; make room, then give the same command again"
    return readable(redacted(" ".join(text.split())))


def _tell_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _redact(record: logging.LogRecord) -> bool:
    record.msg, record.args = redacted(record.getMessage()), ()
    return True
