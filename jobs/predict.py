"""Counts people in images or folders of any size; writes counts.csv and an overlay PNG each.

After a stop or a kill, counts.csv holds what was counted, and the same command goes on.

    python jobs/predict.py --checkpoint runs/demo --input photos/ more.jpg --output counted/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from crowddist.inference.intervals import LEVEL
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.process.host import sigterm_as_exit

CODE = ("data", "inference", "methods", "models", "ops")
"""Rooms of the package that decide a count."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to count with what."""

    checkpoint: str
    """A run's folder or one of its checkpoint files, path or URL."""
    input: tuple[str, ...]
    """Images, and folders that are searched for images."""
    output: str
    """The folder for counts.csv and the overlays."""
    image_size: Annotated[int, tyro.conf.arg(metavar="PX")] = -1
    """Longest side that images are resized to; -1: the one the counter was trained with; 0: as they are, in tiles where
    large."""
    zooms: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SIZE ...")] = ()
    """Sizes, relative to the image size, at which an image is counted; they are merged place by place by the ensemble's
    certainty. None given: those that the run evaluated at; 1: one size, which is fastest."""
    one_pass: bool = False
    """Count by the mean of the ensemble's masks, in one pass: faster, without an uncertainty and an interval."""
    level: float = LEVEL
    """Share of images like the source's whose true count lies between low and high, above 0 and below 1."""
    skip_bad: bool = False
    """Leave out files that cannot be read, instead of stopping at the first."""
    fresh: bool = False
    """Count everything anew, instead of going on where an earlier start with the same output was stopped."""


def main(arguments: Arguments) -> None:
    """Counts every image and says where the results lie."""
    import hashlib

    from crowddist import storage
    from crowddist.inference.predictor import Predictor
    from crowddist.process.host import code_digest
    from crowddist.reports.count_files import predict_files
    from crowddist.run.engine import default_device
    from crowddist.storage.run_folder import find_checkpoint

    checkpoint_url = find_checkpoint(arguments.checkpoint)
    predictor = Predictor.from_checkpoint(
        checkpoint_url,
        image_size=None if arguments.image_size < 0 else arguments.image_size,
        zooms=arguments.zooms or None,
        device=default_device(),
        one_pass=arguments.one_pass,
        level=arguments.level,
    )
    if predictor.intervals is not None:
        print(predictor.intervals.told, flush=True)
    with open(storage.local_file(checkpoint_url), "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    # The intervals have their level, and a calibration that may change beside the same checkpoint. Rows of another
    # version of the code may be counted otherwise.
    settings = (code_digest(CODE), digest, arguments.image_size, arguments.zooms, arguments.one_pass,
                predictor.intervals)
    job = hashlib.sha256(repr(settings).encode()).hexdigest()
    rows = predict_files(predictor, arguments.input, arguments.output, skip_bad=arguments.skip_bad,
                         fresh=arguments.fresh, job=job, say=lambda line: print(line, flush=True))
    print(f"{len(rows)} images, {sum(row['count'] for row in rows):.0f} people: {arguments.output}/counts.csv")


if __name__ == "__main__":
    with one_line_errors(), sigterm_as_exit():
        main(read_arguments(lambda: tyro.cli(Arguments, description=__doc__)))
