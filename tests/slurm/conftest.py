"""The site that Slurm's tests run on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.slurm.site import PROGRAMS, Site, site


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Slurm with two machines; skipped without root or the programs that make them."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"a Slurm of its own needs root and {', '.join(missing) or 'nothing else'}")
    with site(tmp_path_factory.mktemp("slurm")) as made:
        yield made
