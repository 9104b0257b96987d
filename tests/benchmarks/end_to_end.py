"""One round of adaptation, ours and one made of published parts (`peers/habits.py`): part by part, in one process, on
one thread.

    python -m tests.benchmarks.end_to_end                      # 30 rendered images of ShanghaiTech's size
    CROWDDIST_DATA=... python -m tests.benchmarks.end_to_end   # images of ShanghaiTech B, with --part A of A

Both have the same networks: the counter that comes with the package, three masks. Images are counted once, at their own
size. The images are cut into groups; for each group both ways do each part in turn, and a ratio is the median of the
groups' ratios. Training goes on from group to group, each at its own rate; at the end both trained networks count
images that were held out. Times are those of the process, which waits for no other.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

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
from crowddist.process.host import keep_freed_memory
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime
from crowddist.storage.run_folder import PACKAGED
from tests.benchmarks.harness import single_thread
from tests.benchmarks.peers import habits

Way = Callable[[], Any]
BY_HEADS = "convert, a filter a head"
LEAST_PX = 256
"""Shortest side of an image: a crop's."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    images: int = 30
    """Number of images."""
    held_out: int = 10
    """Number of further images that both count after their training."""
    groups: int = 5
    """Number of groups, and so of ratios."""
    steps_an_image: float = 3.0
    """Training steps an image: 3 is a recipe's 600 and 300 on the source and in a round, for 300 images."""
    part: Literal["A", "B"] = "B"
    """Of ShanghaiTech, where CROWDDIST_DATA has it."""
    size: tuple[int, int] = (768, 1024)
    """Height and width of rendered images, px: those of ShanghaiTech B."""
    by_heads: int = 1
    """Images of a group that the peers also draw with a filter a head, which takes up to a minute an image; 0: none."""
    output: str = ""
    """JSON file to write."""
    csv: str = ""
    """CSV file whose rows of this data are replaced."""

    def __post_init__(self) -> None:
        if not 0 < self.groups <= self.images or self.held_out < 1 or min(self.size) < LEAST_PX:
            raise SystemExit(f"every group needs an image, one must be held out, and a side has at least {LEAST_PX} px")

    @property
    def real(self) -> Path | None:
        """The folder of real images, if there is one."""
        data = os.environ.get("CROWDDIST_DATA")
        folder = Path(data or ".") / f"shanghaitech/part_{self.part}_final/train_data/images"
        return folder if data and folder.is_dir() else None

    @property
    def data(self) -> str:
        """What the images are."""
        return f"ShanghaiTech {self.part}" if self.real else f"rendered, {self.size[1]} x {self.size[0]} px"


def raw_images(folder: Path, number: int, options: Options) -> list[Path]:
    """So many images of ShanghaiTech, or rendered ones in its layout."""
    if options.real:
        from PIL import Image

        large = (image for image in sorted(options.real.glob("*.jpg")) if min(Image.open(image).size) >= LEAST_PX)
        found = list(itertools.islice(large, number))
        if len(found) < number:
            raise SystemExit(f"{options.data} has no more than {len(found)} images of at least {LEAST_PX} px a side")
        return found
    import cv2
    import scipy.io

    drawn = folder / "rendered"
    for part in ("images", "ground_truth"):
        (drawn / part).mkdir(parents=True)
    config = RendererConfig(num_images=number, size=options.size, seed=7, look="wide")
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

    def __init__(self, folder: Path, groups: Sequence[Sequence[Path]], steps_an_image: float, by_heads: int) -> None:
        content = checkpoint.load(PACKAGED["rendered"].as_uri())
        config = from_json(content["config"])
        rate = config.self_supervision.learning_rate  # of a network that is trained already
        self.config = replace(config, stream=replace(config.stream, zooms=(1.0,)),
                              train=replace(config.train, learning_rate=rate),
                              self_supervision=replace(config.self_supervision, label_views=(1.0,)))
        content["config"] = to_json(self.config)
        url = (folder / "counter.pt").as_uri()
        checkpoint.write(url, content["step"], content)
        self.predictor = Predictor.from_checkpoint(url, image_size=0)
        self.method, *peers = (build_method(self.config, weights="none") for _ in range(3))
        for each in (self.method, *peers):
            each.load_state_dict(content["method"], optimizers=False)
        self.network, self.trained = (
            peer.networks().to(memory_format=torch.contiguous_format).float().eval() for peer in peers)
        self.optimizer = torch.optim.Adam(self.trained.parameters(), lr=habits.RATE)
        self.steps = [max(round(steps_an_image * len(group)), 1) for group in groups]
        self.stage = replace(self.method.plan()[0], steps=sum(self.steps))
        self.method.start(self.stage, LocalRuntime())
        self.num_members, self.folder, self.by_heads = self.config.counter.num_masks, folder, by_heads
        self.errors: dict[str, list[float]] = {"peers": [], "ours": []}

    def parts(self, number: int, group: Sequence[Path]) -> dict[str, tuple[Way, Way, float]]:
        """Name -> the peers' way, ours, and the share of the work that the peers do."""
        own, theirs = self.folder / f"shards-{number}", self.folder / f"densities-{number}"
        steps, done = self.steps[number], sum(self.steps[:number])
        crop_px, batch_size = self.config.stream.crop_size, self.config.train.batch_size

        def ours_convert() -> None:
            convert(FORMATS["shanghaitech"], group[0].parents[1], own, split="all", overwrite=True)

        def ours_label() -> None:
            reader = ShardReader(own)
            labels = self.folder / f"round-{number}" / "labels"
            label_unit(self.predictor, reader, range(len(reader)), labels.as_uri())

        def ours_train() -> None:
            crops = CropDataset(own.as_uri(), self.config.stream, plan_seed=0, name=self.stage.seed_name,
                                stride=self.method.output_stride)
            for step, batch in enumerate(batches(crops, first_step=0, steps=steps, global_batch=batch_size, rank=0,
                                                 world_size=1), start=done):
                self.method.step(step, {"source": batch})

        def peers_train() -> None:
            habits.train(self.trained, self.optimizer, self.num_members, group, theirs, steps=steps,
                         batch_size=batch_size, crop_px=crop_px)

        parts: dict[str, tuple[Way, Way, float]] = {
            "convert": (lambda: habits.convert(group, theirs), ours_convert, 1.0)}
        if filtered := group[: self.by_heads]:
            parts[BY_HEADS] = (lambda: habits.convert(filtered, self.folder / f"by-heads-{number}", by_heads=True),
                               ours_convert, len(filtered) / len(group))
        return parts | {
            "label": (lambda: habits.label(self.network, self.num_members, group, self.folder / f"maps-{number}"),
                      ours_label, 1.0),
            "evaluate": (lambda: self.errors["peers"].append(
                habits.evaluate(self.network, self.num_members, group, theirs)[0]),
                lambda: self.errors["ours"].append(mean_error(self.predictor, own)), 1.0),
            "train": (peers_train, ours_train, 1.0),
        }

    def held_out_errors(self, images: Sequence[Path]) -> dict[str, float]:
        """Mean absolute errors on images that nothing was trained on: before training, and after it by both."""
        shards, densities = self.folder / "shards-held-out", self.folder / "densities-held-out"
        convert(FORMATS["shanghaitech"], images[0].parents[1], shards, split="all")
        habits.convert(images, densities)
        return {"before": mean_error(self.predictor, shards),
                "peers": habits.evaluate(self.trained, self.num_members, images, densities)[0],
                "ours": mean_error(Predictor(self.method, image_size=0), shards)}


def mean_error(predictor: Predictor, shards: Path) -> float:
    """Mean absolute error of our evaluation, persons an image."""
    reader = ShardReader(shards)
    return summarise(evaluate_unit(predictor, reader, range(len(reader))))["target/mae"]


def measure(options: Options) -> dict[str, Any]:
    """Seconds of each part for each group, peers and ours, and both errors."""
    keep_freed_memory()  # as our commands do; it makes the peers faster, too
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name, single_thread():
        folder = Path(name)
        images = raw_images(folder, options.images + options.held_out, options)
        groups = grouped(images[: options.images], folder / "groups", options.groups)
        (held_out,) = grouped(images[options.images :], folder / "held-out", 1)
        both = Round(folder, groups, options.steps_an_image, options.by_heads)
        seconds: dict[str, list[tuple[float, float]]] = {}
        began_s = time.perf_counter()
        for number, group in enumerate(groups):
            for part, (peer, ours, share) in both.parts(number, group).items():
                took = [0.0, 0.0]
                for which in ((0, 1) if number % 2 == 0 else (1, 0)):
                    began = time.process_time()
                    (peer, ours)[which]()
                    took[which] = time.process_time() - began
                seconds.setdefault(part, []).append((took[0] / share, took[1]))
                print(f"{time.perf_counter() - began_s:5.0f} s, group {number}, {part}: peers {took[0] / share:.2f} s, "
                      f"ours {took[1]:.2f} s", flush=True)
        errors = {way: float(np.average(found, weights=[len(group) for group in groups]))
                  for way, found in both.errors.items()}
        held_out_errors = both.held_out_errors(held_out)
        heads = int(sum(len(habits.read_points(image)) for group in groups for image in group))
    return {"data": options.data, "images": options.images, "persons": heads, "held_out": options.held_out,
            "steps": sum(both.steps), "instructions": torch.backends.cpu.get_cpu_capability(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            "torch": torch.__version__, "errors": errors, "held_out_errors": held_out_errors, "seconds": seconds}


def totals(seconds: dict[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    """The parts, and the sums that matter."""
    drawn = {"": "convert"} | ({", a filter a head": BY_HEADS} if BY_HEADS in seconds else {})
    rows = dict(seconds)
    for sum_name, others in (("without training", ("label", "evaluate")),
                             ("with training", ("label", "evaluate", "train"))):
        for how, part in drawn.items():
            rows[sum_name + how] = [(sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs))
                                    for pairs in zip(*(seconds[name] for name in (part, *others)), strict=True)]
    return rows


def rows_of(found: dict[str, Any], command: str) -> list[dict[str, str]]:
    """A row a part: seconds an image, and the median of the ratios with its quartiles."""
    rows = []
    for name, pairs in totals(found["seconds"]).items():
        times = np.array(pairs)
        low, ratio, high = np.percentile(times[:, 0] / times[:, 1], (25, 50, 75))
        peers_s, ours_s = times.sum(0) / found["images"]
        rows.append({"images": f"{found['images']} of {found['data']}", "part": name,
                     "peers, s an image": f"{peers_s:.3f}", "ours, s an image": f"{ours_s:.3f}",
                     "times faster (quartiles)": f"{_short(ratio)} ({_short(low)} to {_short(high)})", "seed": "0",
                     "split": "training images in the order of their names" if "Shanghai" in found["data"]
                     else "images that the benchmark renders",
                     "machine": f"one thread, {found['instructions']}, no GPU", "command": command})
    return rows


def _short(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"


def summary(found: dict[str, Any]) -> str:
    """Two lines: what was measured on what, and the errors."""
    errors, held_out = found["errors"], found["held_out_errors"]
    return (f"{found['images']} images, {found['data']}, {found['persons']:,} persons; {found['instructions']}, "
            f"{found['machine']}, torch {found['torch']}\nmean absolute error: before training peers "
            f"{errors['peers']:.3f}, ours {errors['ours']:.3f}; on {found['held_out']} images held out before training "
            f"{held_out['before']:.1f}, after {found['steps']} steps peers {held_out['peers']:.1f}, ours "
            f"{held_out['ours']:.1f}")


def write_rows(file: Path, rows: Sequence[dict[str, str]]) -> None:
    """Puts the rows into a CSV file, in the place of those of the same data."""
    kept = list(csv.DictReader(file.open(newline=""))) if file.exists() else []
    data = rows[0]["images"].partition(" of ")[2]
    kept = [row for row in kept if row["images"].partition(" of ")[2] != data]
    with file.open("w", newline="") as written:
        writer = csv.DictWriter(written, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])


if __name__ == "__main__":
    given = tyro.cli(Options, description=__doc__)
    measured = measure(given)
    if given.output:
        Path(given.output).write_text(json.dumps(measured, indent=2))
    usual = Options()
    options = [f" --{name.replace('_', '-')} {getattr(given, name)}"
               for name in ("part", "images", "held_out", "groups", "steps_an_image", "by_heads")
               if getattr(given, name) != getattr(usual, name)]
    shown = rows_of(measured, f"python -m tests.benchmarks.end_to_end{''.join(options)}")
    print(f"\n{summary(measured)}\n")
    for row in shown:
        print(f"{row['part']:35} {row['peers, s an image']:>9} {row['ours, s an image']:>9}  "
              f"{row['times faster (quartiles)']}")
    if given.csv:
        write_rows(Path(given.csv), shown)
    error = measured["errors"]
    assert abs(error["peers"] - error["ours"]) < 0.005 * max(error["ours"], 1), "both count alike"
