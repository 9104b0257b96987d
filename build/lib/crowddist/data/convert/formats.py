"""All raw formats, by name."""

from __future__ import annotations

from importlib import import_module

from crowddist.data.config import RAW_FORMATS
from crowddist.data.convert.layout import Format

FORMATS: dict[str, Format] = {
    name: import_module(f"crowddist.data.convert.{name}").FORMAT for name in (*RAW_FORMATS, "folder")
}
