"""Convert raw images and their annotations to shards.

    python jobs/convert.py shanghaitech /data/part_A_final /data/shards/sha-train --split train
    python jobs/convert.py wider_face /data/wider /data/shards/wider --max-size 1024
    python jobs/convert.py gcc /data/gcc /data/shards/gcc --max-size 1024
    python jobs/convert.py folder /photos/of/my/camera /data/shards/camera --skip-bad
"""

from __future__ import annotations

import argparse

from crowddist.cli import one_line_errors
from crowddist.data.convert.base import Conversion, convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.progress import watched
from crowddist.process import sigterm_as_exit

_NOTES = {
    "num_skipped": "files skipped",
    "num_clipped_points": "points moved to the border",
    "num_repeated_points": "points repeat another",
    "num_cut_boxes": "boxes cut at the border",
    "num_left_out_boxes": "boxes left out, flagged invalid or without an area or centre in the image",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"error: {message}; --help tells more\n")


def main() -> None:
    """Converts, and prints what was made and where."""
    given = _parser().parse_args()
    with one_line_errors(), sigterm_as_exit():
        done = convert(
            FORMATS[given.format], given.source, given.destination, split=given.split, skip_bad=given.skip_bad, unlabelled=given.unlabelled,
            max_size=given.max_size, name=given.name, overwrite=given.overwrite, watch=watched,
        )
        print(_summary(done))


def _parser() -> argparse.ArgumentParser:
    formats = "\n".join(f"  {form.name:14} {form.summary}\n{'':17}splits: {', '.join(form.splits)}" for form in FORMATS.values())
    parser = _Parser(description=__doc__, epilog=f"formats:\n{formats}", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=f"layout of the source: {', '.join(FORMATS)}")
    parser.add_argument("source", metavar="SOURCE", help="folder of the raw data")
    parser.add_argument("destination", metavar="DESTINATION", help="place of the data set: a path or URL where nothing is yet")
    parser.add_argument("--split", default="", help="which part of the source; default: the format's first")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what cannot be taken, and list it in skipped.json")
    parser.add_argument("--unlabelled", action="store_true", help="write the images alone, as a target without labels")
    parser.add_argument("--max-size", type=int, metavar="PX", help="shrink images whose longest side is larger")
    parser.add_argument("--name", default="", help="of the data set; default: from the source")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set at DESTINATION")
    return parser


def _summary(done: Conversion) -> str:
    facts = done.manifest.statistics
    persons = f"{facts['persons']:.0f} persons" if done.manifest.labelled else "unlabelled"
    parts = [f"{done.manifest.num_samples} images", persons, f"{len(done.manifest.shards)} shards"]
    parts += [f"{facts[fact]} {words}" for fact, words in _NOTES.items() if facts.get(fact)]
    return f"{done.manifest.name} ({done.manifest.split}): {', '.join(parts)}: {done.url}"


if __name__ == "__main__":
    main()
