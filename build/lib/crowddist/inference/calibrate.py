"""Calibrates a counter's intervals: counts held-out images of the source, and keeps how far off it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from crowddist import storage
from crowddist.data.config import StreamConfig
from crowddist.data.shards import ShardReader
from crowddist.inference.intervals import LEVEL, Calibration, find_intervals, read_calibration, write_calibration
from crowddist.inference.jobs import EvaluateJob, Job
from crowddist.inference.metrics import ImageResult
from crowddist.ops.intervals import conformal_scores, error_scale
from crowddist.storage.run_folder import intervals_url


def calibrate(run: Callable[[Job], list[Any]], checkpoint_url: str, images_url: str, stream: StreamConfig, *,
              say: Callable[[str], None]) -> list[str]:
    """Calibrates a checkpoint's counter on labelled images of the source that training never saw, once. Returns the
    keys of images that were skipped.

    Args:
        run: does a job on all images, see `Launcher.run`.
        images_url: of the images; "": there are none, and nothing is done.
        stream: has the sizes that the counter counts at.
    """
    if images_url and not storage.exists(intervals_url(checkpoint_url)):
        images = ShardReader(images_url)
        job = EvaluateJob(checkpoint_url=checkpoint_url, images_url=images_url)
        results = [result for record in run(job) for result in record]
        skipped = set(images.keys()) - {result.key for result in results}
        write_calibration(checkpoint_url, Calibration(
            scores=tuple(scores_of(results)), image_size=stream.image_size, zooms=stream.zooms,
            data=images.manifest.name, digest=images.manifest.digest,
            skipped=tuple(sorted(skipped))))
        say(find_intervals(checkpoint_url, LEVEL, image_size=stream.image_size, zooms=stream.zooms).told)
    found = read_calibration(checkpoint_url)
    return [] if found is None else list(found.skipped)


def scores_of(results: Sequence[ImageResult]) -> list[float]:
    """`conformal_scores` of images that count whole: the uncertainty is of the whole image, not of a region."""
    whole = [result for result in results if result.whole]
    scales = error_scale([max(result.count, 0.0) for result in whole], [result.uncertainty for result in whole])
    return conformal_scores([result.count for result in whole], [result.true_count for result in whole],
                            scales).tolist()
