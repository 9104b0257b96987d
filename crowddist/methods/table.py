"""The table of methods by name. A new method is a file with its class and a row here. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from crowddist.errors import InputError
from crowddist.methods.settings import (
    bi_knowledge,
    combined,
    self_supervision,
    semantic_consistency,
    supervised,
    translation,
)
from crowddist.methods.settings.facts import MethodFacts

METHODS: dict[str, MethodFacts] = {
    "source_only": MethodFacts(line="no adaptation: the counter of the source, which all others begin with",
                               module="crowddist.methods.source_only", name="SourceOnly",
                               settings=("counter", "train")),
    "self_supervision": self_supervision.FACTS,
    "bi_knowledge": bi_knowledge.FACTS,
    "semantic_consistency": semantic_consistency.FACTS,
    "translation": translation.FACTS,
    "combined": combined.FACTS,
    "supervised": supervised.FACTS,
}


def facts_of(method: str) -> MethodFacts:
    """The row of a method. Raises InputError for an unknown name."""
    if method not in METHODS:
        raise InputError(f"no method is called {method!r}; choose one of {', '.join(METHODS)}")
    return METHODS[method]


def idle_groups(methods: Iterable[str]) -> set[str]:
    """Groups of settings that only other methods than these have, so that they do nothing in their runs."""
    groups = {name: {setting.partition(".")[0] for setting in facts.settings} for name, facts in METHODS.items()}
    every = set[str]().union(*groups.values())
    # A method that names no settings depends on all.
    return every - set[str]().union(*(groups.get(name) or every for name in methods))


def methods_table() -> str:
    """The methods for a help text, one per line."""
    width = max(map(len, METHODS))
    return "\n".join(f"    {name.ljust(width)}  {facts.line}" for name, facts in METHODS.items())
