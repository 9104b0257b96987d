"""Where does adaptation stop scaling? A model on paper, and a small simulation of its failures, for 8 to 512 GPUs; and
how long a round takes on 1 to 64 cores.

    python tests/benchmarks/scale_model.py
    python tests/benchmarks/scale_model.py --step-s 0.4 --gradient-mb 65 --network-gbit 25 --node-mtbf-h 500
    python tests/benchmarks/scale_model.py --images 10000 --label-s 0.5

Every figure is computed from the assumptions that are printed above the tables; none was measured on so many GPUs or
cores. Put in your own: the time of a step without synchronisation, the network, how often machines are lost.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import tyro

SIMULATED_FAILURES = 400
"""As many failures are drawn for each size of cluster: the mean is known to some 5 %."""

CONVERT_S, LABEL_S, CORE_STEP_S = 0.01, 0.94, 0.576
"""The first is assumed; the others are of a run of the recipe `pretrain`, see docs/results/speed.md."""
BATCH = 8
"""Crops of a step on cores."""
LABEL_EFFICIENCY = 0.97
"""Of several actors against as many times one: assumed; `test_scale.py` holds 0.9 in a simulation."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the model takes for granted."""

    step_s: float = 0.25
    """Time of a training step of one GPU without synchronisation, s."""
    step_spread: float = 0.05
    """Standard deviation of that time over GPUs and steps, relative: all wait for the slowest."""
    batch_per_gpu: int = 8
    """Crops of a step on one GPU; the same on any number (weak scaling)."""
    gradient_mb: float = 65.0
    """Gradients of a step, MB: 65 for VGG-16 with its decoder."""
    backward_share: float = 0.6
    """Part of a step during which gradients are already on their way, as DDP's buckets are."""
    bucket_mb: float = 25.0
    """The last bucket, which nothing hides, MB (DDP's default)."""
    gpus_per_node: int = 8
    """GPUs that share a machine."""
    nvlink_gbyte_s: float = 100.0
    """Bandwidth between the GPUs of a machine, GB/s, of each."""
    network_gbit: float = 100.0
    """Network of a machine, Gbit/s."""
    latency_us: float = 30.0
    """Of one message between machines, microseconds."""
    sample_mb: float = 0.5
    """A stored image, MB."""
    store_gbit: float = 100.0
    """What the object store gives all machines together, Gbit/s."""
    cached_share: float = 0.0
    """Part of the reads that the nodes' caches answer: 0 in the first epoch, near 1 afterwards where a data set fits a
    node's disk."""
    checkpoint_mb: float = 195.0
    """Networks and Adam's moments, MB: 195 for VGG-16 with its decoder."""
    checkpoint_every: int = 1000
    """Steps from one checkpoint to the next."""
    upload_mb_s: float = 200.0
    """At which rank 0 writes it, MB/s. The model has all wait, where the engine trains meanwhile: a bound."""
    node_mtbf_h: float = 1000.0
    """Mean time between losses of a machine, hours, of each."""
    restart_s: float = 180.0
    """From a loss to the first step again, s: with Ray's wait for what is gone."""
    images: int = 10_000
    """A round on cores: images to adapt to."""
    convert_s: float = CONVERT_S
    """Converting an image, s of a core."""
    label_s: float = LABEL_S
    """Labelling an image at three zooms, s of a core."""
    core_step_s: float = CORE_STEP_S
    """A training step of 8 crops, s of a core."""
    steps: int = 1800
    """Training steps, on the source and in one round, however many images there are."""
    start_s: float = 40.0
    """Starting a group of workers, or actors, s: each starts once, and stays from training to training, from labels to
    evaluation."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One size of cluster."""

    num_gpus: int
    step_s: float
    """Of all GPUs together, s: the slowest one, the gradients that nothing hides, the images that are late."""
    sync_s: float
    """The part of it that gradients take."""
    samples_per_s: float
    """Where nothing is lost."""
    checkpoint_share: float
    """Part of the time that goes into checkpoints."""
    failure_share: float
    """Part of the time that failures take: steps that are done again, and starts."""
    goodput: float
    """Samples a second that stay."""
    efficiency: float
    """Goodput against as many GPUs of which each is alone."""
    limit: str
    """What costs most."""


def all_reduce_s(num_gpus: int, megabytes: float, given: Assumptions) -> float:
    """Time of a ring within machines and a ring between them, each GPU with its part of the gradient.

    Within: 2 (g - 1) / g of the bytes by each GPU; between: 2 (n - 1) / n of the bytes by each machine, as its GPUs
    share its network.
    """
    within = min(num_gpus, given.gpus_per_node)
    num_nodes = -(-num_gpus // given.gpus_per_node)
    seconds = 2 * (within - 1) / within * megabytes / (given.nvlink_gbyte_s * 1e3)
    if num_nodes > 1:
        seconds += 2 * (num_nodes - 1) / num_nodes * megabytes / (given.network_gbit * 1e3
                                                                  / 8) + 2 * (num_nodes - 1) * given.latency_us * 1e-6
    return seconds


def slowest(num_gpus: int, spread: float) -> float:
    """The slowest of so many steps, relative to the mean: the expected largest of normal variables, by Blom's
    approximation.
    """
    from scipy.stats import norm

    return 1 + spread * float(norm.ppf((num_gpus - 0.375) / (num_gpus + 0.25)))


def failure_share(num_nodes: int, interval_s: float, given: Assumptions) -> float:
    """Part of the time that failures take, simulated: machines are lost at random, and work since the last checkpoint
    is done again.

    Args:
        interval_s: from one checkpoint to the next, their writing included.
    """
    rng = np.random.default_rng(num_nodes)
    mean_s = given.node_mtbf_h * 3600 / num_nodes
    useful = lost = 0.0
    for until in rng.exponential(mean_s, SIMULATED_FAILURES):
        since = until % interval_s
        useful += until - since
        lost += since + given.restart_s
    return lost / (useful + lost)


def row(num_gpus: int, given: Assumptions) -> Row:
    """The model of one size."""
    num_nodes = -(-num_gpus // given.gpus_per_node)
    compute_s = given.step_s * slowest(num_gpus, given.step_spread)
    whole_s = all_reduce_s(num_gpus, given.gradient_mb, given)
    last_s = all_reduce_s(num_gpus, min(given.bucket_mb, given.gradient_mb), given)
    sync_s = last_s + max(whole_s - last_s - given.backward_share * given.step_s, 0.0)
    read_s = num_gpus * given.batch_per_gpu * given.sample_mb * (1 - given.cached_share) / (given.store_gbit * 1e3 / 8)
    late_s = max(read_s - compute_s - sync_s, 0.0)
    step_s = compute_s + sync_s + late_s
    save_s = given.checkpoint_mb / given.upload_mb_s
    interval_s = given.checkpoint_every * step_s + save_s
    checkpoints = save_s / interval_s
    failures = failure_share(num_nodes, interval_s, given)
    samples_per_s = num_gpus * given.batch_per_gpu / step_s
    goodput = samples_per_s * (1 - checkpoints) * (1 - failures)
    costs = {
        "the slowest GPU": (compute_s - given.step_s) / step_s,
        "gradients": sync_s / step_s,
        "the object store": late_s / step_s,
        "checkpoints": checkpoints,
        "failures": failures,
    }
    return Row(
        num_gpus=num_gpus,
        step_s=step_s,
        sync_s=sync_s,
        samples_per_s=samples_per_s,
        checkpoint_share=checkpoints,
        failure_share=failures,
        goodput=goodput,
        efficiency=goodput / (num_gpus * given.batch_per_gpu / given.step_s),
        limit=max(costs, key=lambda name: costs[name]),
    )


def round_s(num_cores: int, given: Assumptions) -> dict[str, float]:
    """Seconds of a round's parts on cores of one machine each; a step has 8 crops, so more workers do not help it."""
    workers = min(num_cores, BATCH)
    return {
        "convert": given.images * given.convert_s / num_cores,
        "train": given.steps * given.core_step_s / workers * slowest(workers, given.step_spread),
        "label": given.images * given.label_s / num_cores / LABEL_EFFICIENCY,
        "start": 2 * given.start_s,
    }


def how_long(given: Assumptions) -> str:
    """The table of rounds on cores."""
    lines = [f"A round on {given.images:,} images, hours", "cores  convert  train  label  start    all"]
    for num_cores in (1, 2, 4, 8, 16, 64):
        parts = [seconds / 3600 for seconds in round_s(num_cores, given).values()]
        lines.append(f"{num_cores:5}  {parts[0]:7.2f}  {parts[1]:5.2f}  {parts[2]:5.2f}  {parts[3]:5.2f}  "
                     f"{sum(parts):5.2f}")
    return "\n".join(lines)


def report(given: Assumptions) -> str:
    """The assumptions and the table."""
    lines = ["Assumptions (none of the figures below was measured):"]
    lines += [f"  {field.name:17} {getattr(given, field.name):g}" for field in fields(given)]
    lines += ["", "GPUs   step ms  gradients ms  checkpoints  failures  samples/s that stay  efficiency  what costs "
                  "most"]
    for num_gpus in (8, 16, 32, 64, 128, 256, 512):
        found = row(num_gpus, given)
        lines.append(
            f"{num_gpus:4}  {1e3 * found.step_s:8.0f}  {1e3 * found.sync_s:12.1f}  {found.checkpoint_share:11.1%}  "
            f"{found.failure_share:8.1%}"
            f"  {found.goodput:19,.0f}  {found.efficiency:10.0%}  {found.limit}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    assumed = tyro.cli(Assumptions, description=__doc__)
    print(f"{report(assumed)}\n\n{how_long(assumed)}")
