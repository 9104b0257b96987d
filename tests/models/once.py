"""Networks that many tests of a module look at, built once: drawing their weights takes longer than the tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def copies(build: Callable[..., Network], kept: int = 4) -> Callable[..., Network]:
    """Calls with the same arguments give copies of one network, of the last `kept` that were built."""
    built = functools.lru_cache(kept)(build)

    def copy(*arguments: Any, **options: Any) -> Network:
        return deepcopy(built(*arguments, **options))

    return copy
