"""The completion of `crowddist`'s words by a shell, made from the arguments of all its commands."""

from __future__ import annotations

import argparse
import dataclasses
import io
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from typing import Annotated, Any, Literal

import tyro

from crowddist.cli import compare, convert, count, evaluate, export, serve, tune, video, zones
from crowddist.config import RunConfig
from crowddist.errors import require_choice
from crowddist.recipes import RECIPES

SHELLS = {
    "bash": ("complete -F", "complete -o bashdefault -o default -F"),
    "zsh": ('\n_tyro_crowddist "$@"', '\n_tyro_crowddist "$@" || _files'),
    "fish": ("complete --no-files", "complete"),
}
"""Shell -> words of tyro's script and what stands for them, so that where no option fits files do."""

_Recipe = Literal[tuple(recipe.__name__ for recipe in RECIPES)]  # type: ignore[valid-type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Adapt:
    """A recipe and what may follow it."""

    recipe: Annotated[_Recipe, tyro.conf.Positional]  # type: ignore[valid-type]
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    fresh: tyro.conf.FlagCreatePairsOff[bool] = False
    config: Annotated[RunConfig, tyro.conf.arg(name="")]


def print_completion(commands: Sequence[str], arguments: Sequence[str]) -> None:
    """Prints the script that teaches a shell the commands and their options. Raises InputError for another shell than
    those of `SHELLS`.

    Args:
        commands: names of all commands.
        arguments: the shell's name.
    """
    shell = arguments[0] if arguments else ""
    require_choice("the shell", shell, list(SHELLS))
    parsers: dict[str, Any] = {"count": count.Arguments, "video": video.Arguments, "zones": zones.Arguments,
                               "serve": serve.Arguments,
                               "convert": _of_argparse(convert.make_parser("convert")),
                               "evaluate": evaluate.Arguments, "export": export.Arguments, "tune": tune.Arguments,
                               "compare": compare.Arguments}
    script = io.StringIO()
    with redirect_stdout(script), suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict({name: parsers.get(name, _Adapt) for name in commands},
                                             prog="crowddist", args=["--tyro-print-completion", shell])
    print(script.getvalue().replace(*SHELLS[shell]))


def _of_argparse(parser: argparse.ArgumentParser) -> type:
    """A parser's arguments as a dataclass, which is what tyro reads."""
    fields: list[tuple[str, Any, Any]] = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        kind: Any = (bool if isinstance(action, argparse._StoreTrueAction)
                     else Literal[tuple(action.choices)] if action.choices else str)  # type: ignore[valid-type]
        if action.option_strings:
            fields.append((action.dest, kind, dataclasses.field(default=False if kind is bool else "")))
        else:
            fields.append((action.dest, Annotated[kind, tyro.conf.Positional], dataclasses.field()))
    return dataclasses.make_dataclass("Convert", fields, kw_only=True)
