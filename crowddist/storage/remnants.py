"""What a download leaves in the place of a file."""

from __future__ import annotations


def remnant(data: bytes) -> str:
    """What stands in the place of the file, and the next step; "" where the first bytes look like none of that."""
    head = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; fetch it with git lfs pull"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page, not the file itself; download the file again"
    return ""
