"""The registered model, loaded by MLflow as anybody would load it, against the predictor it wraps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from crowddist import checkpoint, serving, storage
from crowddist.config import RunConfig, to_json
from crowddist.methods.table import build_method
from crowddist.predictor import Predictor


@pytest.fixture(scope="module")
def counter_file(tmp_path_factory):
    """A checkpoint of a counter that knows nothing yet."""
    config = RunConfig(recipe="quickstart", source="renderer:source:4", target="renderer:target:4")
    content = {"config": to_json(config), "method": build_method(config).state_dict()}
    return storage.local_file(checkpoint.save(str(tmp_path_factory.mktemp("stage")), 1, content))


def test_the_stored_model_counts_like_the_predictor(counter_file, tmp_path):
    logged = SimpleNamespace(artifact_location=str(tmp_path), source_run_id="0" * 32, model_id="m-1")
    serving.save_model(tmp_path / "model", counter_file, logged)
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    rows = model.predict(images)
    expected = [Predictor.from_checkpoint(str(counter_file)).predict(image) for image in images]
    assert list(rows.columns) == list(serving.COLUMNS) and (rows.dtypes == np.float64).all()
    assert rows["count"].tolist() == pytest.approx([found.count for found in expected], rel=1e-6)
    assert rows["uncertainty"].tolist() == pytest.approx([found.uncertainty for found in expected], rel=1e-6)
    # The signature refuses what would be counted wrongly: images in [0, 1].
    with pytest.raises(mlflow.exceptions.MlflowException, match="schema"):
        model.predict(images / 255)


def test_without_a_signature_the_shape_is_checked_as_well(counter_file):
    served = serving._load_pyfunc(str(counter_file))
    for wrong in (np.zeros((64, 96, 3), np.uint8), np.zeros((1, 64, 96, 4), np.uint8), np.zeros((1, 64, 96, 3))):
        with pytest.raises(ValueError, match=r"images must be \(N, H, W, 3\) uint8 RGB"):
            served.predict(wrong)
    assert served.predict(np.zeros((0, 64, 96, 3), np.uint8)).shape == (0, 2)
