"""Writes TIFFs of kinds that no library writes."""

from __future__ import annotations

import struct

import numpy as np


def tiff(pixels: np.ndarray, photometric: int = 2, *, rotation: int = 1, planes: bool = False, bits: int = 0,
         packed: bytes = b"", order: str = "<", kind: int = 1, extra: int | None = None) -> bytes:
    """A TIFF without compression; `packed`: its pixels, where `bits` are not those of the array."""
    height, width, number = (*pixels.shape, 1)[:3]
    data = packed or np.moveaxis(pixels, 2, 0 if planes else 2).astype(pixels.dtype.newbyteorder(order)).tobytes() \
        if pixels.ndim == 3 else packed or pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    parts = number if planes else 1
    size = len(data) // parts
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [bits or pixels.dtype.itemsize * 8] * number),
        259: ("H", [1]), 262: ("H", [photometric]), 273: ("I", [0] * parts), 274: ("H", [rotation]),
        277: ("H", [number]), 278: ("I", [height]), 279: ("I", [size] * parts), 284: ("H", [1 + planes]),
        339: ("H", [kind] * number)}
    if extra is not None:  # what the fourth band is: 0 is nothing that is known
        tags[338] = "H", [extra]
    place = 8 + 2 + 12 * len(tags) + 4
    start = place + sum(len(values) * struct.calcsize(form) for form, values in tags.values()
                        if len(values) * struct.calcsize(form) > 4)
    tags[273] = "I", [start + index * size for index in range(parts)]
    entries, pool = b"", b""
    for tag, (form, values) in sorted(tags.items()):
        held = struct.pack(f"{order}{len(values)}{form}", *values)
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[form], len(values))
        entries += held.ljust(4, b"\0") if len(held) <= 4 else struct.pack(f"{order}I", place + len(pool))
        pool += held if len(held) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + pool + data
