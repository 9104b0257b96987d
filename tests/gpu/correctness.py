"""Parts of the check that ask whether a GPU computes what a CPU does, and whether runs go on as they would have."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import LITE0, PUBLISHED_PAIR, VGG16, all_cases, built, different_stages, random_batches, settings
from reporting import Bench, Part, SkippedError, distance, furthest, interleaved, joined, products, ratio
from torch.nn import functional

from crowddist.config import RunConfig, to_json
from crowddist.data.sample import Batch
from crowddist.distributed.runtime import averaged
from crowddist.losses import adversarial, density, detection, segmentation, structure
from crowddist.methods.base import Method, Stage
from crowddist.models.compiling import compile_networks
from crowddist.models.norm import SyncBatchNorm2d, _SyncedNorm
from crowddist.ops.resizing import resize_sums
from crowddist.ops.ssim import ssim
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime
from crowddist.run.feed import Feed

LOSS_LIMIT, GRADIENT_LIMIT = 1e-3, 2e-2
"""Of whole networks in float32: rounding grows through their layers, and turns some ReLUs over."""
PLAIN_LOSS_LIMIT, PLAIN_GRADIENT_LIMIT = 1e-4, 1e-3
"""Of a loss alone."""
REDUCED_LOSS_LIMIT, REDUCED_TURN_LIMIT = 0.1, 0.3
"""Of bfloat16: relative change of the loss, and one less the cosine between the gradients. On a CPU lite0 with random
weights turns by 0.17, the others by less than 0.03."""


def agreement(bench: Bench, part: Part) -> None:
    """Losses and gradients of every loss, and of every stage of every method, on the CPU and on the device."""
    with products(tf32=False):
        for name, loss in _losses().items():
            answers = [_loss_alone(loss, device) for device in (torch.device("cpu"), bench.device)]
            part.check(f"loss {name}", distance(answers[1][0], answers[0][0]), PLAIN_LOSS_LIMIT)
            part.check(f"gradient of {name}", distance(answers[1][1], answers[0][1]), PLAIN_GRADIENT_LIMIT)
        for name, config in all_cases(bench.tiny):
            here, there = built(config), built(config)
            for stage in different_stages(here):
                batches = random_batches(here, stage)
                expected = _answer(here, stage, batches, torch.device("cpu"))
                found = _answer(there, stage, batches, bench.device, disturb=bench.disturb)
                what = f"{name}, {stage.name}"
                part.check(f"losses of {what}", distance(joined(found[0]), joined(expected[0])), LOSS_LIMIT)
                part.check(f"gradients of {what}", furthest(found[1], expected[1]), GRADIENT_LIMIT)


def bfloat16(bench: Bench, part: Part) -> None:
    """Losses and gradients on the device: mixed precision against float32."""
    for name, config in _three(bench):
        method = built(config)
        stage = method.plan()[0]
        batches = random_batches(method, stage)
        exact = _answer(method, stage, batches, bench.device)
        reduced = _answer(method, stage, batches, bench.device, reduced=True)
        part.check(f"loss of {name}", distance(reduced[0]["loss"], exact[0]["loss"]), REDUCED_LOSS_LIMIT)
        turn = 1 - functional.cosine_similarity(joined(reduced[1]), joined(exact[1]), dim=0)
        part.check(f"direction of the gradients of {name}", float(turn), REDUCED_TURN_LIMIT)


def feed(bench: Bench, part: Part) -> None:
    """Batches that are copied on a stream of their own are the ones that were read, while the device is busy."""
    method = built(settings("bi_knowledge"))
    stage = next(stage for stage in method.plan() if any(use.heads for use in stage.streams.values()))
    read = [random_batches(method, stage, seed=number) for number in range(6)]
    names = list(read[0])
    fed = Feed({name: (batches[name] for batches in read) for name in names}, bench.device, ahead=True)
    busy = torch.rand(64 if bench.tiny else 4096, 64 if bench.tiny else 4096, device=bench.device)
    sums = []
    for _ in read:
        batches = fed.take()
        for _ in range(4):  # the copies must wait neither too long nor too short
            busy = (busy @ busy).clamp(0, 1)
        sums.append({name: _sums(batches[name]) for name in names})
        del batches
        fed.look_ahead()
    wrong = sum(not torch.equal(value.cpu(), expected)
                for found, batches in zip(sums, read, strict=True) for name in names
                for value, expected in zip(found[name], _sums(batches[name]), strict=True))
    part.check("tensors that arrived changed", wrong, 0)


def group(bench: Bench, part: Part) -> None:
    """A process group of one (NCCL on a GPU): sums, averaged gradients, and the normalisation over all workers."""
    backend = "nccl" if bench.on_gpu else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            number = torch.full((3,), 7.0, device=bench.device)
            torch.distributed.all_reduce(number)
            part.check("sum over one worker", float((number - 7).abs().max()), 0)
            method = built(settings("source_only"))
            stage = method.plan()[0]
            batches = random_batches(method, stage)
            with products(tf32=False):
                alone = _answer(method, stage, batches, bench.device)
                together = _answer(method, stage, batches, bench.device, wrap=averaged)
                away = distance(joined(together[1]), joined(alone[1]))
                part.check("gradients in DistributedDataParallel", away, 1e-4)
                images = torch.randn(4, 8, 12, 12, device=bench.device)
                layer = SyncBatchNorm2d(8).to(bench.device)
                answers = []
                for normalise in (lambda values: layer(values),
                                  lambda values: _SyncedNorm.apply(values, layer.weight, layer.bias, layer.epsilon)[0]):
                    values = images.clone().requires_grad_(True)
                    output = normalise(values)
                    output.square().mul(torch.linspace(0, 1, 12, device=bench.device)).sum().backward()
                    answers.append((output, values.grad))
            for what, one, other in zip(("values", "gradient"), *answers, strict=True):
                part.check(f"{what} of the normalisation over all workers", distance(other, one), 1e-4)
        finally:
            torch.distributed.destroy_process_group()
    part.note(backend=backend)


def resume(bench: Bench, part: Part) -> None:
    """A training that was stopped goes on from its checkpoint as if it had not been, also on another device."""
    config = settings("source_only", **({} if bench.tiny else {"steps": 8, "counter": LITE0, "crop_px": 128}))
    middle = config.train.steps // 2
    for name, ordered in (("as in a run", False), ("deterministic algorithms", True))[: 1 if bench.tiny else 2]:
        torch.use_deterministic_algorithms(ordered, warn_only=True)
        try:
            unbroken, again = (_trained(config, bench, stops=()) for _ in range(2))
            resumed = _trained(config, bench, stops=(middle,), disturb=bench.disturb)
        finally:
            torch.use_deterministic_algorithms(False)
        way = (unbroken - joined(dict(built(config).networks().named_parameters()))).norm()
        repeats, differs = (float((other - unbroken).norm() / way) for other in (again, resumed))
        part.note(**{name: {"same_bits_when_resumed": differs == 0, "same_bits_when_repeated": repeats == 0,
                            "change_over_the_way": differs}})
        # Where two unbroken trainings differ, a resumed one differs too; then only a mistake would make it large.
        part.check(f"resumed, {name}", differs, 0 if repeats == 0 else 0.1)
    # From the device to the CPU and back: the optimizer's state follows, its way of computing does not.
    with tempfile.TemporaryDirectory() as folder:
        places = [bench.device, torch.device("cpu"), bench.device]
        for number, device in enumerate(places):
            method, stage = _started(config, device)
            if number:
                method.load_state_dict(checkpoint.load(f"{folder}/{number - 1}.pt")["method"])
            _steps(method, stage, device, range(number, number + 1), reduced=False)
            for optimizer in method.optimizers().values():
                fused = [bool(one.get("fused")) for one in optimizer.param_groups]
                wrong = sum(one != (device.type == "cuda") for one in fused)
                part.check("optimizers that compute as on another device", wrong, 0)
                kinds = [value["exp_avg"].device.type for value in optimizer.state.values()]
                part.check("states left on another device", sum(kind != device.type for kind in kinds), 0)
            checkpoint.write(f"{folder}/{number}.pt", number + 1, {"method": method.state_dict()})


def compiled(bench: Bench, part: Part) -> None:
    """Networks compiled by torch.compile against the same ones as they are, in a run's own precision."""
    # The tiny check has no time for a compiler: it only traces.
    options: dict[str, Any] = {"backend": "aot_eager"} if bench.tiny else {}
    for name, config in _three(bench)[: 1 if bench.tiny else 3]:
        torch.compiler.reset()
        method, other = built(config), built(config)
        stage = method.plan()[0]
        batches = random_batches(method, stage)
        compile_networks(other.networks(), **options)
        expected = _answer(method, stage, batches, bench.device, reduced=bench.reduced)
        began = time.perf_counter()
        found = _answer(other, stage, batches, bench.device, reduced=bench.reduced)
        bench.wait()
        seconds = time.perf_counter() - began
        part.check(f"loss of {name}", distance(found[0]["loss"], expected[0]["loss"]),
                   REDUCED_LOSS_LIMIT if bench.reduced else LOSS_LIMIT)
        turn = 1 - functional.cosine_similarity(joined(found[1]), joined(expected[1]), dim=0)
        part.check(f"direction of the gradients of {name}", float(turn), REDUCED_TURN_LIMIT)
        there = {key: batch.to(bench.device) for key, batch in batches.items()}

        def steps(one: Method, there: dict[str, Batch] = there) -> Callable[[], Any]:
            return lambda: _step(one, 0, there, reduced=bench.reduced)

        times = interleaved(bench, {"eager": steps(method), "compiled": steps(other)}, rounds=1 if bench.tiny else 3,
                            repeats=1 if bench.tiny else 5)
        part.note(**{name: {"first_step_s": round(seconds, 1), "eager_against_compiled": ratio(*times.values()),
                            **{f"{way}_ms": _milliseconds(found) for way, found in times.items()}}})


def cuda_graph(bench: Bench, part: Part) -> None:
    """A whole step of lite0 (forward, backward, AdamW) recorded as a CUDA graph against the same step as it is."""
    if not bench.on_gpu:
        raise SkippedError("CUDA graphs need a GPU")
    config = settings("source_only", crop_px=128, batch_size=4, counter=LITE0)
    weights, ways = {}, {}
    warm, replays = 3, 5
    for name in ("eager", "graph"):
        method = built(config)
        stage = method.plan()[0]
        method.start(stage, LocalRuntime(device=str(bench.device)))
        objective = method.objective(stage).train()
        batches = {key: batch.to(bench.device) for key, batch in random_batches(method, stage).items()}
        parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True, capturable=True)

        def step(objective: Any = objective, batches: Any = batches, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad(set_to_none=True)
            # Copies of weights in bfloat16 that outlive a step would be those of the recording.
            with torch.autocast("cuda", torch.bfloat16, enabled=bench.reduced, cache_enabled=False):
                loss = objective(batches)["loss"]
            loss.backward()
            optimizer.step()

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(warm):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        ways[name] = step
        if name == "graph":
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                step()
            ways[name] = recorded.replay
        for _ in range(replays):
            ways[name]()
        bench.wait()
        weights[name] = joined(dict(method.networks().named_parameters()))
    part.note(same_bits=bool(torch.equal(weights["graph"], weights["eager"])))
    way = (weights["eager"] - joined(dict(built(config).networks().named_parameters()))).norm()
    part.check("weights after recorded steps", float((weights["graph"] - weights["eager"]).norm() / way), 0.1)
    times = interleaved(bench, ways, rounds=5, repeats=10)
    part.note(eager_against_graph=ratio(times["eager"], times["graph"]),
              **{f"{name}_ms": _milliseconds(found) for name, found in times.items()})


def _three(bench: Bench) -> list[tuple[str, RunConfig]]:
    """The networks whose speed counts, on small crops: a counter for CPUs, the published counter, and DSSINet."""
    if bench.tiny:
        return [("compact", settings("source_only")), ("compact DSSINet", settings("bi_knowledge"))]
    return [("lite0", settings("source_only", crop_px=256, batch_size=4, counter=LITE0)),
            ("VGG-16", settings("source_only", crop_px=128, batch_size=4, counter=VGG16)),
            ("DSSINet", settings("bi_knowledge", crop_px=96, batch_size=4, **PUBLISHED_PAIR))]


def _answer(method: Method, stage: Stage, batches: Mapping[str, Batch], device: torch.device, *, reduced: bool = False,
            disturb: float = 0.0,
            wrap: Callable[[Any], Any] | None = None) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """All losses of a stage's first step, and the gradients of all weights."""
    method.start(stage, LocalRuntime(device=str(device)))
    networks = method.networks()
    with torch.no_grad():
        for parameter in networks.parameters() if disturb else ():
            parameter.mul_(1 + disturb)
    objective = (wrap or (lambda module: module))(method.objective(stage)).train()
    statistics = {name: value.clone() for name, value in networks.named_buffers()}
    torch.manual_seed(0)
    with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
        losses = objective({name: batch.to(device) for name, batch in batches.items()})
    losses["loss"].backward()
    gradients = {name: parameter.grad.clone() for name, parameter in networks.named_parameters()
                 if parameter.grad is not None}
    networks.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, value in networks.named_buffers():
            value.copy_(statistics[name])
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def _started(config: RunConfig, device: torch.device) -> tuple[Method, Stage]:
    method = built(config)
    stage = method.plan()[0]
    method.start(stage, LocalRuntime(device=str(device)))
    return method, stage


def _steps(method: Method, stage: Stage, device: torch.device, steps: range, *, reduced: bool) -> None:
    for step in steps:
        torch.manual_seed(step)
        batches = {name: batch.to(device) for name, batch in random_batches(method, stage, seed=step).items()}
        _step(method, step, batches, reduced=reduced)


def _step(method: Method, step: int, batches: dict[str, Batch], *, reduced: bool) -> None:
    with torch.autocast(next(iter(batches.values())).images.device.type, torch.bfloat16, enabled=reduced):
        method.step(step, batches)


def _milliseconds(seconds: list[float]) -> float:
    return round(1e3 * float(np.median(seconds)), 3)


def _trained(config: RunConfig, bench: Bench, *, stops: tuple[int, ...], disturb: float = 0.0) -> torch.Tensor:
    """The weights after all steps of the first stage, with a checkpoint and new networks at each stop."""
    method, stage = _started(config, bench.device)
    for first, last in itertools.pairwise((0, *stops, stage.steps)):
        if first:
            with tempfile.TemporaryDirectory() as folder:
                url = str(Path(folder) / "stopped.pt")
                checkpoint.write(url, first, {"method": method.state_dict(), "config": to_json(config)})
                method, stage = _started(config, bench.device)
                method.load_state_dict(checkpoint.load(url)["method"])
            with torch.no_grad():
                next(method.networks().parameters()).mul_(1 + disturb)
        _steps(method, stage, bench.device, range(first, last), reduced=bench.reduced)
    return joined(dict(method.networks().named_parameters()))


def _sums(batch: Batch) -> list[torch.Tensor]:
    """A sum of each tensor of a batch that does not depend on the order of adding: of its bits."""
    tensors = [value for value in (batch.images, batch.density, batch.draws, *(batch.heads or ()),
                                   *(batch.doubtful or ())) if value is not None]
    return [value.contiguous().view(torch.int32).long().sum() for value in tensors]


def _losses() -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Name -> a loss of a prediction and a truth, (2, 1, 24, 24), 0 to 1 each."""

    def targets(truth: torch.Tensor) -> detection.DetectionTargets:
        heads = torch.tensor([[20.0, 20.0, 12.0], [60.0, 30.0, 20.0]], device=truth.device)
        return detection.detection_targets([heads, heads + 9], (24, 24), 4)

    def counted(kind: Any) -> Any:
        return lambda guess, truth: density.count_map_loss(guess, truth, (truth > 0.3).float(), cell_error=kind,
                                                           cell_px=8)

    return {
        **{f"count map, {kind}": counted(kind) for kind in ("poisson", "squared", "squared_sum")},
        "DMS-SSIM": lambda guess, truth: structure.dms_ssim_loss(guess, truth),
        "DMS-SSIM, pooled": lambda guess, truth: structure.dms_ssim_loss(guess, truth, pool=True),
        "focal squared": lambda guess, truth: structure.focal_mse(guess, (truth > 0.9).float()),
        "focal cross-entropy": lambda guess, truth: structure.focal_cross_entropy(guess, (truth > 0.9).float()),
        "centres": lambda guess, truth: detection.centre_loss(4 * guess - 2, targets(truth), 4.0),
        "sizes": lambda guess, truth: detection.size_loss(guess, targets(truth), 4.0),
        "offsets": lambda guess, truth: detection.offset_loss(guess.repeat(1, 2, 1, 1), targets(truth), 4.0),
        "background": lambda guess, truth: segmentation.background_bce(guess, truth > 0.5, from_logits=True),
        "domain": lambda guess, truth: adversarial.domain_loss(guess - truth, True),
        "domain, summed": lambda guess, truth: adversarial.domain_loss(guess - truth, False, "sum"),
        "generator": lambda guess, truth: adversarial.generator_loss(guess - truth),
        "discriminator": lambda guess, truth: adversarial.discriminator_loss(guess, truth),
        "SSIM": lambda guess, truth: 1 - ssim(guess, truth, peak=1.0),
        "resized maps": lambda guess, truth: (resize_sums(guess, (17, 31)) ** 2).sum(),
    }


def _loss_alone(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
                device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    guess, truth = (torch.rand(2, 1, 24, 24, generator=generator).to(device) for _ in range(2))
    value = loss(guess.requires_grad_(True), truth)
    value.backward()
    assert guess.grad is not None
    return value, guess.grad
