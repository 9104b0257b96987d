"""What a search may change: the thresholds that pseudo-labels are made with, by their names in the configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace

from crowddist.config import RunConfig
from crowddist.errors import InputError

PATCH_RANGE = 0.2
"""Width of the range of ranks that patches are drawn from, of which the search moves the lower end. P (0.5 to 0.7)."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number that labels depend on."""

    name: str
    """Where it stands in the configuration, e.g. "bi_knowledge.confidence"."""
    low: float
    high: float
    """The range that is searched, both ends included."""
    scale: str = "even"
    """even, log, or whole (numbers)."""
    selects_only: bool = False
    """Whether it decides only which part of the labels is learnt from, not what they say."""

    def at(self, share: float) -> float:
        """The value at a share of the range, 0 to 1."""
        if self.scale == "log":
            return self.low * (self.high / self.low) ** share
        value = self.low + (self.high - self.low) * share
        return float(round(value)) if self.scale == "whole" else value


KEPT_SHARE = Parameter(name="self_supervision.kept_share", low=0.1, high=1.0, selects_only=True)
LOCALISER_THRESHOLD = Parameter(name="bi_knowledge.localiser_threshold", low=0.1, high=0.6)
MERGE_PX = Parameter(name="bi_knowledge.merge_px", low=2, high=16, scale="whole")
WEIGHT_EXPONENT = Parameter(name="bi_knowledge.weight_exponent", low=0.25, high=4.0, scale="log")
DENSITY_RANGE = Parameter(name="bi_knowledge.density_range", low=0.0, high=1 - PATCH_RANGE, selects_only=True)
CONFIDENCE = "bi_knowledge.confidence"
HIGHEST_CONFIDENCE = 0.6
LOWEST_CONFIDENCE = 0.1


def search_space(config: RunConfig) -> tuple[Parameter, ...]:
    """The parameters that the labels of a configuration's method depend on.

    Raises:
        InputError: the method makes no labels that a threshold decides.
    """
    settings = config.bi_knowledge
    # Weaker detections are what labels leave open.
    lowest = settings.doubtful_confidence if settings.sure_confidence else LOWEST_CONFIDENCE
    confidence = Parameter(name=CONFIDENCE, low=lowest, high=max(HIGHEST_CONFIDENCE, lowest))
    match config.method:
        case "bi_knowledge":
            fused = (WEIGHT_EXPONENT,) if settings.fusion == "confidence" else ()
            patches = (DENSITY_RANGE,) if settings.patches == "chosen" else ()
            points = (LOCALISER_THRESHOLD, MERGE_PX) if settings.fusion != "none" else ()
            return (confidence, *points, *fused, *patches)
        case "combined":
            return (KEPT_SHARE, confidence, WEIGHT_EXPONENT)
        case "self_supervision":
            return (KEPT_SHARE,)
    raise InputError(f"{config.method} makes no labels that a threshold decides; give a counter of self_supervision, "
                     "bi_knowledge or combined")


def own_values(config: RunConfig) -> dict[str, float]:
    """The values that a configuration has, of the parameters of its space."""
    values = {}
    for parameter in search_space(config):
        part, _, field = parameter.name.partition(".")
        value = getattr(getattr(config, part), field)
        values[parameter.name] = float(value[0] if isinstance(value, tuple) else value)
    return values


def with_values(config: RunConfig, values: Mapping[str, float]) -> RunConfig:
    """The configuration with other values of parameters.

    Raises:
        InputError: there is no such parameter, or the value is none that it can have.
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
    """The configuration whose predictions hold all that any values of its space would take."""
    names = {CONFIDENCE, LOCALISER_THRESHOLD.name}
    own = own_values(config)
    return with_values(config, {parameter.name: min(parameter.low, own[parameter.name])
                                for parameter in search_space(config) if parameter.name in names})


def trial_values(config: RunConfig, number: int) -> list[dict[str, float]]:
    """The values of every trial: first the configuration's own, then others that fill the space evenly; the same for
    every call.

    One parameter is tried at even steps, several at the points of Halton's sequence (1960).

    Args:
        number: of trials, at least 1.
    """
    space = search_space(config)
    others = number - 1
    if len(space) == 1:
        shares = [[index / max(others - 1, 1)] for index in range(others)]
    else:
        from scipy.stats import qmc

        # Its first point is a corner of the space.
        shares = qmc.Halton(len(space), scramble=False).random(others + 1)[1:].tolist()
    tried = [{parameter.name: parameter.at(share) for parameter, share in zip(space, point, strict=True)}
             for point in shares]
    return [own_values(config), *tried]
