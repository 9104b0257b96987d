"""RAY_ADDRESS: the address of a cluster's head, or one line, wherever it is read."""

from __future__ import annotations

import pytest

from crowddist.distributed.runtime import ray_address
from crowddist.errors import InputError


@pytest.mark.parametrize("address", ["", "auto", "local", "10.0.0.1:6379", "head:6379", "ray://head:10001",
                                     "[::1]:6379"])
def test_a_clusters_head(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_address() == address


@pytest.mark.parametrize(("address", "words"), [
    ("http://127.0.0.1:8265", "the dashboard's address for `ray job submit`: unset it"),
    ("HTTPS://ray.example.org", "HOST:6379"), ("10.0.0.1", "no cluster"), ("head:port", "no cluster"),
    ("ssh://head:22", "no cluster"), ("a b:6379", "no cluster"),
])
def test_anything_else_is_one_line(monkeypatch: pytest.MonkeyPatch, address: str, words: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=words):
        ray_address()


def test_a_secret_in_an_address_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://user:hush-hush@host:8265")
    with pytest.raises(InputError) as error:
        ray_address()
    assert "hush" not in str(error.value)
