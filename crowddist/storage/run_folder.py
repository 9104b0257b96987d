"""The names in a run's folder and of the index of stages beside it, and a run's last checkpoint.

    <storage>/<run>/            config.json  data.json  density_limit.json  mlflow.json  timeline.json
                                result.json  report.html  pictures/  second_counter.pt
    <storage>/<run>/<stage>/    inputs.json  checkpoints/ (with latest.json)  curve.jsonl  DONE.json
                                checkpoints/step-000600.intervals.json beside the last checkpoint, which counts
    <storage>/<run>/<round>/    labels/  translated/  zooms/ (each with a DONE.json)  joined/  search.json  images.json
                                evaluation.json
    <storage>/stages/<key>/     <run>.json of each run with a stage of these inputs, see `run.reuse`
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from crowddist import storage
from crowddist.errors import InputError

# Of the run.
CONFIG, DATA, LIMIT = "config.json", "data.json", "density_limit.json"
TRACKING, TIMELINE, RESULT, REPORT, PICTURES = "mlflow.json", "timeline.json", "result.json", "report.html", "pictures"
SECOND = "second_counter.pt"
# Of a stage.
INPUTS, CHECKPOINTS, LATEST, CURVE, DONE = "inputs.json", "checkpoints", "latest.json", "curve.jsonl", "DONE.json"
# Of a round, beside its stages.
LABELS, TRANSLATED, JOINED, ZOOMS = "labels", "translated", "joined", "zooms"
SEARCH, IMAGES, EVALUATION = "search.json", "images.json", "evaluation.json"
# Beside the runs.
STAGES = "stages"


PACKAGED: Mapping[str, Path] = {"rendered": Path(__file__).parents[1] / "counters" / "rendered.pt"}
"""Name of a counter that comes with the package -> its checkpoint, with the intervals' file and a card beside it. The
first counts where none is named."""


def intervals_url(checkpoint_url: str | os.PathLike[str]) -> str:
    """The file beside a checkpoint that gives its counts their intervals, see `inference.intervals`."""
    return f"{storage.normalise(checkpoint_url).removesuffix('.pt')}.intervals.json"


def find_checkpoint(where: str | os.PathLike[str]) -> str:
    """The last checkpoint of a finished run, given its folder (which may have moved); or the checkpoint itself, given
    its place or a name in `PACKAGED`.
    """
    url = storage.normalise(PACKAGED.get(os.fspath(where), where))
    if not storage.is_folder(url):
        return url
    try:
        result = storage.read_json(storage.join(url, RESULT))
        return storage.join(url, result["checkpoint"].rpartition(f"/{result['run']}/")[2])
    except (FileNotFoundError, InputError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{url} is not the folder of a run that has ended (no {RESULT}); "
                         f"give that, or a .pt file of a run's checkpoints folder") from error
