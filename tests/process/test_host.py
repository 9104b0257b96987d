from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import pytest

import crowddist
from crowddist.process import host


def test_a_process_lives_dies_and_is_not_mistaken_for_another():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = host.started(child.pid)
    assert began is not None and host.is_alive(child.pid, began)
    if began:
        assert not host.is_alive(child.pid, str(int(began) - 1))
    # Where a system does not tell the start, the number has to do.
    assert host.is_alive(child.pid, "")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert host.started(child.pid) is None, "a zombie is not alive"
    child.wait()
    assert host.started(child.pid) is None and not host.is_alive(child.pid, began)


def test_versions():
    facts = host.versions()
    assert facts["crowddist_version"] == crowddist.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", facts.get("git_sha", "0" * 40))


def test_freed_memory_is_kept_until_it_is_given_back():
    """Maps that come and go cost new pages the first time alone; a worker that waits holds none of them."""
    code = (
        "import resource, numpy as np\nfrom pathlib import Path\n"
        "from crowddist.process.host import give_back_memory, keep_freed_memory\nassert "
        "keep_freed_memory()\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "def faults(_=0): np.ones(2**24); return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "first, second = faults(), faults()\n"
        "print(second - first, next(ThreadPoolExecutor(1).map(faults, [0])) - second)\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096\n"
        "held = resident()\nassert give_back_memory() and held - resident() > 2**26"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(int(number) < 2**24 * 8 / 4096 / 10 for number in done.stdout.split()), "also in another thread"


def test_sigterm_unwinds_the_block_and_the_old_handler_returns():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, host.sigterm_as_exit():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) is before


def test_sigterm_twice_ends_at_once():
    code = (
        "import os, signal, time\nfrom crowddist.process import host\n"
        "with host.sigterm_as_exit():\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(30)\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGTERM)\n        time.sleep(30)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == -signal.SIGTERM


def test_a_handler_of_the_program_stays():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with host.sigterm_as_exit():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_other_threads_are_left_alone():
    before, entered = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with host.sigterm_as_exit():
            entered.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]
