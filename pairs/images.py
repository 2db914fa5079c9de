"""Image files to pictures and back: formats, orientation, errors with names."""

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pairs import tiff
from pairs.picture import Picture, is_image_array, of_pillow, over_white, picture_of, told_of
from runtime.files import atomic
from runtime.grids import is_marked
from utils import DataError, UserError, name_of

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # _opened refuses where Pillow warns

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM"]  # that Pillow reads
WRITTEN = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy"}
SUFFIXES = {*WRITTEN, ".jfif", ".gif", ".ppm", ".pgm", ".pbm"}  # that are read
OTHER_SUFFIXES = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jpe", ".psd", ".svg", ".eps", ".ico", ".tga",
                  ".dds", ".exr", ".hdr", ".pnm", ".pfm", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf",
                  ".rw2", ".raf", ".apng", ".mp4", ".mov", ".avi", ".mkv", ".webm"} - SUFFIXES
# images, and videos, that are not read
DRAWN_NAMES = re.compile(r"(preview_.*|losses|sheet|epoch_\d+)\.png", re.DOTALL)
MAGIC = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif",
         b"GIF8": ".gif", b"P4": ".pbm", b"P5": ".pgm", b"P6": ".ppm"}


def ending(content: bytes) -> str:
    """Of the file that holds these bytes. Raises DataError where it is none that is read."""
    for magic, suffix in MAGIC.items():
        if content.startswith(magic):
            return suffix
    raise DataError("its bytes are no PNG, JPEG, WebP, BMP, TIFF, GIF or PPM")


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image | tiff.Header]:
    """The image file, or the bytes of one, not yet decoded; what goes wrong inside the block becomes a DataError."""
    name = name_of(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            is_tiff = file.read(4) in tiff.MAGIC
            file.seek(0)
            image = tiff.read_header(file) if is_tiff else Image.open(file, formats=FORMATS)
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name} is no image of a format that is read") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, IndexError, struct.error, zlib.error) as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def _loaded(source: Path | bytes | np.ndarray) -> Path | bytes | np.ndarray:
    """The array in an .npy file, which stays on the disk until it is looked at; other sources as they are.

    Raises DataError.
    """
    if not isinstance(source, Path) or source.suffix.lower() != ".npy":
        return source
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
        if not is_image_array(array) or array.shape[0] * array.shape[1] > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"it must hold {told_of(array)}")
    except Exception as error:  # damaged files make numpy raise nearly anything
        raise DataError(f"{name_of(source)} cannot be read: {error}") from error
    return array


def read_picture(source: Path | bytes | np.ndarray, reduce: int = 1, nodata: bool = True) -> Picture:
    """The picture in a file or its bytes, decoded and upright, or in an array.

    A JPEG may be decoded at 1/reduce (2, 4 or 8) of its size, which it must be a multiple of: the decoder averages.
    Without `nodata`, all pixels of a TIFF hold values, whatever it says of itself.
    Raises DataError, and UserError on other arrays.
    """
    name = name_of(source)
    numbers = _loaded(source)
    if not isinstance(numbers, Path | bytes):
        return picture_of(np.array(numbers) if isinstance(source, Path) else numbers, name)
    with _opened(source) as image:
        if isinstance(image, tiff.Header):
            header = replace(image, nodata=image.nodata and nodata)
            content = source if isinstance(source, bytes) else source.read_bytes()  # of names, GDAL takes UTF-8 only
            with tiff.opened(content) as raster:
                return tiff.read_window(raster, header, name).turned(header.orientation)
        if image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile):
            return _of_deep_png(image, name)
        if image.format == "PPM":
            return _of_pnm(image, name)
        if image.format == "GIF":
            return _of_gif(image, name)
        if reduce > 1 and image.format == "JPEG":
            image.draft(image.mode, (image.width // reduce, image.height // reduce))
        bits = image.tile[0][3] if image.tile else ""
        ImageOps.exif_transpose(image, in_place=True)  # decodes it first
    spread = {"L;2": 85, "L;4": 17}.get(bits, 1)  # what gray of few bits is multiplied by, so that it ends at white
    if "transparency" in image.info:
        image.info["transparency"] *= spread  # which Pillow leaves as it is in the file
    picture = of_pillow(image.convert("I;16") if image.mode == "I" else image, name)  # Pillow before 11
    return picture if spread == 1 else replace(picture, indices=picture.indices // spread)


def _of_deep_png(image: Image.Image, name: str) -> Picture:
    """Of 16-bit colour, of which Pillow, which has read its header, keeps 8 bits."""
    array = _by_opencv(_content(image), image.size, (3, 4))
    colour = np.ascontiguousarray(array[..., :3])
    alpha = array[..., 3] if array.shape[2] == 4 else None
    return Picture(colour, alpha, name=name).turned(image.getexif().get(0x0112, 1))


def _of_pnm(image: Image.Image, name: str) -> Picture:
    """Of PPM, PGM or PBM: of 8 bits, the largest value in the header is white, and indices are as they are written."""
    content = _content(image)
    if content[:2] not in (b"P4", b"P5", b"P6"):
        raise ValueError("of PPM, PGM and PBM, only binary files are read (P4, P5, P6), not numbers spelled out")
    picture = of_pillow(image, name)  # which refuses a file that was cut
    array = _by_opencv(content, image.size, (1, 3))
    if array.dtype == np.uint16:
        return picture_of(array, name)
    return replace(picture, indices=array[..., 0]) if image.mode == "L" else picture


def _of_gif(image: Image.Image, name: str) -> Picture:
    """Its first frame. Its numbers are no classes, since programs that write GIF number the colours in use anew."""
    palette = image.getpalette() if image.mode == "P" else None
    if palette is not None:
        gray = palette[::3] == palette[1::3] == palette[2::3]
        image = image.convert(("L" if gray else "RGB") + "A" * image.has_transparency_data)
    return of_pillow(image, name)


def _content(image: Image.Image) -> bytes:
    """The whole file, of which Pillow has read the header."""
    image.fp.seek(0)
    return image.fp.read()


def _by_opencv(content: bytes, size: tuple[int, int], channels: tuple[int, ...]) -> np.ndarray:
    """(H, W, C) of uint8 or uint16 in RGB, the numbers as they are written. Raises ValueError."""
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    array = None if array is None else np.atleast_3d(array)
    if array is None or array.shape not in [(*size[::-1], n) for n in channels]:
        raise ValueError("damaged, or a kind of image that is not known")
    return array[..., [2, 1, 0, 3][: array.shape[2]]] if array.shape[2] > 1 else array


@dataclass(frozen=True)
class Header:
    """What a file tells before it is decoded."""

    size: tuple[int, int]  # width and height of the upright image
    frames: bool = False  # whether it holds more pages or frames than the first, which is the one that is read
    nodata: bool = False  # whether it is a TIFF that says how it marks pixels without a value
    orientation: int = 1  # as in EXIF: how the file's own pixels are turned


def read_header(source: Path | np.ndarray) -> Header:
    """Raises DataError."""
    source = _loaded(source)
    if isinstance(source, np.ndarray):
        return Header(source.shape[1::-1])
    with _opened(source) as image:
        size = image.width, image.height
        nodata = False
        if isinstance(image, tiff.Header):
            orientation = image.orientation
            frames = image.pages
            nodata = image.nodata
        else:
            frames = image.format in ("PNG", "WEBP", "GIF") and image.is_animated  # no phone's JPEG
            hidden = image.format == "PNG" and "exif" not in image.info  # Pillow would decode it to look behind
            orientation = 1 if hidden else image.getexif().get(0x0112, 1)
        upright = size[::-1] if orientation in (5, 6, 7, 8) else size  # which turn it on its side
        return Header(upright, frames, nodata, orientation)


def read_place(path: Path) -> tiff.Place | None:
    """Where on Earth the TIFF lies, with its bands' names; None where it lies on its side. Raises DataError."""
    with _opened(path) as image:
        if not isinstance(image, tiff.Header) or image.orientation != 1:
            return None
        with tiff.opened(path.read_bytes()) as raster:
            return tiff.Place.of(raster)


def drawn_here(path: Path) -> bool:
    """Whether the file is a grid or a plot that this program drew, by its name and the mark inside."""
    return bool(DRAWN_NAMES.fullmatch(path.name)) and is_marked(path)


def to_tensor(array: np.ndarray) -> Tensor:
    """(H, W, C) → (C, H, W), of the same type."""
    return torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))


def normalise(images: Tensor, layout: torch.memory_format = torch.preserve_format) -> Tensor:
    """uint8, or float in [0, 1] → float in [-1, 1], as the networks take them, laid out in memory as they want it."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32, memory_format=layout).div_(127.5).sub_(1)
    return images.clone(memory_format=layout).mul_(2).sub_(1)


def can_hold(suffix: str, channels: int, kind: np.dtype | str) -> bool:
    """Whether files of that ending keep so many channels of such numbers; of 16 bits, the upper 8 will do."""
    suffix = suffix.lower()
    if suffix == ".npy":
        return True
    if suffix in tiff.SUFFIXES:
        return channels <= tiff.MOST
    return suffix in WRITTEN and channels in ((1, 3, 4) if suffix == ".png" else (1, 3)) and np.dtype(kind).kind != "f"


def write_picture(path: Path, picture: Picture, place: tiff.Place | None = None, overviews: bool = False,
                  labels: bool = False) -> None:
    """Writes the picture in the format that the ending names.

    PNG and pictures in other formats have 1 or 3 channels, and transparency, which JPEG and BMP get laid over white;
    TIFF takes up to 64 channels, .npy any number. A fourth channel that is no transparency goes into a PNG as it is.
    PNG and TIFF keep 16 bits, the others get the upper 8; TIFF and .npy keep floats. A TIFF also tells its `place`, and
    where the picture holds no values, and with `overviews` holds reduced copies, of `labels` by nearest neighbour.
    Raises DataError on another ending or one that cannot hold the array, or when it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        raise DataError(f"{name_of(path)} ends in none of {', '.join(sorted(WRITTEN))}")
    if not can_hold(suffix, picture.channels, picture.kind):
        raise DataError(f"{name_of(path)} cannot be written: {suffix} does not hold {picture.kind} of "
                        f"{picture.channels} channels, but .npy does")
    try:
        content = _encoded(picture, suffix, place)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            file.write(content)
            if overviews and suffix in tiff.SUFFIXES:
                file.flush()
                tiff.add_overviews(Path(file.name), picture.size, labels)
    except (OSError, ValueError, cv2.error) as error:
        raise DataError(f"{name_of(path)} cannot be written: {error}") from error


def _encoded(picture: Picture, suffix: str, place: tiff.Place | None) -> bytes:
    """The whole file: an encoder that writes to a full disk by itself may say nothing of it."""
    array = picture.numbers
    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, array, allow_pickle=False)
    elif suffix in tiff.SUFFIXES:
        valid = picture.valid if place else None
        return tiff.encode(np.atleast_3d(array), place or tiff.Place(), picture.alpha is not None, valid)
    elif suffix == ".png" and picture.kind == "uint16":
        return png(array)
    else:
        if picture.kind == "uint16":
            array = (array >> 8).astype(np.uint8)
        if picture.alpha is not None and suffix in (".jpg", ".jpeg", ".bmp"):
            array = over_white(array[..., :3], array[..., 3])
        kind = Image.registered_extensions()[suffix]
        Image.fromarray(array).save(file, kind, quality=95)  # of JPEG and WebP
    return file.getvalue()


def png(array: np.ndarray) -> bytes:
    """The file of uint8 or uint16, (H, W) or (H, W, 1), (H, W, 3) or (H, W, 4) in RGB."""
    bgr = array[..., [2, 1, 0, 3][: array.shape[2]]] if array.shape[2:] > (1,) else array
    done, file = cv2.imencode(".png", bgr)
    if not done:
        raise ValueError("it does not become a PNG")
    return file.tobytes()
