"""A newcomer adds a method, a backbone, a metric and a data format, each by one file (here) and one row."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from crowddist.config import RunConfig
from crowddist.data.config import RAW_FORMATS
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import Annotation, Format, Item, Listing
from crowddist.inference import metrics
from crowddist.inference.metrics import ImageResult, Metric
from crowddist.launch.local import LocalLauncher
from crowddist.methods.base import Stage
from crowddist.methods.settings.facts import MethodFacts
from crowddist.methods.source_only import SourceOnly
from crowddist.methods.table import METHODS, methods_table
from crowddist.models.backbones.base import Backbone, Features
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import CounterConfig
from crowddist.pipeline import adapt
from crowddist.reports.terminal_summary import closing_lines
from crowddist.run.record import run_folder
from crowddist.tracking.tracker import NullTracker


class Patient(SourceOnly):
    """Trains on the source in two stages."""

    def plan(self) -> tuple[Stage, ...]:
        """The source, twice."""
        (first,) = super().plan()
        return (first, replace(first, name="again", title="the source again", num_round=1))


def tell(line: str) -> None:
    del line


def run(config: RunConfig) -> dict[str, object]:
    return adapt(config, LocalLauncher(config), NullTracker(), say=tell)


def test_a_method(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("patient")
    module.Patient = Patient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "patient", module)
    monkeypatch.setitem(METHODS, "patient", MethodFacts(line="the source, twice", module="patient", name="Patient"))
    result = run(replace(tiny_config, method="patient"))
    assert [row["title"] for row in result["rounds"]] == ["no adaptation", "the source again"]  # type: ignore[attr-defined]
    assert "patient               the source, twice" in methods_table()


def test_a_backbone(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> Sequence[nn.Module]:
        return [nn.Sequential(nn.Conv2d(3, 24, 8, stride=8), nn.ReLU())]

    features = Features(build=build, strides=(8,), channels=(24,), context_px=32)
    monkeypatch.setitem(BACKBONES, "patches", Backbone(name="patches", uses={"counter": features}))  # type: ignore[arg-type]
    config = replace(tiny_config, method="source_only", counter=CounterConfig(backbone="patches", orientation=False))
    trained = torch.load(Path(str(run(config)["checkpoint"]).removeprefix("file://")), weights_only=True)
    assert trained["method"]["networks"]["encoder.levels.0.0.weight"].shape == (24, 3, 8, 8)


def test_a_metric(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def worst(results: Sequence[ImageResult]) -> float:
        return max(abs(result.count - result.true_count) for result in results)

    row = Metric(key="target/worst", heading="worst", unit="people", of=worst)
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, row))
    config = replace(tiny_config, method="source_only")
    result = run(config)
    assert result["final"]["target/worst"] >= result["final"]["target/mae"] > 0  # type: ignore[index]
    assert "worst" in closing_lines(result, run_folder(config), "")


def test_a_data_format(tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (72, 96, 3), np.uint8))
        np.savetxt(tmp_path / f"{number}.txt", rng.uniform(8, 64, (3, 2)))

    def find(folder: Path, split: str, labelled: bool) -> Listing:
        items = tuple(Item(name=path.stem, image=path, annotations=(path.with_suffix(".txt"),))
                      for path in sorted(folder.glob("*.png")))
        return Listing(name="text", split=split, items=items)

    def annotate(item: Item, size: tuple[int, int]) -> Annotation:
        return Annotation(points=np.loadtxt(item.annotations[0]), place=item.annotations[0])

    form = Format(name="text", summary="x and y of heads, a line each", splits=("all",), find=find, annotate=annotate)
    monkeypatch.setattr("crowddist.data.config.RAW_FORMATS", (*RAW_FORMATS, "text"))
    monkeypatch.setitem(FORMATS, "text", form)
    result = run(replace(tiny_config, method="source_only", source=f"text:{tmp_path}:all"))
    assert result["data"]["source"]["num_images"] == 4  # type: ignore[index]
