"""Files and folders that are complete or not there, and the grids of example images."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor
from torchvision.utils import make_grid

CELL = 1024  # pixels of the longest side in a grid
DRAWN = {"Software": "pix2pix"}  # marks what is drawn for people, so that it never becomes a training pair


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


def save_grid(path: Path, rows: list[list[Tensor]], titles: list[str], caption: str = "") -> None:
    """Writes rows of images (C, H, W) in [-1, 1], C 1 or 3, as one PNG with a title over each column.

    Images of several sizes, or with a side above CELL, are drawn to one scale, with white around the smaller ones.
    """
    images = [image.detach().float().cpu().expand(3, -1, -1) for row in rows for image in row]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if (scale := min(1.0, CELL / max(height, width))) < 1:
        images = [F.interpolate(image[None], [max(1, round(side * scale)) for side in image.shape[1:]], mode="bilinear",
                                antialias=True)[0] for image in images]
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    images = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]), value=1.0) for image in images]
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
