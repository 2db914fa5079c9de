"""TIFF files: what a header says, and the bands as rasterio decodes and encodes them."""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from utils import UserError

MAGIC = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"  # of both byte orders; BigTIFF
SUFFIXES = (".tif", ".tiff")
MOST = 64  # bands
DEPTHS = {(1, 1): "u1", (1, 2): "u1", (1, 4): "u1", (1, 8): "u1", (1, 16): "u2", (1, 32): "u4", (1, 64): "u8",
          (2, 8): "i1", (2, 16): "i2", (2, 32): "i4", (2, 64): "i8",
          (3, 16): "f4", (3, 32): "f4", (3, 64): "f8"}  # as what GDAL decodes numbers of (SampleFormat, bits)
WHITE_IS_0, GRAY, RGB, PALETTE, CMYK, YCBCR = COLOURS = 0, 1, 2, 3, 5, 6  # PhotometricInterpretation
FIELDS = {1: "u1", 2: "S1", 3: "u2", 4: "u4", 16: "u8"}  # numpy's names of the types of a tag
TAGS = {"subfile": 254, "width": 256, "height": 257, "bits": 258, "photometric": 262, "orientation": 274, "bands": 277,
        "format": 339, "nodata": 42113}
QUIET = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}  # no other files are looked at

warnings.filterwarnings("ignore", message="Dataset has no geotransform")
logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what libtiff finds odd in each of a million tiles


@dataclass(frozen=True)
class Header:
    """What the first page says of itself."""

    width: int
    height: int
    bands: int
    dtype: np.dtype  # of the numbers as they are decoded
    bits: int  # of a number in the file
    photometric: int
    orientation: int  # as in EXIF
    nodata: bool  # whether it may hold pixels without a value: it names a number for these, or has a mask
    pages: bool  # whether there is a second page


def read_header(file: BinaryIO) -> Header:
    """The header of an open TIFF, and nothing else of it. Raises ValueError where it is damaged or not of use."""
    pages = _pages(file)
    first, others = next(pages, {}), list(_kinds(pages))

    def one(name: str, default: int) -> int:
        values = set(first.get(TAGS[name], [default]))
        if len(values) > 1:
            raise ValueError(f"its bands differ in {name}")
        return int(values.pop())

    width, height, bands = one("width", 0), one("height", 0), one("bands", 1)
    bits, kind, photometric = one("bits", 1), one("format", 1), one("photometric", 1)
    if not width or not height:
        raise ValueError("a TIFF without a picture")
    if (kind, bits) not in DEPTHS:
        raise ValueError(f"a TIFF of numbers that are not read: {bits} bits, SampleFormat {kind}")
    if not 1 <= bands <= MOST:
        raise ValueError(f"a TIFF of {bands} bands, of which at most {MOST} are read")
    if photometric not in COLOURS or photometric in (WHITE_IS_0, PALETTE) and (kind, bands) != (1, 1):
        raise ValueError(f"a TIFF whose colours are not read: PhotometricInterpretation {photometric} of {bands} bands"
                         f", SampleFormat {kind}; gray and RGB are")
    return Header(width, height, bands, np.dtype(DEPTHS[kind, bits]), bits, photometric, one("orientation", 1),
                  TAGS["nodata"] in first or "mask" in others, "page" in others)


def _pages(file: BinaryIO) -> Iterator[dict[int, np.ndarray]]:
    """The tags in TAGS of each page, one after the other."""
    order = {b"II": "<", b"MM": ">"}[file.read(2)]
    big = int.from_bytes(file.read(2), "little" if order == "<" else "big") == 43
    word, number = (order + "u8", order + "u8") if big else (order + "u4", order + "u2")
    entry = np.dtype([("tag", order + "u2"), ("type", order + "u2"), ("count", word), ("value", f"V{8 if big else 4}")])

    def read(dtype, count: int = 1) -> np.ndarray:
        dtype = np.dtype(dtype)
        return np.frombuffer(file.read(dtype.itemsize * count), dtype, count)

    file.seek(8 if big else 4)
    at, seen = int(read(word)[0]), set()
    while at and at not in seen:
        seen.add(at)
        file.seek(at)
        if (count := int(read(number)[0])) > 2**16:
            raise ValueError("a TIFF of more tags than there are")
        entries, page = read(entry, count), {}
        at = int(read(word)[0])
        for tag, kind, count, value in entries.tolist():
            if tag in TAGS.values() and kind in FIELDS and 0 < count < 2**16:
                dtype = np.dtype(FIELDS[kind]).newbyteorder(order)
                if dtype.itemsize * count <= len(value):
                    page[tag] = np.frombuffer(value, dtype, count)
                else:
                    file.seek(int(np.frombuffer(value, word)[0]))
                    page[tag] = read(dtype, count)
        yield page


def _kinds(pages: Iterator[dict[int, np.ndarray]]) -> Iterator[str]:
    """What follows the first page, up to a second one: overviews and masks belong to the first."""
    for page in pages:
        subfile = int(page.get(TAGS["subfile"], [0])[0])
        yield "mask" if subfile & 4 else "overview" if subfile & 1 else "page"
        if not subfile & 5:
            return


def decode(file: bytes, header: Header) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The bands, (H, W, C), as they stand in the file; where it holds no value, (H, W) bool; the palette, (N, 3) uint8.

    A pixel lacks a value where all bands hold the number for no data, or the file's mask says so: a pure red one has 0
    in two bands.
    Raises UserError without rasterio, and ValueError where the file is damaged, or not what its header says.
    """
    rasterio = _rasterio()
    missing = palette = None
    try:
        with rasterio.Env(**QUIET), rasterio.MemoryFile(file) as memory, memory.open(driver="GTiff") as image:
            bands, meaning = image.read(), [each.name for each in image.colorinterp]
            if header.nodata and "alpha" not in {flag.name for flag in image.mask_flag_enums[0]}:
                missing = (image.read_masks() == 0).all(axis=0)
            if header.photometric == PALETTE:
                palette = np.array([colour[:3] for _, colour in sorted(image.colormap(1).items())], np.uint8)
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"a TIFF that is damaged, or of a kind that GDAL does not know: {error}") from error
    if header.photometric in (CMYK, YCBCR):
        if meaning[:3] != ["red", "green", "blue"]:
            raise ValueError("a TIFF of colours that GDAL does not turn into RGB")
        bands = bands[:3]  # a fourth that it adds is opaque
    elif len(bands) != header.bands:
        raise ValueError(f"its header says {header.bands} bands, but GDAL decodes {len(bands)}")
    if bands.shape[1:] != (header.height, header.width) or bands.dtype != header.dtype:
        raise ValueError(f"its header says {header.width}×{header.height} of {header.dtype}, but GDAL decodes "
                         f"{bands.shape[2]}×{bands.shape[1]} of {bands.dtype}")
    return np.ascontiguousarray(bands.transpose(1, 2, 0)), missing, palette


def encode(array: np.ndarray, has_alpha: bool = False) -> bytes:
    """The file of (H, W, C), uint8, uint16 or float32.

    Three bands are RGB, and with `has_alpha` a fourth is transparency; in all else a band is a band. Raises UserError
    without rasterio, OSError where it cannot be encoded.
    """
    rasterio = _rasterio()
    height, width, n = array.shape
    colour = "RGB" if n == 3 or has_alpha else "MINISBLACK"
    try:
        with rasterio.Env(**QUIET), rasterio.MemoryFile() as memory:
            with memory.open(driver="GTiff", width=width, height=height, count=n, dtype=array.dtype.name,
                             photometric=colour, alpha="NON-PREMULTIPLIED" if has_alpha else "NO",
                             interleave="pixel", compress="deflate") as image:
                image.write(array.transpose(2, 0, 1))
            return memory.read()
    except rasterio.errors.RasterioError as error:
        raise OSError(str(error)) from error


def _rasterio():
    try:
        import rasterio  # takes a second, and hundreds of megabytes of libraries: most data holds no TIFF
    except ImportError as error:
        raise UserError(f"TIFF files need rasterio, which is not to be had here ({error}): pip install "
                        "-r requirements.txt") from error
    return rasterio
