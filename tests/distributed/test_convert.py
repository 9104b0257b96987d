"""Conversion by the tasks of a real Ray: the bytes of threads, the errors of threads, and nothing lost with a
worker.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist.data.convert.base import convert, in_order
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import Item
from crowddist.distributed.convert import in_order_on_cluster
from crowddist.errors import InputError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("private_ray")]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for index in range(30):
        assert cv2.imwrite(str(tmp_path / "photos" / f"{index}.jpg"),
                           np.random.default_rng(index).integers(0, 255, (40, 56, 3), dtype=np.uint8))
    return tmp_path / "photos"


def test_the_cluster_writes_the_bytes_that_threads_write(photos: Path, tmp_path: Path) -> None:
    manifests = [
        convert(FORMATS["folder"], photos, tmp_path / name, max_size=40, num_workers=2, work=work).manifest
        for name, work in (("threads", in_order), ("cluster", in_order_on_cluster))
    ]
    assert manifests[0].num_samples == 30 and manifests[0].shards == manifests[1].shards


def test_a_bad_image_is_named_as_ever_and_may_be_skipped(photos: Path, tmp_path: Path) -> None:
    (photos / "7.jpg").write_bytes(b"no image")
    said = []
    for work in (in_order, in_order_on_cluster):
        with pytest.raises(InputError) as raised:
            convert(FORMATS["folder"], photos, tmp_path / "set", num_workers=2, work=work)
        said.append(str(raised.value))
    assert said[0] == said[1] and "7.jpg" in said[0] and "\n" not in said[1]
    done = convert(FORMATS["folder"], photos, tmp_path / "set", num_workers=2, skip_bad=True, work=in_order_on_cluster)
    assert done.manifest.num_samples == 29 and [entry["file"] for entry in done.skipped] == ["7.jpg"]


def test_the_task_of_a_dead_worker_is_done_again(tmp_path: Path) -> None:
    died = tmp_path / "died"

    def make(number: int) -> int:
        if number == 5 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    found = [(item, made())
             for item, made in in_order_on_cluster(range(20), make, 2)]  # type: ignore[type-var, arg-type]
    assert found == [(number, number * number) for number in range(20)] and died.exists()


def test_an_image_that_ends_every_process_is_named() -> None:
    item = Item(name="a", image=Path("/photos/a.jpg"))
    ((_, made),) = in_order_on_cluster([item], lambda _: os.kill(os.getpid(), signal.SIGKILL), 1)
    with pytest.raises(InputError, match=r"/photos/a\.jpg: no process that read it lived to its end: they crashed, or"):
        made()
