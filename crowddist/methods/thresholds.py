"""The thresholds that make pseudo-labels, by their names in the configuration; a search may change them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace

from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.methods.settings.bi_knowledge import CONFIDENCE, LOCALISER_THRESHOLD, PATCH_RANGE
from crowddist.methods.settings.facts import Parameter
from crowddist.methods.table import METHODS, facts_of


def search_space(config: RunConfig) -> tuple[Parameter, ...]:
    """The thresholds of the configuration's method.

    Raises:
        InputError: the method has none.
    """
    space = facts_of(config.method).thresholds(config)
    if not space:
        able = [name for name, facts in METHODS.items() if facts.thresholds(config)]
        raise InputError(f"{config.method} makes no labels that a threshold decides; give a counter of "
                         f"{', '.join(able[:-1])} or {able[-1]}")
    return space


def own_values(config: RunConfig) -> dict[str, float]:
    """The configured value of each threshold; of a range, its lower end."""
    values = {}
    for parameter in search_space(config):
        part, _, field = parameter.name.partition(".")
        value = getattr(getattr(config, part), field)
        values[parameter.name] = float(value[0] if isinstance(value, tuple) else value)
    return values


def with_values(config: RunConfig, values: Mapping[str, float]) -> RunConfig:
    """The configuration with other values of its thresholds.

    Raises:
        InputError: an unknown threshold, or a value out of its range.
    """
    for name, value in values.items():
        part, _, field = name.partition(".")
        owner = getattr(config, part, None)
        if not dataclasses.is_dataclass(owner) or not hasattr(owner, field):
            raise InputError(f"no threshold is called {name}; known: "
                             f"{', '.join(parameter.name for parameter in search_space(config))}")
        before = getattr(owner, field)
        after: object = round(value) if isinstance(before, int) else value
        if isinstance(before, tuple):
            after = before if value == before[0] else (value, min(value + PATCH_RANGE, 1.0))
        config = replace(config, **{part: replace(owner, **{field: after})})  # type: ignore[type-var, arg-type]
    return config


def lowest_thresholds(config: RunConfig) -> RunConfig:
    """The configuration with the lowest thresholds: its predictions hold every head that a trial may use. One whose
    method has none stays as it is.
    """
    if not facts_of(config.method).thresholds(config):
        return config
    own = own_values(config)
    return with_values(config, {parameter.name: min(parameter.low, own[parameter.name])
                                for parameter in search_space(config)
                                if parameter.name in (CONFIDENCE, LOCALISER_THRESHOLD.name)})
