"""What all tests share: one thread, private places in memory, and tiny data sets."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

# Before anything imports them: one thread each, no MLflow or Ray of the user's.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
for _name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
    os.environ.pop(_name, None)

# Nor is garbage looked for while modules are imported, for a third of that time.
gc.disable()

import numpy as np  # noqa: E402
import pytest  # noqa: E402

PROJECT = Path(__file__).resolve().parents[1]
MEMORY = Path("/dev/shm")


def pytest_configure(config: pytest.Config) -> None:
    """Chooses where tests write: in memory where there is some. Nothing there need outlive a power cut, and a tiny
    adaptation waits for the disk (fsync) a hundred times, which takes seconds. Machines of the tests of faults and of
    Slurm have a /dev/shm each, so they share folders on the disk.

    And prepares Ray, which keeps to what it reads when it is imported; where others run the tests (-n), not here, for
    that imports PyTorch.
    """
    chosen = config.getoption("markexpr")
    if (all(f"not {name}" in chosen for name in ("faults", "slurm")) and MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
            and shutil.disk_usage(MEMORY).free > 4 * 2**30 and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    if not config.getoption("numprocesses", None):
        from crowddist.distributed.runtime import prepare_environment

        prepare_environment()


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector of garbage, which else looks through half a million objects again
    and again for a tenth of the tests' time, leaves it alone, and looks through the others less often.
    """
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("CROWDDIST_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CROWDDIST_DATA")
    return folder


def write_images(
    folder: Path, *, count: int, seed: int = 0, labelled: bool = True, boxes: bool = False, masks: bool = True,
    size: tuple[int, int] = (72, 96),
    facts=(), prefix: str = "image", **writer,
) -> str:
    """A tiny data set of noise with bright blobs as persons, as shards, their json with further `facts`, one dict an
    image; returns its place.
    """
    import cv2

    from crowddist.data.shards import ShardWriter

    rng = np.random.default_rng(seed)
    with ShardWriter(folder, name="tiny", split="all", labelled=labelled, converter="test", **writer) as shards:
        for index in range(count):
            image = rng.integers(60, 120, (*size, 3), dtype=np.uint8)
            points = np.column_stack([rng.uniform(4, size[1] - 5, 3 + index % 5),
                                      rng.uniform(4, size[0] - 5, 3 + index % 5)]).astype(np.float32)
            mask = np.zeros(size, np.uint8)
            for x, y in points:
                for drawn, colour in ((image, (230, 200, 180)), (mask, 1)):
                    cv2.circle(drawn, (round(float(x)), round(float(y))), 3, colour, -1)
            _, png = cv2.imencode(".png", image[:, :, ::-1])
            members = {"png": png.tobytes(), "json": {"id": f"image-{index}", "height": size[0], "width": size[1],
                                                      **(facts[index] if facts else {})}}
            if labelled:
                members |= {"points.npy": points, **({"mask.png": mask} if masks else {})}
            if boxes:
                members |= {"boxes.npy": np.column_stack([points - 2.5,
                                                          np.full((len(points), 2), 6)]).astype(np.float32)}
            shards.add(f"{prefix}-{index:03d}", members)
    return folder.as_uri()


@pytest.fixture(scope="session")
def make_images():  # type: ignore[no-untyped-def]
    """`write_images`, for tests that need a data set of their own."""
    return write_images


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve labelled images in several shards."""
    return write_images(tmp_path_factory.mktemp("source"), count=12, max_shard_bytes=100_000)


@pytest.fixture(scope="session")
def tiny_target(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten images without labels."""
    return write_images(tmp_path_factory.mktemp("target"), count=10, seed=1, labelled=False)


@pytest.fixture(scope="session")
def tiny_evaluation(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five labelled images of the target."""
    return write_images(tmp_path_factory.mktemp("evaluation"), count=5, seed=2)


def draw_little(patched: pytest.MonkeyPatch) -> None:
    """Adaptations draw one picture a round instead of six, all pictures in a quarter of the width, and charts with
    labels that may overlap: else drawing takes longer than all the rest of a tiny one.
    """
    from crowddist.reports import charts, sheets

    figure = charts._figure

    def little(size: tuple[float, float], dpi: int, *grid: int):  # type: ignore[no-untyped-def]
        drawn = figure(size, min(dpi, 30), *grid)
        drawn[0].set_layout_engine("none")  # which else measures every text twice
        return drawn

    patched.setattr(charts, "_figure", little)
    patched.setattr("crowddist.reports.round_pictures.NUM_PICTURES", 1)
    patched.setattr(sheets, "_PANEL_WIDTH_PX", 120)
    patched.setattr(sheets, "_OVERLAY_SIDE_PX", (240, 480))


@pytest.fixture
def little_overlays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images are not enlarged to be drawn on, which takes longer than to count them."""
    monkeypatch.setattr("crowddist.reports.sheets._OVERLAY_SIDE_PX", (1, 1920))


@pytest.fixture
def all_pictures(tiny_config, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Rounds of a tiny adaptation draw as many pictures as others do."""
    monkeypatch.setattr("crowddist.reports.round_pictures.NUM_PICTURES", 6)


@pytest.fixture(scope="module")
def little_drawn() -> Iterator[None]:
    """The adaptations of a module draw as little as those of `tiny_config`."""
    with pytest.MonkeyPatch.context() as patched:
        draw_little(patched)
        yield


@pytest.fixture
def tiny_config(tiny_settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A whole adaptation of a few steps, for the local launcher, which draws little."""
    draw_little(monkeypatch)
    return replace(tiny_settings, storage=str(tmp_path / "runs"))


@pytest.fixture
def short_config(tiny_config):  # type: ignore[no-untyped-def]
    """The same with two steps a stage, and without labels of the target, so that no round is evaluated and drawn."""
    return replace(tiny_config, evaluation="", train=replace(tiny_config.train, steps=2),
                   self_supervision=replace(tiny_config.self_supervision, orientation_steps=2, round_steps=2),
                   bi_knowledge=replace(tiny_config.bi_knowledge, regressor_steps=2, detector_steps=2,
                                        localiser_steps=2, cycle_steps=2))


@pytest.fixture(scope="session")
def tiny_settings(tiny_source: str, tiny_target: str, tiny_evaluation: str):  # type: ignore[no-untyped-def]
    """Those of `tiny_config`, for a run that several tests look at; its storage is still to be chosen."""
    from crowddist.config import EngineConfig, RunConfig
    from crowddist.data.config import StreamConfig
    from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
    from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
    from crowddist.methods.settings.semantic_consistency import SemanticConsistencyConfig
    from crowddist.methods.settings.train import TrainConfig
    from crowddist.methods.settings.translation import TranslationConfig

    return RunConfig(
        recipe="tiny",
        source=tiny_source,
        target=tiny_target,
        evaluation=tiny_evaluation,
        launcher="local",
        threads=1,
        tracking_uri="none",
        stream=StreamConfig(image_size=96, crop_size=64),
        train=TrainConfig(steps=6, batch_size=4),
        self_supervision=SelfSupervisionConfig(orientation_steps=4, orientation_px=64, rounds=2, round_steps=4,
                                               target_batch_size=4, label_views=(1.0, 1.4), stop_change=0.0,
                                               drop_rise=0.0),
        bi_knowledge=BiKnowledgeConfig(
            crop_size=64, regressor_steps=6, detector_steps=6, localiser_steps=4, cycles=2, cycle_steps=4, batch_size=4,
            confidence=0.02,
            source_batch_size=4, stop_change=0.0,
        ),
        semantic_consistency=SemanticConsistencyConfig(steps=4, target_batch_size=4, segmenter_steps=4),
        translation=TranslationConfig(steps=4, batch_size=2, crop_size=64, counting_steps=4),
        engine=EngineConfig(checkpoint_every=2, log_every=2),
    )


@pytest.fixture(scope="session")
def make_checkpoint(tiny_source: str):  # type: ignore[no-untyped-def]
    """Writes the checkpoint of a counter that nobody trained; its weights are so strong that cells and members differ
    plainly.
    """

    def make(  # type: ignore[no-untyped-def]
        folder: Path, *, seed: int = 1, image_size: int = 96, sigma_px: float = 6.0, counter=None, self_supervision=None
    ) -> str:
        import torch

        from crowddist.config import RunConfig, to_json
        from crowddist.data.config import StreamConfig
        from crowddist.methods.build import build_method
        from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
        from crowddist.models.config import CounterConfig
        from crowddist.models.initialisation import init_kaiming
        from crowddist.run import checkpoint

        stream = StreamConfig(image_size=image_size, crop_size=64, sigma_px=sigma_px)
        config = RunConfig(
            recipe="tiny",
            source=tiny_source,
            target=tiny_source,
            stream=stream,
            counter=counter or CounterConfig(),
            # Such counters are certain by 0.67 to 0.71: some cells are kept, some are not.
            self_supervision=self_supervision or SelfSupervisionConfig(label_views=(1.0, 1.4, 2.0), min_certainty=0.69),
        )
        torch.manual_seed(seed)
        method = build_method(config)
        bias = method.networks().state_dict()["decoder.rest.6.bias"].clone()
        init_kaiming(method.networks())  # torch's smaller weights wait for a normalisation that has seen images
        state = method.state_dict()
        state["networks"]["decoder.rest.6.bias"].copy_(bias)
        return checkpoint.save(folder.as_uri(), 1, {"method": state, "config": to_json(config)})

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, make_checkpoint) -> str:  # type: ignore[no-untyped-def]
    """Such a checkpoint, of the compact counter with three masks, for images of 96 px."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: str) -> Path:
    """`crowddist export` of that counter, with intervals of its own."""
    from crowddist import storage
    from crowddist.cli.main import main
    from crowddist.inference.intervals import Calibration, write_calibration

    folder = tmp_path_factory.getbasetemp()
    # Writing it takes 7 s: processes that share the tests (-n) share it, too.
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "onnx"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "counter.onnx").exists():
            shutil.copy(storage.local_file(tiny_checkpoint), folder / "counter.pt")
            write_calibration(str(folder / "counter.pt"), Calibration(scores=(0.5,) * 9, image_size=96, zooms=(1.0,)))
            main(["export", "--model", str(folder / "counter.pt"), "--output", str(folder / "counter.onnx")])
    return folder / "counter.onnx"


@pytest.fixture(scope="session")
def ray_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of the tests' Ray, which ends with them."""
    yield tmp_path_factory.mktemp("home")
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def private_ray(ray_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of two CPUs with a home and a token of its own; the same for all tests of a process."""
    monkeypatch.setenv("HOME", str(ray_home))
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 * 2**20,
                 log_to_driver=False)
