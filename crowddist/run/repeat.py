"""Repeats a run: reads its recorded configuration, and lists what differs afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crowddist import storage
from crowddist.config import REMOVED_SETTINGS, RunConfig, flat
from crowddist.errors import InputError
from crowddist.process import host
from crowddist.run.record import FREE_TO_CHANGE, config_of_run, read_record
from crowddist.storage.run_folder import CONFIG, DATA, RESULT

VOLATILE = ("checkpoint", "train/seconds")
"""Figures that differ between equal runs."""

FREE = (*FREE_TO_CHANGE, *REMOVED_SETTINGS, "run_name")
"""Settings that may differ between a run and its repetition, or that only older runs recorded."""


def recorded_run(place: str) -> RunConfig:
    """A run's recorded configuration, for a run beside it whose name ends in `-again`.

    Args:
        place: the run's folder, path or URL.

    Raises:
        InputError: there is no run.
    """
    config = config_of_run(storage.normalise(place))
    if config is None:
        raise InputError(f"no {CONFIG} in {place}: give the folder of a run")
    beside, _, name = storage.normalise(place).rstrip("/").rpartition("/")
    return replace(config, storage=beside, run_name=f"{name}-again")


def code_versions() -> dict[str, str]:
    """Versions that a run's figures depend on, beside its configuration and its data."""
    import numpy
    import torch

    return {**host.versions(), "torch": torch.__version__, "numpy": numpy.__version__}


def differences(original: str, repeated: str) -> list[str]:
    """Differences between a run and its repetition, a line each: settings, data, code, and figures.

    Args:
        original, repeated: URLs of the runs' folders.

    Raises:
        InputError: there is no original, or the repetition has not ended.
    """
    before, after = ({name: read_record(folder, name) for name in (CONFIG, DATA, RESULT)}
                     for folder in (original, repeated))
    if not before[CONFIG] or not after[RESULT]:
        raise InputError(f"no run in {original}, or none that has ended in {repeated}")
    lines = [f"setting {line}" for line in _changes(flat(before[CONFIG]), flat(after[CONFIG]), FREE)]
    lines += [f"data {line}" for line in _changes(before[DATA], after[DATA], (), shown=12)]
    if not before[RESULT]:
        return [*lines, "the run that was repeated has not ended: its figures are not known"]
    lines += [f"code {line}" for line in _changes(before[RESULT].get("code", {}), after[RESULT].get("code", {}), ())]
    rounds = [{row["round"]: row for row in record[RESULT]["rounds"]} for record in (before, after)]
    for number in sorted({*rounds[0], *rounds[1]}):
        first, second = (side.get(number) for side in rounds)
        if first is None or second is None:
            lines.append(f"round {number} is there in {'the repetition' if first is None else 'the original'} alone")
            continue
        one, other = ({name: value for name, value in row.items() if isinstance(value, int | float)}
                      for row in (first, second))
        lines += [f"round {number} {line}" for line in _changes(one, other, VOLATILE)]
    return lines


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], free: tuple[str, ...], *,
             shown: int = 60) -> list[str]:
    """`name: one -> other` for each name whose values differ."""
    changes = []
    for name in {**before, **after}:
        one, other = before.get(name, "-"), after.get(name, "-")
        if one != other and name not in free:
            changes.append(f"{name}: {str(one)[:shown]} -> {str(other)[:shown]}")
    return changes
