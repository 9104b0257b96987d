"""One counter at work for many requests: receives, reads, counts and answers, each within its limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse

from crowddist.data.images import read_image_bytes
from crowddist.errors import InputError, NotAnImageError, TooLargeError
from crowddist.process.cli import one_line
from crowddist.process.safe_text import redacted
from crowddist.service.answers import Answers
from crowddist.service.counting_queue import CountingQueue
from crowddist.service.metrics import Metrics
from crowddist.service.places import AllowedPlaces, NotAllowedError
from crowddist.service.requests import Room, body_kind, read_address, read_body
from crowddist.service.schema import Format
from crowddist.service.settings import Limits

if TYPE_CHECKING:
    from crowddist.data.zones.zone import ZoneSet
    from crowddist.inference.base_predictor import BasePredictor, ImagePrediction

Made = TypeVar("Made")
ADDRESS_BYTES = 65_536
"""ours: of JSON with an address of at most 4,096 characters, each of which may be escaped in 12 bytes."""
FETCHES = 4
"""ours: addresses that are fetched at a time."""


class Service:
    """What counts for an app; `close` ends it.

    Args:
        predictor: the counter, used by this service alone.
        limits: of requests.
        places: that images may be fetched from.
        zones: None: there are none.
    """

    def __init__(self, predictor: BasePredictor, *, limits: Limits, places: AllowedPlaces,
                 zones: ZoneSet | None = None) -> None:
        self.predictor, self.limits, self.places, self.zones = predictor, limits, places, zones
        self.metrics = Metrics(lambda: self.queue.waiting)
        self.queue = CountingQueue(predictor, batch=limits.batch, counted=self.metrics.counted)
        self._answers = Answers(zones, predictor.stride)
        self._receiving, self._counting = Room(limits.queue), Room(limits.queue)
        self._readers = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="images")
        self._fetchers = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetching")

    async def count(self, request: Request, form: Format) -> Response:
        """The answer to a request whose body is an image, or JSON with its address.

        Raises:
            HTTPException: there is none, and why, in a line.
        """
        ends = asyncio.get_running_loop().time() + self.limits.timeout
        kind = body_kind(request)
        self._counting.require()  # before anything is received for nothing
        with self._receiving.place():
            body = await read_body(request, ends=ends,
                                   max_bytes=self.limits.max_bytes if kind == "image" else ADDRESS_BYTES)
        with self._counting.place():
            try:
                async with asyncio.timeout_at(ends):
                    name = "the image"
                    if kind == "address":
                        url = read_address(body)
                        name, body = redacted(url), await self._fetched(url, ends)
                    return await self._answer(request, body, name, form)
            except TimeoutError:
                raise HTTPException(504, f"not counted within {self.limits.timeout:g} s; send a smaller image, or come "
                                         "again when there is less to do") from None
            except TooLargeError as error:
                raise HTTPException(413, one_line(error)) from None
            except NotAnImageError as error:
                raise HTTPException(415, one_line(error)) from None
            except InputError as error:
                raise HTTPException(422, one_line(error)) from None

    def close(self) -> None:
        """Counts what waits, and ends the threads."""
        self.queue.close()
        for pool in (self._readers, self._fetchers):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _fetched(self, url: str, ends: float) -> bytes:
        try:
            left = ends - asyncio.get_running_loop().time()
            data = await _in(self._fetchers,
                             lambda: self.places.read(url, max_bytes=self.limits.max_bytes, total_s=left))
        except NotAllowedError:
            raise HTTPException(403, "the address lies in no place that this service may fetch from; send the image "
                                     "itself, or ask its owner to allow the place (--allow)") from None
        except FileNotFoundError as error:
            raise HTTPException(404, one_line(error)) from None
        except OSError as error:
            raise HTTPException(502, one_line(error)) from None
        if not data:
            raise InputError(f"{redacted(url)}: the file is empty")
        return data

    async def _answer(self, request: Request, data: bytes, name: str, form: Format) -> Response:
        pixels = await _in(self._readers, lambda: self.predictor.checked(
            read_image_bytes(data, name=name, most_pixels=self.limits.max_pixels)[0]))
        found = await self._found(request, pixels)
        answer = await _in(self._readers, lambda: self._answers.make(found, pixels, form))
        return Response(answer, media_type="image/png") if isinstance(answer, bytes) else JSONResponse(answer)

    async def _found(self, request: Request, pixels: np.ndarray) -> ImagePrediction:
        """Waits for the count. An image whose client leaves, or whose time is over, is not counted any more."""
        answer = asyncio.wrap_future(self.queue.submit(pixels))
        left = asyncio.ensure_future(request.receive())  # after the body nothing comes but the connection's end
        try:
            first: set[asyncio.Future[Any]] = {answer, left}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise HTTPException(400, "the connection broke")
            return answer.result()
        finally:
            left.cancel()
            answer.cancel()


async def _in(pool: Executor, work: Callable[[], Made]) -> Made:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
