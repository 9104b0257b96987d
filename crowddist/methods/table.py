"""The table of methods, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.methods.base import Method
    from crowddist.models.weights import Loaded


def build_method(config: RunConfig, *, weights: Loaded = "all") -> Method:
    """The method that a run's configuration names, with fresh networks.

    Args:
        weights: which of the weights that the networks start from are loaded; "none" for networks that a checkpoint
            fills.

    Raises:
        InputError, FileNotFoundError: weights that cannot be had, or belong to other networks.
    """
    from crowddist.methods.bi_knowledge import BiKnowledge
    from crowddist.methods.combined import Combined
    from crowddist.methods.self_supervision import SelfSupervision
    from crowddist.methods.semantic_consistency import SemanticConsistency
    from crowddist.methods.source_only import SourceOnly
    from crowddist.methods.supervised import Supervised
    from crowddist.methods.translation import Translation
    from crowddist.models.weights import loading

    methods: dict[str, Callable[[RunConfig], Method]] = {
        "source_only": SourceOnly,
        "self_supervision": SelfSupervision,
        "bi_knowledge": BiKnowledge,
        "semantic_consistency": SemanticConsistency,
        "translation": Translation,
        "combined": Combined,
        "supervised": Supervised,
    }
    with loading(weights):
        return methods[config.method](config)
