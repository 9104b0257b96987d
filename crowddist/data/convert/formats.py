"""The formats that can be converted."""

from __future__ import annotations

from crowddist.data.convert import folder, gcc, shanghaitech
from crowddist.data.convert.base import Format

FORMATS: dict[str, Format] = {form.name: form for form in (gcc.FORMAT, shanghaitech.FORMAT, folder.FORMAT)}
