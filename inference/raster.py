"""Rasters of any size: TIFF to TIFF, read, translated and written by rows of tiles, in little memory.

The tiles and their fades are those of `inference.translate`. Where the network works at the raster's own scale, the
result is equal, to the bit, to that of the whole image at once; else the rows are resized by the weights below, so that
each new row depends on its own old rows alone.

What is done is kept in a folder beside the output, OUTPUT.parts, until the output is whole: the same call goes on.
"""

import contextlib
import itertools
import json
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from inference.trained import mark_of
from inference.translate import Taken, Translator, check_finite, frame, strips, tell_clipped, tile_for
from pairs import tiff
from pairs.geometry import Interpolation, nearest
from pairs.images import to_tensor
from pairs.picture import Picture
from runtime.console import say
from runtime.files import atomic, claim
from runtime.threads import ordered
from utils import DataError, UserError, name_of

ROWS = 256  # of the output that are made and kept at a time
BLOCK = 256  # pixels, the sides of the blocks in which the output is stored
CHUNK = 64  # rows that are handed on at a time
GDAL = dict(GDAL_CACHEMAX=64, GDAL_NUM_THREADS="ALL_CPUS")  # MB of decoded blocks; where files are packed
JOB = "pix2pix-raster.json"  # in the folder of parts: what they are parts of


@dataclass(frozen=True)
class Taps:
    """Of each new pixel along an axis, the old pixels that it is made of, and their weights."""

    index: np.ndarray  # (new, K)
    weight: np.ndarray  # (new, K), float32, each row with the sum 1

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The old pixels that the new ones from `first` to before `last` need."""
        index = self.index[first:last]
        return int(index.min()), int(index.max()) + 1

    def apply(self, array: np.ndarray, axis: int, first: int, last: int, offset: int) -> np.ndarray:
        """The new pixels, float32, of an array whose pixel 0 along the axis is the old pixel `offset`."""
        behind = (1,) * (array.ndim - 1 - axis)
        return sum(np.take(array, index - offset, axis) * weight.reshape(-1, *behind)
                   for index, weight in zip(self.index[first:last].T, self.weight[first:last].T, strict=True))


def taps(old: int, new: int, how: Interpolation) -> Taps:
    """linear: the area that a new pixel covers where it shrinks, the two nearest where it grows; bicubic as Pillow."""
    if how == "nearest" or old == new:
        index = nearest(old, new)[:, None]
        return Taps(index, np.ones(index.shape, np.float32))
    step = old / new
    at = np.arange(new)[:, None]
    if how == "bicubic":
        spread = max(1.0, step)
        first = np.floor((at + 0.5) * step - 2 * spread)
        index = first + np.arange(math.ceil(4 * spread) + 2)
        weight = cubic((index + 0.5 - (at + 0.5) * step) / spread)
        weight[(index < 0) | (index >= old)] = 0
    elif step > 1:
        index = np.floor(at * step) + np.arange(math.ceil(step) + 1)
        weight = np.minimum(index + 1, (at + 1) * step) - np.maximum(index, at * step)
        weight = weight.clip(min=0)
    else:
        centre = (at + 0.5) * step - 0.5
        index = np.floor(centre) + np.arange(2)
        weight = 1 - np.abs(centre - index)
    weight /= weight.sum(axis=1, keepdims=True)
    return Taps(index.clip(0, old - 1).astype(np.intp), weight.astype(np.float32))


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resized(rows: np.ndarray, across: Taps, down: Taps, top: int, bottom: int) -> np.ndarray:
    """The new rows from `top` to before `bottom`, float32, of the old ones that they need: `down.span` tells which."""
    new, first = len(across.index), down.span(top, bottom)[0]
    if rows.dtype == np.uint8 and across.weight.min() < 0:  # bicubic overshoots, and Pillow clamps between the axes
        columns = across.apply(rows, 1, 0, new, 0).round().clip(0, 255)
        return down.apply(columns, 0, top, bottom, first)
    return across.apply(down.apply(rows, 0, top, bottom, first), 1, 0, new, 0)


def windows(parts: Iterator[np.ndarray], spans: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The rows, (last - first, W, C), of each (first, last) among those that come from above, from the first span on.

    The first ones never fall from span to span: what lies above is dropped.
    """
    top, held = spans[0][0], next(parts)
    for first, last in spans:
        while top + len(held) < last:
            held = np.concatenate([held[max(0, first - top) :], next(parts)])
            top = max(top, first)
        yield held[first - top : last - top]


class Raster:
    """An open TIFF on its way through a network."""

    def __init__(self, image: Any, header: tiff.Header, path: Path, translator: Translator):
        self.image, self.header, self.path, self.translator = image, header, path, translator
        self.size = header.width, header.height
        self.made = translator.trained.enlarged(self.size)  # of the output
        self.place = tiff.Place.of(image).scaled(self.size, self.made)
        self.deep = self.picture(0, 1).kind == "uint16"
        self.seen = translator.network_size(self.made)
        self.x_taps = list(map(taps, self.size, self.seen, [translator.x_how] * 2))
        self.y_taps = list(map(taps, self.seen, self.made, [translator.y_how] * 2))
        self.photo_taps = list(map(taps, self.size, self.made, [translator.x_how] * 2))
        gen = translator.exact
        self.columns, self.lines = (frame(gen, length) for length in self.seen)
        self.tile = translator.tile or tile_for(gen, len(self.lines.index), len(self.columns.index)) or 1024

    def picture(self, top: int, bottom: int) -> Picture:
        """The rows from `top` to before `bottom` of the file."""
        return tiff.read_window(self.image, self.header, name_of(self.path), ((top, bottom), (0, self.size[0])))

    def scaled(self, across: Taps, down: Taps, top: int, bottom: int) -> np.ndarray:
        """(rows, W, C), those rows of the image as `x_taps` or `photo_taps` resize it."""
        first, last = down.span(top, bottom)
        array = self.translator.x.array([self.picture(first, last)])
        if (len(across.index), len(down.index)) == self.size:
            return array
        result = resized(array, across, down, top, bottom)
        return result.round().clip(0, 255).astype(np.uint8) if array.dtype == np.uint8 else result.clip(0, 1)

    def valid(self, top: int, bottom: int) -> np.ndarray | None:
        """(rows, W), where the output holds values: where the nearest pixel of the file does."""
        columns, lines = (nearest(old, new) for old, new in zip(self.size, self.made, strict=True))
        lines = lines[top:bottom]
        valid = self.picture(int(lines[0]), int(lines[-1]) + 1).valid
        return valid if valid is None else valid[(lines - lines[0])[:, None], columns]

    def padded(self, top: int, bottom: int) -> Tensor:
        """(1, C, rows, W), as `Translator.tensor` takes it."""
        index = self.lines.index[top:bottom]
        first, last = int(index.min()), int(index.max()) + 1
        array = self.scaled(*self.x_taps, first, last)
        return to_tensor(array.take(index - first, axis=0).take(self.columns.index, axis=1))[None]

    def translated(self, start: int) -> Iterator[np.ndarray]:
        """The rows of the result at the network's scale, (rows, W, C) in [-1, 1], from `start` on."""
        gen, shape = self.translator.exact, (len(self.lines.index), len(self.columns.index))
        start += self.lines.crop.start
        with torch.inference_mode():
            for part in strips(self.translator.network_for, self.padded, *shape, self.tile, gen, start):
                rows = part[0, ..., self.columns.crop].permute(1, 2, 0).numpy()
                for i in range(0, len(rows), CHUNK):
                    yield rows[i : i + CHUNK].copy()

    def output(self, start: int) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        """(top, rows (H, W, C), valid (H, W)) of the output file from `start` on, ROWS at a time."""
        down = self.y_taps[1]
        tops = range(start, self.made[1], ROWS)
        spans = [down.span(top, top + ROWS) for top in tops]
        for top, rows in zip(tops, windows(self.translated(spans[0][0]), spans), strict=True):
            yield top, *self.finished(rows, top)
            del rows  # before the next ones are made

    def finished(self, rows: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The output from `top` on, (H, W, C), and where it holds values, of what was translated."""
        bottom = top + ROWS
        if self.seen != self.made:
            rows = resized(rows, *self.y_taps, top, bottom)
        y_fake = to_tensor(rows)
        check_finite(y_fake, name_of(self.path))
        holes = self.header.nodata or self.header.dtype.kind == "f"
        valid = self.valid(top, bottom) if holes else None
        photo = self.scaled(*self.photo_taps, top, bottom) if self.translator.y.lab else None
        taken = Taken(y_fake, y_fake.shape[:0:-1], photo, self.deep, None, valid)
        return self.place.marked(self.translator.finished(y_fake, taken).array, valid), valid


def translate_raster(translator: Translator, source: Path, output: Path, overviews: bool = False) -> None:
    """Translates the TIFF `source` into the TIFF `output`, which tells the same place on Earth.

    overviews: also keep reduced copies in the file, for viewers.
    Raises DataError where a file cannot be read or written; UserError where OUTPUT.parts is somebody else's, or another
    process is at work there.
    """
    try:
        with source.open("rb") as file:
            header = tiff.read_header(file)
        with tiff.opened(source, **GDAL) as image:
            raster = Raster(image, header, source, translator)
            if header.pages:
                say(f"{name_of(source)} holds several pages, of which the first is translated")
            middle = header.height // 2
            tell_clipped(translator.x, [raster.picture(middle, middle + 1)])
            parts = Parts(output, raster)
            with parts.job:
                height = raster.made[1]
                if parts.rows:
                    say(f"{name_of(output)}: {parts.rows:,} of {height:,} rows are done already")
                if parts.rows < height:
                    with tqdm(total=height, initial=parts.rows, unit="row", disable=None) as bar, \
                            contextlib.closing(raster.output(parts.rows)) as made, \
                            ordered(parts.add, made, 1, 1) as added:  # while the next ones are made
                        for rows in added:
                            bar.update(rows)
                parts.join(overviews)
    except UserError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{name_of(source)} is not translated to {name_of(output)}: {error}") from error


def identity(raster: Raster) -> dict:
    """What decides every number of the output."""
    found, translator = raster.path.stat(), raster.translator
    return {"input": [str(raster.path.resolve()), found.st_size, found.st_mtime_ns], "size": raster.size,
            "made": raster.made, "seen": raster.seen, "tile": raster.tile, "weights": mark_of(translator.exact),
            "options": {name: getattr(translator, name) for name in ("scale", "norm", "dropout", "seed", "tile")},
            "dtype": str(translator.dtype)}


class Parts:
    """The folder OUTPUT.parts, with the rows of the output that are done, from above."""

    def __init__(self, output: Path, raster: Raster):
        self.output, self.raster = output, raster
        self.folder = output.with_name(f"{output.name}.parts")
        job = self.folder / JOB
        if self.folder.exists() and not job.is_file():
            raise UserError(f"{name_of(self.folder)} is there already, and not from here: choose another --output")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.job = job.open("a+b")  # this process's until it is closed
        if not claim(self.job):
            self.job.close()
            raise UserError(f"another process is translating to {name_of(output)}: wait for it, or choose another "
                            "--output")
        self.job.seek(0)
        told = json.dumps(identity(raster)).encode()
        if self.job.read() != told:  # of another input, network or setting
            for path in self.folder.glob("*.npz"):
                path.unlink()
            self.job.truncate(0)
            self.job.write(told)
            self.job.flush()
        tops = itertools.takewhile(self.is_whole, itertools.count(0, ROWS))
        self.rows = min(ROWS * len(list(tops)), raster.made[1])

    def part(self, top: int) -> Path:
        return self.folder / f"{top:09d}.npz"

    def is_whole(self, top: int) -> bool:
        """Parts are not synced to the disk one by one, so that a power failure may leave one cut short."""
        with contextlib.suppress(OSError, ValueError, EOFError, zipfile.BadZipFile), np.load(self.part(top)) as part:
            return "rows" in part and part.zip.testzip() is None
        return False

    def add(self, part: tuple[int, np.ndarray, np.ndarray | None]) -> int:
        """Keeps what `Raster.output` made, and returns how many rows these are."""
        top, rows, valid = part
        with atomic(self.part(top), durable=False) as file:
            np.savez(file, rows=rows, **{} if valid is None else {"valid": valid})
        return len(rows)

    def join(self, overviews: bool) -> None:
        """Writes the output, compares it with the parts, and removes them. Raises OSError."""
        made, place = self.raster.made, self.raster.place
        first = np.load(self.part(0))["rows"]
        told = tiff.layout((made[1], *first.shape[1:]), first.dtype, place=place)
        told |= dict(bigtiff="IF_SAFER", predictor=3 if first.dtype.kind == "f" else 2)
        if min(made) >= BLOCK:
            told |= dict(tiled=True, blockxsize=BLOCK, blockysize=BLOCK)
        with atomic(self.output) as file:
            path = Path(file.name)
            with tiff.session(**GDAL) as rasterio, rasterio.open(path, "w", **told) as image:
                tiff.describe(image, place)
                masked = not place.fits(first.dtype) and any("valid" in part for _, part in self)
                if masked:
                    image.write_mask(True)  # also where no part has a hole
                for window, part in self:
                    image.write(part["rows"].transpose(2, 0, 1), window=window)
                    if masked and "valid" in part:
                        image.write_mask(part["valid"], window=window)
            with tiff.opened(path, **GDAL) as image:
                for window, part in self:  # a full disk may not have been told
                    found = image.read(window=window).transpose(1, 2, 0)
                    if not np.array_equal(found, part["rows"], equal_nan=found.dtype.kind == "f"):
                        raise OSError(f"what was written is not what stands in {name_of(self.output)}: is the disk "
                                      "full?")
            if overviews:
                tiff.add_overviews(path, made, self.raster.translator.trained.y_is_label)
        self.job.close()
        shutil.rmtree(self.folder)

    def __iter__(self) -> Iterator[tuple[tuple, Mapping[str, np.ndarray]]]:
        """Of each part, rasterio's window of the output, and what was kept: rows, and valid if some hold no value."""
        width, height = self.raster.made
        for top in range(0, height, ROWS):
            with np.load(self.part(top)) as part:
                yield ((top, min(top + ROWS, height)), (0, width)), part


def is_large(path: Path, translator: Translator) -> bool:
    """Whether it is a TIFF that goes through the network in tiles."""
    try:
        with path.open("rb") as file:
            header = tiff.read_header(file)
    except (OSError, ValueError, KeyError):  # told by whoever reads it, or no TIFF
        return False
    width, height = translator.network_size(translator.trained.enlarged((header.width, header.height)))
    return header.orientation == 1 and tile_for(translator.exact, height, width) > 0
