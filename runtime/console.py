"""Lines on the terminal, and how a program ends: a sentence and a status, or a traceback."""

import os
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from utils import Stopped, UserError


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
    heard(printable(text, sys.stdout) + "\n")


def heard(text: str = "") -> bool:
    """Prints `text` and what is still held back; False where nobody listens: nothing goes out from then on."""
    try:
        print(text, end="", flush=True)
        return True
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False


def leave_launcher() -> None:
    """Forgets what a launcher has left in the environment. Raises UserError in one of several that torchrun started."""
    if os.environ.get("TORCHELASTIC_RUN_ID") and os.environ.get("WORLD_SIZE") not in (None, "", "1"):
        raise UserError("torchrun starts train.py only; this program is one process: start it with python")
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)


def run_main(main: Callable[[], int | None], several: bool = False) -> None:
    """Runs a script: a UserError or OSError becomes one sentence and exit status 2, a signal exit status 128 + n.

    several: whether torchrun may start it more than once. To other scripts, what a launcher has left in the environment
    means nothing.

    A reader of the output who leaves (`--help | head`) ends it in silence. Every other exception is a bug, perhaps in
    a change of the reader's, and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # the help texts, for terminals that cannot show all of their characters
            stream.reconfigure(errors="backslashreplace")
    try:
        if not several:
            leave_launcher()
        sys.exit(main())
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and not heard("\n"):  # it was the output's
            sys.exit(141)  # 128 + SIGPIPE
        print("error: " + printable(str(error), sys.stderr).replace("\n", "\\n"), file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Stopped) as error:
        sys.exit(128 + getattr(error, "number", signal.SIGINT))
    finally:
        heard()
