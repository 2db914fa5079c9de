"""Results come in order and one Ctrl-C ends every program, whatever its threads are waiting for."""

import contextlib
import os
import signal
import threading
import time

import numpy as np
import pytest
from conftest import ROOT, launch, save, wait_until

from runtime.threads import ordered
from train import train

posix = pytest.mark.skipif(os.name != "posix", reason="kills with POSIX signals, and hangs in a FIFO")


def test_results_come_in_order_and_no_job_begins_too_early():
    begun = []

    def work(n):
        begun.append(n)
        time.sleep(0.02 * (n % 3 == 0))
        return n * n

    with ordered(work, range(20), 4, ahead=5) as results:
        for n, result in enumerate(results):
            assert result == n * n and len(begun) <= n + 6


def test_leaving_early_ends_what_is_at_work_and_gives_up_the_rest():
    ended, go_on = [], threading.Event()

    def work(n):
        if n:
            go_on.wait(10)
        ended.append(n)

    with pytest.raises(KeyboardInterrupt), ordered(work, range(100), 2, ahead=50) as results:
        next(results)
        threading.Timer(0.1, go_on.set).start()
        raise KeyboardInterrupt
    assert sorted(ended) in ([0, 1, 2], [0, 1], [0, 2])


def end_by_ctrl_c(process, times=1, seconds=10):
    """So many of them end it within that time, with their status and without a traceback."""
    start = time.monotonic()
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    try:
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in out + err, out + err
    assert time.monotonic() - start < seconds


def begin(code, *args, **options):
    """A program, and after its imports `code`; a word on standard output says that it has come to where it hangs."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = sys.argv[1:]; {code}"
    return launch("-c", program, *args, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
                  **options)


HANGS = ("import os, threading, time\nfrom runtime.console import run_main\nfrom runtime.threads import ordered\n"
         "def hangs(n):\n    os.write(1, b'here\\n')\n    time.sleep(30)\n"
         "def in_threads():\n    with ordered(hangs, range(9), 2, 9) as results:\n        list(results)\n"
         "def swallowed():\n    print('here', flush=True)\n    try:\n        time.sleep(30)\n"
         "    except BaseException:\n        time.sleep(30)\n"
         "def locked():\n    lock = threading.Lock()\n    with lock:\n        print('here', flush=True)\n"
         "        try:\n            time.sleep(30)\n        finally:\n            lock.acquire()\n")


@posix
@pytest.mark.parametrize("where", ["in_threads", "swallowed", "locked"])
@pytest.mark.long
def test_one_ctrl_c_ends_what_would_wait_for_ever(where):
    process = begin(f"\n{HANGS}\nrun_main({where})")
    assert process.stdout.readline() == "here\n"
    end_by_ctrl_c(process)


@posix
@pytest.mark.long
def test_a_second_ctrl_c_leaves_at_once_and_a_late_one_in_silence():
    process = begin(f"\n{HANGS}\nrun_main(in_threads)")
    process.stdout.readline()
    end_by_ctrl_c(process, times=2, seconds=1.4)
    process = begin("import atexit, time; from runtime.console import run_main; "
                    "atexit.register(lambda: (print('here', flush=True), time.sleep(30))); run_main(lambda: 0)")
    assert process.stdout.readline() == "here\n"
    end_by_ctrl_c(process)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("program", ["check.py", "predict.py"])
def test_one_ctrl_c_ends_a_program_whose_disk_hangs(small, data, tmp_path, program):
    """A FIFO that nobody writes to: the read never returns."""
    if program == "check.py":
        fifo = data / "train" / "3.png"
        args = [data, "--device=cpu"]
    else:
        train(small(n_epochs=1))
        for n in range(4):
            save(tmp_path / "in" / f"{n}.png", np.zeros((64, 64, 3), np.uint8))
        fifo = tmp_path / "in" / "1.png"
        args = ["--checkpoint", small().out_dir / "gen.pth.tar", "--input", tmp_path / "in", "--output",
                tmp_path / "out", "--device", "cpu"]
    fifo.unlink()
    os.mkfifo(fifo)
    process = launch(ROOT / program, *args, cwd=tmp_path,
                     preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    held = []

    def read():
        with contextlib.suppress(OSError):  # nobody has it open to read
            held.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return held

    wait_until(read, lambda: process.poll() is None)
    end_by_ctrl_c(process)
    os.close(held[0])
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".tmp"]
