"""Writes a counter as one file, to be handed on.

    crowddist export --model runs/demo --output counter.onnx
    crowddist count photos/ --model counter.onnx --output counted/
    crowddist export --model runs/demo --output counter.pt

.onnx: what `crowddist count`, `crowddist.load` and other programs run without PyTorch. It takes (images, height, width,
3) uint8 RGB of any size, and is compared with the counter before it is written.
.pt: a small checkpoint, in half precision and without what only training needs. It counts the same to about a
thousandth, and starts a training (--counter.weights). Intervals go into a file beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from crowddist.cli.called import EXIT_CODES
from crowddist.errors import InputError
from crowddist.process.cli import one_line_errors, read_arguments


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which counter, and where to."""

    model: Annotated[str, tyro.conf.arg(aliases=["--checkpoint"])] = ""
    """A run's folder or one of its checkpoint files, path or URL. Not given: the counter that comes with crowddist,
    which only saw rendered crowds."""
    output: str
    """The file, path or URL, with the ending .onnx or .pt; one that is there is replaced."""

    def __post_init__(self) -> None:
        if not self.output.endswith((".onnx", ".pt")):
            raise InputError(f"the file must end on .onnx or .pt, got {self.output}")


def main(arguments: Sequence[str], prog: str = "crowddist export") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors("nothing is written"):
        about = f"{__doc__}\n{EXIT_CODES}"
        given = read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments), about)
        from crowddist.inference.open_counter import find_counter

        model = find_counter(given.model)
        if given.output.endswith(".pt"):
            from crowddist.inference.small_counter import write_small_counter

            written = write_small_counter(model, given.output)
            print(f"{given.output}: {written / 1e6:.1f} MB")
            return
        from crowddist.inference.onnx_export import export_counter

        export_counter(model, given.output)
