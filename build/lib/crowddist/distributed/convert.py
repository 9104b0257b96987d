"""Conversion on a cluster: Ray tasks read, check and shrink raw images; the driver writes them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from crowddist.data.convert.base import ITEMS_AHEAD, Made
from crowddist.data.convert.layout import Item
from crowddist.distributed.runtime import connect, prepare_environment
from crowddist.errors import InputError


def in_order_on_cluster(items: Iterable[Item], make: Callable[[Item], Made],
                        num_workers: int) -> Iterator[tuple[Item, Callable[[], Made]]]:
    """As `convert.base.in_order`, with Ray tasks of one CPU instead of threads; Ray repeats a task whose worker died.
    An item whose workers die every time raises InputError, as a damaged one does. Every node must find the images at
    their paths.
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
                yield first, partial(_result, first, made)
        while ahead:
            first, made = ahead.popleft()
            yield first, partial(_result, first, made)
    finally:
        for _, made in ahead:
            ray.cancel(made)


def cluster_cpus() -> int:
    prepare_environment()
    connect()
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


def _result(item: Item, reference: Any) -> Any:
    import ray
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except (OutOfMemoryError, WorkerCrashedError) as error:
        why = "memory ran out" if isinstance(error, OutOfMemoryError) else "they crashed, or memory ran out"
        raise InputError(f"{item.image}: no process that read it lived to its end: {why}; read fewer images at once "
                         "(--num-workers), or leave it out with --skip-bad") from None
