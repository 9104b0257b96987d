"""Checkpoints: files, never half-written, that resume a stage and rebuild a counter."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import crowddist
from crowddist import storage
from crowddist.errors import InputError
from crowddist.models.tensor_file import are_weights, read_tensors
from crowddist.storage.run_folder import LATEST

FORMAT = 1
KEEP_LAST = 2
"""Checkpoints kept of a stage, the newest ones, beside the best."""


def save(folder: str, step: int, content: dict[str, Any], *, loss: float | None = None) -> str:
    """Writes `content` (containers of tensors, numbers and strings) as the newest checkpoint of a stage.

    Writes the file first and `latest.json`, which names it with its sha256, last: whatever kills the process in
    between, `load_latest` finds a whole checkpoint.

    Args:
        folder: URL of the stage's checkpoints.
        step: optimisation steps done.
        loss: mean loss since the checkpoint before; uses no label of the target. The checkpoint of the lowest loss is
            kept beside the newest.

    Returns:
        The checkpoint's URL.
    """
    return _write(folder, step, _serialise(step, content), loss)


def write(url: str, step: int, content: dict[str, Any]) -> int:
    """Writes one checkpoint outside of a stage, whole or not at all; returns its bytes."""
    data = _serialise(step, content)
    storage.write_bytes(storage.normalise(url), data)
    return len(data)


class Saver:
    """Writes a stage's checkpoints in a thread, while training goes on."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[str] | None = None

    def save(self, step: int, content: dict[str, Any], *, loss: float | None = None) -> None:
        """See `save`. Copies the content at once; waits for the checkpoint before and raises its error."""
        self.wait()
        self._writing = self._thread.submit(_write, self.folder, step, _serialise(step, content), loss)

    def wait(self) -> None:
        """Waits until the newest is written. Raises: OSError, InputError, as `storage` does."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """Finishes writing and ends the thread."""
        self._thread.shutdown()


def _serialise(step: int, content: dict[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": crowddist.__version__, "step": step, **content}, buffer)
    return buffer.getvalue()


def _write(folder: str, step: int, data: bytes, loss: float | None) -> str:
    name = f"step-{step:06d}.pt"
    url = storage.join(folder, name)
    storage.write_bytes(url, data)
    history = [entry for entry in _history(folder) if entry["file"] != name]
    history.append({"file": name, "step": step, "sha256": hashlib.sha256(data).hexdigest(), "loss": loss})
    judged = [entry for entry in history if entry.get("loss") is not None]
    best = min(judged, key=lambda entry: entry["loss"])["file"] if judged else ""
    kept = [entry for entry in history if entry in history[-KEEP_LAST:] or entry["file"] == best]
    storage.write_json(storage.join(folder, LATEST), {"checkpoints": kept, "best": best})
    for entry in history:
        if entry not in kept:
            storage.remove_file(storage.join(folder, entry["file"]))
    return url


def load_latest(folder: str) -> dict[str, Any] | None:
    """The newest whole checkpoint of a stage, or None before the first. Raises: InputError when all are damaged."""
    damage = []
    for entry in reversed(_history(folder)):
        url = storage.join(folder, entry["file"])
        try:
            return load(url, sha256=entry["sha256"])
        except (InputError, FileNotFoundError) as error:
            damage.append(str(error))
    if damage:
        raise InputError(f"no checkpoint in {folder} can be read: {'; '.join(damage)}; remove the folder to train the "
                         "stage again")
    return None


def latest_url(folder: str) -> str:
    """URL of the newest checkpoint. Raises: FileNotFoundError before the first."""
    history = _history(folder)
    if not history:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    return storage.join(folder, history[-1]["file"])


def load(url: str, *, sha256: str = "") -> dict[str, Any]:
    """A checkpoint's content, on the CPU; nothing in it is executed, see `read_tensors`.

    Raises:
        FileNotFoundError: no such file.
        InputError: not a checkpoint of this format, or not the bytes that `sha256` promises.
    """
    data = storage.read_bytes(url)
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"checkpoint {url} is damaged: its sha256 is not the recorded one")
    try:
        content = read_tensors(io.BytesIO(data))
    except InputError as error:
        raise InputError(f"{url} is not a checkpoint: {error}; give a .pt file of a run") from error
    found = content.get("format") if isinstance(content, dict) else content
    if not isinstance(content, dict) or type(found) is not int or found != FORMAT:  # tensors cannot be compared
        raise InputError(f"{url} is not a crowddist checkpoint of format {FORMAT}: found "
                         f"{found if type(found) is int else type(found).__name__}")
    method = content.get("method", {})
    if not (isinstance(method, dict) and are_weights(method.get("networks", {}))
            and isinstance(method.get("trained", ""), str) and method.get("trained", "").isprintable()
            and isinstance(content.get("config", ""), str)):
        raise InputError(f"{url} holds other things than a training writes; give a .pt file of a run")
    return content


def join(folder: str, parts: Sequence[str], *, stage: str) -> str:
    """Joins checkpoints that each hold some networks to one of all networks; later parts win.

    Args:
        folder: URL of the joined checkpoint's folder; an existing one is returned as it is.
        parts: URLs of checkpoints, at least one.
        stage: name recorded in the checkpoint.

    Returns:
        The checkpoint's URL.
    """
    if storage.exists(storage.join(folder, LATEST)):
        return latest_url(folder)
    contents = [load(part) for part in parts]
    networks = {name: tensor for content in contents for name, tensor in content["method"]["networks"].items()}
    method = {"trained": "", "networks": networks, "optimizers": {}}
    return save(folder, contents[-1]["step"], {"stage": stage, "method": method, "config": contents[-1]["config"]})


def _history(folder: str) -> list[dict[str, Any]]:
    """The entries of `latest.json`; [] before the first checkpoint. Raises: InputError where it is damaged."""
    url = storage.join(folder, LATEST)
    if not storage.exists(url):
        return []
    found = storage.read_json(url)
    entries = found.get("checkpoints") if isinstance(found, dict) else None
    if not (isinstance(entries, list) and all(isinstance(entry, dict) and _is_name(entry.get("file"))
                                              and isinstance(entry.get("sha256"), str)
                                              and isinstance(entry.get("step"), int) for entry in entries)):
        raise InputError(f"{url} is not what a training writes; remove {folder} to train the stage again")
    return entries


def _is_name(value: Any) -> bool:
    """True for what a file system takes for the name of a file."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value.encode()) <= 255
