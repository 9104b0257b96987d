"""The colours of the pages: what is written is readable where it is light and where it is dark."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

import crowddist

ROOT = Path(crowddist.__file__).parent


def luminance(colour: str) -> float:
    """Of "#rgb" or "#rrggbb", by WCAG 2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("page", "grounds", "letters"), [
    ("reports/base.html", ("paper", "box"), ("ink", "soft", "good", "bad")),
    ("service/page.html", ("back", "raised"), ("ink", "soft", "accent", "bad")),
])
def test_letters_and_lines_stand_out_from_their_ground(page: str, grounds: tuple[str, ...],
                                                       letters: tuple[str, ...]) -> None:
    schemes = [dict(re.findall(r"--([\w-]+): (#\w+)", rule))
               for rule in re.findall(r":root \{(.*?)\}", (ROOT / page).read_text(), re.DOTALL)]
    assert len(schemes) == 2 and schemes[0].keys() == schemes[1].keys(), "each colour has its like in the dark"
    for scheme in schemes:
        lines = [name for name in scheme if name.startswith("line-")]
        for ground, name in (*product(grounds, letters), *product(grounds[:1], lines)):
            low, high = sorted((luminance(scheme[ground]), luminance(scheme[name])))
            # WCAG AA: 4.5 for text, 3 for what a chart is drawn with.
            assert (high + 0.05) / (low + 0.05) >= (3 if name in lines else 4.5), (name, ground, scheme)
