"""Mutations that Cosmic Ray has not, for code that computes with arrays."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import parso
from cosmic_ray.operators.operator import Example, Operator

_PAIRS = (("min", "max"), ("minimum", "maximum"), ("amin", "amax"), ("argmin", "argmax"), ("floor", "ceil"),
          ("any", "all"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("sum", "mean"))
SWAPPED = {**dict(_PAIRS), **{second: first for first, second in _PAIRS}}
DROPPED = {"clamp", "clamp_min", "clip", "abs", "detach", "float", "astype", "square", "log", "exp", "copy", "clone"}


class SwapName(Operator):
    """min(x) becomes max(x), clamp(min=0) clamp(max=0), and so on."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "name" and node.value in SWAPPED:
            called = node.get_next_leaf() == "(" and node.parent.type != "funcdef"
            if called or (node.get_next_leaf() == "=" and node.parent.type == "argument"):
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.value = SWAPPED[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("min(x)", "max(x)"),)


class DropCall(Operator):
    """x.abs() becomes x."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        for place in self._places(node):
            yield node.children[place].start_pos, node.children[place + 1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        place = self._places(node)[index]
        del node.children[place:place + 2]
        return node

    @staticmethod
    def _places(node: Any) -> list[int]:
        """Where in `x.abs()` and the like the trailers `.abs` and `()` begin."""
        parts = node.children if node.type in ("atom_expr", "power") else []
        return [place for place, (name, call) in enumerate(pairwise(parts))
                if name.type == call.type == "trailer" and name.children[0] == "." and call.children[0] == "("
                and name.children[1].value in DROPPED]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x.abs()", "x"),)


class DropStatement(Operator):
    """`x += 1`, `f(x)` and `raise Error` become `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "simple_stmt" and parso.python.tree.search_ancestor(node, "funcdef"):
            first = node.children[0]
            changes = first.type == "expr_stmt" and first.children[1].type in ("augassign", "operator") and \
                first.children[1].get_code().strip() != "="
            if changes or first.type in ("atom_expr", "raise_stmt"):
                yield first.start_pos, first.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return parso.parse(f"{node.get_first_leaf().prefix}pass\n").children[0]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("def f(x):\n    x += 1\n", "def f(x):\n    pass\n"),)


OWN = (SwapName, DropCall, DropStatement)
