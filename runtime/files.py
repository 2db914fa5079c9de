"""Files and folders that are complete or not there, and the grids of example images."""

import contextlib
import errno
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed
    fcntl = None

CELL = 512  # pixels of the longest side in a grid
DRAWN = {"Software": "pix2pix"}  # marks what is drawn for people, so that it never becomes a training pair


def temporary_name() -> str:
    """A name that nobody can foresee, short enough wherever names may be long, and told from every user's own."""
    return f".pix2pix-{secrets.token_hex(8)}.tmp"


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that were killed in the middle of `atomic`, not of those at work."""
    for path in folder.glob(".pix2pix-*.tmp"):
        if re.fullmatch(r"\.pix2pix-[0-9a-f]{16}\.tmp", path.name) and path.is_file():
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:  # its process has ended meanwhile
                if claim(file):
                    path.unlink()


def claim(file: BinaryIO) -> bool:
    """Whether no other process has claimed the file: from now on, and until it is closed, this one has.

    Where the file system or the machine has no such locks, nobody ever has.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once it is complete. Raises OSError, naming it.

    durable: it is on disk then, and outlasts a crash of the machine; what can be made again need not wait for a disk.
    """
    temporary, made = path.with_name(temporary_name()), False
    try:
        with temporary.open("xb") as file:  # never one that is there already, nor through a link
            made = True
            claim(file)
            yield file
            file.flush()
            if durable:
                sync(file.fileno())
        temporary.replace(path)
        if durable and os.name == "posix":
            sync_folder(path.parent)  # the new name itself must reach the disk
    except (OSError, RuntimeError) as error:  # RuntimeError: torch.save's, when a write fails
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(getattr(error, "errno", None) or errno.EIO, reason, str(path)) from error
    finally:
        if made:
            temporary.unlink(missing_ok=True)


# What file systems answer that know no fsync, of folders or at all: the file is there, and whole
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def sync(file: int) -> None:
    """Waits until a file is on disk, where its file system can tell. Raises OSError when it does not get there."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def sync_folder(path: Path) -> None:
    """The same for the names in a folder, which may be writable and not readable."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_SYNC | {errno.EACCES, errno.EPERM}:
            return
        raise
    try:
        sync(folder)
    except OSError as error:
        if error.errno != errno.EBADF:  # to be synced, a folder would have to be open for writing
            raise
    finally:
        os.close(folder)


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Where another process has made a folder of that name meanwhile, that one stays. What killed processes have left
    beside it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in unfinished(path.parent):
        if abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(temporary_name())
    temporary.mkdir(0o700)
    lock = lock_in(temporary)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: then nobody removes what is left
            lock.acquire()
        (temporary / path.name).mkdir()
        yield temporary / path.name
        try:
            (temporary / path.name).rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        lock.release()
        shutil.rmtree(temporary, ignore_errors=True)


def unfinished(folder: Path) -> list[Path]:
    """The temporary folders of `complete_folder` there that hold something beside their lock, of any process."""
    return [path for path in folder.glob(".pix2pix-*.tmp") if re.fullmatch(r"\.pix2pix-[0-9a-f]{16}\.tmp", path.name)
            and {"lock"} < {inner.name for inner in path.glob("*")}]


def abandoned(folder: Path) -> bool:
    """Whether the process that made this temporary folder is certainly gone: its lock is free."""
    try:
        with lock_in(folder):
            return True
    except OSError:  # held, or not to be known where the file system has no locks
        return False


def lock_in(folder: Path) -> FileLock:
    return FileLock(folder / "lock", timeout=0, fallback_to_soft=False)


def rgb(image: Tensor) -> Tensor:
    """(C, H, W) in [-1, 1] as people can look at it, (3, H, W): gray, colour, or the first three of more channels.

    Of two, their mean; of channels that are 0 and 1, a colour for each, and black where all are 0.
    """
    image = image.detach().float().cpu()
    if holds_classes(image):
        hues = torch.arange(len(image)) * 0.618 * 2 * math.pi  # neighbours far apart
        wheel = torch.stack([torch.cos(hues + third) for third in (0.0, 2.1, 4.2)])
        return torch.einsum("kc,chw->khw", wheel * 0.8 + 0.2, image) + image.sum(0) - 1
    return image[:3] if len(image) >= 3 else image.mean(0, keepdim=True).expand(3, -1, -1)


def holds_classes(image: Tensor) -> bool:
    """Whether each channel is a class: at most one of them is 1, the others are 0, which no value of 8 bits becomes."""
    return len(image) > 1 and bool(((image == 0) | (image == 1)).all() and image.sum(0).max() <= 1)


def save_grid(path: Path, rows: list[list[Tensor]], titles: list[str], caption: str = "") -> None:
    """Writes rows of images (C, H, W) in [-1, 1] as one PNG with a title over each column, as `rgb` shows them.

    Images of several sizes, or with a side above CELL, are drawn to one scale, with white around the smaller ones.
    """
    for title, image in zip(titles, rows[0], strict=False):
        if len(image) not in (1, 3):
            what = "mean of 2 channels" if len(image) == 2 else f"channels 1 to 3 of {len(image)}"
            caption += f"; {title}: " + (f"{len(image)} classes" if holds_classes(image) else what)
    images = [rgb(image) for row in rows for image in row]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if (scale := min(1.0, CELL / max(height, width))) < 1:
        images = [F.interpolate(image[None], [max(1, round(side * scale)) for side in image.shape[1:]], mode="bilinear",
                                antialias=True)[0] for image in images]
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    cells = [F.pad(image, (4, width - image.shape[2], 4, height - image.shape[1]), value=1.0) for image in images]
    n = len(titles)
    grid = torch.cat([torch.cat(cells[i : i + n], dim=2) for i in range(0, len(cells), n)], dim=1)
    grid = F.pad(grid, (0, 4, 0, 4), value=1.0)  # white lines of 4 pixels around all
    pixels = ((grid / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    font, header, step = ImageFont.load_default(14), 44 if caption else 26, width + 4
    full = max(pixels.shape[1], round(font.getlength(caption)) + 12)
    sheet = Image.new("RGB", (full, pixels.shape[0] + header), "white")
    sheet.paste(Image.fromarray(pixels), (0, header))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 4), caption, fill="black", font=font)
    for column, title in enumerate(titles):
        draw.text((6 + column * step, header - 20), title, fill="black", font=font)
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", DRAWN["Software"])
    with atomic(path, durable=False) as file:
        sheet.save(file, "PNG", pnginfo=mark)


def is_marked(path: Path) -> bool:
    """Whether the file is a picture that this program drew for people."""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == DRAWN["Software"]
    except (OSError, ValueError, SyntaxError):  # no picture, or a broken one
        return False
