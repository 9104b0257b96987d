"""`crowddist serve` on Ray Serve: copies of the service on a cluster, behind Ray's proxies.

    serve run crowddist.distributed.ray_serve:app model=/shared/runs/demo token_file=token replicas=2

Paths, answers, limits and batches are the service's own. Ray Serve starts the copies, shares requests out between them,
and puts a new copy in the place of one that counts no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from crowddist import storage
from crowddist.data.zones.files import read_zones
from crowddist.errors import InputError, require_not_negative, require_positive
from crowddist.inference.intervals import LEVEL
from crowddist.inference.open_counter import find_counter, open_counter
from crowddist.process.cli import one_line
from crowddist.process.host import keep_freed_memory
from crowddist.service.app import make_app
from crowddist.service.places import AllowedPlaces
from crowddist.service.service import Service
from crowddist.service.settings import TOKEN, Limits, read_token
from crowddist.storage.run_folder import PACKAGED

if TYPE_CHECKING:
    from ray.serve import Application

    from crowddist.data.zones.zone import ZoneSet

_PROBES = 8
"""ours: requests a copy takes beyond its images, for /health, /metrics and the page."""
_PARTED = BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)
"""`serve run` gives words alone: commas part them."""


@dataclass(frozen=True, kw_only=True)
class Options(Limits):
    """What `app` takes: the options of `crowddist serve` with underscores, its limits among them, and the copies."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str = ""
    """As `crowddist serve` takes it; every machine must reach the place."""
    token_file: str = ""
    """File with the token, on the machine that builds the app; else the variable CROWDDIST_TOKEN there."""
    no_token: bool = False
    """Everybody who reaches Ray's proxies may count."""
    allow: Annotated[tuple[str, ...], _PARTED] = ()
    """Places that images may be fetched from."""
    zones: str = ""
    """File of zones, on the machine that builds the app."""
    device: str = "auto"
    image_size: int = -1
    zooms: Annotated[tuple[float, ...], _PARTED] = ()
    one_pass: bool = False
    level: float = LEVEL
    replicas: int = 1
    """Copies; with `max_replicas` the fewest."""
    max_replicas: int = 0
    """Most copies, by the requests that wait; 0: always `replicas`."""
    num_cpus: float = 1.0
    """CPUs that Ray reserves for a copy, and its threads."""
    num_gpus: float = 0.0
    """GPUs that Ray reserves for a copy: a part lets copies share one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(replicas=self.replicas)
        require_not_negative(max_replicas=self.max_replicas, num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        if 0 < self.max_replicas < self.replicas:
            raise InputError(f"max_replicas must be at least replicas, {self.replicas}, got {self.max_replicas}")
        if self.no_token and self.token_file:
            raise InputError("no_token and token_file cannot both be given; choose")


class RefusedError(click.ClickException, InputError):
    """Wrong options, in a line: `serve run` prints it without a traceback, as it does for its own."""

    exit_code = 2


class Copy:
    """The service in one process of Ray Serve's, see `Options`.

    Args:
        model: as of `open_counter`.
    """

    def __init__(self, options: Options, model: str, places: AllowedPlaces, zones: ZoneSet | None, token: str) -> None:
        keep_freed_memory()
        counter = open_counter(model, device=options.device, one_pass=options.one_pass, level=options.level,
                               image_size=None if options.image_size < 0 else options.image_size,
                               zooms=options.zooms or None)
        self._service = Service(counter, limits=options, places=places, zones=zones)
        self._token = token

    def __serve_build_asgi_app__(self) -> Any:
        """What answers requests; Ray Serve asks for it once."""
        return make_app(self._service, token=self._token)

    def check_health(self) -> None:
        """Asked by Ray Serve again and again; an error has this copy replaced."""
        if not self._service.queue.alive:
            raise RuntimeError("the thread that counts has ended")


def read_options(given: dict[str, Any]) -> Options:
    """Options from words of a command line or values of a configuration file. Raises InputError for wrong ones."""
    try:
        return TypeAdapter(Options).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "unexpected_keyword_argument":
            known = ", ".join(Options.__dataclass_fields__)
            raise InputError(f"there is no option {name}; there are {known}") from None
        words = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{name}: {words}, got {first['input']!r}" if name else words) from None


def app(args: dict[str, Any]) -> Application:
    """The application for `serve run`, `serve deploy` and `serve.run`.

    Args:
        args: values of `Options` by their names.

    Raises:
        RefusedError: one is wrong, the counter, the token or the zones are not there, or Ray Serve is not installed.
    """
    try:
        options = read_options(args)
        token = "" if options.no_token else read_token(options.token_file)
        if not token and not options.no_token:
            raise InputError(f"Ray's proxies let other machines in, and no token is set; give token_file=FILE, or "
                             f"{TOKEN}, or no_token=true if everybody who reaches them may count")
        places = AllowedPlaces(options.allow)
        zones = read_zones(options.zones) if options.zones else None
        if zones is not None:
            zones.place = Path(zones.place).name  # clients need not learn of folders
        # All copies count with the checkpoint that is the newest now. One that comes along each has in its own place.
        model = options.model if options.model in ("", *PACKAGED) else find_counter(options.model)
        if model not in ("", *PACKAGED) and not storage.exists(model):
            raise InputError(f"{storage.shown(model)}: there is no such counter; give a run's folder, or a file .pt or "
                             ".onnx")
        try:
            from ray import serve
        except ImportError:
            raise InputError("Ray Serve is not installed; run: pip install 'crowddist[ray-serve]'") from None
    except (InputError, OSError) as error:
        raise RefusedError(one_line(error)) from None
    copies: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas:
        copies = {"autoscaling_config": {"min_replicas": options.replicas, "max_replicas": options.max_replicas}}
    deployed = serve.deployment(
        name="counter", **copies,
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        # As many as the service takes by itself and some more, so that it says who is to come again, not Ray's proxy,
        # where images would wait without a bound.
        max_ongoing_requests=2 * options.queue + _PROBES, max_queued_requests=2 * options.queue,
        graceful_shutdown_timeout_s=options.timeout + 5)(serve.ingress()(Copy))
    return deployed.bind(options, model, places, zones, token)
