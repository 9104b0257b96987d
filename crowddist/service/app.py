"""The app: paths, who may use them, and the form of every answer, errors included."""

from __future__ import annotations

import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import crowddist
from crowddist.service.metrics import CONTENT_TYPE
from crowddist.service.page import Page
from crowddist.service.requests import wanted_format
from crowddist.service.schema import REQUEST_BODY, CountAnswer, Format, State, problems
from crowddist.service.service import Service

PATHS = ("/", "/count", "/health", "/ready", "/metrics", "/openapi.json")


def make_app(service: Service, *, token: str = "", hosts: tuple[str, ...] = ()) -> FastAPI:
    """The app of a service.

    Args:
        token: that counting and metrics ask for; "": none.
        hosts: names that requests may call the service by; (): any. Without a token it keeps pages of other sites from
            asking this machine under a name of theirs.
    """
    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(title="crowddist", version=crowddist.__version__, docs_url=None, redoc_url=None,
                  redirect_slashes=False, description="Counts people in images.")
    app.add_middleware(_Frame, service=service, hosts=hosts)
    app.add_exception_handler(AnyHTTPException, _problem)
    app.add_exception_handler(RequestValidationError, _wrong_parameter)
    app.add_exception_handler(Exception, _bug)
    page = Page(service, needs_token=bool(token))
    bearer = HTTPBearer(auto_error=False, description="The token of the service.")

    async def require_token(given: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:  # noqa: B008
        if given is None or not secrets.compare_digest(given.credentials.encode(), token.encode()):
            words = "a token is needed" if given is None else "the token is wrong"
            raise HTTPException(401, f"{words}; send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    guarded = [Depends(require_token)] if token else []
    refusals = problems(401) if token else {}

    @app.get("/", response_class=HTMLResponse, summary="A page to drop images on", include_in_schema=False)
    async def show_page() -> Response:
        return page.response()

    @app.post("/count", dependencies=guarded, response_model=None, summary="Count the people in an image",
              openapi_extra={"requestBody": REQUEST_BODY},
              responses={200: {"model": CountAnswer, "description": "What is found in the image.",
                               "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
                         **refusals, **problems(400, 403, 404, 408, 413, 415, 422, 500, 502, 503, 504)})
    async def count(
        request: Request,
        format: Format | None = Query(None, description=(  # noqa: B008
            "json; png: the density over the image, heads and zones; both: JSON with the PNG in it. Not given: as the "
            "Accept header says, else json."))
    ) -> Response:
        return await service.count(request, wanted_format(format, request.headers.get("accept", "")))

    async def state(response: Response) -> State:
        """Whether the thread that counts is there; a 503 where it is not."""
        response.status_code = 200 if service.queue.alive else 503
        return State(ok=service.queue.alive, waiting=service.queue.waiting, version=crowddist.__version__)

    broken: dict[int | str, dict[str, Any]] = {503: {"model": State, "description": "It counts nothing any more."}}
    app.get("/health", summary="Does it live?", responses=broken)(state)
    app.get("/ready", summary="May it be sent images?", responses=broken)(state)

    @app.get("/metrics", dependencies=guarded, summary="Figures for Prometheus", response_class=Response,
             responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}},
                              "description": "Prometheus' text format."}, **refusals})
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return app


class _Frame:
    """Around every request: the name it calls the service by, headers of every answer, and the figures."""

    def __init__(self, app: ASGIApp, service: Service, hosts: tuple[str, ...]) -> None:
        self._app, self._service, self._hosts = app, service, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            name = Headers(scope=scope).get("host", "")
            app = self._app if not self._hosts or _host(name) in self._hosts else _refused_host
            await app(scope, receive, sending)
        finally:
            path = scope["path"].removeprefix(scope.get("root_path", ""))  # behind a prefix, as of Ray Serve
            self._service.metrics.answered(path if path in PATHS else "other", status, time.perf_counter() - began)


def _host(name: str) -> str | None:
    """The host in a Host header."""
    try:
        return urlsplit(f"//{name}").hostname
    except ValueError:
        return None


async def _refused_host(scope: Scope, receive: Receive, send: Send) -> None:
    words = "this service answers to this machine's own names alone; set a token to use others"
    await JSONResponse({"error": words}, 403)(scope, receive, send)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _wrong_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)


async def _bug(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "an error of the service; its log has more"}, 500)
