"""Asked to stop: at once outside of training, after a checkpoint within, and never later than the time given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crowddist.process.stop_signals import ECHO_S, EXIT_CODE, SIGNALS, Termination

PROJECT = Path(__file__).parents[2]


def end(block: str, *signals: str, grace_s: float = 60, pause_s: float = 0.0,
        echo_s: float = ECHO_S) -> subprocess.CompletedProcess[str]:
    """A program that listens, and sends itself signals when it says so."""
    sends = "; time.sleep(PAUSE); ".join(f"os.kill(os.getpid(), signal.{name})"
                                         for name in signals).replace("PAUSE", str(pause_s))
    code = (
        "import os, signal, time\nfrom crowddist.process import stop_signals\n"
        f"stop_signals.ECHO_S = {echo_s}\n"
        f"def send():\n    {sends}\n"
        f"termination = stop_signals.Termination({grace_s})\nwith termination.listening():\n{block}"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
                          cwd=PROJECT)


@pytest.mark.parametrize("name", [each.name for each in SIGNALS])
def test_outside_of_training_it_ends_at_once(name: str) -> None:
    done = end("    try:\n        send()\n        time.sleep(30)\n    finally:\n        print('tidied up')\n", name)
    assert (done.returncode, done.stdout) == (EXIT_CODE, "tidied up\n")
    assert done.stderr == f"stopped by {name}; the same command takes the run up again\n"


def test_while_training_it_is_a_request(tmp_path: Path) -> None:
    block = ("    with termination.deferred():\n        send()\n        print(termination.requested)\n    print('not "
             "reached')\n")
    done = end(block, "SIGUSR1")
    assert (done.returncode, done.stdout) == (EXIT_CODE, "True\n")


def test_what_breaks_after_the_request_is_no_error() -> None:
    done = (end("    with termination.deferred():\n        send()\n        raise RuntimeError('the workers were "
                "stopped too')\n", "SIGTERM"))
    assert done.returncode == EXIT_CODE and "RuntimeError" not in done.stderr
    done = end("    with termination.deferred():\n        raise RuntimeError('a bug')\n", "SIGTERM")
    assert done.returncode == 1 and "a bug" in done.stderr


def test_a_signal_soon_after_the_first_says_nothing_new_and_a_later_one_that_it_is_urgent() -> None:
    block = ("    with termination.deferred():\n        send()\n        print('still here', flush=True)\n        "
             "time.sleep(0.2)\n")
    long = "    try:\n        send()\n    finally:\n        time.sleep(0.7)\n        send()\n        time.sleep(60)\n"
    last = "        try:\n            time.sleep(0.7)\n            send()\n        finally:\n            send()\n"
    with ThreadPoolExecutor() as together:  # they wait
        echo, urgent, hanging, thrice = (
            together.submit(end, *words, pause_s=pause_s, echo_s=0.5) for words, pause_s in (
                ((block, "SIGUSR1", "SIGTERM"), 0.0), ((block, "SIGUSR1", "SIGTERM"), 0.7), ((long, "SIGTERM"), 0.0),
                ((f"    try:\n        send()\n    finally:\n{last}", "SIGTERM"), 0.0)))
    assert ECHO_S == 2.0, "0.5 here, where it would be waited for"
    assert echo.result().stdout == "still here\n"
    assert (urgent.result().returncode, urgent.result().stdout) == (EXIT_CODE, "")
    assert hanging.result().returncode == EXIT_CODE
    assert thrice.result().returncode == -signal.SIGTERM


def test_when_the_time_is_over_it_leaves_anyway() -> None:
    started = time.monotonic()
    done = end("    with termination.deferred():\n        send()\n        time.sleep(30)\n", "SIGTERM", grace_s=0.4)
    assert done.returncode == EXIT_CODE and 0.4 < time.monotonic() - started < 20


def test_the_handlers_return_and_nothing_came(capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    termination = Termination()
    with termination.listening(), termination.deferred():
        assert not termination.requested
    assert [signal.getsignal(each) for each in SIGNALS] == before
    with pytest.raises(SystemExit) as ended, termination.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(5)
    assert ended.value.code == EXIT_CODE and "stopped by SIGUSR1" in capsys.readouterr().err
    with pytest.raises(SystemExit), termination.deferred():
        pytest.fail("no training begins after a request to stop")
