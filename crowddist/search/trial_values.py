"""Which values the trials of a search have: a list, or one that a search algorithm goes on with as the scores come
in.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.methods.settings.facts import Parameter
from crowddist.methods.thresholds import own_values, search_space, trial_values

if TYPE_CHECKING:
    from crowddist.config import Algorithm

BATCH = 8
"""Trials that a search algorithm chooses together: as many may run at once, and it does not matter in what order they
end. ours."""

Values = dict[str, float]
"""Of a trial, by the names of the parameters."""
Rows = Callable[[Mapping[str, float]], Mapping[str, float] | None]
"""The row of the trial of these values, see `trials.Search.row`; None while it is not done."""


class Plan(Protocol):
    """What a search tries. It holds no state: whoever asks again gets the same, so that a search which was stopped
    repeats no trial.
    """

    @property
    def number(self) -> int:
        """Of trials."""

    def batches(self, rows: Rows) -> Iterator[list[Values]]:
        """The values of all trials, in order; the next batch may be asked for when the trials of all before it are
        done.
        """


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Values that are known from the beginning."""

    values: Sequence[Values]

    @property
    def number(self) -> int:
        """See `Plan`."""
        return len(self.values)

    def batches(self, rows: Rows) -> Iterator[list[Values]]:
        """See `Plan`."""
        yield list(self.values)


@dataclass(frozen=True, kw_only=True)
class Suggested:
    """Tree-structured Parzen estimators (Bergstra et al., 2011), by Optuna: first the configuration's own values, then
    suggestions.
    """

    space: tuple[Parameter, ...]
    own: Values
    number: int
    seed: int

    def batches(self, rows: Rows) -> Iterator[list[Values]]:
        """See `Plan`; the same for the same seed and scores."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed))
        space: dict[str, optuna.distributions.BaseDistribution] = {
            parameter.name: optuna.distributions.FloatDistribution(
                parameter.low, parameter.high, log=parameter.scale == "log",
                step=1.0 if parameter.scale == "whole" else None
            )
            for parameter in self.space
        }
        yield [self.own]
        if all(parameter.low <= self.own[parameter.name] <= parameter.high for parameter in self.space):
            study.add_trial(optuna.trial.create_trial(params=self.own, distributions=space,
                                                      value=_score(rows, self.own)))
        for first in range(1, self.number, BATCH):
            asked = [study.ask(space) for _ in range(first, min(first + BATCH, self.number))]
            batch = [dict(trial.params) for trial in asked]
            yield batch
            for trial, values in zip(asked, batch, strict=True):
                study.tell(trial, _score(rows, values))


def _score(rows: Rows, values: Values) -> float:
    row = rows(values)
    if row is None:
        raise ValueError(f"the next trials depend on one that is not done: {values}")
    return row["score"]


def require_algorithm(algorithm: str) -> None:
    """Raises: InputError where the package that an algorithm needs is not there."""
    if algorithm == "optuna" and importlib.util.find_spec("optuna") is None:
        raise InputError("the search algorithm optuna needs the package optuna: install crowddist[optuna], or choose "
                         "even")


def make_plan(config: RunConfig, algorithm: Algorithm, number: int) -> Plan:
    """What an algorithm tries of a configuration's thresholds, the configuration's own values first.

    Args:
        number: of trials, at least 1.

    Raises:
        InputError: the method has no thresholds, or the algorithm's package is not there.
    """
    require_algorithm(algorithm)
    if algorithm == "even":
        return Listed(values=trial_values(config, number))
    return Suggested(space=search_space(config), own=own_values(config), number=number, seed=config.seed)


def tried(plan: Plan, rows: Rows) -> list[Values]:
    """The values of the trials that are done, in the plan's order, as far as they are known yet."""
    values = []
    for batch in plan.batches(rows):
        done = [point for point in batch if rows(point) is not None]
        values += done
        if len(done) < len(batch):
            break
    return values
