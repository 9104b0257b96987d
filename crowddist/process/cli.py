"""Shared by all jobs: turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import errno
import io
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from types import TracebackType
from typing import TypeVar

from crowddist.errors import InputError
from crowddist.process.safe_text import readable, redacted

Arguments = TypeVar("Arguments")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns errors of users and machines into one line on stderr; bugs keep their traceback. Hides secrets in both.

    Exit code 2: wrong input, or a file system that is full, forbids or fails. Exit code 1: a training that diverged.
    """
    sys.excepthook = _tell_bug
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_redact)
    try:
        yield
    except (InputError, OSError, FloatingPointError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(1 if isinstance(error, FloatingPointError) else 2)
    except KeyboardInterrupt:
        print("interrupted; the same command takes the run up again", file=sys.stderr)
        sys.exit(130)


def read_arguments(read: Callable[[], Arguments]) -> Arguments:
    """What `read` (a call of tyro) makes of the command line.

    tyro shows every ValueError in a box of several lines and exits; a value that one of our configurations refuses
    raises its InputError here.
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
        print(words.getvalue(), end="", file=sys.stderr)
        raise


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, secrets and terminal controls; a system error's words and file."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text += "; make room, then give the same command again"
    return readable(redacted(" ".join(text.split())))


def _tell_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _redact(record: logging.LogRecord) -> bool:
    record.msg, record.args = redacted(record.getMessage()), ()
    return True
