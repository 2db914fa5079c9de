"""Signals that ask a run to stop: Ctrl-C, a scheduler's SIGTERM or SIGUSR1, a closed terminal."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator

from runtime.distributed import Ranks
from utils import DataError, Stopped

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
FAILED = 10_000  # told to the other processes like a signal's number


def leave_children() -> None:
    """Takes the death of a child process as nothing to interrupt the main thread for."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class Stop:
    """Inside the block, a signal waits until the training loop asks; after one, Ctrl-C leaves at once.

    A second SIGTERM does not: schedulers and torchrun may each send one, while the checkpoint is being written.
    """

    def __init__(self, ranks: Ranks):
        self.ranks, self.signal = ranks, 0

    def between(self, batches: Iterable) -> Iterator:
        """The batches of this process, until no process has one left; before each, all agree on whether to go on.

        Raises Stopped, in all of them, when one has received a signal, and DataError when one cannot read its data.
        """
        batches, failure = iter(batches), None
        while True:
            batch = None
            try:
                batch = next(batches, None)
            except DataError as error:
                failure = error
            number = FAILED if failure else self.signal or signal.SIGTERM * self.ranks.orphaned
            number, more = self.ranks.all_reduce([int(number), batch is not None], "max")
            if failure:
                raise failure
            if number == FAILED:
                raise DataError("another process could not read its data")
            if number:
                raise Stopped(int(number))
            if not more:
                return
            if batch is not None:
                yield batch

    def _receive(self, number, frame):
        if self.signal:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        self.signal = number
        text = f"\n{signal.Signals(number).name}: finishing the step and saving; Ctrl-C leaves at once\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # print could be interrupted inside itself

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
