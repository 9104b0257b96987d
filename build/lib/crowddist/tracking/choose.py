"""Chooses a run's tracker: MLflow at an address or beside the runs, or none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from crowddist import storage

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.tracking.tracker import Tracker


def make_tracker(config: RunConfig, say: Callable[[str], None] = print) -> Tracker:
    """MLflow at the configured address, or beside the runs; `none` tracks nothing.

    Object storage holds no database: there MLflow's lies in this machine's current folder, and `say` tells the user.
    """
    from crowddist.tracking.journal import JournalTracker
    from crowddist.tracking.tracker import MlflowTracker, NullTracker

    if config.tracking_uri == "none":
        return NullTracker()
    if not (config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")):
        if storage.is_local(config.storage):
            storage.local_folder(config.storage)
        else:
            say(f"MLflow's database is {_database(config)} on this machine: object storage holds none; "
                "--tracking-uri or MLFLOW_TRACKING_URI names a server")
    return JournalTracker(MlflowTracker(tracking_address(config)), say)


def tracking_address(config: RunConfig) -> str:
    """The address of the run's MLflow, see `make_tracker`. Creates nothing. Raises InputError for a bad address."""
    from crowddist.tracking import mlflow_store

    return mlflow_store.resolve_uri(config.tracking_uri, _database(config))


def _database(config: RunConfig) -> Path:
    """The default database: beside the runs, or in the current folder if they are in object storage."""
    return (Path(storage.shown(config.storage)) if storage.is_local(config.storage) else Path.cwd()) / "mlflow.db"
