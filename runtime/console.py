"""Lines on the terminal, and how a program ends: a sentence and a status, or a traceback."""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from typing import TextIO

from utils import Stopped, UserError

GRACE = 1.5  # seconds that a program has, after Ctrl-C, to end what it is writing


def printable(text: str, stream: TextIO) -> str:
    """The text with escapes for what `stream` cannot encode, and for control characters: names of files hold any."""
    text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str) -> None:
    """Prints a line; where nobody listens any more (a closed pipe or terminal), goes on in silence.

    Of several processes, only the main one prints.
    """
    world, rank = os.environ.get("WORLD_SIZE"), os.environ.get("RANK")
    if world not in (None, "", "1") and rank not in (None, "", "0"):
        return
    write_out(printable(text, sys.stdout) + "\n")


def write_out(text: str = "") -> bool:
    """Prints `text` and what is still held back; False where nobody listens: nothing goes out from then on."""
    try:
        print(text, end="", flush=True)
        return True
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False


def in_main_thread() -> bool:
    """Whether signals can be told what to do: Python delivers them nowhere else."""
    return threading.current_thread() is threading.main_thread()


def leave_launcher() -> None:
    """Forgets what a launcher has left in the environment. Raises UserError in one of several that torchrun started."""
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("WORLD_SIZE") not in (None, "", "1"):
        raise UserError("torchrun starts train.py only; this program is one process: start it with python")
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """In the block, Ctrl-C is a KeyboardInterrupt that has GRACE to end this process; another, or a late one, does.

    An interrupt alone is no promise: a read from a disk that hangs holds its thread for ever, Python waits for its
    threads, and an interrupt inside a lock's code can leave it locked.
    """
    pid = os.getpid()

    def receive(number, frame):
        if os.getpid() != pid:  # a process that was forked just now
            os._exit(128 + number)
        signal.signal(number, leave_now)
        start_new_thread(leave_later, (128 + number,))  # threading's own locks may be what was interrupted
        raise KeyboardInterrupt

    received = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # `&` may have it ignored
    interactive = hasattr(sys, "ps1")  # %run in a notebook, say: this process has more to lose than the program
    if not received or interactive or not in_main_thread():
        yield
        return
    signal.signal(signal.SIGINT, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, leave_now)  # while Python ends, an interrupt would print a traceback


def leave_later(status: int) -> None:
    time.sleep(GRACE)
    os._exit(status)


def leave_now(number, frame) -> None:
    os._exit(128 + number)


def run_main(main: Callable[[], int | None], several: bool = False) -> None:
    """Runs a script: a UserError or OSError becomes one sentence and exit status 2, a signal exit status 128 + n.

    several: whether torchrun may start it more than once. To other scripts, what a launcher has left in the environment
    means nothing.

    A reader of the output who leaves (`--help | head`) ends it in silence. Every other exception is a bug, perhaps in
    a change of the reader's, and keeps its traceback.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before the start, as by 2>&- or pythonw
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):  # the help texts, for terminals that cannot show all of their characters
            stream.reconfigure(errors="backslashreplace")
    gc.freeze()  # what the imports made stays to the end: looking through it again took a fifth of finding the pairs
    try:
        if not several:
            leave_launcher()
        with interruptible():
            status = main()
        sys.exit(status)
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and not write_out("\n"):  # it was the output's
            sys.exit(141)  # 128 + SIGPIPE
        told = printable(str(error), sys.stderr).replace("\n", "\\n")
        sys.stderr.write(f"error: {told}\n")  # in one piece, beside those of the other processes that torchrun started
        sys.exit(2)
    except (KeyboardInterrupt, Stopped) as error:
        sys.exit(128 + getattr(error, "number", signal.SIGINT))
    finally:
        write_out()
