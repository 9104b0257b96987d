"""Weights are loaded by torchvision's names, and what does not fit is refused with one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crowddist.errors import InputError
from crowddist.models.backbone import build_encoder
from crowddist.models.config import CounterConfig, DetectorConfig
from crowddist.models.detector import build_detector
from crowddist.storage import normalise


def _vgg_state(batch_norm: bool = False, convolutions: int = 13) -> dict[str, torch.Tensor]:
    """A state_dict with the names of torchvision's VGG-16, beyond the layers that are used."""
    from torchvision.models import vgg

    features = vgg.make_layers(vgg.cfgs["D"][:convolutions], batch_norm=batch_norm)
    return {f"features.{key}": tensor for key, tensor in features.state_dict().items()} | {"classifier.0.weight": torch.zeros(2, 2)}


def _save(state: object, folder: Path) -> str:
    path = folder / "weights.pth"
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("as_url", [False, True])
def test_a_file_is_loaded_from_a_path_or_a_url(tmp_path: Path, as_url: bool) -> None:
    state = _vgg_state()
    place = _save(state, tmp_path)
    encoder = build_encoder(CounterConfig(backbone="vgg16", weights=normalise(place) if as_url else place))
    assert torch.equal(encoder.layers[0].weight, state["features.0.weight"])
    assert torch.equal(encoder.layers[21].bias, state["features.21.bias"])


def test_statistics_of_batch_norms_are_loaded_also_without_their_counters(tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in _vgg_state(batch_norm=True).items() if not key.endswith("num_batches_tracked")}
    state["features.1.running_mean"] = torch.arange(64.0)
    encoder = build_encoder(CounterConfig(backbone="vgg16_bn", weights=_save(state, tmp_path)))
    assert torch.equal(encoder.layers[1].running_mean, torch.arange(64.0))


def test_a_compact_encoder_takes_its_own_state(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = build_encoder(CounterConfig())
    place = _save(first.layers.state_dict(), tmp_path)
    second = build_encoder(CounterConfig(weights=place))
    assert all(torch.equal(left, right) for left, right in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(("backbone", "batch_norm", "key"), [
    ("vgg16", True, "features.2.weight is missing"), ("vgg16_bn", False, "features.1.weight is missing"),
    ("resnet101", False, "conv1.weight is missing"),
])
def test_another_architecture_is_refused_by_its_first_key(tmp_path: Path, backbone: str, batch_norm: bool, key: str) -> None:
    place = _save(_vgg_state(batch_norm, convolutions=4), tmp_path)
    with pytest.raises(InputError, match=key) as error:
        build_encoder(CounterConfig(backbone=backbone, weights=place))
    assert backbone in str(error.value) and "\n" not in str(error.value)


def test_a_deeper_network_of_the_family_is_refused(tmp_path: Path) -> None:
    """ResNet-101 has every layer of ResNet-50 in its shape, and more."""
    from torchvision.models import resnet50

    state = {**resnet50().state_dict(), "layer3.6.conv1.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"are not of resnet50, which has no layer3\.6\.conv1\.weight"):
        build_detector(DetectorConfig(backbone="resnet50", weights=_save(state, tmp_path)))


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    state = _vgg_state(convolutions=2) | {"features.0.weight": torch.zeros(64, 1, 3, 3)}
    with pytest.raises(InputError, match=r"features\.0\.weight has shape \(64, 1, 3, 3\), not \(64, 3, 3, 3\)"):
        build_encoder(CounterConfig(backbone="vgg16", weights=_save(state, tmp_path)))


@pytest.mark.parametrize("state", [{}, [torch.zeros(1)], {"model": {"features.0.weight": torch.zeros(1)}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, state: object) -> None:
    with pytest.raises(InputError, match="hold no state_dict"):
        build_encoder(CounterConfig(backbone="vgg16", weights=_save(state, tmp_path)))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match="are not readable") as error:
        build_encoder(CounterConfig(backbone="vgg16", weights=str(path)))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        build_encoder(CounterConfig(backbone="vgg16", weights=str(tmp_path / "nowhere.pth")))


def test_imagenet_weights_come_from_the_cache_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG16_Weights

    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = _vgg_state()
    torch.save(state, folder / VGG16_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    encoder = build_encoder(CounterConfig(backbone="vgg16", weights="imagenet"))
    assert torch.equal(encoder.layers[0].weight, state["features.0.weight"])


@pytest.mark.parametrize("backbone", ["vgg16", "vgg16_bn", "resnet101"])
def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # Nothing listens there.
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    expected = rf"{backbone}.*https://download\.pytorch\.org/models/{backbone}-\w+\.pth.*option weights"
    with pytest.raises(InputError, match=expected) as error:
        build_encoder(CounterConfig(backbone=backbone, weights="imagenet"))
    assert "\n" not in str(error.value)
