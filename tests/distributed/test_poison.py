"""An image over which actors die, for real: it is skipped, and all others are labelled once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crowddist.data.shards import ShardReader
from crowddist.inference.pseudo_labels import publish_labels

PROJECT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
JOB = """
import json, sys
from pathlib import Path
from crowddist.distributed.runtime import prepare_environment
prepare_environment()
import ray

def poison():
    # In every worker: one image kills whoever decodes it, as one that a library cannot bear would.
    import os, signal
    from crowddist.data import shard_codec
    decode = shard_codec.decode
    def deadly(key, *arguments, **named):
        if key == "image-013":
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(key, *arguments, **named)
    shard_codec.decode = deadly

ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False,
         logging_level="ERROR", runtime_env={"worker_process_setup_hook": poison})
from crowddist.distributed.actors import UnitActors
from crowddist.inference.jobs import LabelJob
job = LabelJob(checkpoint_url=sys.argv[1], images_url=sys.argv[2], labels_url=sys.argv[3])
with UnitActors(num_actors=2, threads=1) as actors:
    records = actors.run(job)
Path(sys.argv[4]).write_text(json.dumps(records))  # not printed: Ray, too, prints there what it has noticed
"""


def test_an_image_over_which_actors_die_is_skipped(tiny_checkpoint: str, tmp_path: Path,
                                                   make_images: Callable[..., str]) -> None:
    images, labels = make_images(tmp_path / "images", count=40, labelled=False), (tmp_path / "labels").as_uri()
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    environment |= {"PYTHONPATH": str(PROJECT), "HOME": str(tmp_path)}
    result = tmp_path / "records.json"
    command = [sys.executable, "-c", JOB, tiny_checkpoint, images, labels, str(result)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    records, reader = json.loads(result.read_text()), ShardReader(images)
    assert [key for record in records for key in record["skipped"]] == ["image-013"]
    assert f"image image-013 of {images} is skipped: actors die over it" in done.stderr
    publish_labels(labels, reader, records, name="labels")
    assert sorted([*ShardReader(labels).keys(), "image-013"]) == reader.keys()
