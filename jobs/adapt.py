"""The main job: adapts a crowd counter to unlabelled images.

    python jobs/adapt.py quickstart
    python jobs/adapt.py shb_to_sha --storage runs --run-name first --seed 1
    python jobs/adapt.py renderer_to_shb --target /photos/of/my/camera --self-supervision.rounds 2
    ray job submit --working-dir . -- python jobs/adapt.py quickstart --storage file:///shared/runs
"""

from __future__ import annotations

import tyro

from crowddist.cli import one_line_errors
from crowddist.config import RunConfig
from crowddist.recipes import RECIPES, summary


def main(config: RunConfig) -> None:
    """Runs the adaptation and prints its rounds."""
    from crowddist import tracking
    from crowddist.closing import closing_lines, make_tracker
    from crowddist.pipeline import adapt, config_record, run_folder, run_name

    folder, tracker = run_folder(config), make_tracker(config)
    with tracking.run(
        tracker,
        experiment=config.experiment or config.recipe,
        run_name=run_name(config),
        config=config_record(config),
        tags={"recipe": config.recipe, "method": config.method},
        state_url=f"{folder}/mlflow.json",
    ):
        launcher = make_launcher(config)
        try:
            result = adapt(config, launcher, tracker, say=lambda line: print(line, flush=True))
        finally:
            launcher.close()
    print(closing_lines(result, folder, tracker.how_to_open()))


def make_launcher(config: RunConfig):  # type: ignore[no-untyped-def]
    """The launcher that the configuration names."""
    if config.launcher == "local":
        from crowddist.launcher import LocalLauncher

        return LocalLauncher(config)
    from crowddist.distributed.runtime import prepare_environment

    prepare_environment()  # before the import of ray
    from crowddist.distributed.launcher import RayLauncher

    return RayLauncher(config)


if __name__ == "__main__":
    with one_line_errors():
        recipes = {recipe.__name__: (summary(recipe), recipe()) for recipe in RECIPES}
        main(tyro.extras.overridable_config_cli(recipes, description=__doc__))
