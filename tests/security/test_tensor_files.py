"""Attacks by checkpoints and weights: code inside, archives that unpack to more than they are, a history that names
other files.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crowddist.errors import InputError
from crowddist.models.config import CounterConfig
from crowddist.models.counter import build_counter
from crowddist.run import checkpoint

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.proof),)


def torch_file(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def packed(data: bytes) -> bytes:
    """The same archive, its entries compressed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as plain, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry.filename))
    return stream.getvalue()


def hostile_files(proof: Path) -> dict[str, bytes]:
    """What unpickles to code, in each of the forms that torch reads."""
    return {
        "bare": pickle.dumps(Code(proof)),
        "zip": torch_file({"format": 1, "features.0.weight": Code(proof)}),
        "legacy": torch_file({"format": 1, "features.0.weight": Code(proof)}, zipped=False),
    }


@pytest.mark.parametrize("form", ["bare", "zip", "legacy"])
def test_code_in_a_checkpoint_or_in_weights_is_never_executed(tmp_path: Path, form: str) -> None:
    place = tmp_path / "hostile.pt"
    place.write_bytes(hostile_files(tmp_path / "executed")[form])
    for read in (lambda: checkpoint.load(place.as_uri()),
                 lambda: build_counter(CounterConfig(backbone="vgg16", weights=str(place)))):
        with pytest.raises(InputError, match="which is never executed") as error:
            read()
        assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()
    pickle.loads(hostile_files(tmp_path / "executed")["bare"])  # it is what it claims to be
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("form", ["bare", "zip", "legacy"])
def test_code_in_the_cache_of_torch_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      form: str) -> None:
    """Torch's own loader of downloads unpickles what lies in its cache, and checks no hash of it."""
    from torchvision.models import VGG16_Weights

    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / VGG16_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    place.write_bytes(hostile_files(tmp_path / "executed")[form])
    with pytest.raises(InputError, match="which is never executed"):
        build_counter(CounterConfig(backbone="vgg16", weights="imagenet"))
    assert not (tmp_path / "executed").exists()


CALLS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "joblib.load",
         "np.load", "numpy.load", "yaml.load",
         "yaml.unsafe_load", "marshal.loads", "shelve.open", "pd.read_pickle", "pandas.read_pickle", "eval", "exec",
         "compile", "torch.load", "torch.jit.load",
         "torch.hub.load", "torch.hub.load_state_dict_from_url", "load_state_dict_from_url", "os.system", "os.popen"}
METHODS = {"restore", "can_restore", "get_state_dict", "load_model", "extractall", "unpack_archive", "read_pickle"}


def test_no_loader_that_can_execute_is_called() -> None:
    """Neither of Python's, nor those by which Ray Train and Tune take up their own pickled files. But a training worker
    reads what its driver sent through Ray, which unpickles all that it carries.
    """
    found = []
    for path in sorted([*(PROJECT / "crowddist").rglob("*.py"), *(PROJECT / "jobs").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in CALLS or name.rpartition(".")[2] in METHODS or any(word.arg == "shell"
                                                                              for word in node.keywords):
                    safe = {"weights_only=True", "allow_pickle=False"} & {ast.unparse(word) for word in node.keywords}
                    found.append((path.relative_to(PROJECT).as_posix(), name, *safe))
    assert found == [("crowddist/data/convert/npy.py", "np.load", "allow_pickle=False"),
                     ("crowddist/distributed/training_group.py", "pickle.loads"),
                     ("crowddist/models/tensor_file.py", "torch.load", "weights_only=True")]


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = packed(torch_file({"format": 1, "x": torch.zeros(25_000_000)}))
    assert len(bomb) < 200_000  # of 100 MB
    (tmp_path / "bomb.pt").write_bytes(bomb)
    for read in (lambda: checkpoint.load((tmp_path / "bomb.pt").as_uri()),
                 lambda: build_counter(CounterConfig(backbone="vgg16", weights=str(tmp_path / "bomb.pt")))):
        with pytest.raises(InputError, match="its archive is packed"):
            read()


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The directory of an archive may name the same bytes again and again."""
    stream = io.BytesIO(torch_file({"format": 1, "x": torch.zeros(10_000)}))
    with zipfile.ZipFile(stream, "a") as archive:
        entry = archive.getinfo("archive/data/0")
        archive.filelist += [entry] * 50
        archive._didModify = True
    (tmp_path / "shared.pt").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="its archive is packed"):
        checkpoint.load((tmp_path / "shared.pt").as_uri())


@pytest.mark.parametrize("history", [
    {}, [], {"checkpoints": {}}, {"checkpoints": [1]}, {"checkpoints": [{"file": 1, "sha256": "", "step": 1}]},
    {"checkpoints": [{"file": "../../secret.pt", "sha256": "", "step": 1}]},
    {"checkpoints": [{"file": "/etc/passwd", "sha256": "", "step": 1}]},
])
def test_a_history_names_no_file_of_another_folder(tmp_path: Path, history: object) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "secret.pt").write_bytes(torch_file({"format": 1}))
    (tmp_path / "a" / "b" / "latest.json").write_text(json.dumps(history))
    for read in (checkpoint.load_latest, checkpoint.latest_url):
        with pytest.raises(InputError, match=r"not what a training writes|not a relative name"):
            read((tmp_path / "a" / "b").as_uri())
