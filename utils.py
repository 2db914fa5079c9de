"""Plumbing that knows nothing of pix2pix: initialisation, files, messages, grids."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor, nn
from torchvision.utils import make_grid


def init_weights(module: nn.Module) -> None:
    """Convolutions N(0, 0.02); BatchNorm weights N(1, 0.02); biases 0 (appendix 6.2 and the authors' code)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# Files


def temporary_name() -> str:
    """A name that nobody can foresee, short enough wherever names may be long, and told from every user's own."""
    return f".pix2pix-{secrets.token_hex(8)}.tmp"


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that were killed in the middle of `atomic`."""
    for path in folder.glob(".pix2pix-*.tmp"):
        if re.fullmatch(r"\.pix2pix-[0-9a-f]{16}\.tmp", path.name) and path.is_file():
            path.unlink()


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once it is complete and on disk. Raises OSError, naming it."""
    temporary, made = path.with_name(temporary_name()), False
    try:
        with temporary.open("xb") as file:  # never one that is there already, nor through a link
            made = True
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch.save's, when a write fails
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(getattr(error, "errno", None) or errno.EIO, reason, str(path)) from error
    finally:
        if made:
            temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name itself must reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Where another process has made a folder of that name meanwhile, that one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name())
    temporary.mkdir(0o700)
    try:
        (temporary / path.name).mkdir()
        yield temporary / path.name
        try:
            (temporary / path.name).rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# Messages and errors


class UserError(ValueError):
    """A mistake that a user can mend: its message is the one sentence that is printed."""


class DataError(UserError):
    """A file that cannot be used. A loader process prepends its traceback to the message; it is cut off here."""

    def __init__(self, message: str):
        super().__init__(message.rsplit("DataError: ", 1)[-1].strip())


class Stopped(Exception):
    """A signal ended the run early, in all of its processes, after what was learnt had been saved."""

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.number = number


def name_of(source: Path | np.ndarray) -> str:
    """A source for a message; a path with characters that do not print comes in quotes."""
    if isinstance(source, np.ndarray):
        return "an array"
    return str(source) if str(source).isprintable() else repr(str(source))


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


# Pictures


DRAWN = {"Software": "pix2pix"}  # marks what is drawn for people, so that it never becomes a training pair


def save_grid(path: Path, rows: list[list[Tensor]], titles: list[str], caption: str = "") -> None:
    """Writes rows of images (C, H, W) in [-1, 1], C 1 or 3, as one PNG with a title over each column."""
    images = [image.detach().float().cpu().expand(3, -1, -1) for row in rows for image in row]
    grid = make_grid(torch.stack(images) / 2 + 0.5, nrow=len(titles), padding=4, pad_value=1).clamp(0, 1)
    pixels = (grid * 255).round().byte().permute(1, 2, 0).numpy()
    font, header, step = ImageFont.load_default(14), 44 if caption else 26, images[0].shape[-1] + 4
    width = max(pixels.shape[1], round(font.getlength(caption)) + 12)
    sheet = Image.new("RGB", (width, pixels.shape[0] + header), "white")
    sheet.paste(Image.fromarray(pixels), (0, header))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 4), caption, fill="black", font=font)
    for column, title in enumerate(titles):
        draw.text((6 + column * step, header - 20), title, fill="black", font=font)
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", DRAWN["Software"])
    with atomic(path) as file:
        sheet.save(file, "PNG", pnginfo=mark)
