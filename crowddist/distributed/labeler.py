"""Resident Ray actors that label and evaluate: each loads the model once, and every unit of work is done once."""

from __future__ import annotations

from collections import deque
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.launcher import UnitWorker

MAX_TRIES = 3
"""Actors that may die over one unit of work before it counts as poisonous."""


def run_units(
    call: str, checkpoint_url: str, data_url: str, arguments: tuple[Any, ...], *, num_actors: int, threads: int, use_gpu: bool = False
) -> list[Any]:
    """Calls `UnitWorker.<call>(unit, *arguments)` for every unit of a data set on resident actors.

    A unit whose actor dies is given to another one, and a new actor takes the dead one's place.

    Returns:
        The results in the order of the units, whatever order they were done in.

    Raises:
        RuntimeError: a unit that `MAX_TRIES` actors died over; it names the images.
        InputError, FileNotFoundError: what the work itself raised.
    """
    units = work_units(len(ShardReader(data_url)))
    waiting = deque(range(len(units)))
    tries = [0] * len(units)
    results: dict[int, Any] = {}
    under_way: dict[ray.ObjectRef, tuple[int, Any]] = {}
    worker = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0)(UnitWorker)

    def give(actor: Any) -> None:
        if waiting:
            index = waiting.popleft()
            tries[index] += 1
            under_way[getattr(actor, call).remote(units[index], *arguments)] = (index, actor)

    def new_actor() -> Any:
        return worker.remote(checkpoint_url, data_url, device="cuda" if use_gpu else "cpu", threads=threads)

    for _ in range(min(num_actors, len(units))):
        give(new_actor())
    while under_way:
        (ready,), _ = ray.wait(list(under_way), num_returns=1)
        index, actor = under_way.pop(ready)
        try:
            results[index] = ray.get(ready)
        except (ActorDiedError, ActorUnavailableError) as error:
            if tries[index] >= MAX_TRIES:
                first, last = units[index].start, units[index].stop - 1
                raise RuntimeError(f"{MAX_TRIES} actors died over images {first} to {last} of {data_url}: {error}") from error
            waiting.appendleft(index)
            actor = new_actor()
        except RayTaskError as error:
            raise error.as_instanceof_cause() if error.cause is None else error.cause from error
        give(actor)
    return [results[index] for index in range(len(units))]
