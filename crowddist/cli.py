"""What all jobs share: a user's mistake becomes one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from crowddist.errors import InputError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what users cause into one line on stderr and exit code 2; a traceback is a bug of ours."""
    try:
        yield
    except (InputError, FileNotFoundError, PermissionError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command takes the run up again", file=sys.stderr)
        sys.exit(130)
