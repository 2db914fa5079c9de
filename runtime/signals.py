"""Signals that ask a run to stop: Ctrl-C, a scheduler's SIGTERM or SIGUSR1, a closed terminal."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

from runtime.console import in_main_thread
from runtime.distributed import Ranks
from utils import DataError, Stopped

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def ignore_child_deaths() -> None:
    """Takes the death of a child process as nothing to interrupt the main thread for."""
    if hasattr(signal, "SIGCHLD") and in_main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside the block, signals wait for its end; a process that starts there never receives them.

    Python's own code for starting processes must not be left in its middle: locks would stay held, and processes be
    left behind that nobody knows of. A handler that waits is not enough, because the child would inherit it and run it.
    """
    if not in_main_thread():
        yield
        return
    waiting = []
    before = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in SIGNALS}
    block = getattr(signal, "pthread_sigmask", None)  # not on Windows, which starts processes in another way
    mask = block(signal.SIG_BLOCK, SIGNALS) if block else None
    try:
        yield
    finally:
        if block:
            block(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for number in waiting:
            signal.raise_signal(number)


def leave_signals() -> None:
    """For a process that the main one ends: it receives no signal, not even one that was sent while it started."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Stop:
    """Inside the block, a signal waits until the training loop asks; after one, Ctrl-C leaves at once.

    Only a wait for data, which a disk that hangs would draw out, ends with the signal. A second SIGTERM does not leave
    at once: schedulers and torchrun may each send one, while the checkpoint is being written.
    """

    def __init__(self, ranks: Ranks):
        self.ranks, self.signal, self.waiting = ranks, 0, False

    def between(self, batches: Iterable) -> Iterator:
        """The batches of this process, until no process has one left; before each, all agree on whether to go on.

        Raises Stopped, in all of them, when one has received a signal, and DataError when one cannot read its data.
        """
        batches = iter(batches)
        while True:
            batch, failure = self._next(batches)
            number = self.signal or signal.SIGTERM * self.ranks.orphaned
            number, failed, more = self.ranks.all_reduce([int(number), bool(failure), batch is not None], "max")
            if number:
                raise Stopped(int(number))
            if failed:
                raise failure or DataError("another process could not read its data")
            if not more:
                return
            if batch is not None:
                yield batch

    def _next(self, batches: Iterator) -> tuple[Any, DataError | None]:
        """The next batch, None after the last and at a signal; and what has made it unreadable."""
        self.waiting = True
        try:
            return (None if self.signal else next(batches, None)), None
        except Stopped:
            return None, None
        except DataError as error:
            return None, error
        finally:
            self.waiting = False

    def _receive(self, number, frame):
        if self.signal:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        self.signal = number
        text = f"\n{signal.Signals(number).name}: finishing the step and saving; Ctrl-C leaves at once\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # print could be interrupted inside itself
        if self.waiting:
            self.waiting = False
            raise Stopped(number)

    def __enter__(self) -> "Stop":
        self.before = {}
        if in_main_thread():
            for number in SIGNALS:
                hang_up = number == getattr(signal, "SIGHUP", None)
                if not hang_up or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it: so do we
                    self.before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)
