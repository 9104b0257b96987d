"""What a dry run asks of a machine: versions, disk, shared memory, GPUs."""

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
"""ours: checkpoints, labels and converted shards of the smallest published run."""
LEAST_SHARED_BYTES = 512 * 2**20
"""ours: of /dev/shm. Ray's object store and reader processes live there; containers have 64 MiB of it unless they are
told otherwise."""
GPU_S = 40
"""How long torch may take to look for GPUs."""
_GPU_FACTS = """
import json, torch
nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
number = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"num_gpus": number, "cuda": torch.version.cuda, "nccl": nccl,
                  "names": [torch.cuda.get_device_name(i) for i in range(number)]}))
"""


def versions() -> dict[str, str]:
    """Of Python, of the libraries that must agree on all nodes ("" where one is missing), and of crowddist with its
    code's hash.
    """
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found | {"crowddist": f"{crowddist.__version__} (code {_code()})"}


def versions_row(wanted: Mapping[str, str], found: Mapping[str, str], where: str) -> Row:
    """Whether everything is installed, and the same as where the driver is."""

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
    """Whether there is free disk space.

    Args:
        folders: what for -> a folder, which need not be there yet.
        least: bytes that must be free.
    """

    def look() -> str:
        told = []
        for purpose, folder in folders.items():
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            free = shutil.disk_usage(there).free
            if free < least:
                raise InputError(f"{free / 2**30:.1f} GiB are free at {there} for {purpose}, {least / 2**30:.1f} are "
                                 "needed: make room, "
                                 "or choose another place")
            told.append(f"{purpose} {free / 2**30:.0f} GiB free")
        return ", ".join(told)

    return looked("disk", where, look)


def shared_memory_row(where: str, *, folder: str = "/dev/shm", least: int = LEAST_SHARED_BYTES) -> Row:
    """Whether /dev/shm is large enough, in bytes; a system without one needs none."""

    def look() -> str:
        if not Path(folder).is_dir():
            return f"no {folder} on this system"
        size = shutil.disk_usage(folder).total
        if size < least:
            raise InputError(f"{folder} has {size / 2**20:.0f} MiB, {least / 2**20:.0f} are needed: start the "
                             "container with --shm-size=2g, "
                             "or mount a memory-backed volume there")
        return f"{size / 2**30:.1f} GiB"

    return looked("shared memory", where, look)


def gpu_row(num_promised: int | None, where: str) -> Row:
    """Whether torch sees the GPUs that a machine promises, and has NCCL for them.

    Args:
        num_promised: by its cluster; None: by CUDA_VISIBLE_DEVICES, else by the devices that the system has.
    """
    environment, promise = dict(os.environ), "the cluster promises"
    if num_promised is None:
        num_promised, promise = promised_here()
    else:
        environment.pop("CUDA_VISIBLE_DEVICES", None)  # Ray hides all GPUs from a task that asks for none

    def look() -> str:
        return gpu_detail(num_promised, promise, gpu_facts(environment) if num_promised else {})

    return looked("GPU", where, look)


def gpu_detail(num_promised: int, promise: str, facts: Mapping[str, Any]) -> str:
    """What is said of GPUs.

    Args:
        num_promised: how many there should be.
        promise: who says so.
        facts: of `gpu_facts`.

    Raises:
        InputError: torch sees fewer, or lacks NCCL.
    """
    if not num_promised:
        return "none here: the work is done on CPUs"
    if facts["num_gpus"] < num_promised:
        built = f"was built for CUDA {facts['cuda']}" if facts["cuda"] else "was built without CUDA"
        raise InputError(f"{promise} {num_promised} GPUs, torch sees {facts['num_gpus']} (it {built}): look at "
                         "nvidia-smi and the driver's version, "
                         "and whether the container was given its GPUs")
    if not facts["nccl"]:
        raise InputError("this torch has no NCCL, by which workers on GPUs talk: install a build of torch that has")
    return f"{', '.join(facts['names'])}; CUDA {facts['cuda']}, NCCL"


def promised_here() -> tuple[int, str]:
    """How many GPUs this machine should have, and who says so."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",")
                    if name.strip() not in ("", "-1")]), f"CUDA_VISIBLE_DEVICES={visible} names"
    return len(list(Path("/dev").glob("nvidia[0-9]*"))), "the system has"


def gpu_facts(environment: Mapping[str, str]) -> dict[str, Any]:
    """What torch sees, asked in a process of its own: `num_gpus`, `cuda`, `nccl`, `names`. Raises: InputError where
    that fails.
    """
    try:
        done = subprocess.run([sys.executable, "-c", _GPU_FACTS], env=dict(environment), capture_output=True, text=True,
                              timeout=GPU_S, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(
            f"torch did not say within {GPU_S} s what GPUs there are: look at nvidia-smi and the driver") from None
    if done.returncode:
        raise InputError(f"torch cannot look for GPUs ({(done.stderr.strip() or '?').splitlines()[-1]}): install it "
                         "anew")
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def _code() -> str:
    """A short hash of crowddist's own files."""
    digest, root = hashlib.sha256(), Path(crowddist.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:8]
