"""The formats that can be converted."""

from __future__ import annotations

from crowddist.data.convert import (
    crowd_human,
    folder,
    gcc,
    jhu_crowd,
    nwpu_crowd,
    shanghaitech,
    ucf_cc_50,
    ucf_qnrf,
    wider_face,
    worldexpo10,
)
from crowddist.data.convert.base import Format

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (gcc.FORMAT, shanghaitech.FORMAT, ucf_qnrf.FORMAT, ucf_cc_50.FORMAT, worldexpo10.FORMAT,
                 jhu_crowd.FORMAT, nwpu_crowd.FORMAT,
                 wider_face.FORMAT, crowd_human.FORMAT, folder.FORMAT)
}
