"""Finds the counter that a run has left."""

from __future__ import annotations

import os

from crowddist import storage
from crowddist.errors import InputError


def find_checkpoint(where: str | os.PathLike[str]) -> str:
    """The URL of a checkpoint, given itself, or of a run's last one, given the run's folder, wherever that lies by now.

    Raises:
        InputError: a folder that is not that of a run that has ended.
    """
    url = storage.normalise(where)
    if not storage.is_folder(url):
        return url
    try:
        result = storage.read_json(storage.join(url, "result.json"))
        return storage.join(url, result["checkpoint"].rpartition(f"/{result['run']}/")[2])
    except (FileNotFoundError, InputError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{url} is not the folder of a run that has ended (no result.json); "
                         f"give that, or a .pt file of a run's checkpoints folder") from error
