"""Random numbers that are the same on every machine and in every version, recorded here."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from crowddist.randomness import derive, generator, hash_order


def test_numbers_are_the_recorded_ones() -> None:
    """A change of these changes every run: a resumed one would no longer be the one that was begun."""
    assert derive(0) == 3581690635855307741
    assert derive(3, "source", 7) == 6816104163456353088
    assert hash_order(10, 0, "a").tolist() == [8, 6, 3, 7, 5, 2, 4, 0, 9, 1]
    assert generator(1, "x").random(3).tolist() == [0.14817532355253826, 0.5147784236370934, 0.8600990372010839]


def test_a_number_is_the_hash_of_its_purpose() -> None:
    digest = hashlib.blake2b(b"int:3\x1fstr:source\x1fint:7", digest_size=8).digest()
    assert derive(3, "source", 7) == int.from_bytes(digest, "little") // 2
    purposes = [(), (1,), ("1",), (1, 2), (12,), ("1", 2), (2, 1), ("a", "b"), ("ab",), ("a\x1fb",), ("",), (-1,)]
    numbers = [derive(*purpose) for purpose in purposes]
    assert len(set(numbers)) == len(purposes) and all(0 <= number < 2**63 for number in numbers)


def test_generators_of_two_purposes_are_strangers() -> None:
    first, second = generator(0, "a").random(10_000), generator(0, "b").random(10_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05 and first.mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(generator(0, "a").random(10_000), first)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
def test_an_order_is_a_permutation(count: int) -> None:
    order = hash_order(count, 5, "epoch", 2)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(count))
    assert count < 7 or (order != hash_order(count, 5, "epoch", 3)).any()


def naive_splitmix(state: int) -> int:
    """Source: Steele et al., OOPSLA 2014; the finaliser of SplitMix64, on Python's own integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_an_order_sorts_by_splitmix64() -> None:
    hashes = [naive_splitmix((index * 0x9E3779B97F4A7C15 + derive(5, "a")) % 2**64) for index in range(200)]
    assert hash_order(200, 5, "a").tolist() == sorted(range(200), key=hashes.__getitem__)


def test_every_place_is_equally_likely() -> None:
    """Over 2,000 orders of 8, each number is at each place about 250 times (standard deviation 15)."""
    orders = np.stack([hash_order(8, seed, "a") for seed in range(2000)])
    counts = np.array([[(orders[:, place] == number).sum() for number in range(8)] for place in range(8)])
    assert abs(counts - 250).max() < 75
