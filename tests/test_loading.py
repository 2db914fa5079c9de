"""What becomes of loader processes where shared memory, semaphores or open files run out: no wait without an end."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT, flags

from config import Config
from dataset import load_data
from pairs.loading import loaders
from runtime.distributed import Ranks
from runtime.signals import Stop
from utils import DataError, Stopped

SMALL = replace(Config(), load_size=80, crop_size=64, cache="none", num_workers=2)
forked = pytest.mark.skipif(torch.multiprocessing.get_start_method() != "fork",
                            reason="what is replaced here reaches processes that are forked only")


@pytest.fixture
def opened(data):
    """The pairs, and what opens their loaders."""
    cfg = replace(SMALL, data_root=data)
    pairs = load_data(cfg)[0]
    return pairs, lambda: loaders(pairs, pairs, cfg, Ranks())


@forked
def test_where_shared_memory_is_full_the_same_pairs_come_through_pipes(opened, monkeypatch, capsys):
    with opened[1]() as (batches, _):
        shared = list(batches)
    assert "shared memory" not in capsys.readouterr().out
    full = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
    monkeypatch.setattr(torch.Tensor, "share_memory_", Mock(side_effect=RuntimeError(full)))
    with opened[1]() as (batches, _):
        for _ in range(2):
            piped = list(batches)
    assert len(piped) == len(shared) == 6
    assert all(torch.equal(a, b) for one, other in zip(shared, piped, strict=True) for a, b in zip(one, other,
                                                                                                strict=True))
    assert capsys.readouterr().out.count("shared memory is full") == 1


@forked
def test_a_message_that_is_lost_on_the_way_ends_the_pass(opened, monkeypatch, capfd):
    """The thread that sends meets the error, in another process: torch prints its traceback and waits for ever."""
    start = time.monotonic()
    monkeypatch.setattr(type(opened[0]), "pixels", lambda *_: (torch.zeros(1), threading.Lock()))  # no pickle takes it
    with opened[1]() as (batches, _), pytest.raises(DataError, match="a process that loads"):
        list(batches)
    assert time.monotonic() - start < 30
    err = capfd.readouterr().err
    assert "cannot hand them over: cannot pickle" in err and "Traceback" not in err


@forked
def test_processes_that_wait_on_a_disk_that_hangs_are_ended_when_the_run_leaves(opened, monkeypatch):
    """They ignore SIGTERM, and the interpreter would wait for them at its end."""
    start = time.monotonic()
    monkeypatch.setattr(type(opened[0]), "pixels", lambda *_: time.sleep(600))
    with pytest.raises(Stopped), opened[1]() as (batches, _):
        iter(batches.loader)
        raise Stopped(signal.SIGINT)
    assert not multiprocessing.active_children() and time.monotonic() - start < 20


@forked
def test_a_signal_waits_until_the_processes_have_started_and_they_do_not_see_it(opened, monkeypatch, capfd):
    """An exception in the middle of a start would leave unknown processes; the children would raise it."""
    started, fork = [], os.fork

    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        started.append(child := fork())
        return child

    monkeypatch.setattr(os, "fork", interrupted)
    with opened[1]() as (batches, _), Stop(Ranks()) as stop:
        with pytest.raises(Stopped):
            list(stop.between(batches))
        assert len(started) == 2 == len(batches.loader._iterator._workers)
    err = capfd.readouterr().err
    assert err.count("SIGINT: finishing") == 1 and "Exception ignored" not in err


@pytest.mark.parametrize(("where", "error"), [
    ("semaphores", OSError(28, "No space left on device")), ("semaphores", ImportError("no sem_open here")),
    ("start", OSError(28, "No space left on device"))])
def test_where_no_process_can_be_started_the_main_one_loads(opened, monkeypatch, capsys, where, error):
    """There may be room for one queue, where the processes need several."""
    refuse = Mock(side_effect=error)
    if where == "semaphores":
        monkeypatch.setattr(torch.multiprocessing, "Queue", refuse)
    with opened[1]() as (batches, _):
        if where == "start":
            monkeypatch.setattr(type(batches.loader), "__iter__", refuse)
        assert len(list(batches)) == 6 and batches.loader is None
    said = capsys.readouterr().out
    assert f"can be started ({error})" in said and "the main one loads them" in said


@pytest.mark.parametrize("error", [BlockingIOError(11, "Resource temporarily unavailable"),
                                   OSError(24, "Too many open files")])
def test_limits_of_the_system_are_told_with_the_way_out(opened, monkeypatch, error):
    with opened[1]() as (batches, _):
        monkeypatch.setattr(type(batches.loader), "__iter__", Mock(side_effect=error))
        with pytest.raises(DataError, match="--num-workers 0 needs none"):
            list(batches)


def mounted(size, *command):
    """The command where /dev/shm holds `size` only; seen by it alone."""
    return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh", *command]


@pytest.mark.slow
def test_a_run_ends_well_in_a_container_with_little_shared_memory(data, tmp_path):
    """Real mounts: one that holds no message, and one without room for a semaphore."""
    if not shutil.which("unshare") or subprocess.run(mounted("1m", "true"), capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    for size, told in (("500k", "shared memory is full"), ("4k", "can be started")):
        run = tmp_path / size
        command = [sys.executable, str(ROOT / "train.py"),
                   *flags(data, run, n_epochs=1, num_workers=2, batch_size=2, crop_size=256, load_size=286)]
        done = subprocess.run(mounted(size, *command), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and told in done.stdout and not done.stderr, done.stdout + done.stderr
        assert (run / "gen.pth.tar").exists()
