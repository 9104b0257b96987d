"""Damage to files, drawn by Hypothesis: the same few in every run of the tests, or as many as CROWDDIST_FUZZ says:

    CROWDDIST_FUZZ=100000 python -m pytest tests/security/test_{fuzz,annotation_walk}.py --timeout=0
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from crowddist.errors import InputError

NUM_EXAMPLES = int(os.environ.get("CROWDDIST_FUZZ", "0"))
"""Of each reader; 0: few, and always the same."""
MOST_KIBIBYTES = 2 * 2**20
"""What one file may add to the memory of the process."""
MOST_SECONDS = 10
"""What one file may take of a processor; of the clock would be unfair on a busy machine."""
TOKENS = (b"nan", b"-1", b"1e999", b"9" * 400, b"null", b"[", b"]", b"{", b'"', b",", b"\n", b"\r", b"\0", b"\xff",
          b"<", b"&x;", b"[" * 2000, b"<a>" * 500, b"\\ud800", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", bytes(8),
          b"\xff" * 8)
_HEAD_BYTES = 160
"""Where formats keep their sizes and counts: half of the damage goes there."""


def examples(number: int) -> settings:
    """How many files are tried: `number`, unless CROWDDIST_FUZZ says another."""
    return settings(max_examples=NUM_EXAMPLES or number, derandomize=not NUM_EXAMPLES, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with one to four flips, cuts, repeats and foreign pieces."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        most = draw(st.sampled_from((_HEAD_BYTES, len(data))))
        place = draw(st.integers(0, min(most, len(data))))
        length = draw(st.sampled_from((0, 1, 2, 4, 16, 40)))
        repeat = bytes(data[max(place - length, 0) : place])
        data[place : place + length] = draw(st.binary(max_size=16) | st.sampled_from((b"", repeat, *TOKENS)))
    return bytes(data)


@contextmanager
def limited() -> Iterator[None]:
    """Fails where a file takes more time or memory than it may."""

    def stop(*_: object) -> None:
        pytest.fail(f"one file takes more than {MOST_SECONDS} s")  # no Exception, which readers turn into a line

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIBIBYTES


@contextmanager
def one_line(named: object = "") -> Iterator[None]:
    """As `limited`; allows an InputError of one line that begins with the name, and nothing else."""
    with limited():
        try:
            yield
        except InputError as error:
            assert "\n" not in str(error) and str(error).startswith(str(named))
