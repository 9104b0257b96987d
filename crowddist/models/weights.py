"""Weights of encoders: torchvision's by name, or a state_dict file, checked against the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from crowddist.errors import InputError
from crowddist.models.tensor_file import read_tensors


def load_weights(encoder: nn.Module, *, weights: str, backbone: str) -> None:
    """Load `weights` into `encoder`, whose parameters are named as in the file; layers the encoder does not have are passed over.

    Args:
        weights: `none`, `imagenet`, or the path or URL of a state_dict file.
        backbone: torchvision's name of the network, for the download and for messages.

    Raises:
        InputError: the weights cannot be downloaded, the file is no state_dict, or it belongs to another architecture.
        FileNotFoundError: there is no file at the place given.
    """
    if weights == "none":
        return
    state = _imagenet(backbone) if weights == "imagenet" else _read(weights)
    own = encoder.state_dict()
    for key, tensor in own.items():
        if key.endswith("num_batches_tracked"):  # A counter that nothing here reads; old files have none.
            continue
        if key not in state:
            raise InputError(f"weights {weights} are not of {backbone}: {key} is missing; "
                             "give a state_dict of that network, with torchvision's names")
        if state[key].shape != tensor.shape:
            raise InputError(f"weights {weights} are not of {backbone}: {key} has shape {tuple(state[key].shape)}, "
                             f"not {tuple(tensor.shape)}; give a state_dict of that network, with torchvision's names")
    # A deeper network of the family has all the layers of a shallower one, and more blocks in some of them.
    deeper = sorted(key for key in state if key not in own and backbone.startswith("resnet") and key.startswith("layer"))
    deeper = [key for key in deeper if key.partition(".")[0] in {name.partition(".")[0] for name in own}]
    if deeper:
        raise InputError(f"weights {weights} are not of {backbone}, which has no {deeper[0]}; give a state_dict of that network")
    encoder.load_state_dict({key: state.get(key, tensor) for key, tensor in own.items()})


def load_trained(network: nn.Module, name: str, place: str) -> bool:
    """Loads what a run has trained of a network into one of the same architecture.

    Args:
        network: to be filled.
        name: what the network is called in checkpoints, e.g. `detector`.
        place: path or URL of a run's checkpoint.

    Returns:
        Whether the file is a run's checkpoint at all.

    Raises:
        InputError: the checkpoint holds no such network, or one of another architecture; FileNotFoundError: there is no such file.
    """
    content = _opened(place)
    method = content.get("method") if isinstance(content, dict) else None
    networks = method.get("networks") if isinstance(method, dict) else None
    if not isinstance(networks, dict):
        return False
    state = {key.removeprefix(f"{name}."): tensor for key, tensor in networks.items() if key.startswith(f"{name}.")}
    if not state:
        raise InputError(f"the checkpoint {place} holds no {name}; give one of a run that trained it")
    own = network.state_dict()
    other = sorted({*own} ^ {*state}) or [key for key in own if own[key].shape != state[key].shape]
    if other:
        raise InputError(f"the checkpoint {place} holds a {name} of another architecture (they differ in {other[0]}); "
                         f"give the backbone it was trained with")
    network.load_state_dict(state)
    return True


def require_weights(weights: str, backbone: str) -> str:
    """Says where weights are to come from, without loading them.

    Args: as of `load_weights`.
    Raises: InputError, OSError: there are none, or their address does not answer within 10 s.
    """
    from crowddist import storage

    if weights != "imagenet":
        if not storage.exists(weights):
            raise InputError(f"no weights at {weights}: put the file there, or correct the option weights")
        return weights
    from torchvision.models import get_model_weights

    url = get_model_weights(backbone.removesuffix("_stride16"))["IMAGENET1K_V1"].url
    if _cached(url).is_file():
        return f"{backbone} is downloaded already"
    try:
        with urlopen(Request(url, method="HEAD"), timeout=10):
            return f"{backbone} can be downloaded from {url}"
    except OSError as error:
        raise InputError(f"cannot download the imagenet weights of {backbone} ({error}): fetch {url} where there is a network "
                         f"and set the option weights to the path of that file, or to none for random weights") from error


def _imagenet(backbone: str) -> dict[str, Tensor]:
    """Downloaded once, and read as any other file: torch's own function would execute what another has put into its cache."""
    from torchvision.models import get_model_weights

    url = get_model_weights(backbone)["IMAGENET1K_V1"].url  # C: the weights of the released counters.
    path = _cached(url)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError) as error:  # No network, no space, or a file whose hash is wrong.
            raise InputError(f"cannot download the imagenet weights of {backbone} ({error}): fetch {url} where there is a network "
                             f"and set the option weights to the path of that file, or to none for random weights") from error
    return _read(str(path))


def _cached(url: str) -> Path:
    """Where torch keeps a download."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _opened(place: str) -> Any:
    from crowddist import storage

    try:
        with storage.local_file(place).open("rb") as stream:
            return read_tensors(stream)
    except InputError as error:
        raise InputError(f"weights {place} are not readable ({error}); give a state_dict written by torch.save") from error


def _read(place: str) -> dict[str, Tensor]:
    state = _opened(place)
    if not isinstance(state, dict) or not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"weights {place} hold no state_dict; give a file with a dict of tensors by parameter name")
    return state
