"""One round of adaptation, ours and one made of published parts (`peers/habits.py`): part by part, in one process, on
one thread.

    python -m tests.benchmarks.end_to_end                      # 30 rendered images of ShanghaiTech's size
    python -m tests.benchmarks.end_to_end --images 300
    CROWDDIST_DATA=... python -m tests.benchmarks.end_to_end   # images of ShanghaiTech A

Both have the same networks: the counter that comes with the package, three masks. Images are counted once, at their own
size. The images are cut into groups; for each group both ways do each part in turn, and a ratio is the median of the
groups' ratios. Times are those of the process, which waits for no other.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from crowddist.config import from_json, to_json
from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.shards import ShardReader
from crowddist.data.simulator.config import RendererConfig
from crowddist.data.simulator.render import render_image
from crowddist.data.stream import CropDataset, batches
from crowddist.inference.evaluation import evaluate_unit
from crowddist.inference.metrics import summarise
from crowddist.inference.predictor import Predictor
from crowddist.inference.pseudo_labels import label_unit
from crowddist.methods.build import build_method
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime
from crowddist.storage.run_folder import PACKAGED
from tests.benchmarks.harness import single_thread
from tests.benchmarks.peers import habits

Way = Callable[[], Any]
PARTS = ("convert", "convert, a filter a head", "label", "evaluate", "train")
HEADS_FILTERED = 1
"""Images of a group that the peers draw with a filter a head, which takes up to a minute an image."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    images: int = 30
    """Number of images."""
    groups: int = 5
    """Number of groups, and so of ratios."""
    steps_an_image: float = 3.0
    """Training steps an image: 3 is a recipe's 600 and 300 on the source and in a round, for 300 images."""
    size: tuple[int, int] = (768, 1024)
    """Height and width of rendered images, px: those of ShanghaiTech B."""
    output: str = ""
    """JSON file to write."""


def raw_images(folder: Path, number: int, size: tuple[int, int]) -> list[Path]:
    """So many images of ShanghaiTech A, or rendered ones in its layout."""
    real = Path(os.environ.get("CROWDDIST_DATA", "")) / "shanghaitech" / "part_A_final" / "train_data" / "images"
    if os.environ.get("CROWDDIST_DATA") and real.is_dir():
        return sorted(real.glob("*.jpg"))[:number]
    import cv2
    import scipy.io

    drawn = folder / "rendered"
    for part in ("images", "ground_truth"):
        (drawn / part).mkdir(parents=True)
    config = RendererConfig(num_images=number, size=size, seed=7, look="wide")
    for index in range(number):
        image = render_image(config, index)
        cv2.imwrite(str(drawn / "images" / f"IMG_{index + 1}.jpg"), image.image[..., ::-1],
                    [cv2.IMWRITE_JPEG_QUALITY, image.jpeg_quality])
        info = np.empty((1, 1), object)
        info[0, 0] = {"location": image.points.astype(float).reshape(-1, 2), "number": len(image.points)}
        scipy.io.savemat(drawn / "ground_truth" / f"GT_IMG_{index + 1}.mat", {"image_info": info})
    return sorted((drawn / "images").iterdir())


def grouped(images: Sequence[Path], folder: Path, number: int) -> list[list[Path]]:
    """The images in groups, each a folder in ShanghaiTech's layout."""
    groups = []
    for start in range(number):
        place, group = folder / f"group-{start}", []
        for image in images[start::number]:
            truth = image.parents[1] / "ground_truth" / f"GT_{image.stem}.mat"
            for source, part in ((image, "images"), (truth, "ground_truth")):
                (place / part).mkdir(parents=True, exist_ok=True)
                shutil.copy(source, place / part / source.name)
            group.append(place / "images" / image.name)
        groups.append(group)
    return groups


class Round:
    """Both ways through the parts of a round, for one group of images after the other."""

    def __init__(self, folder: Path, steps_an_image: float) -> None:
        content = checkpoint.load(PACKAGED["rendered"].as_uri())
        config = from_json(content["config"])
        self.config = replace(config, stream=replace(config.stream, zooms=(1.0,)),
                              self_supervision=replace(config.self_supervision, label_views=(1.0,)))
        content["config"] = to_json(self.config)
        url = (folder / "counter.pt").as_uri()
        checkpoint.write(url, content["step"], content)
        self.predictor = Predictor.from_checkpoint(url, image_size=0)
        self.method, peer = build_method(self.config, weights="none"), build_method(self.config, weights="none")
        for each in (self.method, peer):
            each.load_state_dict(content["method"], optimizers=False)
        self.network: Any = peer.networks().to(memory_format=torch.contiguous_format).float().eval()
        self.num_members = self.config.counter.num_masks
        self.folder, self.steps_an_image = folder, steps_an_image
        self.errors: dict[str, list[float]] = {"peers": [], "ours": []}

    def parts(self, number: int, group: Sequence[Path]) -> dict[str, tuple[Way, Way, float]]:
        """Name -> the peers' way, ours, and the share of the work that the peers do."""
        own, theirs = self.folder / f"shards-{number}", self.folder / f"densities-{number}"
        steps = max(round(self.steps_an_image * len(group)), 1)
        crop_px, batch_size = self.config.stream.crop_size, self.config.train.batch_size

        def ours_convert() -> None:
            convert(FORMATS["shanghaitech"], group[0].parents[1], own, split="all", overwrite=True)

        def ours_evaluate() -> float:
            reader = ShardReader(own)
            return summarise(evaluate_unit(self.predictor, reader, range(len(reader))))["target/mae"]

        def ours_label() -> None:
            reader = ShardReader(own)
            labels = self.folder / f"round-{number}" / "labels"
            label_unit(self.predictor, reader, range(len(reader)), labels.as_uri())

        def ours_train() -> None:
            stage = replace(self.method.plan()[0], steps=steps)
            self.method.start(stage, LocalRuntime())
            crops = CropDataset(own.as_uri(), self.config.stream, plan_seed=0, name=stage.seed_name,
                                stride=self.method.output_stride)
            for step, batch in enumerate(batches(crops, first_step=0, steps=steps, global_batch=batch_size, rank=0,
                                                 world_size=1)):
                self.method.step(step, {"source": batch})

        def peers_train() -> None:
            habits.train(self.network, self.num_members, group, theirs, steps=steps, batch_size=batch_size,
                         crop_px=crop_px)

        filtered = group[:HEADS_FILTERED]
        return {
            "convert": (lambda: habits.convert(group, theirs), ours_convert, 1.0),
            "convert, a filter a head": (
                lambda: habits.convert(filtered, self.folder / f"by-heads-{number}", by_heads=True), ours_convert,
                len(filtered) / len(group)),
            "label": (lambda: habits.label(self.network, self.num_members, group, self.folder / f"maps-{number}"),
                      ours_label, 1.0),
            "evaluate": (lambda: self.errors["peers"].append(
                habits.evaluate(self.network, self.num_members, group, theirs)[0]),
                lambda: self.errors["ours"].append(ours_evaluate()), 1.0),
            "train": (peers_train, ours_train, 1.0),
        }


def measure(options: Options) -> dict[str, Any]:
    """Seconds of each part for each group, peers and ours, and both errors."""
    with tempfile.TemporaryDirectory() as name, single_thread():
        folder = Path(name)
        groups = grouped(raw_images(folder, options.images, options.size), folder, options.groups)
        both = Round(folder, options.steps_an_image)
        seconds: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
        for number, group in enumerate(groups):
            # Training comes last and changes the networks: every group is counted by those that come along.
            start = [{key: value.clone() for key, value in network.state_dict().items()}
                     for network in (both.network, both.method.networks())]
            for part, (peer, ours, share) in both.parts(number, group).items():
                took = [0.0, 0.0]
                for which in ((0, 1) if number % 2 == 0 else (1, 0)):
                    began = time.process_time()
                    (peer, ours)[which]()
                    took[which] = time.process_time() - began
                seconds[part].append((took[0] / share, took[1]))
                print(f"group {number}, {part}: peers {took[0] / share:.2f} s, ours {took[1]:.2f} s", flush=True)
            for network, state in zip((both.network, both.method.networks()), start, strict=True):
                network.load_state_dict(state)
        errors = {way: float(np.average(found, weights=[len(group) for group in groups]))
                  for way, found in both.errors.items()}
        heads = int(sum(len(habits.read_points(image)) for group in groups for image in group))
    return {"images": options.images, "persons": heads, "instructions": torch.backends.cpu.get_cpu_capability(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            "torch": torch.__version__, "errors": errors, "seconds": seconds}


def totals(seconds: dict[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    """The parts, and the sums that matter."""
    sums = {"without training": ("convert", "label", "evaluate"),
            "without training, a filter a head": ("convert, a filter a head", "label", "evaluate"),
            "with training": ("convert", "label", "evaluate", "train"),
            "with training, a filter a head": ("convert, a filter a head", "label", "evaluate", "train")}
    rows = dict(seconds)
    for name, parts in sums.items():
        rows[name] = [(sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs))
                      for pairs in zip(*(seconds[part] for part in parts), strict=True)]
    return rows


def table(found: dict[str, Any]) -> str:
    """A row a part: seconds an image, and the median of the ratios with its quartiles."""
    lines = [f"{found['images']} images, {found['persons']:,} persons; {found['instructions']}, {found['machine']}, "
             f"torch {found['torch']}; mean absolute error: peers {found['errors']['peers']:.3f}, "
             f"ours {found['errors']['ours']:.3f}", "",
             "| part | peers, s an image | ours, s an image | times faster (quartiles) |", "|---|---|---|---|"]
    for name, pairs in totals(found["seconds"]).items():
        times = np.array(pairs)
        low, ratio, high = np.percentile(times[:, 0] / times[:, 1], (25, 50, 75))
        peers_s, ours_s = times.sum(0) / found["images"]
        lines.append(f"| {name} | {peers_s:.3f} | {ours_s:.3f} | {ratio:.1f} ({low:.1f} to {high:.1f}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    given = tyro.cli(Options, description=__doc__)
    measured = measure(given)
    print(f"\n{table(measured)}")
    if given.output:
        Path(given.output).write_text(json.dumps(measured, indent=2))
    error = measured["errors"]
    assert abs(error["peers"] - error["ours"]) < 0.005 * max(error["ours"], 1), "both count alike"
