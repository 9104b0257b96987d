"""The main job: adapts a crowd counter to unlabelled images.

    python jobs/adapt.py quickstart
    python jobs/adapt.py shb_to_sha --storage runs --run-name first --seed 1
    python jobs/adapt.py renderer_to_shb --target /photos/of/my/camera --self-supervision.rounds 2
    ray job submit --working-dir . -- python jobs/adapt.py quickstart --storage file:///shared/runs
    python jobs/adapt.py --from-run runs/first     (repeats a run beside it, and says what differs)
    python jobs/adapt.py shb_to_sha --check        (looks whether all of it would work, and changes nothing)
"""

from __future__ import annotations

import sys

import tyro

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.methods.table import methods_table
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.process.stop_signals import Termination
from crowddist.recipes import RECIPES, summary


def main(config: RunConfig, termination: Termination, repeats: str = "") -> None:
    """Runs the adaptation and prints its rounds, and what differs from the run that it repeats."""
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
                       say=lambda line: print(line, flush=True), report=True)
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


if __name__ == "__main__":
    termination = Termination()
    with one_line_errors(), termination.listening():
        recipes = {recipe.__name__: (summary(recipe), recipe()) for recipe in RECIPES}
        checks, arguments = "--check" in sys.argv[1:], [word for word in sys.argv[1:] if word != "--check"]
        first, *others = arguments or ["-"]
        if first == "--from-run":
            if not others or others[0].startswith("-"):
                raise InputError("--from-run needs the folder of a run, path or URL")
            from crowddist.run.repeat import recorded_run

            recorded = recorded_run(others[0])
            config = read_arguments(lambda: tyro.cli(RunConfig, default=recorded, args=others[1:]))
            look(config) if checks else main(config, termination, repeats=others[0])
            sys.exit()
        if first not in recipes and not first.startswith("-"):
            raise InputError(f"no recipe is called {first!r}; choose one of {', '.join(recipes)}")
        description = f"{__doc__}\nMethods (--method):\n\n{methods_table()}"
        config = read_arguments(lambda: tyro.extras.overridable_config_cli(recipes, description=description,
                                                                           args=arguments))
        look(config) if checks else main(config, termination)
