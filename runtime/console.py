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
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0":
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


def run_main(main: Callable[[], int | None]) -> None:
    """Runs a script: a UserError or OSError becomes one sentence and exit status 2, a signal exit status 128 + n.

    A reader of the output who leaves (`--help | head`) ends it in silence. Every other exception is a bug, perhaps in
    a change of the reader's, and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # the help texts, for terminals that cannot show all of their characters
            stream.reconfigure(errors="backslashreplace")
    try:
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
