"""The dry run on a cluster: every live node checks itself in a small task."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from crowddist.errors import InputError
from crowddist.preflight.checks import Expected, look_at_node
from crowddist.preflight.table import Row, looked

NODES_S = 45.0
"""Time for all nodes together."""
CONNECT_S = 5.0
"""Time for the head to accept a connection; Ray itself tries for minutes."""


def look_at_nodes(expected: Expected) -> list[Row]:
    """Joins the cluster, or starts a private Ray, checks every node, leaves. Returns Ray's rows, then the nodes'."""
    address = os.environ.get("RAY_ADDRESS") or "here"
    joined = looked("Ray", address, lambda: _join(expected), advice="start the cluster, or correct RAY_ADDRESS")
    if joined.state != "ok":
        return [joined]
    import ray

    try:
        config, has = expected.config, ray.cluster_resources()
        room = looked("workers", address, lambda: enough(has, config.group_sizes()[0], config.num_workers))
        return [joined, room, *node_rows(expected)]
    finally:
        ray.shutdown()


def node_rows(expected: Expected, *, timeout_s: float = NODES_S) -> list[Row]:
    """The rows of every node of this process's cluster; a node without an answer in time gets a FAILED row."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from crowddist.distributed.heartbeat import usable_nodes

    task: Any = ray.remote(num_cpus=0, max_retries=0)(look_at_node)
    asked = []
    for node in usable_nodes():
        here = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False))
        where, num_gpus = name_of(node), int(node["Resources"].get("GPU", 0))
        asked.append((where, here.remote(expected, where, num_gpus)))
    end = time.monotonic() + timeout_s
    return [row for where, answer in asked for row in _answer(where, answer, max(end - time.monotonic(), 0.0))]


def name_of(node: Mapping[str, Any]) -> str:
    """A node's host and the start of its id, as several nodes may share a host."""
    return f"{node['NodeManagerHostname']} {node['NodeID'][:6]}"


def _answer(where: str, answer: Any, timeout_s: float) -> list[Row]:
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        return ray.get(answer, timeout=timeout_s)
    except GetTimeoutError:
        ray.cancel(answer, force=True)
        reason = f"no answer within {NODES_S:.0f} s: look at its Ray logs, its load and its disk"
    except RayError as error:
        reason = (f"cannot look at itself: {str(error).strip().splitlines()[-1]}; start Ray there with the same "
                  "Python, and crowddist installed")
    return [Row("node", where, "FAILED", reason)]


def _join(expected: Expected) -> str:
    """Connects. Raises InputError or OSError if there is no cluster, or it refuses."""
    from crowddist.distributed.runtime import connect, prepare_environment, ray_address

    address = ray_address()
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise InputError(f"no Ray answers at RAY_ADDRESS {address} ({error.strerror or error}): start the cluster, "
                             "or correct the address") from None
    prepare_environment()  # before the import of ray
    import ray

    from crowddist.distributed.heartbeat import usable_nodes

    config = expected.config
    fewest, wanted = config.group_sizes()[0], max(config.num_workers, config.num_labellers)
    try:
        connect(wanted, fewest)
    except RuntimeError as error:
        raise InputError(f"Ray does not start on this machine: {str(error).splitlines()[0]}") from error
    return f"version {ray.__version__}, {len(usable_nodes())} nodes"


def enough(has: Mapping[str, float], fewest: int, num_workers: int) -> str:
    """Describes the "CPU" and "GPU" a cluster `has`. InputError if `fewest` workers would wait or leave GPUs unused."""
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    if cpus < fewest:
        raise InputError(f"the cluster has {cpus} CPUs for {fewest} workers, and the work would wait: add nodes, or "
                         "give fewer --num-workers")
    if 0 < gpus < fewest:
        raise InputError(f"the cluster has {gpus} GPUs for {fewest} workers, and all would run on CPUs: give "
                         f"--num-workers {gpus}, or add GPUs")
    return f"{cpus} CPUs and {gpus} GPUs for {num_workers} workers"
