"""The main job: adapts a crowd counter to unlabelled images.

    python jobs/adapt.py quickstart
    python jobs/adapt.py shb_to_sha --storage runs --run-name first --seed 1
    python jobs/adapt.py renderer_to_shb --target /photos/of/my/camera --self-supervision.rounds 2
    ray job submit --working-dir . -- python jobs/adapt.py quickstart --storage file:///shared/runs
"""

from __future__ import annotations

import sys

import tyro

from crowddist.cli import methods_table, one_line_errors, read_arguments
from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.recipes import RECIPES, summary
from crowddist.termination import Termination


def main(config: RunConfig, termination: Termination) -> None:
    """Runs the adaptation and prints its rounds."""
    from crowddist.claim import run_folder
    from crowddist.closing import closing_lines, make_tracker
    from crowddist.distributed.choice import make_launcher
    from crowddist.pipeline import adapt

    termination.grace_s = config.grace_s
    tracker = make_tracker(config)
    launcher = make_launcher(config, termination)
    try:
        result = adapt(config, launcher, tracker, say=lambda line: print(line, flush=True))
    finally:
        launcher.close()
    print(closing_lines(result, run_folder(config), tracker.how_to_open()))


if __name__ == "__main__":
    termination = Termination()
    with one_line_errors(), termination.listening():
        recipes = {recipe.__name__: (summary(recipe), recipe()) for recipe in RECIPES}
        first = next(iter(sys.argv[1:]), "-")
        if first not in recipes and not first.startswith("-"):
            raise InputError(f"no recipe is called {first!r}; choose one of {', '.join(recipes)}")
        config = read_arguments(lambda: tyro.extras.overridable_config_cli(recipes, description=f"{__doc__}\nMethods (--method):\n\n{methods_table()}"))
        main(config, termination)
