"""Pages of HTML that are one file: their template, and their pictures inside them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from crowddist.data.safe_decode import encode_png

JPEG_QUALITY = 82
PICTURE_WIDTH_PX = 1440


def page(template: str, **values: Any) -> bytes:
    """A page of one of this room's templates, e.g. "report.html"; whatever it is given is text, not markup."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    from crowddist import storage
    from crowddist.reports import charts

    environment = Environment(loader=PackageLoader("crowddist.reports", "."), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True)
    # Charts come as figures, with words for those who do not see them.
    environment.filters["svg"] = lambda chart, told: Markup(charts.svg(chart, told))
    environment.filters["place"] = storage.shown
    return environment.get_template(template).render(values).encode()


def embedded(picture: np.ndarray) -> str:
    """A picture, RGB uint8, as a data URL: what has few colours becomes PNG, photographs JPEG."""
    import cv2

    if picture.shape[1] > PICTURE_WIDTH_PX:
        size = (PICTURE_WIDTH_PX, round(picture.shape[0] * PICTURE_WIDTH_PX / picture.shape[1]))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    png = encode_png(picture)
    jpeg = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    kind, data = ("png", png) if len(png) <= 1.5 * len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
