"""Records of JSON as dataclasses: each field gets a value of its own type, as the checks and sums of these expect."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, TypeVar, cast

MOST = 2**63
"""ours: larger numbers stand in no record, and fit neither tensors nor, in the end, floats."""
Made = TypeVar("Made")


def of_record(kind: type[Made], values: Any) -> Made:
    """An instance of a dataclass from what JSON made of it: lists become tuples, whole numbers may stand for floats,
    600.0 for 600, missing entries take their defaults.

    Fields may be dataclasses, bool, int, float, str, Literal of texts, tuples of these, and with `| None`.

    Raises:
        TypeError: with the entry's name, for an unknown or missing entry and a value of another type. And whatever the
            dataclass raises.
    """
    return cast(Made, _built(kind, values, kind.__name__))


def is_writable(value: Any) -> bool:
    """True for what JSON in UTF-8 can hold. What was read need not be: NaN, and half of a character (\\ud800)."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _built(kind: Any, value: Any, name: str) -> Any:
    choices = typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = typing.get_type_hints(kind)
        if unknown := sorted(value.keys() - hints.keys()):
            raise TypeError(f"{name} has no {unknown[0]!r:.80}")
        return cast(Any, kind)(**{field: _built(hints[field], entry, field) for field, entry in value.items()})
    is_tuple = typing.get_origin(kind) is tuple
    if is_tuple and isinstance(value, list):
        kinds = [choices[0]] * len(value) if choices[-1] is ... else choices
        if len(kinds) == len(value):
            return tuple(_built(one, entry, name) for one, entry in zip(kinds, value, strict=True))
    elif kind is int and isinstance(value, float) and value.is_integer() and abs(value) < MOST:
        return int(value)
    elif type(None) in choices and value is not None:
        return _built(choices[0], value, name)
    elif not is_tuple and any(_is_a(choice, value) for choice in choices or (kind,)):
        return value
    raise TypeError(f"{name} is {value!r:.80}")


def _is_a(kind: Any, value: Any) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind in (int, float):
        return isinstance(value, int | kind) and not abs(value) >= MOST
    return isinstance(value, kind if isinstance(kind, type) else str)  # a choice of a Literal is its text
