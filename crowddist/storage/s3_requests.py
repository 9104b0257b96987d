"""Requests to object storage that speaks S3, by boto3: one client a process, tries and pauses, and what is wrong in one
line that names the cause.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from dataclasses import dataclass
from random import SystemRandom
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    SSLError,
)
from botocore.exceptions import ConnectionError as NotConnectedError
from botocore.parsers import ResponseParserError

from crowddist.errors import InputError

LONGEST_PAUSE_S = 2.0
"""ours: between two tries of a request; the first pause is a twentieth of it, and each doubles."""
BROKEN = (HTTPClientError, NotConnectedError, IncompleteReadError, ResponseParserError)
"""What a connection that breaks raises, in a request or in the body of its answer."""
_ENVIRONMENT = "CROWDDIST_S3_"
_PASSING = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded",
            "TooManyRequests", "OperationAborted")
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_ELSEWHERE = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed",
              "IllegalLocationConstraintException", "301", "307")
logger = logging.getLogger(__name__)
_last_answer_s: dict[str, float] = {}
"""Address of a server -> when it last answered this process, by the monotonic clock."""
_random = SystemRandom()  # pauses draw nothing from generators that a run counts on


@dataclass(frozen=True, kw_only=True)
class S3Config:
    """How object storage is spoken to. Where it is and as whom is not ours to say: endpoint, region, keys and profile
    are those of every AWS tool.
    """

    addressing_style: str = "auto"
    """`path`, `virtual`, or `auto`: path where AWS_ENDPOINT_URL names a server, else what the profile says."""
    attempts: int = 16
    """Tries of a request, and of a body without any progress, before it is given up; the pauses between sixteen are 12
    to 23 s together."""
    patience_s: int = 300
    """A server that has answered is given up only when it has not done so for this long, however many tries that
    takes."""
    connect_timeout_s: int = 10
    """Of one try."""
    read_timeout_s: int = 60
    """Longest silence in one try."""
    streams: int = 8
    """Parts of a large file that are on their way at the same time."""
    part_mib: int = 8
    """Size of such a part; smaller files go in one."""

    def __post_init__(self) -> None:
        if self.addressing_style not in ("auto", "path", "virtual"):
            raise InputError(f"{_ENVIRONMENT}ADDRESSING_STYLE must be auto, path or virtual, got "
                             f"{self.addressing_style!r}")
        for name, least in {"attempts": 1, "patience_s": 0, "connect_timeout_s": 1, "read_timeout_s": 1, "streams": 1,
                            "part_mib": 1}.items():
            if getattr(self, name) < least:
                raise InputError(f"{_ENVIRONMENT}{name.upper()} must be at least {least}, got {getattr(self, name)}")

    @classmethod
    def from_environment(cls) -> S3Config:
        """Each field from CROWDDIST_S3_ and its name in capitals: said once, it reaches every worker. Raises InputError
        for an impossible value.
        """
        values: dict[str, Any] = {}
        for name in cls.__dataclass_fields__:
            text = os.environ.get(_ENVIRONMENT + name.upper(), "")
            if text and name != "addressing_style" and not text.isdecimal():
                raise InputError(f"{_ENVIRONMENT}{name.upper()} must be a whole number, got {text!r}")
            if text:
                values[name] = text if name == "addressing_style" else int(text)
        return cls(**values)


def request(operation: str, url: str, *, expected: tuple[str, ...] = (), **arguments: Any) -> dict[str, Any]:
    """One request, tried again where its failure may pass.

    boto3's own retries are off: they end for good when a server has failed some hundred times, and know nothing of
    bodies.

    Args:
        operation: the client's method.
        url: the place it is about, for messages.
        expected: codes of the server's that the caller deals with: they raise ClientError.

    Raises:
        InputError, OSError: everything else, see `explain`.
    """
    config, client = S3Config.from_environment(), _client_of(url)
    server, num_tries, told = client.meta.endpoint_url, 0, False
    while True:
        num_tries += 1
        try:
            answer = getattr(client, operation)(**arguments)
            _last_answer_s[server] = time.monotonic()
            return answer
        except (*BROKEN, BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and code_of(error) in expected:
                _last_answer_s[server] = time.monotonic()
                raise
            if not _passes(error):
                raise explain(error, operation, url, server) from None
            if num_tries >= config.attempts:
                silent_s = time.monotonic() - _last_answer_s.get(server, -math.inf)
                if silent_s > config.patience_s:
                    raise explain(error, operation, url, server) from None
                if not told:
                    told = True
                    logger.warning("%s has not answered for %.0f s; it is waited for, %.0f s at most", server, silent_s,
                                   config.patience_s - silent_s)
        time.sleep(pause_s(num_tries))


def endpoint(url: str) -> str:
    """The address of the server that holds a place. Raises InputError where the settings name none."""
    return _client_of(url).meta.endpoint_url


def pause_s(num_tries: int) -> float:
    """How long to wait after so many tries."""
    return min(LONGEST_PAUSE_S / 20 * 2.0 ** (num_tries - 1), LONGEST_PAUSE_S) * _random.uniform(0.5, 1)


def code_of(error: ClientError) -> str:
    """What the server calls its refusal."""
    return str(error.response.get("Error", {}).get("Code", ""))


def explain(error: Exception, operation: str, url: str, server: str) -> Exception:
    """What the job prints of a request that failed: what was wrong and what to do, without keys.

    Returns:
        InputError for what the user has to put right, FileNotFoundError for what is not there, PermissionError for what
        is denied, ConnectionError for a server that does not answer or keeps failing, OSError for the rest.
    """
    if isinstance(error, ClientError):
        return _explain_refusal(error, operation, url, server)
    reason = " ".join(str(error).split())
    if isinstance(error, NoCredentialsError):
        return InputError(f"no key for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(error, ParamValidationError):
        return InputError(f"not a place in object storage: {url}; {reason}")
    if isinstance(error, SSLError):
        return ConnectionError(f"no secure connection to {server} for {url}: {reason}")
    if isinstance(error, BROKEN):
        kind = type(error).__name__
        return (ConnectionError(f"cannot reach {server} for {url} ({kind}); check AWS_ENDPOINT_URL, the network and "
                                "the server"))
    return InputError(f"object storage cannot be used for {url}: {reason}")


def _explain_refusal(error: ClientError, operation: str, url: str, server: str) -> Exception:
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    bucket = url.removeprefix("s3://").partition("/")[0]
    if code in ("NoSuchKey", "404"):
        return FileNotFoundError(f"no file at {url}")
    if code == "NoSuchBucket":
        return InputError(f"no bucket {bucket} at {server}, asked for {url}; make it, or correct the address")
    if code == "InvalidAccessKeyId":
        return (InputError(f"wrong key for {url}: {server} does not know the access key; correct AWS_ACCESS_KEY_ID or "
                           "the profile"))
    if code == "SignatureDoesNotMatch":
        return (InputError(f"wrong key for {url}: the secret is not that of the access key at {server}; correct "
                           "AWS_SECRET_ACCESS_KEY or the profile"))
    if code in _EXPIRED:
        return (InputError(f"expired token for {url}: {server} no longer takes it; renew AWS_SESSION_TOKEN and its "
                           "keys, or the profile's"))
    if code == "InvalidToken":
        return InputError(f"wrong token for {url}: {server} does not know it; correct AWS_SESSION_TOKEN or the profile")
    if code in _SKEWED:
        return (InputError(f"clock skew: the clocks of this machine and of {server} differ too much to read {url}; set "
                           "this machine's clock"))
    if code in _ELSEWHERE:
        return (InputError(f"wrong region for {url}: {server} sends us elsewhere ({code}); set AWS_DEFAULT_REGION to "
                           "the bucket's region"))
    if code in ("AccessDenied", "403", "AllAccessDisabled", "AccountProblem"):
        return (PermissionError(f"no permission: {server} denies {operation} at {url} with this key; grant it, or use "
                                "another key"))
    if _passes(error):
        return ConnectionError(f"{server} keeps failing at {url} ({code or status}); try again later")
    said = " ".join(str(error.response.get("Error", {}).get("Message") or "").split())
    return OSError(f"{server} refuses {operation} at {url}: {code or status}{': ' if said else ''}{said}")


def _passes(error: Exception) -> bool:
    """Whether another try may succeed."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or code_of(error) in _PASSING
    return isinstance(error, BROKEN) and not isinstance(error, SSLError)


def _client_of(url: str) -> Any:
    try:
        return _client(os.getpid())
    except InputError:
        raise
    except (BotoCoreError, ValueError) as error:  # a profile that is not there, an endpoint that is no URL
        raise InputError(f"object storage cannot be used for {url}: {' '.join(str(error).split())}") from None


@functools.cache
def _client(process: int) -> Any:
    """The client of this process, for all its threads; a forked child, whose number is another, must not share its
    parent's connections.
    """
    import boto3
    from botocore.config import Config

    config = S3Config.from_environment()
    style = config.addressing_style
    if style == "auto" and (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        style = "path"
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=config.connect_timeout_s,
            read_timeout=config.read_timeout_s,
            max_pool_connections=2 * config.streams,
            retries={"total_max_attempts": 1, "mode": "standard"},
            # What boto3 adds by itself since 1.36 older servers refuse, or answer for a whole file where a part was
            # asked for.
            request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
            response_checksum_validation=os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
            **({} if style == "auto" else {"s3": {"addressing_style": style}}),
        ),
    )
