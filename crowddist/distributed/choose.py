"""Makes the launcher that a configuration names; imports Ray only for Ray's launcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.launch.base import Launcher
    from crowddist.process.stop_signals import Termination


def make_launcher(config: RunConfig, termination: Termination | None = None) -> Launcher:
    """A launcher that is ready to work; the caller closes it."""
    if config.launcher == "local":
        from crowddist.launch.local import LocalLauncher

        return LocalLauncher(config, termination)
    from crowddist.distributed.runtime import prepare_environment

    prepare_environment()  # before the import of ray
    from crowddist.distributed.ray_launcher import RayLauncher

    return RayLauncher(config, termination)
