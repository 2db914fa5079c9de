"""Signals that ask a run to stop: Ctrl-C, a scheduler's SIGTERM or SIGUSR1, a closed terminal."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from runtime.distributed import Ranks
from utils import DataError, Stopped

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def leave_children() -> None:
    """Takes the death of a child process as nothing to interrupt the main thread for."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


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
        if threading.current_thread() is threading.main_thread():  # Python delivers signals nowhere else
            for number in SIGNALS:
                hang_up = number == getattr(signal, "SIGHUP", None)
                if not hang_up or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it: so do we
                    self.before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)
