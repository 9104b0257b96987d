"""Parts of the check that measure: training and labelling against a plain loop, the optimizer, the layout.

The plain loops are written as public code bases of crowd counting have them (CSRNet-pytorch's train.py, the C-3-
Framework's trainer): float32 throughout, copies that the worker waits for, `loss.item()` in every step, Adam as it
comes, cuDNN's search for the fastest convolution; one image at a time at the end, one forward pass for each member of
an ensemble. They train and run the same networks on the same numbers; the plain loss is the squared error, also where
ours is a heavier one (DSSINet's).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from cases import LITE0, PUBLISHED_PAIR, VGG16, built, random_batches, settings
from reporting import Bench, Part, distance, interleaved, joined, products, ratio
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from crowddist.config import RunConfig, to_json
from crowddist.data.sample import Batch
from crowddist.inference.predictor import Predictor
from crowddist.methods.base import Method
from crowddist.models.counter import Counter
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime
from crowddist.run.feed import Feed

NUM_BATCHES = 4
"""Different batches that the steps go round."""


def machine(bench: Bench, part: Part) -> None:
    """What it runs on, and its own ceilings: products of matrices, and copies within its memory."""
    import cv2
    import torchvision

    part.note(torch=torch.__version__, torchvision=torchvision.__version__, opencv=cv2.__version__,
              cpu_threads=torch.get_num_threads())
    if bench.on_gpu:
        facts = torch.cuda.get_device_properties(bench.device)
        part.note(gpu=facts.name, memory_gib=round(facts.total_memory / 2**30, 1), cuda=torch.version.cuda,
                  cudnn=torch.backends.cudnn.version(), nccl=".".join(map(str, torch.cuda.nccl.version())),
                  capability=f"{facts.major}.{facts.minor}", bfloat16=bench.reduced)
    kinds = ("bfloat16", "tf32", "float32") if bench.on_gpu else ("float32",)
    part.note(tflop_per_s={kind: round(bench.peak(kind) / 1e12, 3) for kind in kinds})
    numbers = torch.empty(2**18 if bench.tiny else 2**30, device=bench.device)
    target = torch.empty_like(numbers)
    seconds = np.median(interleaved(bench, {"copy": lambda: target.copy_(numbers)}, rounds=3, repeats=3)["copy"])
    part.note(copy_gb_per_s=round(2 * numbers.numel() * 4 / float(seconds) / 1e9, 1))


def training(bench: Bench, part: Part) -> None:
    """Images a second that a step of training eats, as a run trains and by a plain loop; share of the peak; memory."""
    rounds, repeats = (1, 1) if bench.tiny else (5, 5)
    for name, config in _trained_networks(bench):
        method, plain = built(config, strong=False), built(config, strong=False)
        stage = method.plan()[0]
        batches = [random_batches(method, stage, seed=number) for number in range(NUM_BATCHES)]
        method.start(stage, LocalRuntime(device=str(bench.device)))
        ways = {"plain": plain_training(plain, batches, bench.device), "ours": our_training(method, batches, bench)}
        memory = {way: _peak_memory_gib(bench, work) for way, work in ways.items()}
        times = interleaved(bench, ways, rounds=rounds, repeats=repeats)
        size = len(batches[0]["source"].images)
        seconds = {way: float(np.median(found)) for way, found in times.items()}
        there = {key: batch.to(bench.device) for key, batch in batches[0].items()}
        with FlopCounterMode(display=False) as counter:
            method.step(0, there)
        flops = counter.get_total_flops()
        bench.eats[name] = size / seconds["ours"]
        kind = "bfloat16" if bench.reduced else "float32"
        part.note(**{name: {
            "batch": f"{size} crops of {batches[0]['source'].images.shape[-1]} px",
            "images_per_s": {way: round(size / one, 2) for way, one in seconds.items()},
            "plain_against_ours": ratio(times["plain"], times["ours"]),
            "tflop_per_image": round(flops / size / 1e12, 4),
            "share_of_peak": {"ours": round(flops / seconds["ours"] / bench.peak(kind), 4), "of": kind},
            "peak_memory_gib": memory,
        }})
        part.check(f"{name}: floating-point operations that were not counted", float(flops == 0), 0)


def labelling(bench: Bench, part: Part) -> None:
    """Full-HD frames a second, decoded already: the predictor that labels and counts, and a plain loop; kinds of
    numbers, and how far they move a count.
    """
    height, width = (72, 128) if bench.tiny else (1080, 1920)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2 if bench.tiny else 4)]
    names = {"compact": settings("source_only")} if bench.tiny else {
        "lite0": settings("source_only", counter=LITE0), "VGG-16": settings("source_only", counter=VGG16)}
    for name, config in names.items():
        with tempfile.TemporaryDirectory() as folder:
            url = f"{folder}/counter.pt"
            method = built(config, strong=False)
            checkpoint.write(url, 1, {"method": method.state_dict(), "config": to_json(config)})
            predictor = Predictor.from_checkpoint(url, image_size=width, zooms=(1.0,), device=str(bench.device))
        counter = method.networks().to(bench.device).eval()
        assert isinstance(counter, Counter)

        def counts(predictor: Predictor = predictor) -> np.ndarray:
            return np.array([seen.density.sum(dtype=np.float64) for seen in predictor.see(frames)])

        def in_tf32() -> np.ndarray:
            with products(tf32=True):
                return counts()

        def reduced() -> np.ndarray:
            with torch.autocast(bench.device.type, torch.bfloat16):
                return counts()

        def with_heads(predictor: Predictor = predictor) -> np.ndarray:
            return np.array([found.count for found in predictor.predict_views(frames)])

        def plain(counter: Counter = counter) -> np.ndarray:
            return plain_counts(counter, frames, bench.device)

        ways = {"plain": plain, "ours": counts, "ours, TF32 products": in_tf32, "ours, bfloat16": reduced,
                "ours, with heads": with_heads}
        with products(tf32=False):
            exact = counts()
        moved = {way: float(np.abs(work() / exact - 1).max()) for way, work in ways.items()}
        memory = {way: _peak_memory_gib(bench, ways[way]) for way in ("plain", "ours")}
        times = interleaved(bench, ways, rounds=1 if bench.tiny else 5, repeats=1)
        part.note(**{name: {
            "images_per_s": {way: round(len(frames) / float(np.median(found)), 2) for way, found in times.items()},
            "plain_against_ours": ratio(times["plain"], times["ours"]), "peak_memory_gib": memory,
            "change_of_the_count": {way: float(f"{value:.2g}") for way, value in moved.items()}}})
        part.check(f"{name}: change of the count against float32", moved["ours"], 0.03)
        part.check(f"{name}: the plain loop's count against float32", moved["plain"], 0.03)


def optimizer(bench: Bench, part: Part) -> None:
    """AdamW's step over lite0 and VGG-16: fused, as torch chooses by itself, and tensor by tensor."""
    for name, config in _counters(bench).items():
        sizes = [tuple(parameter.shape) for parameter in built(config, strong=False).networks().parameters()]
        steps: dict[str, Callable[[], Any]] = {}
        weights: dict[str, list[torch.Tensor]] = {}
        kinds: dict[str, dict[str, Any]] = {"fused": {"fused": True}, "as it comes": {},
                                            "one by one": {"foreach": False}}
        for way, flags in kinds.items():
            generator = torch.Generator().manual_seed(0)
            weights[way] = [torch.randn(size, generator=generator).to(bench.device).requires_grad_(True)
                            for size in sizes]
            for weight in weights[way]:
                weight.grad = torch.randn(weight.shape, generator=generator).to(bench.device)
            steps[way] = torch.optim.AdamW(weights[way], lr=1e-3, **flags).step
        times = interleaved(bench, steps, rounds=3, repeats=1 if bench.tiny else 10)
        part.note(**{name: {"tensors": len(sizes), **{f"{way}_ms": round(1e3 * float(np.median(found)), 3)
                                                      for way, found in times.items()},
                            "unfused_against_fused": ratio(times["as it comes"], times["fused"])}})
        whole = {way: joined(dict(enumerate(values))) for way, values in weights.items()}  # type: ignore[arg-type]
        for way in ("as it comes", "one by one"):
            part.check(f"{name}: weights {way} against fused", distance(whole[way], whole["fused"]), 1e-5)


def layout(bench: Bench, part: Part) -> None:
    """A training step of the convolutions of CSRNet with channels last, as all networks here have them, and first."""
    size, side, thinner = (1, 64, 16) if bench.tiny else (8, 512, 1)
    images = torch.rand(size, 3, side, side)
    for kind in ("float32", *(("bfloat16",) if bench.reduced or bench.tiny else ())):
        steps, losses = {}, {}
        for way, form in (("channels first", torch.contiguous_format), ("channels last", torch.channels_last)):
            torch.manual_seed(0)
            network = plain_csrnet(thinner).to(bench.device, memory_format=form)
            there = images.to(bench.device, memory_format=form)

            def step(network: nn.Module = network, there: torch.Tensor = there, kind: str = kind) -> torch.Tensor:
                network.zero_grad(set_to_none=True)
                with torch.autocast(bench.device.type, torch.bfloat16, enabled=kind == "bfloat16"):
                    loss = network(there).float().square().mean()
                loss.backward()
                return loss.detach()

            steps[way], losses[way] = step, step()
        part.check(f"{kind}: loss, channels last against first", distance(*losses.values()),
                   1e-2 if kind == "float32" else 5e-2)
        times = interleaved(bench, steps, rounds=3, repeats=1 if bench.tiny else 3)
        part.note(**{kind: {"first_against_last": ratio(*times.values()),
                            **{f"{way}_ms": round(1e3 * float(np.median(found)), 2) for way, found in times.items()}}})


def our_training(method: Method, batches: list[dict[str, Batch]], bench: Bench) -> Callable[[], None]:
    """One step of a started method, as the engine takes it."""
    loaders = {name: itertools.cycle([part[name] for part in batches]) for name in batches[0]}
    feed = Feed(loaders, bench.device, ahead=bench.on_gpu)

    def step() -> None:
        parts = feed.take()
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.reduced):
            scalars = method.step(0, parts)
        feed.look_ahead()
        float(scalars["loss"])

    return step


def plain_training(method: Method, batches: list[dict[str, Batch]], device: torch.device) -> Callable[[], None]:
    """One step of a plain loop over the network that the method's first stage trains."""
    network = getattr(method, "regressor", None) or method.networks()
    network.to(device).requires_grad_(True).train()
    source = itertools.cycle([part["source"] for part in batches])
    criterion, optimizer = nn.MSELoss(reduction="sum"), torch.optim.Adam(network.parameters(), lr=1e-5)
    total = [0.0]

    def step() -> None:
        torch.backends.cudnn.benchmark = True
        try:
            searched()
        finally:
            torch.backends.cudnn.benchmark = False

    def searched() -> None:
        batch = next(source)
        images, target = batch.images.to(device), batch.density.to(device)  # type: ignore[union-attr]
        optimizer.zero_grad()
        if isinstance(network, Counter):
            predicted = network.training_maps(network.encode(images), batch.draws.to(device))
        else:
            predicted = network(images)
        loss = criterion(predicted[..., : target.shape[2], : target.shape[3]], target)
        loss.backward()
        optimizer.step()
        total[0] += loss.item()

    return step


def plain_counts(counter: Counter, frames: list[np.ndarray], device: torch.device) -> np.ndarray:
    """Counts of frames, one after the other: made floats on the CPU, one forward pass for each member."""
    found = []
    with torch.no_grad():
        for frame in frames:
            image = (torch.from_numpy(frame).permute(2, 0, 1).float() / 255).unsqueeze(0).to(device)
            maps = [counter(image, torch.full((1,), member, device=device)).cpu().numpy()
                    for member in range(counter.num_members)]
            found.append(float(np.mean(maps, axis=0).sum()))
    return np.array(found)


def plain_csrnet(thinner: int) -> nn.Sequential:
    """The layers of CSRNet (Li et al., CVPR 2018, configuration B): ten of VGG-16, six dilated ones, 1x1; `thinner`
    times fewer channels.
    """
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512):
        wide = width // thinner
        layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(True)] if width else [nn.MaxPool2d(2)]
        channels = wide or channels
    for width in (512, 512, 512, 256, 128, 64):
        layers += [nn.Conv2d(channels, width // thinner, 3, padding=2, dilation=2), nn.ReLU(True)]
        channels = width // thinner
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))


def _counters(bench: Bench) -> Mapping[str, RunConfig]:
    if bench.tiny:
        return {"compact": settings("source_only")}
    return {"lite0": settings("source_only", counter=LITE0), "VGG-16": settings("source_only", counter=VGG16)}


def _trained_networks(bench: Bench) -> list[tuple[str, RunConfig]]:
    """Networks at the crops and batches that they are trained with; few steps would keep their statistics."""
    if bench.tiny:
        return [("compact", settings("source_only", steps=100)),
                ("compact DSSINet", settings("bi_knowledge", steps=100))]
    return [("lite0", settings("source_only", crop_px=512, batch_size=8, steps=10_000, counter=LITE0)),
            ("VGG-16", settings("source_only", crop_px=512, batch_size=8, steps=10_000, counter=VGG16)),
            ("DSSINet", settings("bi_knowledge", crop_px=224, batch_size=8, steps=10_000, **PUBLISHED_PAIR))]


def _peak_memory_gib(bench: Bench, work: Callable[[], Any]) -> float | None:
    """GiB of the GPU's memory at most in use during some work, networks that wait included; None on a CPU."""
    if not bench.on_gpu:
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    work()
    bench.wait()
    return round(torch.cuda.max_memory_allocated(bench.device) / 2**30, 2)
