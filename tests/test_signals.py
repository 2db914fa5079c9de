import contextlib
import os
import signal
import threading
import time

import pytest
from conftest import ROOT, launch

from runtime import signals
from runtime.distributed import Ranks
from utils import Stopped


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP on this system")
def test_nohup_stays_in_force_and_a_closed_terminal_otherwise_saves():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.Stop(Ranks()):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with signals.Stop(Ranks()) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal == signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.long
def test_the_first_signal_asks_and_the_second_leaves_at_once():
    code = ("import os, signal\n"
            "from runtime import signals\n"
            "from runtime.distributed import Ranks\n"
            "with signals.Stop(Ranks()) as stop:\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    print(stop.signal, flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    print('still here')\n")
    process = launch("-c", code, cwd=ROOT)
    out, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT and out == "2\n"


@pytest.mark.skipif(os.name != "posix", reason="kills with POSIX signals")
def test_one_signal_ends_a_wait_for_data_that_never_comes():
    """Of a network disk that hangs; an error that a decoder makes of it must not swallow the signal."""
    def hangs():
        yield 1
        with contextlib.suppress(Exception):
            time.sleep(20)
        yield 2

    start, seen = time.monotonic(), []
    with signals.Stop(Ranks()) as stop, pytest.raises(Stopped) as stopped:
        for batch in stop.between(hangs()):
            seen.append(batch)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert (seen, stopped.value.number) == ([1], signal.SIGTERM) and time.monotonic() - start < 10
