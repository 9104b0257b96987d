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
    from crowddist.methods.combined import Combined
    from crowddist.methods.self_supervision import SelfSupervision
    from crowddist.methods.semantic_consistency import SemanticConsistency
    from crowddist.methods.source_only import SourceOnly
    from crowddist.methods.supervised import Supervised
    from crowddist.methods.translation import Translation

    methods: dict[str, Callable[[RunConfig], Method]] = {
        "source_only": SourceOnly,
        "self_supervision": SelfSupervision,
        "bi_knowledge": BiKnowledge,
        "semantic_consistency": SemanticConsistency,
        "translation": Translation,
        "combined": Combined,
        "supervised": Supervised,
    }
    return methods[config.method](config)
