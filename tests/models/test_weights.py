"""Weights are read in every form that people have them in, and what does not fit is refused with one clear line."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from crowddist.errors import InputError
from crowddist.models import weights
from crowddist.models.backbones.base import Pretrained
from crowddist.models.backbones.efficientnet_lite import file_names
from crowddist.models.backbones.encoder import Encoder
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import CounterConfig, DetectorConfig, LocaliserConfig, RegressorConfig
from crowddist.models.counter import Counter, build_counter
from crowddist.models.detector import build_detector
from crowddist.models.dssinet import build_dssinet
from crowddist.models.nested_unet import build_localiser
from crowddist.models.segmenter import build_segmenter
from crowddist.storage import normalise

State = dict[str, Tensor]


@functools.cache
def _vgg_state(batch_norm: bool = False, convolutions: int = 13) -> State:
    """A state_dict with the names of torchvision's VGG-16, beyond the layers that are used."""
    from torchvision.models import vgg

    features = vgg.make_layers(vgg.cfgs["D"][:convolutions], batch_norm=batch_norm)
    return {f"features.{key}": tensor
            for key, tensor in features.state_dict().items()} | {"classifier.0.weight": torch.zeros(2, 2)}


@functools.cache
def _lite_state(naming: int = 0) -> State:
    """Random weights of lite0 by the names of the weight package (0) or of timm (1), with layers that are not used."""
    levels = Encoder(BACKBONES["efficientnet_lite0"], "counter").levels
    return {file_names(name, 1.0)[naming]: torch.rand_like(tensor)
            for level in levels for name, tensor in level.state_dict().items()} | {"_fc.weight": torch.zeros(2, 2)}


@functools.cache
def _resnet_state() -> State:
    from torchvision.models import resnet50

    return resnet50().state_dict()


def _save(state: object, folder: Path, name: str = "weights.pth") -> str:
    path = folder / name
    torch.save(state, path)
    return str(path)


def _counter(backbone: str, place: str, **options: object) -> Counter:
    torch.manual_seed(0)
    return build_counter(CounterConfig(backbone=backbone, weights=place, orientation=False, **options))


def _levels(network: nn.Module) -> list[nn.Module]:
    encoder = network.encoder
    assert isinstance(encoder, Encoder)
    return list(encoder.levels)


@pytest.mark.parametrize("as_url", [False, True])
def test_a_file_is_loaded_from_a_path_or_a_url(tmp_path: Path, as_url: bool) -> None:
    state = _vgg_state()
    place = _save(state, tmp_path)
    (level,) = _levels(_counter("vgg16", normalise(place) if as_url else place))
    assert torch.equal(level[0].weight, state["features.0.weight"])
    assert torch.equal(level[21].bias, state["features.21.bias"])


FORMS: dict[str, Callable[[State], object]] = {
    "a state_dict": lambda state: state,
    "under state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "under model": lambda state: {"model": state, "args": [1]},
    "under net": lambda state: {"net": state},
    "under model and state_dict": lambda state: {"model": {"state_dict": state}},
    "of DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "with another prefix": lambda state: {f"model.encoder.{name}": tensor for name, tensor in state.items()},
    "under state_dict with a prefix": lambda state: {"state_dict": {f"module.backbone.{name}": tensor
                                                                    for name, tensor in state.items()}},
}


@pytest.mark.parametrize("naming", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_by_the_package_s_names_and_by_timm_s(tmp_path: Path, form: str, naming: int) -> None:
    state = _lite_state(naming)
    levels = _levels(_counter("efficientnet_lite0", _save(FORMS[form](state), tmp_path)))
    assert torch.equal(levels[0].stem.conv.weight, state[("_conv_stem.weight", "conv_stem.weight")[naming]])
    last = ("_blocks.10._bn2.running_var", "blocks.4.2.bn3.running_var")[naming]
    assert torch.equal(levels[1].block10.project.norm.running_var, state[last])


@pytest.mark.parametrize("name", ["features.", ""])
def test_vgg_with_and_without_the_name_of_its_features(tmp_path: Path, name: str) -> None:
    state = {key.replace("features.", name): tensor for key, tensor in _vgg_state().items()}
    (level,) = _levels(_counter("vgg16", _save({"state_dict": state}, tmp_path)))
    assert torch.equal(level[21].weight, state[f"{name}21.weight"])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_of_vgg(tmp_path: Path, form: str) -> None:
    state = _vgg_state()
    localiser = build_localiser(LocaliserConfig(backbone="vgg16", weights=_save(FORMS[form](state), tmp_path)))
    assert torch.equal(localiser.blocks[3][4].weight, state["features.21.weight"])


@pytest.mark.parametrize("form", ["a state_dict", "under state_dict with a prefix", "of DataParallel"])
def test_resnet_by_torchvision_s_names(tmp_path: Path, form: str) -> None:
    state = _resnet_state()
    network = build_detector(DetectorConfig(backbone="resnet50", weights=_save(FORMS[form](state), tmp_path)))
    assert torch.equal(_levels(network)[2].layer4[2].conv3.weight, state["layer4.2.conv3.weight"])


@pytest.mark.parametrize("form", ["a state_dict", "of DataParallel", "with another prefix"])
def test_safetensors(tmp_path: Path, form: str) -> None:
    from safetensors.torch import save_file

    state, place = _lite_state(), str(tmp_path / "weights.safetensors")
    save_file(FORMS[form](state), place)
    levels = _levels(_counter("efficientnet_lite0", place))
    assert torch.equal(levels[0].stem.conv.weight, state["_conv_stem.weight"])
    regressor = build_dssinet(RegressorConfig(backbone="efficientnet_lite0", weights=place))
    detector = build_detector(DetectorConfig(backbone="efficientnet_lite0", weights=place))
    own = next(key for key, tensor in regressor.encoder.state_dict().items() if tensor.shape == (32, 3, 3, 3))
    assert torch.equal(regressor.encoder.state_dict()[own], state["_conv_stem.weight"])
    assert torch.equal(_levels(detector)[0].stem.conv.weight, state["_conv_stem.weight"])


def test_a_density_map_s_convolution_answers_as_to_a_grey_image(tmp_path: Path) -> None:
    state = _vgg_state()
    localiser = build_localiser(LocaliserConfig(backbone="vgg16", weights=_save(state, tmp_path)))
    assert torch.equal(localiser.blocks[0][0].weight, state["features.0.weight"].sum(1, keepdim=True))
    assert torch.equal(localiser.blocks[3][4].weight, state["features.21.weight"])


def test_statistics_of_batch_norms_are_loaded_also_without_their_counters(tmp_path: Path) -> None:
    state = {key: tensor
             for key, tensor in _vgg_state(batch_norm=True).items() if not key.endswith("num_batches_tracked")}
    state["features.1.running_mean"] = torch.arange(64.0)
    (level,) = _levels(_counter("vgg16_bn", _save(state, tmp_path)))
    assert torch.equal(level[1].running_mean, torch.arange(64.0))


def test_what_is_not_in_the_file_stays_as_the_seed_has_it(tmp_path: Path) -> None:
    first, second = _counter("efficientnet_lite0", "none"), _counter("efficientnet_lite0",
                                                                     _save(_lite_state(), tmp_path))
    assert all(torch.equal(left, right)
               for left, right in zip(first.decoder.parameters(), second.decoder.parameters(), strict=True))


# Another architecture, another shape, no tensors.


@pytest.mark.parametrize(("backbone", "batch_norm", "key"), [
    ("vgg16", True, "features.2.weight is missing"), ("vgg16_bn", False, "features.1.weight is missing"),
    ("resnet101", False, "conv1.weight is missing"), ("efficientnet_lite0", False, "_conv_stem.weight is missing"),
])
def test_another_architecture_is_refused_by_its_first_key(tmp_path: Path, backbone: str, batch_norm: bool,
                                                          key: str) -> None:
    place = _save(_vgg_state(batch_norm, convolutions=4), tmp_path)
    with pytest.raises(InputError, match=key) as error:
        _counter(backbone, place)
    assert backbone in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_without_one_layer_is_refused_by_its_name(tmp_path: Path, form: str) -> None:
    state = dict(_lite_state())
    del state["_blocks.7._bn1.bias"]
    with pytest.raises(InputError,
                       match=r"are not of efficientnet_lite0: [\w.]*_blocks\.7\._bn1\.bias is missing") as error:
        _counter("efficientnet_lite0", _save(FORMS[form](state), tmp_path))
    assert "\n" not in str(error.value)


def test_a_deeper_network_of_the_family_is_refused(tmp_path: Path) -> None:
    """ResNet-101 has every layer of ResNet-50 in its shape, and more; so have deeper EfficientNets, by timm's names."""
    state = {**_resnet_state(), "layer3.6.conv1.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"are not of resnet50, which has no layer3\.6\.conv1\.weight"):
        build_detector(DetectorConfig(backbone="resnet50", weights=_save(state, tmp_path)))
    lite = {**_lite_state(1), "blocks.1.2.conv_pw.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"are not of efficientnet_lite0, which has no blocks\.1\.2\.conv_pw\.weight"):
        _counter("efficientnet_lite0", _save(lite, tmp_path))


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    state = _vgg_state(convolutions=13) | {"features.0.weight": torch.zeros(64, 1, 3, 3)}
    with pytest.raises(InputError, match=r"features\.0\.weight has shape \(64, 1, 3, 3\), not \(64, 3, 3, 3\)"):
        _counter("vgg16", _save(state, tmp_path))


@pytest.mark.parametrize("state", [{}, [torch.zeros(1)], {"model": {}}, {"state_dict": [torch.zeros(1)]}, {"epoch": 3}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, state: object) -> None:
    with pytest.raises(InputError, match="hold no state_dict"):
        _counter("efficientnet_lite0", _save(state, tmp_path))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\xff" * 64])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match="are not readable") as error:
        _counter("efficientnet_lite0", str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_without_a_run_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        _counter("efficientnet_lite0", str(tmp_path / "nowhere.pth"))
    with pytest.raises(InputError, match="is not the folder of a run that has ended"):
        _counter("efficientnet_lite0", str(tmp_path))


# What a run has trained.


def _checkpoint(networks: nn.Module, folder: Path) -> str:
    state = {name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
             for name, tensor in networks.state_dict().items()}
    return _save({"method": {"trained": "", "networks": state}, "config": "{}"}, folder, "step-000001.pt")


BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "counter": lambda place: build_counter(CounterConfig(weights=place)),
    "regressor": lambda place: build_dssinet(RegressorConfig(weights=place)),
    "detector": lambda place: build_detector(DetectorConfig(weights=place)),
    "localiser": lambda place: build_localiser(LocaliserConfig(weights=place)),
    "segmenter": lambda place: build_segmenter(CounterConfig(weights=place)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_network_starts_as_a_run_left_it(tmp_path: Path, name: str) -> None:
    place = _checkpoint(nn.ModuleDict({name: BUILDERS[name]("none"), "translator": nn.Linear(2, 2)}), tmp_path)
    networks = torch.load(place, weights_only=True)["method"]["networks"]
    for key, tensor in BUILDERS[name](place).state_dict().items():
        assert torch.equal(tensor, networks[f"{name}.{key}"]), key


def test_a_counter_starts_as_a_run_left_it_with_or_without_its_orientation_head(tmp_path: Path) -> None:
    place = _checkpoint(build_counter(CounterConfig(orientation=True)), tmp_path)
    networks = torch.load(place, weights_only=True)["method"]["networks"]
    for orientation in (True, False):
        started = build_counter(CounterConfig(weights=place, orientation=orientation))
        assert all(torch.equal(tensor, networks[key]) for key, tensor in started.state_dict().items())
    place = _checkpoint(build_counter(CounterConfig(orientation=False)), tmp_path)
    assert build_counter(CounterConfig(weights=place, orientation=True)).orientation_head is not None


def test_a_segmenter_within_the_semantics_of_a_run(tmp_path: Path) -> None:
    semantics = nn.ModuleDict({"segmenter": build_segmenter(CounterConfig())})
    place = _checkpoint(nn.ModuleDict({"counter": build_counter(CounterConfig()), "semantics": semantics}), tmp_path)
    networks = torch.load(place, weights_only=True)["method"]["networks"]
    assert torch.equal(build_segmenter(CounterConfig(weights=place)).head.fuse.weight,
                       networks["semantics.segmenter.head.fuse.weight"])


def test_a_segmenter_starts_with_the_encoder_of_a_run_that_had_none(tmp_path: Path) -> None:
    place = _checkpoint(build_counter(CounterConfig()), tmp_path)
    networks = torch.load(place, weights_only=True)["method"]["networks"]
    segmenter = build_segmenter(CounterConfig(weights=place))
    assert torch.equal(segmenter.encoder.levels[0][0].weight, networks["encoder.levels.0.0.weight"])


def test_a_run_s_folder_is_its_final_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "first" / "source" / "checkpoints"
    folder.mkdir(parents=True)
    place = _checkpoint(build_counter(CounterConfig()), folder)
    (tmp_path / "first" / "result.json").write_text(f'{{"run": "first", "checkpoint": "{normalise(place)}"}}')
    networks = torch.load(place, weights_only=True)["method"]["networks"]
    started = build_counter(CounterConfig(weights=str(tmp_path / "first")))
    assert torch.equal(started.decoder.trunk[0].weight, networks["decoder.trunk.0.weight"])


@pytest.mark.parametrize(("config", "difference"), [
    (CounterConfig(num_masks=5), "size mismatch for masks.masks"), (CounterConfig(ensemble="none"), "masks.masks"),
    (CounterConfig(backbone="vgg16"), "encoder.levels.0.0.bias"),
])
def test_a_counter_of_other_settings_is_refused_by_the_first_difference(tmp_path: Path, config: CounterConfig,
                                                                        difference: str) -> None:
    place = _checkpoint(build_counter(CounterConfig()), tmp_path)
    with pytest.raises(InputError, match="holds a counter of another architecture") as error:
        build_counter(replace(config, weights=place))
    assert difference in str(error.value) and "\n" not in str(error.value)


def test_a_run_without_the_network_is_refused(tmp_path: Path) -> None:
    place = _checkpoint(build_counter(CounterConfig()), tmp_path)
    with pytest.raises(InputError, match="holds no detector"):
        build_detector(DetectorConfig(weights=place))


def test_of_a_run_with_averaged_weights_the_average_starts_another(tmp_path: Path) -> None:
    counter = build_counter(CounterConfig())
    networks = {name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
                for name, tensor in counter.state_dict().items()}
    place = _save({"method": {"trained": "", "networks": networks, "unaveraged": counter.state_dict()}, "config": "{}"},
                  tmp_path, "step-000001.pt")
    started = build_counter(CounterConfig(weights=place)).state_dict()
    assert all(torch.equal(tensor, networks[name]) for name, tensor in started.items())


# ImageNet's weights: an installed package, then torch's cache, then the download.


def _install(folder: Path, monkeypatch: pytest.MonkeyPatch, *, content: bytes = b"weights",
             digest: str = "") -> Pretrained:
    """A package that holds a file of weights, found as pip's are; importing it fails."""
    digest = digest or hashlib.sha256(content).hexdigest()[:8]
    package, facts = folder / "some_weights", folder / "some_weights-1.0.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / f"lite-{digest}.pth").write_bytes(content)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(folder))
    return Pretrained(url="http://127.0.0.1:9/lite-0aa007d2.pth", package="some-weights",
                      file=f"some_weights/lite-{digest}.pth")


def _with_pretrained(monkeypatch: pytest.MonkeyPatch, backbone: str, pretrained: Pretrained) -> None:
    monkeypatch.setitem(BACKBONES, backbone, replace(BACKBONES[backbone], weights=pretrained))  # type: ignore[arg-type]


def test_an_installed_package_comes_first_and_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _lite_state()
    content = Path(_save(state, tmp_path)).read_bytes()
    _with_pretrained(monkeypatch, "efficientnet_lite0", _install(tmp_path, monkeypatch, content=content))
    levels = _levels(_counter("efficientnet_lite0", "imagenet"))
    assert torch.equal(levels[0].stem.conv.weight, state["_conv_stem.weight"])
    where = weights.require_weights("imagenet", "efficientnet_lite0")
    assert where == "efficientnet_lite0 is in the installed package some-weights"


def test_a_damaged_file_of_a_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_pretrained(monkeypatch, "efficientnet_lite0", _install(tmp_path, monkeypatch, digest="0badbeef"))
    with pytest.raises(InputError, match=r"is damaged: its sha256 begins .* not 0badbeef; install some-weights again"):
        _counter("efficientnet_lite0", "imagenet")


def test_the_weights_of_lite0_are_installed_with_the_project() -> None:
    assert "installed package" in weights.require_weights("imagenet", "efficientnet_lite0")
    levels = _levels(_counter("efficientnet_lite0", "imagenet"))
    assert levels[0].stem.norm.running_var.std() > 0.1  # no longer all ones


def test_then_comes_the_cache_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state, pretrained = _vgg_state(), BACKBONES["vgg16"].weights
    assert pretrained is not None
    torch.save(state, folder / pretrained.url.rpartition("/")[2])
    assert weights.require_weights("imagenet", "vgg16") == "vgg16 is downloaded already"
    assert torch.equal(_levels(_counter("vgg16", "imagenet"))[0][0].weight, state["features.0.weight"])


@pytest.mark.parametrize("backbone", ["vgg16", "vgg16_bn", "resnet101"])
def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     backbone: str) -> None:
    _without_network(tmp_path, monkeypatch)
    expected = rf"{backbone}.*https://download\.pytorch\.org/models/{backbone}-\w+\.pth.*option weights"
    for attempt in (lambda: _counter(backbone, "imagenet"), lambda: weights.require_weights("imagenet", backbone)):
        with pytest.raises(InputError, match=expected) as error:
            attempt()
        assert "\n" not in str(error.value)


def test_without_a_network_the_error_names_the_package_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_network(tmp_path, monkeypatch)
    missing = Pretrained(url="https://127.0.0.1:9/lite-0aa007d2.pth", package="no-such-weights",
                         file="no_such_weights/lite-0aa007d2.pth")
    _with_pretrained(monkeypatch, "efficientnet_lite0", missing)
    with pytest.raises(InputError,
                       match=r"install no-such-weights, or fetch https://127\.0\.0\.1:9/lite-0aa007d2\.pth"):
        _counter("efficientnet_lite0", "imagenet")


def _without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # Nothing listens there.
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
