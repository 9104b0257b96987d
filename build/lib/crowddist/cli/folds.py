"""Adapts to every fold of a cross-validation, one run after the other, and prints their mean, which is the papers' row.

    crowddist folds sha_to_ucf_cc_50
    crowddist folds gcc_to_ucf_cc_50 --storage runs --run-name c50 --seed 1

Takes the options of crowddist adapt. The runs are called NAME-fold-1 to NAME-fold-5; those that have ended are not run
again, so the same command takes a series up again. The exit code is that of the first run that did not end well.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

import tyro

from crowddist.cli.adapt import EXIT_CODES
from crowddist.cli.called import as_called
from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.recipes import RECIPES
from crowddist.recipes.folds import folds

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def main(arguments: Sequence[str], prog: str = "crowddist folds") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors():
        recipes = {recipe.__name__: recipe for recipe in RECIPES}
        first, *options = arguments or [""]
        if first in ("-h", "--help"):
            print(f"{as_called(__doc__ or '', prog)}\n{EXIT_CODES}")
            sys.exit()
        if first not in recipes:
            raise InputError(f"no recipe is called {first!r}; choose one whose target is a fold, such as "
                             "gcc_to_ucf_cc_50")
        config = read_arguments(lambda: tyro.cli(RunConfig, prog=f"{prog} {first}", default=recipes[first](),
                                                 args=options))
        run(first, options, folds(config))


def run(recipe: str, options: list[str], runs: list[RunConfig]) -> None:
    """Runs the folds and prints their table and mean. Ends with the exit code of the first run that fails or stops."""
    from crowddist.reports.compare_runs import compare, mean_line, read_result
    from crowddist.run.record import run_folder

    for run in runs:
        sides = ["--run-name", run.run_name, "--target", run.target, "--evaluation", run.evaluation]
        status = start([recipe, *options, *sides])
        if status:
            sys.exit(status)
    results = [read_result(run_folder(run)) for run in runs]
    print(f"\n{compare(results)}\n\n{mean_line(results)}")


def start(arguments: list[str]) -> int:
    """The exit code of an adaptation in a process of its own, which is told of every signal that asks to stop."""
    # -P: no module is looked for in the folder that the user happens to be in.
    adapt = subprocess.Popen([sys.executable, "-P", "-m", "crowddist.cli", "adapt", *arguments])

    def tell(number: int, frame: object) -> None:
        if number != signal.SIGINT:  # the terminal tells both
            adapt.send_signal(number)

    before = {number: signal.signal(number, tell) for number in STOPS}
    try:
        return adapt.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
