"""The launcher that a configuration names, and what runs a search's trials there; Ray is imported only where it is
chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.launch.base import Launcher
    from crowddist.process.stop_signals import Termination
    from crowddist.search.trial_values import Plan
    from crowddist.search.trials import Search, TrialRunner


def make_launcher(config: RunConfig, termination: Termination | None = None) -> Launcher:
    """A launcher that is ready to work; the caller closes it."""
    if config.launcher == "local":
        from crowddist.launch.local import LocalLauncher

        return LocalLauncher(config, termination)
    from crowddist.distributed.runtime import prepare_environment

    prepare_environment()  # before the import of ray
    from crowddist.distributed.ray_launcher import RayLauncher

    return RayLauncher(config, termination)


def make_trial_runner(config: RunConfig) -> TrialRunner:
    """Runs a search's trials: in this process, or by Ray Tune on the Ray that the launcher has connected to."""
    if config.launcher == "local":
        from crowddist.search.trials import run_trials_here

        return run_trials_here

    def run(search: Search, plan: Plan) -> None:
        from crowddist.distributed.tune import run_trials  # imports Ray Tune, which takes seconds

        run_trials(search, plan, num_at_once=config.num_labellers or config.num_workers)

    return run
