"""A hold on a place in object storage: an object that one process alone creates and renews, and that expires."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crowddist.errors import InputError
from crowddist.process import host
from crowddist.process.stop_signals import ECHO_S

if TYPE_CHECKING:
    from crowddist.storage.s3_object import S3Object

BEAT_S = 10.0
"""ours: time between two renewals of a hold."""
EXPIRY_S = 60.0
"""ours: any process may take a hold that was not renewed for so long, by the server's clock."""
LOOK_S = 1.0
"""Time between two looks of a waiting process."""
SETTLE_S = 2.0
"""If the server ignores conditions: how long others may still write after they saw that the place is free."""

logger = logging.getLogger(__name__)


@contextmanager
def held(place: S3Object, folder: str, *, waiting: Callable[[], None] | None) -> Iterator[None]:
    """Holds `folder` by the object at `place`, see `storage.exclusive`.

    A dead process here loses its hold at once, elsewhere within `EXPIRY_S`; to find a holder alive takes no longer.
    A process that lost its hold while it stood still gets a SIGTERM, see `host.sigterm_as_exit`.
    """
    hold = _Hold(place, folder)
    hold.acquire(waiting)
    beats = threading.Thread(target=hold.renew, name="hold", daemon=True)
    beats.start()
    try:
        yield
    finally:
        hold.ended.set()
        beats.join()
        hold.release()


def holder(place: S3Object) -> str:
    """The process that holds by the object at `place`, "" if none does; changes nothing."""
    found = place.read_tagged()
    if found is None or found[2] > EXPIRY_S or _is_dead(_owner(found[0])):
        return ""
    return _process(_owner(found[0]))


class _Hold:
    def __init__(self, place: S3Object, folder: str) -> None:
        self.place, self.folder = place, folder
        self.owner = {"owner": secrets.token_hex(16), "host": socket.gethostname(), "pid": os.getpid(),
                      "machine": _machine(), "began": host.started(os.getpid()) or ""}
        self.num_beats, self.etag = 0, ""
        self.ended = threading.Event()

    def acquire(self, waiting: Callable[[], None] | None) -> None:
        first = told = None
        while True:
            found = self.place.read_tagged()
            if found is None:
                taken = self._write(new=True)
            else:
                content, etag, age_s = found
                first = first or etag
                owner = _owner(content)
                if owner.get("owner") == self.owner["owner"]:  # our write succeeded, but its answer was lost
                    if self._is_ours():
                        return
                    continue
                if waiting is None and etag != first:  # the holder renewed it while we looked
                    raise InputError(f"{_process(owner)} is at work in {self.folder}; wait for it, or choose another "
                                     "name")
                if waiting is not None and not told:
                    told = True
                    waiting()
                taken = (age_s > EXPIRY_S or _is_dead(owner)) and self._write(etag=etag)
            if taken and self._is_ours():
                return
            time.sleep(LOOK_S)

    def renew(self) -> None:
        """Renews the hold until the block ends. A silent server is no loss: no other process reaches it either."""
        while not self.ended.wait(BEAT_S):
            with suppress(OSError, InputError):
                if not (self._mine() and self._write(etag=self.etag)) and not self._mine():
                    logger.error("the hold on %s was lost: another process has taken it over while this one stood "
                                 "still", self.folder)
                    while not self.ended.is_set():  # a training may answer the first by going on for a while
                        # not SIGINT, which processes in the background ignore
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                        self.ended.wait(2 * ECHO_S)
                    return

    def release(self) -> None:
        with suppress(OSError, InputError):  # the hold expires by itself
            if self._mine():
                self.place.remove_file()

    def _write(self, *, new: bool = False, etag: str = "") -> bool:
        """Creates or renews the object; False if the server refused."""
        self.num_beats += 1
        content = json.dumps({**self.owner, "beat": self.num_beats})
        return self.place.write_if(content.encode(), new=new, etag=etag)

    def _is_ours(self) -> bool:
        """Also works if the server ignores conditions: then the last writer has the hold, after a pause."""
        if self._write(new=True):
            logger.warning("%s ignores conditions: two processes that begin in the same second on %s may hold it both",
                           self.place.endpoint, self.folder)
            time.sleep(SETTLE_S)
        return self._mine()

    def _mine(self) -> bool:
        found = self.place.read_tagged()
        if found is None or _owner(found[0]).get("owner") != self.owner["owner"]:
            return False
        self.etag = found[1]
        return True


def _owner(content: bytes) -> dict[str, Any]:
    """The process that wrote the object; {} if the content is something else."""
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _process(owner: dict[str, Any]) -> str:
    return f"another process ({owner.get('host')}, pid {owner.get('pid')})"


def _is_dead(owner: dict[str, Any]) -> bool:
    """True only for a process that this one could see."""
    pid, began = owner.get("pid"), owner.get("began")
    if not _machine() or owner.get("machine") != _machine() or not isinstance(pid, int) or not isinstance(began, str):
        return False
    return not host.is_alive(pid, began)


def _machine() -> str:
    """Identifies this boot of the machine and the container's process namespace; "" if the system does not tell."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
