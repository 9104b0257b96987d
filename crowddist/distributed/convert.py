"""Conversion on a cluster: Ray tasks read, check and shrink raw images wherever there is room, and the driver writes
them in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from crowddist.data.convert.base import ITEMS_AHEAD, Item, Made
from crowddist.distributed.runtime import connect, prepare_environment


def in_order_on_cluster(items: Iterable[Item], make: Callable[[Item], Made],
                        num_workers: int) -> Iterator[tuple[Item, Callable[[], Made]]]:
    """As `convert.base.in_order` with tasks of the cluster in the place of threads; a task whose worker dies is done
    again by another.

    Every node must find the images at their paths.

    Args:
        num_workers: tasks at once; each is counted as one CPU.
    """
    prepare_environment()  # before the import of ray
    connect(num_workers)
    import ray

    task: Any = ray.remote(num_cpus=1)(make)
    ahead: deque[tuple[Item, Any]] = deque()
    try:
        for item in items:
            ahead.append((item, task.remote(item)))
            if len(ahead) > ITEMS_AHEAD * num_workers:
                first, made = ahead.popleft()
                yield first, partial(_result, made)
        while ahead:
            first, made = ahead.popleft()
            yield first, partial(_result, made)
    finally:
        for _, made in ahead:
            ray.cancel(made)


def cluster_cpus() -> int:
    """How many CPUs the cluster has."""
    prepare_environment()
    connect()
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


def _result(reference: Any) -> Any:
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
