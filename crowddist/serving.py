"""The counter as MLflow serves it: takes arrays of images, returns a row with count and uncertainty for each."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

import crowddist

if TYPE_CHECKING:
    from pathlib import Path

    import pandas
    from mlflow.entities import LoggedModel

    from crowddist.inference.predictor import Predictor

COLUMNS = ("count", "uncertainty")
"""Persons in the image, and the count's standard deviation over the ensemble."""


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
            N rows of `COLUMNS`, float64 persons.

        Raises:
            ValueError: another shape or type.
        """
        import pandas

        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be (N, H, W, 3) uint8 RGB, got {images.shape} {images.dtype}")
        rows = [(found.count, found.uncertainty) for found in map(self._predictor.predict, images)]
        return pandas.DataFrame(rows, columns=list(COLUMNS), dtype=np.float64)


def _load_pyfunc(checkpoint_file: str) -> ServedCounter:
    """Called by MLflow with the path of the stored checkpoint."""
    from crowddist.inference.predictor import Predictor

    return ServedCounter(Predictor.from_checkpoint(checkpoint_file))


def save_model(folder: Path, checkpoint_file: Path, logged: LoggedModel) -> None:
    """Writes `folder` in MLflow's model format: the checkpoint, the signature, and the packages to install."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    ids: dict[str, Any] = {"run_id": logged.source_run_id, "model_uuid": logged.model_id, "model_id": logged.model_id}
    with warnings.catch_warnings():
        # MLflow asks for an example input; the signature replaces it.
        warnings.filterwarnings("ignore", message=".*An input example was not provided", category=UserWarning)
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module=__name__,
            data_path=str(checkpoint_file),
            mlflow_model=Model(artifact_path=logged.artifact_location, **ids),
            signature=ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
                                     outputs=Schema([ColSpec("double", name) for name in COLUMNS])),
            # Otherwise MLflow would load the model in another process to see its imports.
            pip_requirements=[f"crowddist=={crowddist.__version__}", f"mlflow=={mlflow.__version__}"],
        )
