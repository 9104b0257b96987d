"""The values that a search's trials have: a fixed list, or suggestions of an algorithm that learns from the scores."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.methods.settings.facts import Parameter
from crowddist.methods.thresholds import own_values, search_space

BATCH = 8
"""Trials that an algorithm suggests together; they may run at once and end in any order. ours."""

Values = dict[str, float]
"""A trial's values by the names of the parameters."""
Rows = Callable[[Mapping[str, float]], Mapping[str, float] | None]
"""Returns the row of the trial with these values, see `trials.Search.row`; None until it is done."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Values known from the beginning."""

    values: Sequence[Values]

    @property
    def number(self) -> int:
        """Number of trials."""
        return len(self.values)

    def batches(self, rows: Rows) -> Iterator[list[Values]]:
        """All trials' values, in order. Ask for a batch only when all trials of the batches before are done."""
        yield list(self.values)


@dataclass(frozen=True, kw_only=True)
class Suggested:
    """The configured values, then suggestions of Optuna's tree-structured Parzen estimators (Bergstra et al., 2011)."""

    space: tuple[Parameter, ...]
    own: Values
    number: int
    seed: int

    def batches(self, rows: Rows) -> Iterator[list[Values]]:
        """See `Listed`; equal seeds and scores give equal values."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed))
        space: dict[str, optuna.distributions.BaseDistribution] = {
            parameter.name: optuna.distributions.FloatDistribution(parameter.low, parameter.high,
                                                                   log=parameter.scale == "log",
                                                                   step=1.0 if parameter.scale == "whole" else None)
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


Plan = Listed | Suggested
"""What a search tries. It holds no state, so a search that was stopped asks again and repeats no trial."""


def _score(rows: Rows, values: Values) -> float:
    row = rows(values)
    if row is None:
        raise ValueError(f"the next trials depend on one that is not done: {values}")
    return row["score"]


def make_plan(config: RunConfig) -> Plan:
    """What `config.search` tries of the method's thresholds, the configured values first.

    Raises:
        InputError: the method has no thresholds, or the algorithm's package is missing.
    """
    algorithm, number = config.search.algorithm, config.search.trials
    if algorithm == "even":
        return Listed(values=trial_values(config, number))
    if importlib.util.find_spec("optuna") is None:
        raise InputError("the search algorithm optuna needs the package optuna: install crowddist[optuna], or choose "
                         "even")
    return Suggested(space=search_space(config), own=own_values(config), number=number, seed=config.seed)


def trial_values(config: RunConfig, number: int) -> list[Values]:
    """All trials' values: the configured ones first, then points that fill the space evenly; the same for every call.

    One parameter is tried at even steps, several at the points of Halton's sequence (1960).

    Args:
        number: trials, at least 1.
    """
    space, others = search_space(config), number - 1
    if len(space) == 1:
        shares = [[index / max(others - 1, 1)] for index in range(others)]
    else:
        from scipy.stats import qmc  # slow to import

        # Halton's first point is a corner of the space.
        shares = qmc.Halton(len(space), scramble=False).random(others + 1)[1:].tolist()
    points = [{parameter.name: parameter.at(share) for parameter, share in zip(space, point, strict=True)}
              for point in shares]
    return [own_values(config), *points]


def tried(plan: Plan, rows: Rows) -> list[Values]:
    """Values of the trials that are done, in the plan's order, up to the first batch that is not complete."""
    values = []
    for batch in plan.batches(rows):
        done = [point for point in batch if rows(point) is not None]
        values += done
        if len(done) < len(batch):
            break
    return values
