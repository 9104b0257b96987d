"""The main job: adapts a crowd counter to images that nobody has labelled.

    crowddist adapt renderer_to_shb --target /photos/of/my/cameras --run-name mine
    crowddist adapt renderer_to_shb --help    (the usual options; --help-all shows all)
    crowddist adapt quickstart                (the demo: needs no data)

Stopped by Ctrl-C or killed, the same command goes on where it was. RUN below is the folder of a run, e.g. runs/mine:

    crowddist adapt renderer_to_shb --target /photos/of/my/cameras --check   (checks that all of it would work)
    crowddist adapt --from-run RUN                    (repeats a run beside it, and lists what differs)
    crowddist adapt shb_to_sha --run-name b --fresh   (takes no stage over from another run of the storage)
    ray job submit --working-dir . -- python jobs/adapt.py quickstart --storage file:///shared/runs
"""

from __future__ import annotations

import difflib
import inspect
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace

import tyro

from crowddist import storage
from crowddist.cli.called import as_called
from crowddist.config import SHORT_HELP, RunConfig
from crowddist.errors import InputError
from crowddist.methods.table import methods_table
from crowddist.process.cli import HELP_COLUMNS, first_sentence, one_line_errors, read_arguments, short_help, table
from crowddist.process.stop_signals import Termination
from crowddist.recipes import RECIPES, cpu, summary

EXIT_CODES = "Exit: 0 done, 1 diverged, 2 wrong input or machine, 75 stopped after a checkpoint, 130 interrupted"

FLAGS = {
    "--check": "Check that all of it would work; change nothing",
    "--fresh": "Train every stage; else those that another run in the storage has finished are taken over",
}
"""Options of the command that are no settings of the run."""


def main(arguments: Sequence[str], prog: str = "crowddist adapt") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    termination = Termination()
    with one_line_errors(), termination.listening():
        flags = FLAGS.keys() & set(arguments)
        first, *others = [word for word in arguments if word not in FLAGS] or [""]
        if first in ("-h", "--help", "--help-all"):
            print(overview(prog))
            sys.exit()
        start, about, repeats, options = _recipe(first, others)
        config = read_config(start, " ".join(filter(None, [prog, first, repeats])), about, options)
        look(config) if "--check" in flags else run(config, termination, repeats, fresh="--fresh" in flags)


def run(config: RunConfig, termination: Termination, repeats: str = "", fresh: bool = False) -> None:
    """Runs the adaptation and prints its rounds, and what differs from the run that it repeats.

    Args:
        repeats: folder of a run to compare with; "": none.
        fresh: take no stage over from another run. A repetition takes none over: it would compare a run with itself.
    """
    from crowddist.distributed.choose import make_launcher, make_trial_runner
    from crowddist.pipeline import adapt
    from crowddist.reports.terminal_summary import closing_lines
    from crowddist.run.record import run_folder
    from crowddist.tracking.choose import make_tracker

    termination.grace_s = config.grace_s
    tracker = make_tracker(config)
    launcher = make_launcher(config, termination)
    try:
        result = adapt(config, launcher, tracker, run_trials=make_trial_runner(config),
                       say=lambda line: print(line, flush=True), report=True, reuse=not (fresh or repeats))
    finally:
        launcher.close()
    print(closing_lines(result, run_folder(config), tracker.how_to_open()))
    if repeats:
        from crowddist.run.repeat import differences

        lines = differences(storage.normalise(repeats), run_folder(config))
        print("\n".join([f"\nwhat differs from {repeats}:", *lines] if lines
                        else [f"\nsettings, data, code and all figures are those of {repeats}"]))


def look(config: RunConfig) -> None:
    """Prints whether a run would find what it needs; exit code 2 where it would not."""
    from crowddist.distributed.node_checks import look_at_nodes
    from crowddist.preflight.checks import check

    if not check(config, look_at_nodes if config.launcher == "ray" else None):
        sys.exit(2)


def overview(prog: str) -> str:
    """Help without a recipe: examples, the recipes and the methods; those of the papers by their names alone."""
    printed = {recipe.__name__: inspect.getmodule(recipe) is not cpu for recipe in RECIPES}
    width = max(len(name) for name, published in printed.items() if not published)
    lines = {recipe.__name__: textwrap.shorten(first_sentence(summary(recipe)), HELP_COLUMNS - width - 4,
                                               placeholder="...")
             for recipe in RECIPES if not printed[recipe.__name__]}
    names = textwrap.fill(", ".join(name for name, published in printed.items() if published), HELP_COLUMNS,
                          initial_indent="  ", subsequent_indent="  ")
    about = as_called(__doc__ or "", prog)
    return (f"{about}\nRecipes:\n{table(lines, width=width)}\n\nAs published, for a GPU and days (NAME --help tells "
            f"each):\n{names}\n\nMethods (--method):\n{methods_table()}\n\n{EXIT_CODES}")


def read_config(start: RunConfig, command: str, about: str, options: list[str]) -> RunConfig:
    """`start`, changed by the options of the command line; --help and --help-all print and exit. A target of one's own
    has no evaluation unless one is given with it: the recipe's shows other cameras.
    """
    flags = table(FLAGS, width=max(map(len, FLAGS)))
    if "--help-all" not in options and {"-h", "--help"} & set(options):
        print(f"usage: {command} [--check] [--fresh] [OPTIONS]\n\n{textwrap.fill(about, HELP_COLUMNS)}\n\n"
              f"{flags}\n"
              f"Usual options, with the recipe's value:\n{short_help(start, SHORT_HELP)}\n\n"
              f"{EXIT_CODES}\n--help-all shows all options.")
        sys.exit()
    words = ["--help" if word == "--help-all" else word for word in options]
    about = f"{about}\n\n{flags}\n\n{EXIT_CODES}"
    config = read_arguments(lambda: tyro.cli(RunConfig, prog=command, description=about, default=start, args=words))
    own = config.target != start.target and not any(word.partition("=")[0] == "--evaluation" for word in words)
    return replace(config, evaluation="") if own else config


def _recipe(first: str, others: list[str]) -> tuple[RunConfig, str, str, list[str]]:
    """The configuration to start from, a line about it, the run that it repeats ("": none), and the options left."""
    recipes = {recipe.__name__: recipe for recipe in RECIPES}
    if first == "--from-run":
        if not others or others[0].startswith("-"):
            raise InputError("--from-run needs the folder of a run, path or URL")
        from crowddist.run.repeat import recorded_run

        repeats, *others = others
        return recorded_run(repeats), f"Repeats {repeats}.", repeats, others
    if first in recipes:
        return recipes[first](), summary(recipes[first]), "", others
    here = ", ".join(recipe.__name__ for recipe in RECIPES if inspect.getmodule(recipe) is cpu)
    if not first or first.startswith("-"):
        problem = f"the recipe comes first, before {first}" if first else "no recipe is given"
    else:
        near = difflib.get_close_matches(first, recipes, n=1)
        problem = f"no recipe is called {first!r}{f', perhaps you meant {near[0]}' if near else ''}"
    raise InputError(f"{problem}; choose {here}, or one of the papers' (see crowddist adapt --help)")
