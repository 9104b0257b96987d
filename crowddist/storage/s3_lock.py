"""A hold on a place in object storage: an object that only one process can make, that it renews, and that runs out when
it is dead.
"""

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
from typing import Any, Protocol

from crowddist.errors import InputError
from crowddist.process import host
from crowddist.process.stop_signals import ECHO_S

BEAT_S = 10.0
"""ours: how often a hold is renewed."""
EXPIRY_S = 60.0
"""ours: a hold that was not renewed for so long, by the server's clock, is anybody's."""
LOOK_S = 1.0
"""How often one who waits looks again."""
SETTLE_S = 2.0
"""Where the server ignores conditions: how long others may still write after they saw that the place is free."""

logger = logging.getLogger(__name__)


class LockPlace(Protocol):
    """The object that says who holds a folder."""

    @property
    def endpoint(self) -> str: ...
    def read_tagged(self) -> tuple[bytes, str, float] | None: ...
    def write_if(self, content: bytes, *, new: bool = False, etag: str = "") -> bool: ...
    def remove_file(self) -> None: ...


@contextmanager
def held(place: LockPlace, folder: str, *, waiting: Callable[[], None] | None) -> Iterator[None]:
    """Holds `folder` by the object at `place`, see `storage.exclusive`.

    A holder on this machine that is dead gives way at once, one elsewhere within `EXPIRY_S`; so long at most it takes
    to say that a holder is alive. A process that finds its hold taken (it was stopped for longer than `EXPIRY_S`) gets
    a SIGTERM, which ends a job as `host.sigterm_as_exit` says.
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


def holder(place: LockPlace) -> str:
    """Who holds by the object at `place`, "" where nobody does; nothing is changed."""
    found = place.read_tagged()
    if found is None or found[2] > EXPIRY_S or _is_dead(_owner(found[0])):
        return ""
    owner = _owner(found[0])
    return f"another process ({owner.get('host')}, pid {owner.get('pid')})"


class _Hold:
    def __init__(self, place: LockPlace, folder: str) -> None:
        self.place, self.folder = place, folder
        self.owner = {"owner": secrets.token_hex(16), "host": socket.gethostname(), "pid": os.getpid(),
                      "machine": _machine(),
                      "began": host.started(os.getpid()) or ""}
        self.num_beats = 0
        self.etag = ""
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
                if owner.get("owner") == self.owner["owner"]:  # written, and the answer was lost
                    if self._is_ours():
                        return
                    continue
                if waiting is None and etag != first:  # it was renewed while we looked
                    raise InputError(f"another process ({owner.get('host')}, pid {owner.get('pid')}) is at work in "
                                     f"{self.folder}; "
                                     "wait for it, or choose another name")
                if waiting is not None and not told:
                    told = True
                    waiting()
                taken = (age_s > EXPIRY_S or _is_dead(owner)) and self._write(etag=etag)
            if taken and self._is_ours():
                return
            time.sleep(LOOK_S)

    def renew(self) -> None:
        """Until the block ends. A server that does not answer for a while takes nothing away: nobody else reaches it
        either, or the hold is lost.
        """
        while not self.ended.wait(BEAT_S):
            with suppress(OSError, InputError):
                if not (self._mine() and self._write(etag=self.etag)) and not self._mine():
                    logger.error("the hold on %s was lost: another process has taken it over while this one stood "
                                 "still", self.folder)
                    while not self.ended.is_set():  # the first may be answered by going on for a while
                        # Ctrl-C is ignored in the background
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                        self.ended.wait(2 * ECHO_S)
                    return

    def release(self) -> None:
        with suppress(OSError, InputError):  # it runs out by itself
            if self._mine():
                self.place.remove_file()

    def _write(self, *, new: bool = False, etag: str = "") -> bool:
        """Makes or renews the object; whether the server let us."""
        self.num_beats += 1
        return self.place.write_if(self._content(), new=new, etag=etag)

    def _content(self) -> bytes:
        return json.dumps({**self.owner, "beat": self.num_beats}).encode()

    def _is_ours(self) -> bool:
        """Also where the server took a condition for nothing: then who wrote last, and waited, has it."""
        if self.place.write_if(self._content(), new=True):
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
    """Who wrote the object; nobody that is known, where something else lies there."""
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether it is surely known: only of processes that this one could see."""
    pid, began = owner.get("pid"), owner.get("began")
    if not _machine() or owner.get("machine") != _machine() or not isinstance(pid, int) or not isinstance(began, str):
        return False
    return not host.is_alive(pid, began)


def _machine() -> str:
    """This start of this machine and this container's processes; "" where the system does not tell."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
