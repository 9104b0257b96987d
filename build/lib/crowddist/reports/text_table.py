"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(lines: Sequence[Sequence[str]], *, align: str = "<", rule_after: int = 0) -> str:
    """Lines of cells as columns, two spaces apart.

    Args:
        lines: the headings first; all of one length.
        align: "<" or ">" for each column; the last holds for all further ones.
        rule_after: number of lines above a rule of dashes; 0: no rule.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    signs = align.ljust(len(widths), align[-1])
    text = ["  ".join(f"{cell:{sign}{width}}" for cell, sign, width in zip(line, signs, widths, strict=True)).rstrip()
            for line in lines]
    if rule_after:
        text.insert(rule_after, "  ".join("-" * width for width in widths))
    return "\n".join(text)
