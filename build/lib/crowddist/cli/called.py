"""How a command was called, for its help: `crowddist NAME`, or a file of `jobs`."""

from __future__ import annotations

import re

_JOBS = {"adapt": "adapt", "compare": "compare", "convert": "convert", "count": "predict", "evaluate": "evaluate",
         "folds": "folds", "tune": "tune"}
"""Command -> its file in `jobs`."""

EXIT_CODES = ("Exit: 0 done, 2 wrong input or machine, 130 interrupted, 143 stopped; any other is a bug, with a "
              "traceback")
"""Of the commands that train nothing."""


def as_called(text: str, prog: str) -> str:
    """A help text whose examples call the commands as the user did: `prog` is "crowddist NAME" or "jobs/NAME.py"."""
    if not prog.endswith(".py"):
        return text
    return re.sub(rf"\bcrowddist ({'|'.join(_JOBS)})\b", lambda found: f"python jobs/{_JOBS[found[1]]}.py", text)
