"""Draws the zones of a file on an image or on a frame of a video, to check them before people are counted.

    crowddist zones zones.json photo.jpg --output checked.png
    crowddist zones zones.json street.mp4 --at 12 --output checked.png      (its frame at 12 seconds)
    crowddist zones zones.json rtsp://camera/1 --output checked.png

What is wrong with a zone (it lies outside the image, crosses itself, is empty) is told in one line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import tyro

from crowddist.cli.called import EXIT_CODES
from crowddist.errors import InputError, require_not_negative, require_png_name
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.process.host import sigterm_as_exit

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to draw on what."""

    zones: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ZONES")]
    """The file of zones: JSON, an export of LabelMe, CVAT or Label Studio, or a mask; path or URL."""
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """An image (path or URL), a video file, the address of a stream, or a camera's number."""
    output: str
    """The picture to write, a PNG."""
    at: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 0.0
    """Of a video: how far into it the frame lies."""

    def __post_init__(self) -> None:
        require_not_negative(at=self.at)
        require_png_name("output", self.output)
        if any(os.path.realpath(self.output) == os.path.realpath(given) for given in (self.zones, self.source)):
            raise InputError(f"the output {self.output} would replace what is drawn; choose another name")


def main(arguments: Sequence[str], prog: str = "crowddist zones") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors("nothing is written"), sigterm_as_exit():
        about = f"{__doc__}\n{EXIT_CODES}"
        draw(read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments), about))


def draw(arguments: Arguments) -> None:
    """Writes the picture and prints each zone's name, kind and share of the image."""
    from crowddist import storage
    from crowddist.data.safe_decode import encode_png
    from crowddist.data.user_files import read_place
    from crowddist.data.zones.files import read_zone_file
    from crowddist.process.safe_text import readable, redacted
    from crowddist.reports.sheets import zones_overlay
    from crowddist.reports.text_table import text_table
    from crowddist.reports.zone_drawing import drawn_zones

    file, shown = read_zone_file(arguments.zones), readable(redacted(arguments.source))
    if _is_image(arguments.source):
        image, title = read_place(arguments.source)[0], PurePosixPath(shown).name
        (zones,) = file.of_images([os.path.abspath(arguments.source)])
    else:
        (image, title), zones = _frame(arguments.source, arguments.at), file.only()
    if zones is None:
        raise InputError(f"{file.place}: none of its zones are of {shown}; it has those of "
                         f"{', '.join(sorted(file.sets))[:200]}")
    found = zones.outlined((image.shape[0], image.shape[1]))
    words = f"{len(found.names)} zone{'s' * (len(found.names) > 1)}, {found.covered:.1%} of the image"
    picture = zones_overlay(image, drawn_zones(found), title=title, words=words)
    storage.write_bytes(storage.normalise(arguments.output), encode_png(picture))
    print(f"{shown}: {image.shape[1]} x {image.shape[0]} px")
    for note in (*zones.notes, *found.notes):
        print(readable(note))
    rows = [[name, "mask" if zone.polygon is None else "polygon", f"{area:.1%}"]
            for name, zone, area in zip(found.names, zones.zones, found.areas, strict=True)]
    if len(rows) > 1:
        rows.append(["together", "", f"{found.covered:.1%}"])
    print(text_table([["zone", "kind", "of the image"], *rows], align="<<>", rule_after=1))
    print(f"written to {arguments.output}")


def _is_image(source: str) -> bool:
    """By its ending, or else by the first bytes of a file."""
    from crowddist.data.file_kinds import HEAD_BYTES, READ, kind_of
    from crowddist.data.images import SUFFIXES

    if PurePosixPath(source.partition("?")[0] if "://" in source else source).suffix.lower() in SUFFIXES:
        return True
    path = Path(source).expanduser()
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return kind_of(stream.read(HEAD_BYTES), path) in READ


def _frame(source: str, at_s: float) -> tuple[np.ndarray, str]:
    """The frame of a video at so many seconds after its first, and its title. Raises InputError where it is shorter."""
    from crowddist.video.frames import Frames
    from crowddist.video.sampling import Every, clock_text
    from crowddist.video.source import find_source

    found = find_source(source)
    # Frames that are not asked for are passed over undecoded: of turns of that length the second begins there.
    every = Every(seconds=at_s) if at_s else Every(frames=1)
    with Frames(found, every, say=lambda line: print(line, flush=True)) as frames:
        for turn, frame in enumerate(frames):
            if turn or not at_s:
                return frame.image, f"{found.title}   {clock_text(frame.time_s)}"
    raise InputError(f"{found.shown}: it ends before {at_s:g} s")
