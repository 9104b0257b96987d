"""The counter as MLflow serves it: takes what `crowddist count` takes, and arrays; returns a row with count,
uncertainty and interval for each image.
"""

from __future__ import annotations

import base64
import binascii
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import crowddist
from crowddist.data.any_image import any_pixels
from crowddist.errors import InputError

if TYPE_CHECKING:
    import pandas
    from mlflow.entities import LoggedModel

    from crowddist.inference.intervals import Calibration
    from crowddist.inference.predictor import Predictor

COLUMNS = ("count", "uncertainty")
"""Persons in the image, and the count's standard deviation over the ensemble."""
IMAGE = "image"
"""The column with the images, in a table of several columns."""
INTERVAL_COLUMNS = ("low", "high")
"""The ends of the count's interval, persons; only where the counter has intervals."""


class ServedCounter:
    """The object in `mlflow.pyfunc.load_model`. MLflow builds it with `_load_pyfunc`, so the stored model is a
    checkpoint, not pickled code.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Counts the persons in each image.

        Args:
            images: a list, or a table with one column or a column `IMAGE`: paths, addresses, bytes of files, arrays,
                see `any_pixels`, and addresses that hold a file (data:image/jpeg;base64,...); or one of them alone. Or
                an array of all images, (N, H, W, 3) uint8 RGB or another that `any_pixels` takes one by one. Whole
                numbers of any type are taken for uint8, as JSON has but one.
            params: ignored; MLflow passes it.

        Returns:
            N rows of `COLUMNS`, and of `INTERVAL_COLUMNS` where the counter has intervals, float64 persons.

        Raises:
            InputError: they are none of these, or an image cannot be read; with its number, from 0.
        """
        import pandas

        rows = []
        for number, image in enumerate(_listed(images)):
            try:
                found = self._predictor.predict(any_pixels(_plain(image)))
            except InputError as error:
                raise InputError(f"image {number}: {error}") from None
            rows.append((found.count, found.uncertainty,
                         *((found.interval.low, found.interval.high) if found.interval is not None else ())))
        intervals = self._predictor.intervals
        with_interval = intervals is not None and intervals.calibration is not None
        return pandas.DataFrame(rows, columns=_columns(with_interval), dtype=np.float64)


def _listed(images: Any) -> Any:
    """The images one by one."""
    import pandas

    if isinstance(images, pandas.DataFrame):
        if IMAGE not in images and len(images.columns) != 1:
            raise InputError(f"a table of images has a column {IMAGE}, got {', '.join(map(str, images.columns))}")
        return list(images[IMAGE if IMAGE in images else images.columns[0]])
    if isinstance(images, np.ndarray):
        if images.dtype.kind in "OUS":  # of places, bytes, or images of several sizes
            return images.ravel()
        if images.ndim != 4:
            raise InputError(f"images must be (N, H, W, 3) uint8 RGB, or a list of single ones, got {images.shape} "
                             f"{images.dtype}")
        return images
    return list(images) if isinstance(images, pandas.Series | list | tuple) else [images]


def _plain(image: Any) -> Any:
    """An image as `any_pixels` takes it, from what JSON and tables make of it."""
    if isinstance(image, str) and image.startswith("data:"):
        head, _, text = image.partition(",")
        try:
            return base64.b64decode(text if head.endswith(";base64") else "?", validate=True)
        except binascii.Error:
            raise InputError("its data: address is not of the form data:image/jpeg;base64,...") from None
    if isinstance(image, list):
        image = np.asarray(image)
    if isinstance(image, np.ndarray) and image.dtype.kind in "iu" and image.dtype.itemsize != 2 and image.size:
        if image.min() < 0 or image.max() > 255:
            raise InputError(f"whole numbers of pixels must be 0 to 255, got {image.min()} to {image.max()}")
        return image.astype(np.uint8)
    return image


def _columns(with_interval: bool) -> list[str]:
    return [*COLUMNS, *(INTERVAL_COLUMNS if with_interval else ())]


def _load_pyfunc(place: str) -> ServedCounter:
    """Called by MLflow with the path of the stored checkpoint, or of the folder that holds it and its calibration."""
    from crowddist.inference.predictor import Predictor

    return ServedCounter(Predictor.from_checkpoint(str(next(Path(place).glob("*.pt"), place))))


def save_model(folder: Path, checkpoint_file: Path, logged: LoggedModel,
               calibration: Calibration | None = None) -> None:
    """Writes `folder` in MLflow's model format: the checkpoint, the signature, and the packages to install.

    Args:
        calibration: gives the counts their intervals; None: they have none.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    from crowddist.inference.intervals import LEVEL, write_calibration

    kept = calibration if calibration is not None and calibration.is_enough(LEVEL) else None
    ids: dict[str, Any] = {"run_id": logged.source_run_id, "model_uuid": logged.model_id, "model_id": logged.model_id}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as beside:
        stored = checkpoint_file
        if kept is not None:
            stored = Path(beside) / "counter"
            stored.mkdir()
            shutil.copyfile(checkpoint_file, stored / "checkpoint.pt")
            write_calibration(str(stored / "checkpoint.pt"), kept)
        # MLflow asks for an example input; the signature replaces it.
        warnings.filterwarnings("ignore", message=".*An input example was not provided", category=UserWarning)
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module=__name__,
            data_path=str(stored),
            mlflow_model=Model(artifact_path=logged.artifact_location, **ids),
            # Of the outputs alone: a schema of inputs lets either tensors or tables through, and `predict` checks both.
            signature=ModelSignature(outputs=Schema([ColSpec("double", name) for name in _columns(kept is not None)])),
            # Otherwise MLflow would load the model in another process to see its imports.
            pip_requirements=[f"crowddist=={crowddist.__version__}", f"mlflow=={mlflow.__version__}"],
        )
