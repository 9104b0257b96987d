"""The formats that can be converted."""

from __future__ import annotations

from crowddist.data.convert import folder, gcc, shanghaitech, ucf_cc_50, ucf_qnrf, wider_face
from crowddist.data.convert.base import Format

FORMATS: dict[str, Format] = {
    form.name: form for form in (gcc.FORMAT, shanghaitech.FORMAT, ucf_qnrf.FORMAT, ucf_cc_50.FORMAT, wider_face.FORMAT, folder.FORMAT)
}
