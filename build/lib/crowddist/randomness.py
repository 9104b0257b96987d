"""Random numbers as a pure function of their purpose, so that a run resumed on any workers draws the same."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(*parts: int | str) -> int:
    """A 63-bit number from a purpose, e.g. `derive(seed, "source", step)`; equal on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator for one purpose; see `derive`."""
    return np.random.Generator(np.random.Philox(key=derive(*parts)))


def hash_order(count: int, *parts: int | str) -> np.ndarray:
    """A permutation of 0..count-1 by a keyed hash (splitmix64), the same in every NumPy version.

    Returns: (count,) int64.
    """
    with np.errstate(over="ignore"):
        value = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(derive(*parts))
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return np.argsort(value, kind="stable").astype(np.int64)
