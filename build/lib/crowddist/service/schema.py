"""What goes over the wire, as OpenAPI tells it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff", "application/octet-stream")
"""As OpenAPI tells them. What is sent is told by its first bytes: any image/* is taken."""


class Format(StrEnum):
    """What comes back."""

    json = "json"
    png = "png"
    both = "both"


class Address(BaseModel):
    """An image that the service fetches."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="http://, https://, s3:// or file:/// address in a place that the service allows.",
                     max_length=4096, examples=["s3://bucket/frames/1.jpg"])


Point = Annotated[list[float], Field(min_length=3, max_length=3)]
"""Not a tuple, which FastAPI describes as OpenAPI does not allow."""


class CountAnswer(BaseModel):
    """What is found in an image: `CountResult.to_dict`, and on request the picture."""

    count: float = Field(description="Persons.")
    low: float | None = Field(description="The true count lies between low and high in a share `level` of images like "
                                          "those that the counter was trained on; null without an interval.")
    high: float | None
    level: float | None
    uncertainty: float = Field(description="Standard deviation of the count over the ensemble, persons.")
    height: int = Field(description="Of the upright image, px.")
    width: int
    points: list[Point] = Field(description="x, y of each head in px of the upright image, and a score, 0 to 1.")
    head_sizes: list[float] | None = Field(description="Sides of the heads' squares, px; null where the counter gives "
                                                       "none.")
    zones: dict[str, float] | None = Field(default=None, description="Persons in each zone, by its name; absent "
                                                                     "without zones.")
    overlay_png: str | None = Field(default=None, description="The PNG in base64; with format=both alone.")


class State(BaseModel):
    """How the service does."""

    ok: bool
    waiting: int = Field(description="Images whose count has not begun.")
    version: str


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One line: what is wrong, and what to do.")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses of these statuses."""
    words = {400: "the request broke off", 401: "no token, or a wrong one", 403: "an address in no allowed place",
             404: "no file at the address", 408: "the image did not come in time",
             413: "too many bytes or pixels", 415: "not an image", 422: "an image that cannot be counted",
             500: "a bug", 502: "the address cannot be read", 503: "too many requests, come again; or not ready",
             504: "not counted in time"}
    return {status: {"model": Problem, "description": words[status]} for status in statuses}


REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        **{kind: {"schema": {"type": "string", "format": "binary", "minLength": 1}} for kind in IMAGE_TYPES},
        "application/json": {"schema": Address.model_json_schema()},
    },
}
"""Of POST /count. FastAPI would read a body that it knows of into memory, however long it is."""
