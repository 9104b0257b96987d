"""The page: one file, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi.responses import HTMLResponse

import crowddist

if TYPE_CHECKING:
    from crowddist.service.service import Service


class Page:
    """The page of a service."""

    def __init__(self, service: Service, *, needs_token: bool) -> None:
        intervals = service.predictor.intervals
        settings = {
            "token": needs_token, "max_bytes": service.limits.max_bytes,
            "max_megapixels": service.limits.max_megapixels,
            "zones": list(service.zones.names) if service.zones else [],
            "version": crowddist.__version__, "intervals": intervals.told if intervals else "no intervals",
        }
        # In a script's element only this ends it.
        told = json.dumps(settings).replace("<", "\\u003c")
        self._text = Path(__file__).with_name("page.html").read_text(encoding="utf-8").replace("{{settings}}", told)
        # What is not in this file does not run.
        rules = {"script-src": _hash(self._text, "script"), "style-src": _hash(self._text, "style"),
                 "img-src": "blob: data:", "connect-src": "'self'", "default-src": "'none'", "base-uri": "'none'",
                 "form-action": "'none'", "frame-ancestors": "'none'"}
        self._headers = {"Content-Security-Policy": "; ".join(f"{name} {rule}" for name, rule in rules.items()),
                         "Referrer-Policy": "no-referrer"}

    def response(self) -> HTMLResponse:
        """The answer that shows it."""
        return HTMLResponse(self._text, headers=self._headers)


def _hash(text: str, element: str) -> str:
    """The source of a content security policy for the one element without attributes."""
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
