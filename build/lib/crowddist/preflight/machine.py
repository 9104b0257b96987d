"""Checks of one machine for a dry run: versions, disk, shared memory, GPUs."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import crowddist
from crowddist.errors import InputError
from crowddist.preflight.table import Row, looked

LIBRARIES = ("torch", "torchvision", "ray", "mlflow")
LEAST_DISK_BYTES = 2 * 2**30
"""ours: room for checkpoints, labels and converted shards of the smallest published run."""
LEAST_SHARED_BYTES = 512 * 2**20
"""ours: /dev/shm holds Ray's object store and the data of reader processes; containers have 64 MiB by default."""
GPU_S = 40
"""Timeout of torch's search for GPUs."""
_GPU_FACTS = """
import json, torch
nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
number = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"num_gpus": number, "cuda": torch.version.cuda, "nccl": nccl,
                  "names": [torch.cuda.get_device_name(i) for i in range(number)]}))
"""


def versions() -> dict[str, str]:
    """Versions of Python, of the libraries that must agree on all nodes ("" if missing), and of crowddist with a hash
    of its code.
    """
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found | {"crowddist": f"{crowddist.__version__} (code {_code()})"}


def versions_row(wanted: Mapping[str, str], found: Mapping[str, str], where: str) -> Row:
    """Checks that everything is installed, in the driver's versions."""

    def look() -> str:
        missing = [name for name, version in found.items() if not version]
        if missing:
            raise InputError(f"{', '.join(missing)} cannot be found there: install crowddist's requirements for "
                             f"{sys.executable}")
        other = [f"{name} {found.get(name) or 'missing'}, the driver has {version}"
                 for name, version in wanted.items() if found.get(name) != version]
        if other:
            raise InputError(f"{'; '.join(other)}: install the same on every node")
        return ", ".join(f"{name} {version}" for name, version in found.items())

    return looked("versions", where, look)


def disk_row(folders: Mapping[str, Path], where: str, *, least: int = LEAST_DISK_BYTES) -> Row:
    """Checks that `least` bytes are free. `folders`: purpose -> folder, which may not exist yet."""

    def look() -> str:
        told = []
        for purpose, folder in folders.items():
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            free = shutil.disk_usage(there).free
            if free < least:
                raise InputError(f"{free / 2**30:.1f} GiB are free at {there} for {purpose}, {least / 2**30:.1f} are "
                                 "needed: make room, or choose another place")
            told.append(f"{purpose} {free / 2**30:.0f} GiB free")
        return ", ".join(told)

    return looked("disk", where, look)


def shared_memory_row(where: str, *, folder: str = "/dev/shm", least: int = LEAST_SHARED_BYTES) -> Row:
    """Checks that /dev/shm has `least` bytes; a system without /dev/shm needs none."""

    def look() -> str:
        if not Path(folder).is_dir():
            return f"no {folder} on this system"
        size = shutil.disk_usage(folder).total
        if size < least:
            raise InputError(f"{folder} has {size / 2**20:.0f} MiB, {least / 2**20:.0f} are needed: start the "
                             "container with --shm-size=2g, or mount a memory-backed volume there")
        return f"{size / 2**30:.1f} GiB"

    return looked("shared memory", where, look)


def gpu_row(num_promised: int | None, where: str) -> Row:
    """Checks that torch sees the GPUs that the cluster, or without a number this machine, promises, and has NCCL."""
    environment, promise = dict(os.environ), "the cluster promises"
    if num_promised is None:
        num_promised, promise = _promised_here()
    else:
        environment.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides all GPUs from a task that requests none
    return looked("GPU", where,
                  lambda: gpu_detail(num_promised, promise, _gpu_facts(environment) if num_promised else {}))


def gpu_detail(num_promised: int, promise: str, facts: Mapping[str, Any]) -> str:
    """The detail of the GPUs' row. Raises InputError if torch sees too few, or lacks NCCL. `promise`: subject and verb
    of the sentence about the source of the number; `facts`: of `_gpu_facts`.
    """
    if not num_promised:
        return "none here: the work is done on CPUs"
    if facts["num_gpus"] < num_promised:
        built = f"was built for CUDA {facts['cuda']}" if facts["cuda"] else "was built without CUDA"
        raise InputError(f"{promise} {num_promised} GPUs, torch sees {facts['num_gpus']} (it {built}): look at "
                         "nvidia-smi and the driver's version, and whether the container was given its GPUs")
    if not facts["nccl"]:
        raise InputError("this torch has no NCCL, which workers on GPUs need to communicate: install a build that has")
    return f"{', '.join(facts['names'])}; CUDA {facts['cuda']}, NCCL"


def _promised_here() -> tuple[int, str]:
    """This machine's number of GPUs, from CUDA_VISIBLE_DEVICES or else /dev, and the source as subject and verb."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return len(list(Path("/dev").glob("nvidia[0-9]*"))), "the system has"
    names = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return len(names), f"CUDA_VISIBLE_DEVICES={visible} names"


def _gpu_facts(environment: Mapping[str, str]) -> dict[str, Any]:
    """`num_gpus`, `cuda`, `nccl` and `names` from torch in a process of its own. Raises InputError if that fails."""
    try:
        done = subprocess.run([sys.executable, "-c", _GPU_FACTS], env=dict(environment), capture_output=True, text=True,
                              timeout=GPU_S, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"torch found no answer within {GPU_S} s: look at nvidia-smi and the driver") from None
    if done.returncode:
        raise InputError(f"torch cannot look for GPUs ({(done.stderr.strip() or '?').splitlines()[-1]}): reinstall it")
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def _code() -> str:
    """A short hash of crowddist's own files."""
    digest, root = hashlib.sha256(), Path(crowddist.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:8]
