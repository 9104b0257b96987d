"""Convert raw images and their annotations to shards; or check or describe shards.

After a stop or a kill, the same command resumes behind the last whole shard.

    crowddist convert shanghaitech /data/part_A_final /data/shards/sha-train --split train
    crowddist convert wider_face /data/wider /data/shards/wider --max-size 1024
    crowddist convert gcc /data/gcc /data/shards/gcc --max-size 1024
    crowddist convert folder /photos/of/my/camera /data/shards/camera --skip-bad
    crowddist convert verify /data/shards/sha-train
    crowddist convert info s3://bucket/shards/sha-train --sheet samples.png
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from crowddist import storage
from crowddist.cli.called import EXIT_CODES, as_called
from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.errors import require_png_name
from crowddist.process.cli import files_among_options, one_line_errors, with_example
from crowddist.process.host import sigterm_as_exit
from crowddist.process.progress_bar import watched


class _Parser(argparse.ArgumentParser):
    _words: Sequence[str] = ()

    def parse_args(self, args: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        self._words = args
        return super().parse_args(args)

    def error(self, message: str) -> None:  # type: ignore[override]
        told = f"{message}{files_among_options(self._words)}; see --help"
        self.exit(2, f"error: {with_example(told, self.description or '')}\n")


def main(arguments: Sequence[str], prog: str = "crowddist convert") -> None:
    """The command: convert, verify or info. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    job = {"verify": _verify, "info": _info}.get(next(iter(arguments), ""))
    with one_line_errors(), sigterm_as_exit():
        job(arguments[1:], prog) if job else _convert(arguments, prog)


def _verify(arguments: Sequence[str], prog: str) -> None:
    parser = _Parser(prog=f"{prog} verify", description="Read all shards of a data set and check their digests.",
                     epilog=EXIT_CODES)
    parser.add_argument("url", metavar="URL", help="place of the data set, a path or URL")
    url = parser.parse_args(arguments).url
    from crowddist.data.shards import verify

    manifest = verify(url, watch=lambda shards: watched(shards, "shards"))
    print(f"whole: {manifest.name} ({manifest.split}): {manifest.num_samples:,} samples in {len(manifest.shards)} "
          f"shards, digest {manifest.digest[:12]}")


def _info(arguments: Sequence[str], prog: str) -> None:
    parser = _Parser(prog=f"{prog} info", epilog=EXIT_CODES,
                     description="Print the sizes and counts of a data set's images, and draw some of them.")
    parser.add_argument("url", metavar="URL", help="place of the data set, a path or URL")
    parser.add_argument("--sheet", metavar="PNG", default="",
                        help="draw 12 images with their heads, the emptiest first")
    given = parser.parse_args(arguments)
    if given.sheet:
        require_png_name("sheet", given.sheet)
    from crowddist.reports.dataset_summary import describe, write_sheet

    described = describe(given.url, watch=lambda numbers: watched(numbers, "samples"))
    print("\n".join(described.lines()))
    if given.sheet:
        print(f"samples: {write_sheet(described, given.sheet)}")


def _convert(arguments: Sequence[str], prog: str) -> None:
    given = make_parser(prog).parse_args(arguments)
    work = None
    if os.environ.get("RAY_ADDRESS") and storage.is_local(given.source):
        from crowddist.distributed.convert import cluster_cpus, in_order_on_cluster

        work = in_order_on_cluster
    num_workers = given.num_workers or (cluster_cpus() if work else os.cpu_count() or 1)
    done = convert(FORMATS[given.format], given.source, given.destination, split=given.split, skip_bad=given.skip_bad,
                   unlabelled=given.unlabelled, max_size=given.max_size, name=given.name, overwrite=given.overwrite,
                   num_workers=num_workers, watch=watched, work=work)
    print("\n".join((*done.notes, done.summary())))


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The parser of a conversion's arguments."""
    formats = "\n".join(f"  {form.name:14} {form.summary}\n{'':17}splits: {', '.join(form.splits)}"
                        for form in FORMATS.values())
    parser = _Parser(prog=prog, description=as_called(__doc__ or "", prog),
                     epilog=f"formats:\n{formats}\n\n{EXIT_CODES}",
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT",
                        help="the source's layout, see below; or verify or info, which have their own --help")
    parser.add_argument("source", metavar="SOURCE", help="folder of the raw data")
    parser.add_argument("destination", metavar="DESTINATION", help="new place of the data set, a path or URL")
    parser.add_argument("--split", default="", help="part of the source; default: the format's first")
    parser.add_argument("--skip-bad", action="store_true", help="skip bad files and list them in skipped.json")
    parser.add_argument("--unlabelled", action="store_true", help="write the images without labels, for a target")
    parser.add_argument("--max-size", type=int, metavar="PX", help="shrink images whose longest side is larger")
    parser.add_argument("--num-workers", type=int, default=0,
                        help="images read at once, by threads or by the cluster of $RAY_ADDRESS; 0: one per core")
    parser.add_argument("--name", default="", help="name of the data set; default: from the source")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set at DESTINATION")
    return parser
