"""What two runs must have alike, wherever they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crowddist import storage
from crowddist.run import checkpoint


def content(runs: str | Path, run_name: str) -> dict[str, Any]:
    """What a run left that its place and the clock do not decide: networks, labels, errors and data sets."""
    run = storage.join(runs, run_name)
    names = storage.list_files(run)
    found: dict[str, Any] = {name: storage.read_bytes(storage.join(run, name))
                             for name in names if name.endswith((".tar", ".png", "images.json"))}
    for name in names:
        if name.endswith(".pt"):
            found[name] = checkpoint.load(storage.join(run, name))["method"]
    result = storage.read_json(storage.join(run, "result.json"))
    found["rounds"] = [{key: value for key, value in row.items() if key not in ("checkpoint", "train/seconds")}
                       for row in result["rounds"]]
    found["data"] = {role: {key: value for key, value in facts.items() if key != "url"}
                     for role, facts in result["data"].items()}
    return found


def assert_equal(first: Any, second: Any, where: str = "") -> None:
    """Bit for bit, also of tensors."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_equal(*pair, f"{where}/{index}")
    else:
        assert first == second, where
