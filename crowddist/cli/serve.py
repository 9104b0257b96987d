"""Serves a counter over HTTP: POST an image, get the count as JSON or as a picture; and a page to drop images on.

    crowddist serve --model runs/demo                                        (this machine alone; the page: port 8000)
    crowddist serve --model runs/demo --host 0.0.0.0 --token-file token      (other machines too, with the token)
    crowddist serve --model runs/demo --zones zones.json --allow s3://bucket/frames

    curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg http://127.0.0.1:8000/count

Ctrl-C and SIGTERM let the requests that run end first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from crowddist.cli.counting import Counting, Options
from crowddist.errors import InputError
from crowddist.process.cli import one_line_errors, read_arguments
from crowddist.process.host import sigterm_as_exit
from crowddist.service.settings import LOOPBACK_NAMES, TOKEN, Limits, bind, read_token, shown_host

EXIT_CODES = ("Exit: 0 served until Ctrl-C or SIGTERM, 2 wrong input or machine, 130 or 143 stopped before it served; "
              "any other is a bug, with a traceback")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What counts, for whom, and where."""

    model: Annotated[str, tyro.conf.arg(aliases=["--checkpoint"])] = ""
    """A run's folder, one of its checkpoint files, or a file of crowddist export; path or URL. Not given: the counter
    that comes with crowddist, which only saw rendered crowds."""
    host: str = "127.0.0.1"
    """Address or name of this machine to listen at; 0.0.0.0 or ::, all, lets other machines in."""
    port: int = 8000
    """Port to listen at; 0: any that is free."""
    token_file: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """File with a token that requests must bring; the variable CROWDDIST_TOKEN of the environment does the same."""
    no_token: bool = False
    """Let everybody count who reaches the port, also from other machines."""
    allow: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PREFIX ...")] = ()
    """Places that images may be fetched from where a request names one: folders, s3:// and http(s):// addresses. None
    given: no place."""
    zones: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """Parts of the picture that are counted too: JSON, an export of LabelMe, CVAT or Label Studio, or a mask."""
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    counting: Options = field(default_factory=Counting)

    def __post_init__(self) -> None:
        if self.no_token and self.token_file:
            raise InputError("--no-token and --token-file cannot both be given; choose")


def main(arguments: Sequence[str], prog: str = "crowddist serve") -> None:
    """The command. Ends with SystemExit where its exit code is not 0.

    Args:
        arguments: the words behind the command.
        prog: how the command was called.
    """
    with one_line_errors("nothing was served yet"), sigterm_as_exit():
        about = f"{__doc__}\n{EXIT_CODES}"
        serve(read_arguments(lambda: tyro.cli(Arguments, prog=prog, description=about, args=arguments), about))


def serve(arguments: Arguments) -> None:
    """Serves until it is told to stop."""
    token = "" if arguments.no_token else read_token(arguments.token_file)
    with bind(arguments.host, arguments.port, open_to_all=bool(token) or arguments.no_token) as bound:
        from crowddist.data.zones.files import read_zones
        from crowddist.service.app import make_app
        from crowddist.service.places import AllowedPlaces
        from crowddist.service.server import run
        from crowddist.service.service import Service

        # All that is quick to check comes before the counter, whose loading takes seconds.
        places = AllowedPlaces(arguments.allow)
        zones = read_zones(arguments.zones) if arguments.zones else None
        if zones is not None:
            zones.place = Path(zones.place).name  # clients need not learn of folders
        counter = arguments.counting.open(arguments.model)
        if counter.intervals is not None:
            print(counter.intervals.told)
        service = Service(counter, limits=arguments.limits, places=places, zones=zones)
        app = make_app(service, token=token, hosts=() if token or arguments.no_token else LOOPBACK_NAMES)
        address = f"http://{shown_host(arguments.host)}:{bound.getsockname()[1]}"
        print(f"{address}/ is the page, POST {address}/count counts; "
              + (f"the token is that of {arguments.token_file or TOKEN}" if token else "no token is asked for"),
              flush=True)
        run(app, bound, timeout_s=arguments.limits.timeout)
        service.close()
        print("stopped", flush=True)
