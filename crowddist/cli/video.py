"""Counts people in a video file, a stream or a camera over time: counts.csv, a chart, and an overlay video.

    crowddist video street.mp4 --model runs/demo --output counted/ --every 2s --zones zones.json --save-video
    crowddist video rtsp://camera/1 --model runs/demo --output counted/ --every 10s
    crowddist video 0 --model runs/demo --output counted/ --stop-after 60     (the first camera of this machine)

Ctrl-C and SIGTERM end a count; what was counted is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from crowddist.cli.called import EXIT_CODES
from crowddist.cli.counting import Counting, Options
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.process.host import sigterm_as_exit
from crowddist.video.capture import Connection


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to count with what."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A video file (path or URL), the address of a stream (rtsp, http and others), or a camera's number."""
    model: Annotated[str, tyro.conf.arg(aliases=["--checkpoint"])] = ""
    """A run's folder, one of its checkpoint files, or a file of crowddist export; path or URL. Not given: the counter
    that comes with crowddist, which only saw rendered crowds."""
    output: str
    """The folder for counts.csv, the chart, the summary and the overlay video."""
    every: str = "1s"
    """Which frames are counted: 10, each tenth; 2s, one in two seconds."""
    zones: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """Parts of the picture that are counted too: JSON, an export of LabelMe, CVAT or Label Studio, or a mask."""
    save_video: bool = False
    """Also write overlay.mp4, the heat map over the counted frames."""
    stop_after: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 0.0
    """End after so many seconds of the video; 0: at its end."""
    connection: Annotated[Connection, tyro.conf.arg(name="")] = field(default_factory=Connection)
    counting: Options = field(default_factory=Counting)
    fresh: bool = False
    """Replace the results of an earlier count in the output folder."""


def main(arguments: Sequence[str], prog: str = "crowddist video") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors("what was counted is kept"), sigterm_as_exit():
        about = f"{__doc__}\n{EXIT_CODES}"
        count(read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments), about))


def count(arguments: Arguments) -> None:
    """Counts the video's frames; the count itself says where the results lie."""
    from crowddist.data.zones.files import as_zones
    from crowddist.video.count import count_video
    from crowddist.video.sampling import parse_every
    from crowddist.video.source import find_source

    find_source(arguments.source)  # before the counter is loaded, which takes seconds
    parse_every(arguments.every)
    zones = as_zones(arguments.zones or None)
    counter = arguments.counting.open(arguments.model)
    if counter.intervals is not None:
        print(counter.intervals.told, flush=True)
    count_video(counter, arguments.source, arguments.output, every=arguments.every, zones=zones,
                save_video=arguments.save_video, stop_after_s=arguments.stop_after or None, fresh=arguments.fresh,
                connection=arguments.connection, say=lambda line: print(line, flush=True))
