"""The table of methods, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.methods.base import Method


def build_method(config: RunConfig) -> Method:
    """The method that a run's configuration names, with fresh networks."""
    from crowddist.methods.bi_knowledge import BiKnowledge
    from crowddist.methods.self_supervision import SelfSupervision
    from crowddist.methods.source_only import SourceOnly
    from crowddist.methods.translation import Translation

    methods: dict[str, Callable[[RunConfig], Method]] = {
        "source_only": SourceOnly,
        "self_supervision": SelfSupervision,
        "bi_knowledge": BiKnowledge,
        "translation": Translation,
    }
    return methods[config.method](config)
