"""Image files to arrays and back: decoding, orientation, transparency, 16 bits, floats, errors with names."""

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
from PIL import Image, ImageOps, TiffImagePlugin
from torch import Tensor

from runtime.files import DRAWN, atomic
from utils import DataError, UserError, name_of

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # _opened refuses where Pillow warns

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".npy"}
OTHER_SUFFIXES = {".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jfif", ".jpe", ".psd", ".svg", ".eps",
                  ".ico", ".tga", ".dds", ".exr", ".hdr", ".ppm", ".pgm", ".pbm", ".pnm", ".dng", ".raw", ".cr2",
                  ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".apng"}  # images that are not read
ARRAY = "(H, W) or (H, W, C) with C from 1 to 64"  # what an array must look like
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


def is_array(source: Path | np.ndarray) -> bool:
    """Whether the source is no picture but numbers: an array of an .npz, or an .npy file."""
    return isinstance(source, np.ndarray) or source.suffix.lower() == ".npy"


def _load_npy(path: Path) -> np.ndarray:
    """The array in the file, which stays on the disk until it is looked at. Raises DataError."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not is_image_array(array) or array.shape[0] * array.shape[1] > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"it must hold numbers, {ARRAY}" + (
                f"; it holds {array.dtype} {array.shape}" if isinstance(array, np.ndarray) else ""))
    except Exception as error:  # damaged files make numpy raise nearly anything
        raise DataError(f"{name_of(path)} cannot be read: {error}") from error
    return array


def is_image_array(array) -> bool:
    """Whether it is an array of numbers, (H, W) or (H, W, C)."""
    return (isinstance(array, np.ndarray) and array.dtype.kind in "buif" and array.size > 0
            and array.ndim in (2, 3) and array.shape[2:] <= (64,))


def _numeric_tiff(path: Path) -> tuple[int, int] | None:
    """Width and height of a TIFF of numbers that Pillow does not decode: of several channels, or of 64 bits."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    # Whatever is wrong with the header, Pillow will say it.
    with contextlib.suppress(Exception), path.open("rb") as file:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        signed_or_float = tags.get(339, (1,))[0] in (2, 3)
        if signed_or_float and (tags.get(277, 1) > 1 or tags[258][0] == 64):
            return tags[256], tags[257]
    return None


def _read_numeric_tiff(path: Path, size: tuple[int, int]) -> np.ndarray:
    if size[0] * size[1] > Image.MAX_IMAGE_PIXELS:
        raise DataError(f"{name_of(path)} is too large: more than {Image.MAX_IMAGE_PIXELS:,} pixels")
    try:
        array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, OSError) as error:
        raise DataError(f"{name_of(path)} cannot be read: {error}") from error
    if array is None:
        raise DataError(f"{name_of(path)} is a damaged TIFF, or of a kind that is not known: .npy holds any channels")
    return array[..., [2, 1, 0, 3][: array.shape[2]]] if array.shape[2:] in ((3,), (4,)) else array  # from BGR


def read_image(source: Path | bytes | np.ndarray, reduce: int = 1) -> Image.Image | np.ndarray:
    """The image of a file or its bytes, decoded and upright.

    An array, or an .npy file, is (H, W) or (H, W, C) with C from 1 to 64. 16-bit colour, of which Pillow keeps 8 bits,
    comes as an array of uint16, (H, W, 3) RGB or (H, W, 4) RGBA; floats of several channels, arrays of other types than
    uint8, and of more channels than pictures have, as arrays too. A JPEG may be decoded at 1/reduce (2, 4 or 8) of its
    size, which it must be a multiple of: the decoder averages.
    Raises DataError, and UserError on other arrays.
    """
    if isinstance(source, Path) and is_array(source):
        source = np.array(_load_npy(source))
    if not isinstance(source, Path | bytes):
        if not is_image_array(source):
            kind = f"{source.dtype} {source.shape}" if isinstance(source, np.ndarray) else type(source).__name__
            raise UserError(f"an image must be an array of numbers, {ARRAY}, not {kind}")
        if source.dtype == bool:
            source = source.astype(np.uint8) * 255
        if source.dtype != np.uint8 or np.atleast_3d(source).shape[2] > 4:
            return source.astype(source.dtype.newbyteorder("="), copy=False)
        return Image.fromarray(source.squeeze(-1) if source.shape[2:] == (1,) else source)
    if isinstance(source, Path) and (size := _numeric_tiff(source)):
        return _read_numeric_tiff(source, size)
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
    if is_array(source):
        array = source if isinstance(source, np.ndarray) else _load_npy(source)
        return array.shape[1], array.shape[0]
    if isinstance(source, Path) and (size := _numeric_tiff(source)):
        return size
    with _opened(source) as image:
        if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode the pixels to look behind them
            return image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 exchange width and height
        return image.size[::-1] if turned else image.size


def has_frames(source: Path | np.ndarray) -> bool:
    """Whether the file holds more pages or frames than the first, which is the one that is read. Raises DataError."""
    if is_array(source) or _numeric_tiff(source):
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


def to_array(image: Image.Image | np.ndarray, channels: int, source: Path | np.ndarray | str = "the image",
             limits: tuple[float, float] | None = None) -> np.ndarray:
    """(H, W, channels) of what `read_image` made of the source: uint8, or float32 in [0, 1].

    It is float32 where `limits`, low and high, are given, and from 16 bits, whose whole range 0 to 65535 counts. Gray
    and colour of 8 or 16 bits become one another, by luminance; transparency is laid over white, so that hidden
    colours do not come out, unless it is asked for as a channel. In arrays, no channel is transparency.
    Raises DataError where the channels are others, and on values that are not finite or of unknown range.
    """
    has_alpha = isinstance(source, str) or not is_array(source)
    if isinstance(image, Image.Image) and not image.mode.startswith(("I", "F")):
        n = len(image.getbands())
        if channels == 4 and image.has_transparency_data:
            image = image.convert("RGBA")
        elif channels in (1, 3) and (has_alpha or n in (1, 3)):
            if image.has_transparency_data:
                image = over_white(image.convert("RGBA"))
            image = image.convert("L" if channels == 1 else "RGB")
        elif image.mode == "P" or n != channels:
            raise _unlike(source, 3 if image.mode == "P" else n, channels)
        return to_unit(np.atleast_3d(image), limits, source)
    array = np.atleast_3d(image)
    values, n = to_unit(array, limits, source), array.shape[2]
    if n == channels:
        return values
    if not (is_uint16(array) and channels in (1, 3) and (n in (1, 3) or has_alpha and n in (2, 4))):
        raise _unlike(source, n, channels)
    if n in (2, 4):
        alpha = array[..., -1:] / np.float32(65535)
        values = values[..., :-1] * alpha + (1 - alpha)
    if values.shape[2] == 1:
        return np.repeat(values, channels, axis=2)
    return values if channels == 3 else values @ np.float32([[0.299], [0.587], [0.114]])  # luminance


def to_unit(array: np.ndarray, limits: tuple[float, float] | None, source: Path | np.ndarray | str) -> np.ndarray:
    """uint8 as it is, or float32 in [0, 1], from `limits` or the range of 16 bits; what lies beyond is clipped."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name_of(source)} holds values that are not finite")
    if limits:
        low, high = limits
        return (np.subtract(array, low, dtype=np.float64) / (high - low)).clip(0, 1).astype(np.float32)
    if array.dtype == np.uint8:
        return array
    if not is_uint16(array):
        raise DataError(f"{name_of(source)} holds {array.dtype} values of unknown range: range_a or range_b tells it")
    return array / np.float32(65535)


def is_uint16(array: np.ndarray) -> bool:
    return array.dtype.newbyteorder("=") == np.uint16


def natural_channels(image: Image.Image | np.ndarray, source: Path | np.ndarray | str = "the image") -> int:
    """How many channels the image has; transparency, which is laid over white, and palettes do not count.

    In arrays, no channel is transparency.
    """
    if isinstance(image, np.ndarray):
        return np.atleast_3d(image).shape[2]
    if not isinstance(source, str) and is_array(source):
        return len(image.getbands())
    return 1 if image.mode.startswith(("1", "L", "I", "F")) else 3


def _unlike(source: Path | np.ndarray | str, n: int, channels: int) -> DataError:
    return DataError(f"{name_of(source)} has {n} channel{'s' * (n > 1)}, not the {channels} that in_channels or "
                     "out_channels says")


def over_white(image: Image.Image) -> Image.Image:
    """The RGBA image, opaque, as it looks on white paper."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def transparency(image: Image.Image | np.ndarray, channels: int) -> np.ndarray | None:
    """What `to_array` lays over white, (H, W) of uint8 or uint16, or None."""
    if channels not in (1, 3):
        return None
    if isinstance(image, np.ndarray):
        return image[..., -1] if is_uint16(image) and image.shape[2:] in ((2,), (4,)) else None
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


def can_hold(suffix: str, channels: int, kind: np.dtype | str) -> bool:
    """Whether files of that ending keep so many channels of such numbers; of 16 bits, the upper 8 will do."""
    is_tiff = suffix.lower() in (".tif", ".tiff")
    return suffix.lower() == ".npy" or channels in (1, 3, 4) and (is_tiff or np.dtype(kind).kind != "f")


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes uint8, uint16 or float32, (H, W) or (H, W, C), in the format that the ending names.

    Pictures have 1 or 3 channels, and a fourth is transparency, which JPEG and BMP get laid over white; .npy takes
    any number. PNG and TIFF keep 16 bits, the others get the upper 8; TIFF and .npy keep floats.
    Raises DataError on another ending or one that cannot hold the array, or when it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{name_of(path)} ends in none of {', '.join(sorted(SUFFIXES))}")
    if not can_hold(suffix, natural_channels(array), array.dtype):
        raise DataError(f"{name_of(path)} cannot be written: {suffix} does not hold {array.dtype} of "
                        f"{natural_channels(array)} channels, but .npy does")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            with atomic(path) as file:
                np.save(file, array, allow_pickle=False)
            return
        if array.dtype != np.uint8 and suffix in (".png", ".tif", ".tiff"):
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
