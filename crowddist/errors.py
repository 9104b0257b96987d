"""InputError, for wrong input of the user, and its most common checks. A job prints its line and exits with code 2."""

from __future__ import annotations

import math
from collections.abc import Sequence


class InputError(ValueError):
    """Says in one line what is wrong, what was given and what to do. Any other exception out of a job is a bug."""


class TooLargeError(InputError):
    """More bytes or pixels than are read."""


class NotAnImageError(InputError):
    """A file of a kind that is not read, as its first bytes tell."""


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises InputError for a value that is none of the choices."""
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def require_positive(**values: float) -> None:
    """Raises InputError for a value that is not a finite number above 0."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be positive, got {value}")


def require_not_negative(**values: float) -> None:
    """Raises InputError for a value that is not a finite number of at least 0."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} must be a number that is not negative, got {value}")


def require_png_name(name: str, place: str) -> None:
    """Raises InputError for a picture that is to be written under another ending: searches for images know ours by
    their content, and look for it in PNGs alone.
    """
    if not place.lower().endswith(".png"):
        raise InputError(f"the {name} {place} is a PNG; let its name end in .png")
