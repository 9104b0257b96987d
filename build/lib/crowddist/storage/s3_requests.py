"""Requests to S3 object storage by boto3: one client a process, retries with pauses, one-line error messages."""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from dataclasses import dataclass
from random import SystemRandom
from typing import Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from crowddist.errors import InputError

LONGEST_PAUSE_S = 2.0
"""ours: longest pause between two tries of a request; the first is a twentieth of it, and each doubles."""
BROKEN = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, ResponseParserError)
"""Errors of a broken connection, in a request or in the body of its answer."""
_ENVIRONMENT = "CROWDDIST_S3_"
_TEMPORARY = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded",
              "TooManyRequests", "OperationAborted")
_REFUSALS: tuple[tuple[str, type[Exception], str], ...] = (
    ("NoSuchKey 404", FileNotFoundError, "no file at {url}"),
    ("NoSuchBucket", InputError, "no bucket {bucket} at {server}, asked for {url}; make it, or correct the address"),
    ("InvalidAccessKeyId", InputError,
     "wrong key for {url}: {server} does not know the access key; correct AWS_ACCESS_KEY_ID or the profile"),
    ("SignatureDoesNotMatch", InputError, "wrong key for {url}: the secret is not that of the access key at {server}; "
     "correct AWS_SECRET_ACCESS_KEY or the profile"),
    ("ExpiredToken ExpiredTokenException TokenRefreshRequired", InputError,
     "expired token for {url}: {server} no longer takes it; renew AWS_SESSION_TOKEN and its keys, or the profile's"),
    ("InvalidToken", InputError,
     "wrong token for {url}: {server} does not know it; correct AWS_SESSION_TOKEN or the profile"),
    ("RequestTimeTooSkewed RequestExpired RequestInTheFuture", InputError, "clock skew: the clocks of this machine and "
     "of {server} differ too much to read {url}; set this machine's clock"),
    ("PermanentRedirect TemporaryRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301 307",
     InputError,
     "wrong region for {url}: {server} sends us elsewhere ({code}); set AWS_DEFAULT_REGION to the bucket's region"),
    ("AccessDenied 403 AllAccessDisabled AccountProblem", PermissionError,
     "no permission: {server} denies {operation} at {url} with this key; grant it, or use another key"),
)
"""Error codes of the server, the exception they become, and its message."""
logger = logging.getLogger(__name__)
_last_answer_s: dict[str, float] = {}
"""Address of a server -> time of its last answer to this process, by the monotonic clock."""
_random = SystemRandom()  # pauses must not draw from the generators of a run


@dataclass(frozen=True, kw_only=True)
class S3Config:
    """Settings of the requests. Endpoint, region, keys and profile come from the AWS settings instead."""

    addressing_style: str = "auto"
    """`path`, `virtual`, or `auto`: path if AWS_ENDPOINT_URL names a server, else as the profile says."""
    attempts: int = 16
    """Tries of a request, or of a body without any progress; the pauses between 16 tries last 12 to 23 s in all."""
    patience_s: int = 300
    """Once a server has answered, requests are retried until it has been silent for so long, whatever `attempts` is."""
    connect_timeout_s: int = 10
    read_timeout_s: int = 60
    """Longest silence within a try."""
    streams: int = 8
    """Parts of a large file that travel at the same time."""
    part_mib: int = 8
    """Size of a part; smaller files travel whole."""

    def __post_init__(self) -> None:
        if self.addressing_style not in ("auto", "path", "virtual"):
            raise InputError(f"{_ENVIRONMENT}ADDRESSING_STYLE must be auto, path or virtual, got "
                             f"{self.addressing_style!r}")
        for name in ("attempts", "patience_s", "connect_timeout_s", "read_timeout_s", "streams", "part_mib"):
            least = 0 if name == "patience_s" else 1
            if getattr(self, name) < least:
                raise InputError(f"{_ENVIRONMENT}{name.upper()} must be at least {least}, got {getattr(self, name)}")

    @classmethod
    def from_environment(cls) -> S3Config:
        """Reads each field from CROWDDIST_S3_<NAME>, which reaches every worker. Raises InputError for a bad value."""
        values: dict[str, Any] = {}
        for name in cls.__dataclass_fields__:
            text = os.environ.get(_ENVIRONMENT + name.upper(), "")
            if name != "addressing_style" and text and not text.isdecimal():
                raise InputError(f"{_ENVIRONMENT}{name.upper()} must be a whole number, got {text!r}")
            if text:
                values[name] = text if name == "addressing_style" else int(text)
        return cls(**values)


def request(operation: str, url: str, *, expected: tuple[str, ...] = (), **arguments: Any) -> dict[str, Any]:
    """Sends one request, and again if its failure may be temporary. boto3's own retries are off: they stop for good
    once a server has failed some hundred times, and ignore bodies. Raises ClientError for codes in `expected`, else an
    InputError or OSError, see `explain`.
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
            if not _is_temporary(error):
                raise explain(error, operation, url, server) from None
            if num_tries >= config.attempts:
                silent_s = time.monotonic() - _last_answer_s.get(server, -math.inf)
                if silent_s > config.patience_s:
                    raise explain(error, operation, url, server) from None
                if not told:
                    told = True
                    logger.warning("%s has not answered for %.0f s; waiting %.0f s more at most", server, silent_s,
                                   config.patience_s - silent_s)
        time.sleep(pause_s(num_tries))


def endpoint(url: str) -> str:
    """The address of the server that holds a place. Raises InputError if the settings name none."""
    return _client_of(url).meta.endpoint_url


def pause_s(num_tries: int) -> float:
    return min(LONGEST_PAUSE_S / 20 * 2.0 ** (num_tries - 1), LONGEST_PAUSE_S) * _random.uniform(0.5, 1)


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def explain(error: Exception, operation: str, url: str, server: str) -> Exception:
    """The exception for a failed request; its message says what was wrong and what to do, without keys. It is an
    InputError if the user has to correct something, else an OSError: ConnectionError for a server that keeps failing.
    """
    if isinstance(error, ClientError):
        return _explain_refusal(error, operation, url, server)
    reason = " ".join(str(error).split())
    if isinstance(error, boto.NoCredentialsError):
        return InputError(f"no key for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    if isinstance(error, boto.ParamValidationError):
        return InputError(f"not a place in object storage: {url}; {reason}")
    if isinstance(error, boto.SSLError):
        return ConnectionError(f"no secure connection to {server} for {url}: {reason}")
    if isinstance(error, BROKEN):
        return ConnectionError(f"cannot reach {server} for {url} ({type(error).__name__}); check AWS_ENDPOINT_URL, the "
                               "network and the server")
    return InputError(f"object storage cannot be used for {url}: {reason}")


def _explain_refusal(error: ClientError, operation: str, url: str, server: str) -> Exception:
    code, status = code_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    bucket = url.removeprefix("s3://").partition("/")[0]
    for codes, kind, message in _REFUSALS:
        if code in codes.split():
            return kind(message.format(url=url, server=server, bucket=bucket, code=code, operation=operation))
    if _is_temporary(error):
        return ConnectionError(f"{server} keeps failing at {url} ({code or status}); try again later")
    said = " ".join(str(error.response.get("Error", {}).get("Message") or "").split())
    return OSError(f"{server} refuses {operation} at {url}: {code or status}{': ' if said else ''}{said}")


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or code_of(error) in _TEMPORARY
    return isinstance(error, BROKEN) and not isinstance(error, boto.SSLError)


def _client_of(url: str) -> Any:
    try:
        return _client(os.getpid())
    except InputError:
        raise
    except (BotoCoreError, ValueError) as error:  # a missing profile, an endpoint that is no URL
        raise InputError(f"object storage cannot be used for {url}: {' '.join(str(error).split())}") from None


@functools.cache
def _client(process: int) -> Any:
    """The client of all threads of a process; a forked child has another pid and must not share these connections."""
    import boto3
    from botocore.config import Config

    config = S3Config.from_environment()
    style = config.addressing_style
    if style == "auto" and (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")):
        style = "path"
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=config.connect_timeout_s, read_timeout=config.read_timeout_s,
            max_pool_connections=2 * config.streams, retries={"total_max_attempts": 1, "mode": "standard"},
            # Older servers refuse the checksums that boto3 adds since 1.36, or answer with the whole file's for a part.
            request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
            response_checksum_validation=os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
            **({} if style == "auto" else {"s3": {"addressing_style": style}}),
        ),
    )
