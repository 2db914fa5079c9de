"""Signals that ask a run to stop: Ctrl-C, a scheduler's SIGTERM or SIGUSR1, a closed terminal."""

import contextlib
import os
import signal
import threading

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def leave_children() -> None:
    """Takes the death of a child process as nothing to interrupt the main thread for."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class Stop:
    """Inside the block, signals only set `signal`, for the loop to see; after one, Ctrl-C leaves at once.

    A second SIGTERM does not: schedulers and torchrun may each send one, while the checkpoint is being written.
    """

    def __init__(self):
        self.signal = 0  # received by this process
        self.agreed = 0  # known to all processes of the run

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
