"""Checks that an adaptation would find all it needs, and changes nothing: `crowddist adapt RECIPE --check` by a name
of its own.

    crowddist check renderer_to_shb --target /photos/of/my/cameras
    crowddist check --from-run runs/first

Takes the options of crowddist adapt (crowddist adapt --help lists the recipes). Prints a table: storage, data, weights,
the run's name, MLflow, GPUs and versions, here and on every node of a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

from crowddist.cli import adapt

EXIT_CODES = "Exit: 0 all would work, 2 wrong input, or a line says FAILED and what to do, 130 interrupted"


def main(arguments: Sequence[str], prog: str = "crowddist check") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n{EXIT_CODES}")
    else:
        adapt.main(["--check", *arguments], prog)
