"""TIFF files: what a header says, and the bands as rasterio decodes and encodes them."""

import contextlib
import logging
import math
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pairs.picture import Picture, picture_of
from utils import need

MAGIC = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"  # of both byte orders; BigTIFF
SUFFIXES = (".tif", ".tiff")
MOST = 64  # bands
BITS = {1: (1, 2, 4, 8, 16, 32, 64), 2: (8, 16, 32, 64), 3: (16, 32, 64)}  # of numbers that are read, by SampleFormat
WHITE_IS_0, GRAY, RGB, PALETTE, CMYK, YCBCR = COLOURS = 0, 1, 2, 3, 5, 6  # PhotometricInterpretation
FIELDS = {1: "B", 2: "s", 3: "H", 4: "I", 16: "Q"}  # how struct calls the types of a tag
TAGS = {254: "subfile", 256: "width", 257: "height", 258: "bits", 262: "photometric", 274: "orientation", 277: "bands",
        339: "format", 42113: "nodata"}
QUIET = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO",  # no other files are looked at
         "GDAL_TIFF_INTERNAL_MASK": "YES"}  # nor written

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
    first = next(pages, {})
    kinds = []  # of the pages behind it: up to a second one (0), overviews (1) and masks (4) belong to the first
    for page in pages:
        kinds.append(int(page.get("subfile", [0])[0]) & 5)
        if not kinds[-1]:
            break

    def one(name: str, default: int = 1) -> int:
        values = set(first.get(name, [default]))
        if len(values) > 1:
            raise ValueError(f"its bands differ in {name}")
        return int(values.pop())

    width = one("width", 0)
    height = one("height", 0)
    bands = one("bands")
    bits = one("bits")
    kind = one("format")
    photometric = one("photometric")
    if not width or not height:
        raise ValueError("a TIFF without a picture")
    if bits not in BITS.get(kind, ()):
        raise ValueError(f"a TIFF of numbers that are not read: {bits} bits, SampleFormat {kind}")
    if not 1 <= bands <= MOST:
        raise ValueError(f"a TIFF of {bands} bands, of which at most {MOST} are read")
    if photometric not in COLOURS or photometric in (WHITE_IS_0, PALETTE) and (kind, bands) != (1, 1):
        raise ValueError(f"a TIFF whose colours are not read: PhotometricInterpretation {photometric} of {bands} bands"
                         f", SampleFormat {kind}; gray and RGB are")
    least = 4 if kind == 3 else 1  # bytes of a number as GDAL decodes it
    dtype = np.dtype(f"{'uif'[kind - 1]}{max(least, bits // 8)}")
    return Header(width, height, bands, dtype, bits, photometric, one("orientation"),
                  "nodata" in first or any(kind & 4 for kind in kinds), 0 in kinds)


def _pages(file: BinaryIO) -> Iterator[dict[str, tuple]]:
    """The tags in TAGS of each page, one after the other."""
    order = {b"II": "<", b"MM": ">"}[file.read(2)]

    def read(form: str) -> tuple:
        content = file.read(struct.calcsize(order + form))
        if len(content) < struct.calcsize(order + form):
            raise ValueError("a TIFF that ends too early")
        return struct.unpack(order + form, content)

    word, short, entry = ("Q", "Q", "HHQ8s") if read("H") == (43,) else ("I", "H", "HHI4s")
    file.seek(struct.calcsize(word))
    (at,) = read(word)
    seen = set()
    while at and at not in seen:
        seen.add(at)
        file.seek(at)
        (count,) = read(short)
        if count > 2**16:
            raise ValueError("a TIFF of more tags than there are")
        entries = [read(entry) for _ in range(count)]
        (at,) = read(word)
        page = {}
        for tag, kind, count, value in entries:
            if tag in TAGS and kind in FIELDS and 0 < count < 2**16:
                form = f"{count}{FIELDS[kind]}"
                if struct.calcsize(order + form) > len(value):
                    file.seek(*struct.unpack(order + word, value))
                    page[TAGS[tag]] = read(form)
                else:
                    page[TAGS[tag]] = struct.unpack_from(order + form, value)
        yield page


@contextlib.contextmanager
def session(before: str = "", **options) -> Iterator[Any]:
    """rasterio, whose errors become OSErrors in the block. Raises UserError without rasterio."""
    rasterio = need("rasterio", "rasterio", "TIFF files")  # a second, and hundreds of MB: most data holds no TIFF
    try:
        with rasterio.Env(**QUIET, **options):
            yield rasterio
    except rasterio.errors.RasterioError as error:
        raise OSError(f"{before}{error}") from error


@contextlib.contextmanager
def opened(file: bytes | Path, **options) -> Iterator[Any]:
    """The file as rasterio's dataset. Raises UserError without rasterio, OSError where GDAL finds it damaged."""
    damaged = session("a TIFF that is damaged, or of a kind that GDAL does not know: ", **options)
    with damaged as rasterio, contextlib.ExitStack() as stack:
        path = stack.enter_context(rasterio.MemoryFile(file)).name if isinstance(file, bytes) else file.resolve()
        yield stack.enter_context(rasterio.open(path, driver="GTiff"))


def add_overviews(path: Path, size: tuple[int, int], labels: bool) -> None:
    """Copies at 1/2, 1/4, … inside the file, down to 256 pixels; of label maps by nearest neighbour. Raises OSError."""
    factors = [2**i for i in range(1, 16) if max(size) / 2**i >= 256]
    if not factors:
        return
    with session(COMPRESS_OVERVIEW="DEFLATE") as rasterio, rasterio.open(path, "r+", driver="GTiff") as image:
        image.build_overviews(factors, rasterio.enums.Resampling["nearest" if labels else "average"])


def read_window(image: Any, header: Header, name: str, window: tuple | None = None) -> Picture:
    """The picture in rasterio's dataset, or a window of it, before it is turned upright.

    A pixel lacks a value where all bands hold the number for no data, or the file's mask says so: a pure red one has 0
    in two bands. Raises ValueError where the file is not what its header says.
    """
    if (image.height, image.width) != (header.height, header.width) or image.dtypes[0] != header.dtype.name:
        raise ValueError(f"its header says {header.width}×{header.height} of {header.dtype}, but GDAL decodes "
                         f"{image.width}×{image.height} of {image.dtypes[0]}")
    bands = image.read(window=window)
    missing = False
    if header.nodata and "alpha" not in {flag.name for flag in image.mask_flag_enums[0]}:
        missing = (image.read_masks(window=window) == 0).all(axis=0)
    if header.photometric in (CMYK, YCBCR):
        if [each.name for each in image.colorinterp][:3] != ["red", "green", "blue"]:
            raise ValueError("a TIFF of colours that GDAL does not turn into RGB")
        bands = bands[:3]  # a fourth that it adds is opaque
    elif len(bands) != header.bands:
        raise ValueError(f"its header says {header.bands} bands, but GDAL decodes {len(bands)}")

    # The numbers as they are written are indices; as they are shown, they are colours, or go from black to white.
    array = np.ascontiguousarray(bands.transpose(1, 2, 0))
    indices = array[..., 0]
    if header.photometric == PALETTE:
        array = np.array([colour[:3] for _, colour in sorted(image.colormap(1).items())], np.uint8)[indices]
    elif header.bits < 8:
        array = array * np.uint8(255 // (2**header.bits - 1))
    if header.photometric == WHITE_IS_0:
        array = np.iinfo(array.dtype).max - array
    whole = header.bands == 1 and indices.dtype.kind in "iu"
    return replace(picture_of(array, name, missing), indices=indices if whole else None)


@dataclass(frozen=True)
class Place:
    """Where on Earth a raster lies, and what its bands are, as a translation of it tells too."""

    crs: Any = None  # rasterio's, or None
    transform: Any = None  # an affine one, of pixels to the crs
    nodata: float | None = None  # the number of pixels without a value
    descriptions: tuple[str | None, ...] = ()  # of the bands
    gcps: tuple = ()  # rasterio's ground control points, in the crs, where there is no transform
    rpcs: Any = None  # rasterio's coefficients of a satellite's camera, for pixels of this size

    @classmethod
    def of(cls, image: Any) -> "Place":
        gcps, crs = image.gcps
        here = image.crs is not None or not image.transform.is_identity
        if gcps and crs is None:
            crs = need("rasterio", "rasterio", "TIFF files").crs.CRS()  # with None, rasterio writes no points
        return cls(crs if gcps else image.crs, image.transform if here and not gcps else None, image.nodata,
                   tuple(image.descriptions), tuple(gcps), image.rpcs)

    def scaled(self, size: tuple[int, int], new: tuple[int, int]) -> "Place":
        """The same place in another width and height."""
        if size == new:
            return self
        across, down = (own / other for own, other in zip(size, new, strict=True))
        moved = tuple(type(p)(p.row / down, p.col / across, p.x, p.y, p.z, p.id, p.info) for p in self.gcps)
        if self.transform is None:
            return replace(self, gcps=moved, rpcs=None)
        a, b, c, d, e, f = self.transform[:6]
        transform = type(self.transform)(a * across, b * down, c, d * across, e * down, f)
        return replace(self, transform=transform, rpcs=None)

    def fits(self, dtype: np.dtype) -> bool:
        """Whether numbers of this type can say that a value is missing."""
        if self.nodata is None:
            return False
        with np.errstate(all="ignore"):
            number = np.float64(self.nodata).astype(dtype)
        return np.isfinite(number) == math.isfinite(self.nodata) if dtype.kind == "f" else number == self.nodata

    def marked(self, array: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """(H, W, C) with nodata where `valid`, (H, W), is False. Elsewhere, a pixel of nothing else moves by one."""
        if not self.fits(array.dtype):
            return array
        hole = array.dtype.type(self.nodata)
        beside = np.nextafter(hole, array.dtype.type(math.inf)) if array.dtype.kind == "f" else hole ^ 1
        array = np.where((array == hole).all(axis=2, keepdims=True), beside, array)
        return array if valid is None else np.where(valid[..., None], array, hole)


def layout(shape: tuple[int, int, int], dtype: np.dtype, place: Place, has_alpha: bool = False) -> dict:
    """What rasterio is told of a file of (H, W, C) of that type.

    Three bands are RGB, and with `has_alpha` a fourth is transparency; in all else a band is a band.
    """
    height, width, n = shape
    return dict(driver="GTiff", width=width, height=height, count=n, dtype=np.dtype(dtype).name, interleave="pixel",
                photometric="RGB" if n == 3 or has_alpha else "MINISBLACK",
                alpha="NON-PREMULTIPLIED" if has_alpha else "NO", compress="deflate",
                crs=place.crs, transform=place.transform, gcps=place.gcps, rpcs=place.rpcs,
                nodata=place.nodata if place.fits(np.dtype(dtype)) else None)


def describe(image: Any, place: Place) -> None:
    """The names of the bands, where the translation has as many as its input."""
    if any(place.descriptions) and len(place.descriptions) == image.count:
        image.descriptions = place.descriptions


def shown_as(image: Any) -> dict:
    """What rasterio is told of a file whose numbers are shown as those of its dataset `image`."""
    page, *bands = (image.tags(band, ns="IMAGE_STRUCTURE") for band in range(image.count + 1))
    white_is_0 = "MINISWHITE" in page and image.count == 1 and np.dtype(image.dtypes[0]).kind == "u"
    colours = {"palette": "PALETTE", "red green blue": "RGB"}
    told = {"photometric": colours.get(" ".join(each.name for each in image.colorinterp),
                                       "MINISWHITE" if white_is_0 else "MINISBLACK")}
    bits = {band.get("NBITS") for band in bands}
    if told["photometric"] != "PALETTE" and bits in ({"1"}, {"2"}, {"4"}):  # that a number is shown as so many times it
        told["nbits"] = int(bits.pop())
    return told


def encode(array: np.ndarray, place: Place, has_alpha: bool = False, valid: np.ndarray | None = None,
           like: Any = None) -> bytes:
    """The file of (H, W, C) as `layout` tells, with no values where `valid` is False.

    like: rasterio's dataset, whose palette or shades, scales and offsets it gets. Raises UserError without rasterio,
    OSError where it cannot be encoded.
    """
    shown = shown_as(like) if like else {}
    if "nbits" in shown and not 0 <= (place.nodata or 0) < 2 ** shown["nbits"]:
        place = replace(place, nodata=None)  # a mask tells instead
    array = place.marked(array, valid)
    told = layout(array.shape, array.dtype, place, has_alpha) | shown
    with session() as rasterio, rasterio.MemoryFile() as memory:
        with memory.open(**told) as image:
            if told["photometric"] == "PALETTE":
                image.write_colormap(1, like.colormap(1))  # before the values, or it would not fit any more
            image.write(array.transpose(2, 0, 1))
            describe(image, place)
            if like:
                image.scales = like.scales
                image.offsets = like.offsets
            if valid is not None and not place.fits(array.dtype):
                image.write_mask(valid)
        return memory.read()
