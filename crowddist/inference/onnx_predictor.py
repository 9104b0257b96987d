"""OnnxPredictor: counts by a file of `crowddist export`, run by ONNX Runtime. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crowddist import storage
from crowddist.data.sample import Seen, Verdict
from crowddist.errors import InputError
from crowddist.inference.base_predictor import BasePredictor, require_sizes
from crowddist.inference.intervals import LEVEL, Calibration, calibration_of, intervals_of
from crowddist.methods.base import density_verdict
from crowddist.process.typed_record import of_record

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FACTS, FORMAT = "crowddist", 1
"""Key of a file's metadata with the counter's facts as JSON, and the version of their form."""
INPUT, OUTPUTS = "images", ("density", "spread", "member_counts")
"""(N, H, W, 3) uint8 RGB -> (N, h, w) persons per cell, (N, h, w) their deviation over the members, and (N, M) persons
by each member; all float32."""


@dataclass(frozen=True, kw_only=True)
class OnnxCounter:
    """What a file tells of its counter beside the network; makes counts of what the network sees."""

    method: str
    backbone: str
    ensemble: str
    num_members: int
    image_size: int
    """Longest side that images are resized to, px; 0: not resized."""
    zooms: tuple[float, ...]
    output_stride: int
    margin_px: int
    sigma_px: float
    min_certainty: float
    """Of `select`."""
    version: str
    """Of the crowddist that wrote the file."""
    calibration: Calibration | None

    def to_json(self) -> str:
        """For the file's metadata; `counter_of` reads it."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    def conclude(self, seen: Seen, *, labels: bool = True) -> Verdict:
        """See `methods.base.Method.conclude`."""
        del labels
        return density_verdict(seen, self.output_stride, self.sigma_px)

    def select(self, density: np.ndarray, certainty: np.ndarray) -> np.ndarray:
        """See `methods.base.Method.select`."""
        del density
        return certainty >= self.min_certainty


def counter_of(text: str | None, place: str) -> OnnxCounter:
    """The facts of a file. Raises InputError, with `place`, where they are none, or of another form."""
    wrong = InputError(f"{place} is no counter that crowddist export wrote; give one, or the folder of a run")
    try:
        facts = json.loads(text or "")
        number = facts.pop("format")
        if number == FORMAT:
            kept = facts.pop("calibration")
            calibration = None if kept is None else calibration_of(kept, place)
            return replace(of_record(OnnxCounter, facts | {"calibration": None}), calibration=calibration)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise wrong from None
    raise InputError(f"{place} has the format {number!r:.40}, this crowddist reads {FORMAT}; export the counter anew")


class OnnxPredictor(BasePredictor):
    """Runs an exported counter on images; the same results as its `Predictor` but for rounding.

    Args:
        session: of the file.
        counter: its facts.
        image_size, zooms: as for `Predictor`; None: those of the file.
    """

    method: OnnxCounter

    def __init__(self, session: InferenceSession, counter: OnnxCounter, *, image_size: int | None = None,
                 zooms: Sequence[float] | None = None) -> None:
        super().__init__(counter, image_size=counter.image_size if image_size is None else image_size,
                         zooms=counter.zooms if zooms is None else zooms)
        self._session = session

    @classmethod
    def from_file(cls, place: str | os.PathLike[str], *, image_size: int | None = None,
                  zooms: Sequence[float] | None = None, device: str = "auto", level: float = LEVEL) -> OnnxPredictor:
        """The predictor of a file of `crowddist export`.

        Args:
            place: path or URL.
            image_size, zooms, level: see `Predictor.from_checkpoint`.
            device: cpu, cuda or cuda:1; auto: the GPU where this ONNX Runtime can use one.

        Raises:
            FileNotFoundError, InputError: there is no such file or device, it holds no counter, or ONNX Runtime is not
                installed.
        """
        require_sizes(image_size, zooms)
        url = storage.normalise(place)
        predictor = cls.from_bytes(storage.read_bytes(url), storage.shown(url), image_size=image_size, zooms=zooms,
                                   device=device)
        predictor.intervals = intervals_of(predictor.method.calibration, level, image_size=predictor.image_size,
                                           zooms=predictor.zooms)
        return predictor

    @classmethod
    def from_bytes(cls, data: bytes, name: str, *, image_size: int | None = None, zooms: Sequence[float] | None = None,
                   device: str = "auto") -> OnnxPredictor:
        """As `from_file`, without intervals; `name` stands in messages."""
        session = _session(data, name, device)
        counter = counter_of(session.get_modelmeta().custom_metadata_map.get(FACTS), name)
        return cls(session, counter, image_size=image_size, zooms=zooms)

    def see_batch(self, images: Sequence[np.ndarray]) -> list[Seen]:
        density, spread, counts = self._session.run(OUTPUTS, {INPUT: np.stack(images)})
        size = (images[0].shape[0], images[0].shape[1])
        return [Seen(size=size, density=density[index], spread=spread[index],
                     member_counts=counts[index].astype(np.float64)) for index in range(len(images))]


def _session(data: bytes, name: str, device: str) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("counting by a file of ONNX needs onnxruntime; pip install 'crowddist[export]'") from None
    options = onnxruntime.SessionOptions()
    # Its threads are not OpenMP's; those who set this mean them too. 0: one a core.
    options.intra_op_num_threads = int(threads) if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() else 0
    try:
        return onnxruntime.InferenceSession(data, options, providers=_providers(device, name))
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's own classes have no common base
        reason = str(error).splitlines()[0]
        raise InputError(f"{name} cannot be run by ONNX Runtime: {reason}; give a file of crowddist export") from None


def _providers(device: str, name: str) -> list[Any]:
    """What runs the network, by ONNX Runtime's names, best first."""
    import onnxruntime

    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    has_cuda = cuda in onnxruntime.get_available_providers()
    device = str(device)
    kind, _, index = device.partition(":")
    if device == "cpu" or (device == "auto" and not has_cuda):
        return [cpu]
    if device == "auto" or (kind == "cuda" and has_cuda and (index.isdecimal() or device == "cuda")):
        return [(cuda, {"device_id": int(index or 0)}), cpu]
    raise InputError(f"{name} cannot be run on {device!r} by this ONNX Runtime; choose auto or cpu"
                     + ("" if has_cuda or kind != "cuda" else ", or install onnxruntime-gpu in its place"))
