"""Writes a counter as one file of ONNX, which `crowddist count`, `crowddist.load` and others run without PyTorch.

    crowddist export --model runs/demo --output counter.onnx
    crowddist count photos/ --model counter.onnx --output counted/

The file is compared with the counter before it is written. It takes (images, height, width, 3) uint8 RGB of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from crowddist.cli.called import EXIT_CODES
from crowddist.process.cli import one_line_errors, read_arguments


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which counter, and where to."""

    model: Annotated[str, tyro.conf.arg(aliases=["--checkpoint"])] = ""
    """A run's folder or one of its checkpoint files, path or URL."""
    output: str
    """The file, path or URL, with the ending .onnx; one that is there is replaced."""


def main(arguments: Sequence[str], prog: str = "crowddist export") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors("nothing is written"):
        about = f"{__doc__}\n{EXIT_CODES}"
        given = read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments))
        from crowddist.inference.open_counter import find_counter

        checkpoint_url = find_counter(given.model)
        from crowddist.inference.onnx_export import export_counter

        export_counter(checkpoint_url, given.output)
