"""Image files to what the networks take, and back: decoding, orientation, transparency, 16 bits, errors with names."""

import contextlib
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from runtime.files import DRAWN, atomic
from utils import DataError, UserError, name_of

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # _opened refuses where Pillow warns

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
OTHER_SUFFIXES = {".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".jpe", ".psd", ".svg", ".eps",
                  ".ico", ".tga", ".dds", ".exr", ".hdr", ".ppm", ".pgm", ".pbm", ".pnm", ".dng", ".raw", ".cr2",
                  ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".apng"}  # images that are not read
TURNED = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
          6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}  # by EXIF orientation


@contextlib.contextmanager
def _opened(path: Path | bytes) -> Iterator[Image.Image]:
    """The image file, or the bytes of one, not yet decoded; what goes wrong inside the block becomes a DataError."""
    name = name_of(path)
    try:
        with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path, formats=FORMATS) as image:
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is too large: more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name} is no PNG, JPEG, WebP, BMP or TIFF image") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, zlib.error) as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def read_image(source: Path | bytes | np.ndarray, reduce: int = 1) -> Image.Image | np.ndarray:
    """The image of a file or its bytes, decoded and upright; an array: uint8 or uint16, (H, W) or (H, W, C), C 1 to 4.

    16-bit colour, of which Pillow keeps 8 bits, comes as an array of uint16, (H, W, 3) RGB or (H, W, 4) RGBA; an array
    of uint16 as it is. A JPEG may be decoded at 1/reduce (2, 4 or 8) of its size, which it must be a multiple of: the
    decoder averages. Raises DataError, and UserError on other arrays.
    """
    if not isinstance(source, Path | bytes):
        usable = isinstance(source, np.ndarray) and source.dtype.newbyteorder("=") in (np.uint8, np.uint16)
        if not usable or not source.size or source.ndim not in (2, 3) or np.atleast_3d(source).shape[2] > 4:
            kind = f"{source.dtype} {source.shape}" if isinstance(source, np.ndarray) else type(source).__name__
            raise UserError(f"an image must be uint8 or uint16, (H, W) or (H, W, C), not {kind}")
        if source.dtype != np.uint8:
            return source
        return Image.fromarray(source.squeeze(-1) if source.shape[2:] == (1,) else source)
    with _opened(source) as image:
        if image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile):
            file = np.frombuffer(source, np.uint8) if isinstance(source, bytes) else np.fromfile(source, np.uint8)
            array = cv2.imdecode(file, cv2.IMREAD_UNCHANGED)
            if array is None or array.ndim != 3:
                raise ValueError("damaged, or a kind of 16-bit image that is not known")
            array = cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
            return TURNED.get(image.getexif().get(0x0112), np.asarray)(array)
        if reduce > 1 and image.format == "JPEG":
            image.draft(image.mode, (image.width // reduce, image.height // reduce))
        ImageOps.exif_transpose(image, in_place=True)  # decodes it first
    return image.convert("I;16") if image.mode == "I" and image.format == "PNG" else image  # Pillow before 11


def split(image: Image.Image | np.ndarray, name: str = "the image") -> list[Image.Image | np.ndarray]:
    """The left and the right half of what `read_image` returns. Raises DataError on an odd width."""
    width = image.shape[1] if isinstance(image, np.ndarray) else image.width
    if width % 2:
        raise DataError(f"{name} is {width} pixels wide: an odd width has no middle")
    if isinstance(image, np.ndarray):
        return np.hsplit(image, 2)
    return [image.crop((left, 0, left + width // 2, image.height)) for left in (0, width // 2)]


def read_size(source: Path | np.ndarray) -> tuple[int, int]:
    """Width and height of the upright image, from the file's header alone. Raises DataError."""
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[0]
    with _opened(source) as image:
        if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode the pixels to look behind them
            return image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 exchange width and height
        return image.size[::-1] if turned else image.size


def has_frames(source: Path | np.ndarray) -> bool:
    """Whether the file holds more pages or frames than the first, which is the one that is read. Raises DataError."""
    if isinstance(source, np.ndarray):
        return False
    with _opened(source) as image:
        return image.format in ("PNG", "WEBP", "TIFF") and getattr(image, "is_animated", False)  # no phone's JPEG


def drawn_here(path: Path) -> bool:
    """Whether the file is a grid or a plot that this program drew, by its name and the mark inside."""
    if not re.fullmatch(r"(preview_.*|losses|sheet|epoch_\d+)\.png", path.name, re.DOTALL):
        return False
    try:
        with _opened(path) as image:
            return image.info.get("Software") == DRAWN["Software"]
    except DataError:
        return False


def to_array(image: Image.Image | np.ndarray, channels: int, name: str = "the image") -> np.ndarray:
    """(H, W, channels): uint8, or float32 in [0, 1] from a 16-bit image, whose whole range 0 to 65535 counts.

    Takes what `read_image` returns. Transparency is laid over white, so that hidden colours do not come out; RGB
    becomes gray by luminance. Raises DataError on 32-bit and floating-point images, of which nobody knows what is
    white.
    """
    if isinstance(image, np.ndarray) or image.mode.startswith("I;16"):
        values = np.atleast_3d(image) / np.float32(65535)
        if values.shape[2] in (2, 4):
            values = values[..., :-1] * values[..., -1:] + (1 - values[..., -1:])
        if values.shape[2] == 1:
            return np.repeat(values, channels, axis=2)
        return values if channels == 3 else values @ np.float32([[0.299], [0.587], [0.114]])  # luminance
    if image.mode in ("I", "F"):
        raise DataError(f"{name} holds 32-bit values of unknown range: convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = over_white(image.convert("RGBA"))
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array.reshape(*array.shape[:2], channels)


def over_white(image: Image.Image) -> Image.Image:
    """The RGBA image, opaque, as it looks on white paper."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def transparency(image: Image.Image | np.ndarray) -> np.ndarray | None:
    """What `to_array` lays over white, (H, W) of uint8 or uint16, or None."""
    if isinstance(image, np.ndarray):
        return image[..., -1] if image.shape[2:] in ((2,), (4,)) else None
    there = image.has_transparency_data and not image.mode.startswith("I;16")
    return np.asarray(image.convert("RGBA").getchannel("A")) if there else None


def to_tensor(array: np.ndarray) -> Tensor:
    """(H, W, C) → (C, H, W), of the same type."""
    return torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))


def normalise(images: Tensor, layout: torch.memory_format = torch.preserve_format) -> Tensor:
    """uint8, or float in [0, 1] → float in [-1, 1], as the networks take them, laid out in memory as they want it."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32, memory_format=layout).div_(127.5).sub_(1)
    return images.clone(memory_format=layout).mul_(2).sub_(1)


def from_network(y_fake: Tensor, deep: bool, alpha: np.ndarray | None = None) -> np.ndarray:
    """(C, H, W) in [-1, 1] → uint8, or with `deep` uint16, (H, W) for one channel, else (H, W, C).

    A transparency `alpha` makes it (H, W, 4).
    """
    top, dtype = (65535, np.uint16) if deep else (255, np.uint8)
    array = ((y_fake.float().cpu() + 1) * (top / 2)).round_().clamp_(0, top).permute(1, 2, 0).numpy().astype(dtype)
    if alpha is not None:
        array = np.concatenate([np.repeat(array, 3 // array.shape[2], axis=2), alpha[..., None]], axis=2)
    return array[..., 0] if array.shape[2] == 1 else array


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes uint8 or uint16, (H, W), (H, W, 3) or (H, W, 4), in the format that the ending names.

    PNG and TIFF keep 16 bits; the others get the upper 8. JPEG and BMP get transparency laid over white.
    Raises DataError on another ending, or when it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{name_of(path)} ends in none of {', '.join(sorted(SUFFIXES))}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if array.dtype == np.uint16 and suffix in (".png", ".tif", ".tiff"):
            codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
            _, encoded = cv2.imencode(suffix, array if array.ndim == 2 else cv2.cvtColor(array, codes[array.shape[2]]))
            with atomic(path) as file:
                file.write(encoded.tobytes())
            return
        image = Image.fromarray((array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array)
        if image.mode == "RGBA" and suffix in (".jpg", ".jpeg", ".bmp"):
            image = over_white(image).convert("RGB")
        kind = Image.registered_extensions()[suffix]
        quality = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
        with atomic(path) as file:
            image.save(file, kind, **quality)
    except (OSError, ValueError, cv2.error) as error:
        raise DataError(f"{name_of(path)} cannot be written: {error}") from error


def to_batch(pixels: Tensor, in_channels: int, channels_last: bool = False) -> tuple[Tensor, Tensor]:
    """x and y, float (N, C, H, W) in [-1, 1]; pixels: (N, H, W, C), uint8 or float32 in [0, 1], x's channels first."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    sides = pixels.permute(0, 3, 1, 2).tensor_split([in_channels], dim=1)
    return tuple(normalise(side, layout) for side in sides)
