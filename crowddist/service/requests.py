"""What a request asks for: its bytes, within bounds, and the form of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from crowddist.service.schema import Address, Format


class Room:
    """Places for requests at one stage, for one event loop."""

    def __init__(self, places: int) -> None:
        self._free = places

    def require(self) -> None:
        """Raises a 503 where there is no free place."""
        if self._free < 1:
            raise HTTPException(503, "too many images at once; come again in a second", {"Retry-After": "1"})

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place during the block. Raises as `require`."""
        self.require()
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


async def read_body(request: Request, *, max_bytes: int, ends: float) -> bytes:
    """The whole body of a request. What is refused is not read: the server drops the rest.

    Args:
        ends: when it must have come, in the event loop's time.

    Raises:
        HTTPException: it is empty (422), too long (413), too slow (408), or broke off (400).
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > max_bytes:
        raise HTTPException(413, f"{told} bytes; at most {max_bytes} are taken")
    data = bytearray()
    try:
        async with asyncio.timeout_at(ends):
            async for chunk in request.stream():
                data += chunk
                if len(data) > max_bytes:
                    raise HTTPException(413, f"more than {max_bytes} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the image did not come in time: {len(data)} bytes did; send it again") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection broke") from None
    if not data:
        raise HTTPException(422, "the body is empty; send the bytes of an image, or JSON with its url")
    return bytes(data)


def body_kind(request: Request) -> str:
    """"image" or "address", by the content type; a body without one is an image. Raises a 415 for another."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return "address"
    if not kind or kind == "application/octet-stream" or kind.startswith("image/"):
        return "image"
    raise HTTPException(415, f"the content type is {kind[:100]!r}; send the image's bytes alone, in no form, as "
                             'image/jpeg or alike (curl -H "Content-Type: image/jpeg" --data-binary @FILE), or '
                             'application/json: {"url": "..."}')


def read_address(body: bytes) -> str:
    """The address in a body of JSON. Raises a 422 where there is none."""
    try:
        return Address.model_validate_json(body).url
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(422, f'the JSON must be {{"url": "..."}}: {where}{": " if where else ""}{first["msg"]}'
                            ) from None


def wanted_format(given: Format | None, accept: str) -> Format:
    """What comes back: as is said, or else what the Accept header wants more."""
    if given is not None:
        return given
    weights = {kind.partition(";")[0].strip().lower(): _weight(kind) for kind in accept.split(",")}
    json = max(weights.get(kind, 0.0) for kind in ("application/json", "application/*", "*/*"))
    png = max(weights.get(kind, 0.0) for kind in ("image/png", "image/*"))
    return Format.png if png > json else Format.json


def _weight(kind: str) -> float:
    for parameter in kind.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
