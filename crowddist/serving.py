"""The counter as MLflow serves it: takes arrays of images, returns a row with count, uncertainty and interval for each.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import crowddist

if TYPE_CHECKING:
    import pandas
    from mlflow.entities import LoggedModel

    from crowddist.inference.intervals import Calibration
    from crowddist.inference.predictor import Predictor

COLUMNS = ("count", "uncertainty")
"""Persons in the image, and the count's standard deviation over the ensemble."""
INTERVAL_COLUMNS = ("low", "high")
"""The ends of the count's interval, persons; only where the counter has intervals."""


class ServedCounter:
    """The object in `mlflow.pyfunc.load_model`. MLflow builds it with `_load_pyfunc`, so the stored model is a
    checkpoint, not pickled code.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Counts the persons in each image.

        Args:
            images: (N, H, W, 3) uint8 RGB.
            params: ignored; MLflow passes it.

        Returns:
            N rows of `COLUMNS`, and of `INTERVAL_COLUMNS` where the counter has intervals, float64 persons.

        Raises:
            ValueError: another shape or type.
        """
        import pandas

        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be (N, H, W, 3) uint8 RGB, got {images.shape} {images.dtype}")
        rows = [(found.count, found.uncertainty,
                 *((found.interval.low, found.interval.high) if found.interval is not None else ()))
                for found in map(self._predictor.predict, images)]
        intervals = self._predictor.intervals
        with_interval = intervals is not None and intervals.calibration is not None
        return pandas.DataFrame(rows, columns=_columns(with_interval), dtype=np.float64)


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
    from mlflow.types import ColSpec, Schema, TensorSpec

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
            signature=ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
                                     outputs=Schema([ColSpec("double", name) for name in _columns(kept is not None)])),
            # Otherwise MLflow would load the model in another process to see its imports.
            pip_requirements=[f"crowddist=={crowddist.__version__}", f"mlflow=={mlflow.__version__}"],
        )
