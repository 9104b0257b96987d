"""A counter as a file of ONNX: the same counts as in PyTorch, and one line for what cannot be exported or read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import crowddist
from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.errors import InputError
from crowddist.inference import base_predictor, onnx_export
from crowddist.inference.onnx_export import difference, export_counter, exportable_methods
from crowddist.inference.onnx_predictor import FACTS, OnnxPredictor
from crowddist.inference.open_counter import open_counter
from crowddist.inference.predictor import Predictor
from crowddist.methods.base import Method
from crowddist.methods.build import build_method
from crowddist.methods.parts.counting import CountingMethod
from crowddist.methods.table import METHODS
from crowddist.models.config import CounterConfig
from crowddist.run import checkpoint


def photographs() -> list[np.ndarray]:
    """Ten images of several sizes; neighbours of one size share a batch."""
    rng = np.random.default_rng(0)
    sizes = [(72, 96), (72, 96), (75, 101), (101, 75), (48, 96), (150, 200), (8, 9), (33, 250), (129, 131), (300, 40)]
    return [rng.integers(0, 200, (*size, 3), dtype=np.uint8)
            + (np.arange(size[1]) // 7 % 2 * 50).astype(np.uint8)[None, :, None] for size in sizes]


@pytest.mark.parametrize(("image_size", "zooms"), [(None, None), (96, (0.7, 1.0, 1.4)), (0, (1.0,))])
def test_ten_images_are_counted_as_in_pytorch(tiny_onnx: Path, tiny_checkpoint: str, image_size: int | None,
                                              zooms: tuple[float, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As trained, at several zooms merged, and as they are, where the larger ones are seen in tiles."""
    monkeypatch.setattr(base_predictor, "TILE_PX", 128)
    images = photographs()
    expected, found = (list(counter.predict_views(images)) for counter in (
        Predictor.from_checkpoint(tiny_checkpoint, image_size=image_size, zooms=zooms),
        OnnxPredictor.from_file(tiny_onnx, image_size=image_size, zooms=zooms, device="cpu")))
    assert len({round(one.count, 3) for one in expected}) == len(images)
    for one, other in zip(expected, found, strict=True):
        assert (other.count, other.uncertainty) == pytest.approx((one.count, one.uncertainty), rel=1e-4, abs=1e-4)
        assert np.abs(other.density - one.density).max() <= 1e-4 * one.density.max()
        assert np.abs(other.spread - one.spread).max() <= 1e-4 * one.density.max()
        np.testing.assert_allclose(other.certainty, one.certainty, atol=1e-3)
        assert other.size == one.size and other.keep.shape == one.keep.shape
        assert len(other.points) == len(one.points) and other.zoom_counts.keys() == one.zoom_counts.keys()


def test_the_file_alone_tells_how_it_counts(tiny_onnx: Path) -> None:
    model = onnx.load(str(tiny_onnx))
    onnx.checker.check_model(model)
    axes = {value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)}
    assert axes == {"images": ["images", "height", "width", 3], "density": ["images", "rows", "columns"],
                    "spread": ["images", "rows", "columns"], "member_counts": ["images", 3]}
    counter = open_counter(tiny_onnx)
    assert (counter.image_size, counter.zooms, counter.stride, counter.method.margin_px) == (96, (1.0,), 8, 128)
    facts = OnnxPredictor.from_file(tiny_onnx).method
    assert (facts.method, facts.backbone, facts.ensemble, facts.num_members, facts.version) == (
        "self_supervision", "compact", "masksembles", 3, crowddist.__version__)
    image = photographs()[0]
    result = crowddist.load(tiny_onnx).count(image)
    assert result.low is not None and result.low < result.count < result.high and result.level == 0.9
    assert crowddist.load(tiny_onnx, zooms=(0.5, 1)).count(image).low is None, "intervals hold for the file's own sizes"


def test_a_file_that_counts_otherwise_is_not_written(
    tiny_onnx: Path, tmp_path: Path, make_checkpoint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_checkpoint(tmp_path / "other", seed=2)
    monkeypatch.setattr(onnx_export, "_serialised", lambda method, facts: tiny_onnx.read_bytes())
    with pytest.raises(InputError, match=r"differs from .* by .* of the density, more than 0.0001; nothing is written"):
        export_counter(other, str(tmp_path / "counter.onnx"))
    assert not (tmp_path / "counter.onnx").exists()


def test_a_difference_of_any_kind_is_seen(tiny_checkpoint: str) -> None:
    seen = Predictor.from_checkpoint(tiny_checkpoint).see_batch(photographs()[:2])
    assert difference(seen, seen) == 0
    largest = float(seen[1].density.max())
    for name, change, expected in (("density", 0.01 * largest, 0.01), ("spread", 0.02 * largest, 0.02),
                                   ("member_counts", 0.03 * seen[1].member_counts.max(), 0.03)):
        changed = getattr(seen[1], name).copy()
        changed.flat[int(changed.argmax())] += change
        assert difference(seen, [seen[0], replace(seen[1], **{name: changed})]) == pytest.approx(expected, rel=1e-3)
    assert difference(seen[:1], [replace(seen[0], density=seen[0].density[1:])]) == np.inf
    assert not difference(seen, [seen[0], replace(seen[1], density=seen[1].density * np.nan)]) <= 1


def test_methods_without_a_detector_can_be_exported() -> None:
    plain = []
    for name, facts in METHODS.items():
        kind = getattr(import_module(facts.module), facts.name)
        if issubclass(kind, CountingMethod) and kind.predict is CountingMethod.predict:
            assert kind.conclude is Method.conclude
            plain.append(name)
    assert exportable_methods() == plain and {"self_supervision", "supervised"} < set(plain) < set(METHODS)


@pytest.mark.parametrize(("method", "counter", "message"), [
    ("bi_knowledge", {}, "method bi_knowledge cannot be exported, as a detector .* source_only, self_supervision, "),
    ("combined", {}, "method combined cannot be exported, as a detector takes part in its count; those of "),
    ("source_only", {"ensemble": "dropout"}, "an ensemble of dropouts cannot be exported; one of masksembles, "),
    ("source_only", {"backbone": "vgg16_bn"}, "decoder behind vgg16_bn cannot be exported, as it goes over an image "),
])
def test_what_onnx_has_no_form_for_is_one_line(method: str, counter: dict[str, str], message: str,
                                               tmp_path: Path) -> None:
    config = RunConfig(recipe="tiny", source="a", target="b", method=method, counter=CounterConfig(**counter))
    made = build_method(config, weights="none")
    url = checkpoint.save(tmp_path.as_uri(), 1, {"method": made.state_dict(), "config": to_json(config)})
    with pytest.raises(InputError, match=message):
        export_counter(url, str(tmp_path / "counter.onnx"))
    assert not (tmp_path / "counter.onnx").exists()


def test_what_is_missing_is_named(tiny_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"counter\.pt must end with \.onnx"):
        export_counter(tiny_checkpoint, str(tmp_path / "counter.pt"))
    monkeypatch.setattr(onnx_export, "_PACKAGES", ("onnx", "onnx_that_nobody_has"))
    with pytest.raises(InputError, match=r"needs onnx_that_nobody_has; pip install 'crowddist\[export\]'"):
        export_counter(tiny_checkpoint, str(tmp_path / "counter.onnx"))


def test_a_file_that_is_no_counter_is_one_line(tiny_onnx: Path, tmp_path: Path) -> None:
    place = tmp_path / "wrong.onnx"
    model = onnx.load(str(tiny_onnx))

    def with_facts(text: str) -> bytes:
        for entry in model.metadata_props:
            entry.value = text if entry.key == FACTS else entry.value
        return model.SerializeToString()

    kept = next(entry.value for entry in model.metadata_props if entry.key == FACTS)
    unrunnable, unknown = "cannot be run by ONNX Runtime: ", "is no counter that crowddist export wrote"
    for data, message in ((b"no graph", unrunnable), (b"", unrunnable), (tiny_onnx.read_bytes()[:100_000], unrunnable),
                          (with_facts("{}"), unknown), (with_facts(kept.replace('"zooms"', '"zoom"')), unknown),
                          (with_facts(kept.replace('"format": 1', '"format": 99')), "has the format 99, this crowd")):
        place.write_bytes(data)
        with pytest.raises(InputError, match=message) as raised:
            open_counter(place)
        assert "wrong.onnx" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError):
        open_counter(tmp_path / "nowhere.onnx")


def test_what_the_file_cannot_do_is_one_line(tiny_onnx: Path) -> None:
    for device in ("gpu", "mps", "cuda:x", None, *(() if torch.cuda.is_available() else ("cuda",))):
        with pytest.raises(InputError, match=f"cannot be run on '{device}' by this ONNX Runtime; choose auto or cpu"):
            open_counter(tiny_onnx, device=device)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="counts by all its masks; leave out one_pass"):
        open_counter(tiny_onnx, one_pass=True)
    with pytest.raises(InputError, match="image_size must be 0 or from 8 to 20000 px, got 3"):
        open_counter(tiny_onnx, image_size=3)
    with pytest.raises(InputError, match="the level of intervals must lie between 0 and 1"):
        open_counter(tiny_onnx, level=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("counter", [
    CounterConfig(backbone="efficientnet_lite0"), CounterConfig(backbone="efficientnet_lite0", decoder="upsampling"),
    CounterConfig(ensemble="deep", num_masks=2), CounterConfig(ensemble="none", density_factor=100.0),
], ids=["lite0", "upsampling", "deep", "factor"])
def test_other_counters(counter: CounterConfig, tmp_path: Path) -> None:
    config = RunConfig(recipe="tiny", source="a", target="b", counter=counter)
    config = replace(config, train=replace(config.train, density_limit=True))
    torch.manual_seed(0)
    method = build_method(config)
    method.limit_density(0.2)
    url = checkpoint.save(tmp_path.as_uri(), 1, {"method": method.state_dict(), "config": to_json(config)})
    export_counter(url, storage.join(tmp_path.as_uri(), "counter.onnx"))
    image = photographs()[5]
    expected, found = (counter.predict(image) for counter in (Predictor.from_checkpoint(url),
                                                              open_counter(tmp_path / "counter.onnx")))
    assert found.count == pytest.approx(expected.count, rel=1e-4)
