"""Few puppets and no processes."""

from __future__ import annotations

import pytest

from crowddist.data.composite import image


@pytest.fixture(autouse=True)
def few_puppets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four puppets an elevation in this process: each takes time to be made."""
    monkeypatch.setattr(image, "draw_puppets", lambda rng, count, umbrella_share: rng.integers(4, size=count))


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes, which would import everything again."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
