"""A run goes on under the configuration that it began with, also one that an older version recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crowddist.config import RunConfig, to_json
from crowddist.errors import InputError
from crowddist.run.record import require_same_config


def test_a_run_of_a_version_whose_precision_was_float32_goes_on(tiny_config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(to_json(tiny_config).replace('"auto"', '"float32"'))
    require_same_config(tiny_config, tmp_path.as_uri())
    other = replace(tiny_config, engine=replace(tiny_config.engine, precision="bfloat16"))
    with pytest.raises(InputError, match=r"another configuration \(it differs in engine\)"):
        require_same_config(other, tmp_path.as_uri())
