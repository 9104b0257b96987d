"""A counter in a small file, to be handed on: what counting needs, in half precision."""

from __future__ import annotations

from dataclasses import replace

import torch

from crowddist.config import from_json, to_json
from crowddist.errors import InputError
from crowddist.inference.intervals import read_calibration, write_calibration
from crowddist.run import checkpoint
from crowddist.storage.run_folder import find_checkpoint


def write_small_counter(model: str, output: str) -> int:
    """Writes a counter's networks and settings, and its intervals beside them.

    Matrices and convolutions go to half precision, which moves a count by about a thousandth; statistics and offsets
    stay as they are. Optimizers, the run's name, its storage and MLflow's store are left out; the names of its data
    stay.

    Args:
        model: a run's folder or checkpoint, path or URL.
        output: path or URL that ends on .pt.

    Returns:
        Bytes of the file.

    Raises:
        FileNotFoundError, InputError: there is no such counter, or `output` has another ending.
    """
    if not output.endswith(".pt"):
        raise InputError(f"a counter's file ends on .pt, got {output}")
    url = find_checkpoint(model)
    content = checkpoint.load(url)
    method = content["method"]
    if method.get("trained"):
        raise InputError(f"the checkpoint of a {method['trained']} alone counts nothing; give the one that result.json "
                         "names")
    config = replace(from_json(content["config"]), storage="runs", run_name="", tracking_uri="", experiment="")
    networks = {name: tensor.half() if tensor.ndim > 1 and tensor.dtype == torch.float32 else tensor
                for name, tensor in method["networks"].items()}
    kept = {"stage": content.get("stage", ""), "config": to_json(config),
            "method": {"trained": "", "networks": networks, "optimizers": {}}}
    size = checkpoint.write(output, content["step"], kept)
    calibration = read_calibration(url)
    if calibration is not None:
        write_calibration(output, calibration)
    return size
