"""Search of the kept share without target labels: predictions are cached once, and a trial only selects from them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shards import ShardReader, decode_labels
from crowddist.errors import InputError
from crowddist.ops.agreement import agreement, kept_sums
from crowddist.ops.selection import keep_most_certain

OBJECTIVE = "agreement"
"""The objective's name in results; larger is better."""

Label = Callable[[str, str, str], list[dict[str, Any]]]


def cached_predictions(checkpoint_url: str, images_url: str, work: str, label: Label, *, say: Callable[[str], None]) -> str:
    """The label set that holds a checkpoint's predictions for a data set, made now unless it is there. Returns: its URL.

    Its place is named by the bytes of the checkpoint and of the data: other ones never meet.

    Args:
        work: the folder of all runs; predictions lie below its `data` folder, and a set that was begun is taken up again.
        label: labels every image of (checkpoint URL, images URL, labels URL) once, as `Launcher.label`.

    Raises:
        FileNotFoundError, InputError: there is no such checkpoint or data, or another process is at work on the same predictions.
    """
    from crowddist.labels import publish_labels  # imports torch, which trials do without

    images = ShardReader(images_url)
    content = hashlib.sha256(storage.read_bytes(checkpoint_url))
    content.update(images.manifest.digest.encode())
    url = storage.join(storage.normalise(work), "data", "predictions", content.hexdigest()[:24])
    with storage.exclusive(url):
        if storage.exists(storage.join(url, FILE_NAME)):
            say(f"predictions of {len(images)} images: cached at {url}")
        else:
            say(f"predicting {len(images)} images")
            records = label(checkpoint_url, images_url, url)
            publish_labels(url, images, records, name=f"{images.manifest.name}-predictions")
    return url


def require_kept_share(checkpoint_url: str) -> None:
    """Raises InputError for the checkpoint of a method whose labels no kept share selects."""
    from crowddist import checkpoint
    from crowddist.config import from_json

    method = from_json(checkpoint.load(checkpoint_url)["config"]).method
    if method == "bi_knowledge":
        raise InputError(f"the labels of {method} are patches, which no kept share selects; give a counter of self_supervision")


def cached_maps(labels_url: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Density and spread of every image of a label set, one after the other: (h, w) float32, persons per cell.

    Raises:
        InputError: the set was written without spread.
    """
    labels = ShardReader(labels_url)
    for index in range(len(labels)):
        key, members = labels.read(index)
        decoded = decode_labels(key, members)
        if decoded.spread is None:
            raise InputError(f"the labels at {labels_url} hold no spread; label again")
        yield decoded.density, decoded.spread


def require_uncertainty(labels_url: str) -> None:
    """Raises InputError where no image has both a count and a spread: there is nothing that a search could go by."""
    if not any(density.any() and spread.any() for density, spread in cached_maps(labels_url)):
        raise InputError("the counter's predictions have no spread: it has no ensemble, or sees nobody; give a counter with masksembles")


def share_grid(num_trials: int) -> list[float]:
    """Kept shares evenly from 1 / num_trials to 1."""
    return [(index + 1) / num_trials for index in range(num_trials)]


def try_share(labels_url: str, share: float) -> dict[str, float]:
    """One trial: the cells that a kept share selects from cached predictions, and what they are worth.

    Nothing but the predictions is read: neither images nor labels of the target.

    Returns:
        `kept_share` as given; `agreement`, see `ops.agreement`; `kept_mass`, `kept_spread` and `kept_cells`, shares of all persons, of all
        spread and of all cells, 0 to 1; `relative_spread`, the spread of the kept cells over their persons.
    """
    total: dict[str, float] = {}
    for density, spread in cached_maps(labels_url):
        for name, value in kept_sums(density, spread, keep_most_certain(density, spread, share)).items():
            total[name] = total.get(name, 0.0) + value
    return {
        "kept_share": share,
        OBJECTIVE: agreement(total),
        "kept_mass": total["kept_persons"] / total["persons"],
        "kept_spread": total["kept_spread"] / total["spread"],
        "kept_cells": total["kept_cells"] / total["cells"],
        "relative_spread": total["kept_spread"] / max(total["kept_persons"], 1e-9),
    }


def best_trial(trials: list[dict[str, float]]) -> dict[str, float]:
    """The trial of largest objective; of equal ones that which keeps more."""
    return max(trials, key=lambda trial: (trial[OBJECTIVE], trial["kept_share"]))


def trial_table(trials: list[dict[str, float]]) -> str:
    """The trials as plain text, the best one marked."""
    columns = (("kept share", "kept_share"), ("agreement", OBJECTIVE), ("kept mass", "kept_mass"), ("kept spread", "kept_spread"),
               ("kept cells", "kept_cells"), ("relative spread", "relative_spread"))
    best = best_trial(trials)
    lines = ["  ".join(heading for heading, _ in columns)]
    for trial in trials:
        cells = [f"{trial[name]:.3f}".rjust(len(heading)) for heading, name in columns]
        lines.append("  ".join(cells) + ("  <- best" if trial is best else ""))
    return "\n".join(lines)
