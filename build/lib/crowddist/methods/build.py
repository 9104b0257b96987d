"""Builds a run's method; imports the method's file, and with it torch, only then."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from crowddist.methods.table import facts_of

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.methods.base import Method
    from crowddist.models.weights import Loaded


def build_method(config: RunConfig, *, weights: Loaded = "all") -> Method:
    """The method that a run's configuration names, with fresh networks.

    Args:
        weights: which start weights to load; "none" for networks that a checkpoint fills.

    Raises:
        InputError, FileNotFoundError: start weights are missing or belong to other networks.
    """
    from crowddist.models.weights import loading

    facts = facts_of(config.method)
    with loading(weights):
        return getattr(import_module(facts.module), facts.name)(config)
