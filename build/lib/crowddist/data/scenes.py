"""Scene regularisation: selects the images of a synthetic source that resemble a target, by a published or own rule."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.shard_codec import decode_scene
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError

# P: GCC, Wang et al., CVPR 2019: most persons in an image of each level 0-8.
LEVEL_MAXIMA = (10, 25, 50, 100, 300, 600, 1000, 2000, 4000)
# P: in the order of the published index's codes.
WEATHERS = ("clear", "clouds", "rain", "foggy", "thunder", "overcast", "extrasunny")
# The entries of a rule file and their largest values.
_FIELDS = {"levels": len(LEVEL_MAXIMA) - 1, "hours": 23, "weathers": len(WEATHERS) - 1, "counts": math.inf,
           "ratios": math.inf}


@dataclass(frozen=True, kw_only=True)
class SceneRule:
    """Selects images of GCC that resemble a target. Bounds are inclusive; None sets no bound.

    Source: Wang et al., IJCV 2021, Table 10.
    """

    name: str
    """Name of the target, or path of the rule's file."""
    levels: tuple[int, int] | None = None
    hours: tuple[int, int] | None = None
    """First and last full hour: (6, 19) means 6:00 to 19:59."""
    weathers: tuple[int, ...] | None = None
    counts: tuple[int, int] | None = None
    """Persons."""
    ratios: tuple[float, float] | None = None
    """Count divided by the maximum of the image's level."""

    def keeps(self, row: Mapping[str, Any] | Any) -> bool:
        """True if the rule keeps an image. Raises InputError if a needed entry is missing or the level is impossible.

        Args:
            row: level (0-8), hour (0-23), weather (0-6), count as entries or attributes; only bounded ones are needed.
        """
        needed = {"level": self.levels or self.ratios, "hour": self.hours, "weather": self.weathers,
                  "count": self.counts or self.ratios}
        facts = {noun: _entry(row, noun) for noun, bounds in needed.items() if bounds is not None}
        if not 0 <= facts.get("level", 0) < len(LEVEL_MAXIMA):
            raise InputError(f"a level lies in 0 to {len(LEVEL_MAXIMA) - 1}, got {facts['level']}")
        if self.weathers is not None and facts["weather"] not in self.weathers:
            return False
        if self.ratios is not None:
            facts["ratio"] = facts["count"] / LEVEL_MAXIMA[int(facts["level"])]
        bounded = {"level": self.levels, "hour": self.hours, "count": self.counts, "ratio": self.ratios}
        return all(bounds[0] <= facts[noun] <= bounds[1] for noun, bounds in bounded.items() if bounds is not None)


SCENE_RULES: dict[str, SceneRule] = {rule.name: rule for rule in (
    SceneRule(name="SHA", levels=(4, 8), hours=(6, 19), weathers=(0, 1, 3, 5, 6), counts=(25, 4000), ratios=(0.5, 1.0)),
    SceneRule(name="SHB", levels=(1, 5), hours=(6, 19), weathers=(0, 1, 5, 6), counts=(10, 600), ratios=(0.3, 1.0)),
    SceneRule(name="UCF_CC_50", levels=(5, 8), hours=(8, 17), weathers=(0, 1, 5, 6), counts=(400, 4000),
              ratios=(0.6, 1.0)),
    SceneRule(name="UCF-QNRF", levels=(4, 8), hours=(5, 20), weathers=(0, 1, 5, 6), counts=(400, 4000),
              ratios=(0.6, 1.0)),
    SceneRule(name="WorldExpo'10", levels=(2, 6), hours=(6, 18), weathers=(0, 1, 5, 6), counts=(0, 1000),
              ratios=(0.0, 1.0)),
)}


def keep_scene(row: Mapping[str, Any] | Any, target: str) -> bool:
    """True if scene regularisation for `target` keeps an image. Source: Wang et al., IJCV 2021, Table 10.

    Raises InputError for an unknown target, a missing entry or an impossible level.

    Args:
        row: level (0-8), hour (0-23), weather (0-6) and count, as entries or attributes.
        target: a name in SCENE_RULES; case and punctuation do not matter.
    """
    rule = _published(target)
    if rule is None:
        raise InputError(f"no scene regularisation for {target!r}; known: {', '.join(SCENE_RULES)}")
    return rule.keeps(row)


def find_rule(text: str) -> SceneRule:
    """The rule for a value of `--stream.scenes`: a published name (case and punctuation do not matter) or a JSON file.

    The file holds an object with any of `levels`, `hours`, `counts`, `ratios` (each [lowest, highest]) and `weathers`
    (a list of codes). Raises InputError for anything else.
    """
    if (published := _published(text)) is not None:
        return published
    try:
        values = json.loads(storage.read_bytes(text))
    except OSError:
        raise InputError(f"no scene rule {text!r}: give one of {', '.join(SCENE_RULES)}, or a JSON file that can be "
                         "read") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"no scene rule {text!r}: {' '.join(str(error).split())}; write a JSON object of "
                         f"{', '.join(_FIELDS)}") from None
    if not isinstance(values, dict) or values.keys() - _FIELDS.keys():
        got = repr(min(values.keys() - _FIELDS.keys())) if isinstance(values, dict) else type(values).__name__
        raise InputError(f"scene rule {text} must be a JSON object of {', '.join(_FIELDS)}, got {got}")
    return SceneRule(name=text, **{noun: _bounds(text, noun, value) for noun, value in values.items()})


def kept_samples(images: ShardReader, rule: SceneRule) -> np.ndarray:
    """Indexes of the samples that a rule keeps, (K,) int64 in order, K >= 1. Reads only the json of each sample.

    Raises InputError if a sample lacks an entry that the rule needs, or the rule keeps no sample.
    """
    kept = []
    for index in range(len(images)):
        key, members = images.read(index, kinds=("json",))
        try:
            if rule.keeps(decode_scene(key, members)):
                kept.append(index)
        except InputError as error:
            raise InputError(f"scene rule {rule.name} cannot judge sample {key} of {images.url}: {error}, or leave "
                             "--stream.scenes empty") from None
    if not kept:
        raise InputError(f"scene rule {rule.name} keeps none of the {len(images)} images of {images.url}; give another "
                         "rule, or leave --stream.scenes empty")
    return np.array(kept, np.int64)


def plain_name(name: str) -> str:
    """A name in lower case without punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _published(name: str) -> SceneRule | None:
    return next((rule for rule in SCENE_RULES.values() if plain_name(rule.name) == plain_name(name)), None)


def _bounds(place: str, noun: str, value: Any) -> tuple[Any, ...]:
    """Checks an entry of a rule file: two numbers in order, or for weathers at least one. Raises InputError."""
    kinds, highest = (int, float) if noun == "ratios" else (int,), _FIELDS[noun]
    numbers = isinstance(value, list) and all(type(number) in kinds and 0 <= number <= highest for number in value)
    if not numbers or not value or (noun != "weathers" and (len(value) != 2 or value[0] > value[1])):
        what = "a list of" if noun == "weathers" else "the lowest and the highest, two"
        which = (f"{'numbers' if float in kinds else 'whole numbers'} from 0 "
                 f"{'on' if highest == math.inf else f'to {highest}'}")
        raise InputError(f"scene rule {place}: {noun} must be {what} {which}, got {value!r}")
    return tuple(value)


def _entry(row: Any, noun: str) -> float:
    value = row.get(noun) if isinstance(row, Mapping) else getattr(row, noun, None)
    if value is None:
        raise InputError(f"scene regularisation needs the {noun} of every image, one has none; add GCC's index files "
                         "and convert again")
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"scene regularisation needs a number as the {noun} of every image, got {value!r}; convert "
                         "again") from None
