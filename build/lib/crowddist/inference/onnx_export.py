"""Writes a counter as one file of ONNX that holds all that counting needs, once it counts like the counter itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

import crowddist
from crowddist import storage
from crowddist.data.sample import Seen
from crowddist.data.transforms import resize_pixels
from crowddist.errors import InputError
from crowddist.inference.intervals import read_calibration
from crowddist.inference.onnx_predictor import FACTS, INPUT, OUTPUTS, OnnxCounter, OnnxPredictor
from crowddist.inference.open_counter import ONNX
from crowddist.inference.predictor import Predictor
from crowddist.methods.base import Method
from crowddist.methods.parts.counting import CountingMethod
from crowddist.methods.table import METHODS, facts_of
from crowddist.models.folding import plain_layers
from crowddist.models.spatial import SpatialEncoder
from crowddist.randomness import generator

TOLERANCE = 1e-4
"""Largest difference between both counters: of a cell as a part of the largest density, of a count as a part of it."""
CHECKED = ((1, 64, 96), (2, 75, 101), (1, 33, 250), (3, 8, 40), (1, 203, 160))
"""Number, height and width in px of the batches that both counters see: multiples of the strides and others."""
_TRACED = (2, 100, 150)  # a size of 1 would be taken for a constant
_AXES = {0: "images", 1: "height", 2: "width"}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_counter(checkpoint_url: str, output: str, *, say: Callable[[str], None] = print) -> None:
    """Writes `output`, path or URL, an ONNX file of a checkpoint's counter: pixels in, densities out, for any number of
    images of any size; `OnnxPredictor` counts by it.

    The file is written only once it has been run on images of several sizes and differs from the counter in PyTorch by
    `TOLERANCE` at most.

    Raises:
        FileNotFoundError, InputError: there is no such counter, ONNX has no form for it, the packages are not
            installed, or the file would count otherwise.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise InputError(f"crowddist export needs {', '.join(missing)}; pip install 'crowddist[export]'")
    url = storage.normalise(output)
    if not url.endswith(ONNX):
        raise InputError(f"{output} must end with {ONNX}, by which crowddist count knows such a file")
    if checkpoint_url.endswith(ONNX):
        raise InputError(f"{storage.shown(checkpoint_url)} is a file of ONNX already; give the folder of a run")
    predictor = Predictor.from_checkpoint(checkpoint_url)
    method = _exportable(predictor.method)
    batches = [_images(*shape) for shape in CHECKED]
    expected = [predictor.see_batch(images) for images in batches]
    data = _serialised(method, _facts(method, checkpoint_url))
    exported = OnnxPredictor.from_bytes(data, storage.shown(url), device="cpu")
    worst = max(difference(seen, exported.see_batch(images))
                for seen, images in zip(expected, batches, strict=True))
    if not worst <= TOLERANCE:
        raise InputError(f"the exported counter differs from {checkpoint_url} by {worst:.1e} of the density, more than "
                         f"{TOLERANCE:g}; nothing is written, count with the run itself")
    storage.write_bytes(url, data)
    say(f"{output}: {len(data) / 1e6:.1f} MB; differs from the counter in PyTorch by {worst:.0e} of the density at "
        f"most, on images of {len(CHECKED)} sizes")


def difference(expected: Sequence[Seen], found: Sequence[Seen]) -> float:
    """The largest difference between what two counters see: of a cell as a part of the largest density of its image, of
    a member's count as a part of it. NaN or infinite where one of them is.
    """
    parts: list[float] = []
    for one, other in zip(expected, found, strict=True):
        if one.density.shape != other.density.shape or len(one.member_counts) != len(other.member_counts):
            return float("inf")
        largest = max(float(one.density.max()), 1e-9)
        parts += [float(np.abs(one.density - other.density).max()) / largest,
                  float(np.abs(one.spread - other.spread).max()) / largest,
                  float((np.abs(one.member_counts - other.member_counts)
                         / np.maximum(np.abs(one.member_counts), 1e-9)).max())]
    return float(np.max(parts))


def exportable_methods() -> list[str]:
    """The methods whose count is the density of a counter; the others have a detector too."""
    return [name for name, facts in METHODS.items() if "detector" not in facts.networks]


def _exportable(method: Method) -> CountingMethod:
    """The method. Raises InputError where ONNX has no form for its networks."""
    config = method.config
    if "detector" in facts_of(config.method).networks or not isinstance(method, CountingMethod):
        raise InputError(f"a counter of the method {config.method} cannot be exported, as a detector takes part in its "
                         f"count; those of {', '.join(exportable_methods())} can")
    if any(isinstance(layer, SpatialEncoder) for layer in method.counter.modules()):
        raise InputError(f"a counter with the published decoder behind {config.counter.backbone} cannot be exported, "
                         "as it goes over an image row by row; one of efficientnet or compact can")
    if config.counter.ensemble == "dropout":
        raise InputError("a counter with an ensemble of dropouts cannot be exported; one of masksembles, deep or none "
                         "can")
    return method


def _facts(method: CountingMethod, checkpoint_url: str) -> OnnxCounter:
    config = method.config
    return OnnxCounter(
        method=config.method, backbone=config.counter.backbone, ensemble=config.counter.ensemble,
        num_members=config.counter.num_members, image_size=method.stream.image_size, zooms=method.stream.zooms,
        output_stride=method.output_stride, margin_px=method.margin_px, sigma_px=method.stream.sigma_px,
        min_certainty=config.self_supervision.min_certainty, version=crowddist.__version__,
        calibration=read_calibration(checkpoint_url))


class _Graph(nn.Module):
    """All of a counter, from pixels to what is known of a batch."""

    def __init__(self, method: CountingMethod) -> None:
        super().__init__()
        self.counter = method.counter  # so that its weights are this module's
        self._member_maps = method.member_maps

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, H, W, 3) uint8 RGB -> `OUTPUTS`."""
        maps = self._member_maps(images.permute(0, 3, 1, 2).float() / 255)
        return maps.mean(0)[:, 0], maps.std(0, unbiased=False)[:, 0], maps.sum((2, 3, 4)).T


def _serialised(method: CountingMethod, facts: OnnxCounter) -> bytes:
    """The file's bytes. Changes the method's networks, see `plain_layers`."""
    graph = _Graph(method).eval()
    plain_layers(graph)
    logger, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own code
            program = torch.onnx.export(graph, (torch.from_numpy(np.stack(_images(*_TRACED))),), dynamo=True,
                                        input_names=[INPUT], output_names=list(OUTPUTS), dynamic_shapes=(_AXES,),
                                        verbose=False)
    except Exception as error:  # of any part of the exporter
        reason = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"the counter cannot be written as ONNX by PyTorch {torch.__version__}: {reason}") from error
    finally:
        logger.setLevel(level)
    assert program is not None  # by dynamo=True
    model = program.model_proto
    model.producer_name, model.producer_version = "crowddist", crowddist.__version__
    model.metadata_props.add(key=FACTS, value=facts.to_json())
    # Sizes inside are told by torch's own formulas, which other programs cannot read.
    del model.graph.value_info[:]
    for output, names in zip(model.graph.output, (("images", "rows", "columns"),) * 2 + (("images",),), strict=True):
        for axis, name in zip(output.type.tensor_type.shape.dim, names, strict=False):
            axis.dim_param = name
    return model.SerializeToString()


def _images(number: int, height: int, width: int) -> list[np.ndarray]:
    """Images with grain and with larger patches, the same at any time."""
    rng = generator(0, "onnx", f"{number} {height} {width}")
    images = []
    for _ in range(number):
        patches = rng.integers(0, 226, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        images.append(resize_pixels(patches, (height, width)) + rng.integers(0, 30, (height, width, 3), dtype=np.uint8))
    return images
