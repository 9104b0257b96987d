"""`crowddist`: finds the command that is meant, and imports that one alone."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from crowddist import __version__
from crowddist.errors import InputError
from crowddist.process.cli import one_line_errors

COMMANDS = {
    "count": "Count people in images and folders: a table, the heads' points, and an overlay each",
    "video": "Count people in a video, a stream or a camera over time, also by zones",
    "zones": "Draw the zones of a file on an image or on a frame of a video, to check them",
    "serve": "Count people over HTTP, image by image, with a page to try it",
    "adapt": "Adapt a counter to cameras that nobody has labelled; the main command",
    "check": "Check that an adaptation would find all it needs; change nothing",
    "convert": "Convert images and labels to shards, the form that runs read; or check and describe shards",
    "evaluate": "Measure a counter's errors on labelled images, or write a run's report anew",
    "export": "Write a counter as one file of ONNX, which counts without PyTorch",
    "tune": "Search the thresholds that pseudo-labels are made with, without any label",
    "compare": "Compare finished runs in one table, beside the papers' figures, or as a page",
    "folds": "Adapt to every fold of a cross-validation, and print the mean",
}
"""Command -> a sentence about it; each is a module of this folder."""

_HELP = """crowddist counts crowds, and adapts crowd counters to cameras that nobody has labelled.

usage: crowddist COMMAND [OPTIONS]

{commands}

Examples:
  crowddist count photo.jpg folder/ --output counted                      with the counter that comes along
  crowddist adapt renderer_to_shb --target photos/ --run-name mine        a counter for your cameras
  crowddist count photo.jpg --model runs/mine --output counted-mine       with that one
  crowddist adapt quickstart --run-name demo                              a demo of it, without any data, in minutes

crowddist COMMAND --help tells each command's options and exit codes; crowddist --version the version.
Completion of words by the shell (bash, zsh, fish):
  crowddist --tyro-print-completion bash > ~/.local/share/bash-completion/completions/crowddist

Exit: 0 done, 2 wrong input or machine; the other codes are each command's own"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: None: those of the process.
    """
    first, *others = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if first in COMMANDS:
        import_module(f"crowddist.cli.{first}").main(others, f"crowddist {first}")
        return
    with one_line_errors():
        if first in ("-h", "--help", "help"):
            width = max(map(len, COMMANDS))
            print(_HELP.format(commands="\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())))
        elif first in ("-V", "--version"):
            print(f"crowddist {__version__}")
        elif first.replace("_", "-") == "--tyro-print-completion":
            from crowddist.cli.completion import print_completion

            print_completion(list(COMMANDS), others)
        else:
            near = difflib.get_close_matches(first, COMMANDS, n=1)
            meant = f"perhaps you meant {near[0]}" if near else f"choose one of {', '.join(COMMANDS)}"
            raise InputError(f"no command is called {first!r}; {meant}")
