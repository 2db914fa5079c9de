"""One image in memory: its numbers, its transparency, and where it holds none."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from utils import DataError, UserError

TURNED = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
          6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}  # by EXIF orientation
LUMINANCE = np.float32([[0.299], [0.587], [0.114]])


@dataclass(frozen=True)
class Picture:
    """An image as it was read, once and for all.

    array: (H, W, C), C from 1 to 64, and 0 where `valid` says so. uint8 and uint16 go from black to white; of float32,
        which all other numbers become, nobody knows the range.
    alpha: (H, W), transparency, of the array's type. In arrays, .npy files and TIFFs no channel is transparency.
    valid: (H, W) bool, False where all bands hold a file's number for no data, or any holds NaN, which nothing can be
        trained on; None: it has values everywhere.
    indices: (H, W), the whole numbers of a single channel or a palette, as label maps hold them, of the file's type.
    """

    array: np.ndarray
    alpha: np.ndarray | None = None
    valid: np.ndarray | None = None
    indices: np.ndarray | None = None
    name: str = "the image"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.array.shape[1], self.array.shape[0]

    @property
    def channels(self) -> int:
        """Of the array: transparency does not count, and a palette counts as colour."""
        return self.array.shape[2]

    @property
    def kind(self) -> str:
        return self.array.dtype.name

    @property
    def has_palette(self) -> bool:
        return self.indices is not None and self.channels == 3

    @property
    def numbers(self) -> np.ndarray:
        """(H, W) for one channel, else (H, W, C); transparency follows the three channels of colour."""
        if self.alpha is not None:
            return np.dstack([as_colour(self.array), self.alpha])
        return self.array[..., 0] if self.channels == 1 else self.array

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> "Picture":
        """The same `change` of all that the picture holds."""
        planes = {name: plane for name, plane in vars(self).items() if isinstance(plane, np.ndarray)}
        return replace(self, **{name: change(plane) for name, plane in planes.items()})

    def turned(self, orientation: int) -> "Picture":
        """Upright, by the number in EXIF or TIFF."""
        return self.map(TURNED[orientation]) if orientation in TURNED else self

    def painted(self) -> "Picture":
        """Of a mask, the same without transparency: unpainted is black beside light paint, white beside dark.

        Raises DataError where nothing is painted.
        """
        if self.alpha is None:
            return self
        if not self.alpha.any():
            raise DataError(f"{self.name} is transparent everywhere, so that it cannot be told whether all counts or "
                            "nothing: fill it with white or black")
        white = np.iinfo(self.array.dtype).max
        share = (self.alpha / white)[..., None]
        light = self.array / white * share
        paper = 0 if light.mean() > share.mean() / 2 else white
        array = self.array * share + paper * (1 - share)
        return replace(self, array=array.round().astype(self.array.dtype), alpha=None)

    def halves(self) -> tuple["Picture", "Picture"]:
        """The left and the right half. Raises DataError on an odd width."""
        width = self.size[0]
        if width % 2:
            raise DataError(f"{self.name} is {width} pixels wide: an odd width has no middle")
        return self.map(lambda plane: plane[:, : width // 2]), self.map(lambda plane: plane[:, width // 2 :])


def picture_of(array: np.ndarray, name: str = "the image", missing: np.ndarray | bool = False) -> Picture:
    """The picture of an array of numbers, (H, W) or (H, W, C).

    A pixel holds no value where a channel is NaN or `missing` is True; all its channels become 0.
    Raises UserError on other arrays.
    """
    if not is_image_array(array):
        raise UserError(f"an image must be {told_of(array)}")
    array = np.atleast_3d(array).astype(array.dtype.newbyteorder("="), copy=False)
    indices = array[..., 0] if array.shape[2] == 1 and array.dtype.kind in "biu" else None
    holes = (array != array).any(axis=2) | missing  # the first are NaN
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype not in (np.uint8, np.uint16):
        with np.errstate(over="ignore"):  # to infinity, which `to_unit` refuses
            array = array.astype(np.float32, copy=False)
    if not holes.any():
        return Picture(array, None, None, indices, name)
    return Picture(np.where(holes[..., None], array.dtype.type(0), array), None, ~holes, indices, name)


def turned_axes(array) -> str:
    """What to do where an array looks like (C, H, W); empty where it does not."""
    if isinstance(array, np.ndarray) and array.ndim == 3 and array.shape[0] <= 4 < min(array.shape[1:]):
        return f"{array.shape} looks like (C, H, W), of which array.transpose(1, 2, 0) makes (H, W, C)"
    return ""


def told_of(array) -> str:
    """What an array must be to be an image, and what this one is."""
    kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
    return f"an array of numbers, (H, W) or (H, W, C) with C from 1 to 64, not {turned_axes(array) or kind}"


def is_image_array(array) -> bool:
    """Whether it is an array of numbers, (H, W) or (H, W, C)."""
    return (isinstance(array, np.ndarray) and array.dtype.kind in "buif" and array.size > 0
            and array.ndim in (2, 3) and array.shape[2:] <= (64,))


def of_pillow(image: Image.Image, name: str = "the image") -> Picture:
    """The picture of a PIL image: one channel of gray, else three of colour."""
    if image.mode.startswith(("I", "F")):
        picture = picture_of(np.asarray(image), name)
        clear = image.info.get("transparency")  # of a 16-bit PNG, the gray that is; of others, of what they were
        if clear is None or picture.kind != "uint16":
            return picture
        return replace(picture, alpha=(picture.array[..., 0] != clear) * np.uint16(65535))
    n = 1 if image.mode in ("1", "L", "LA", "La") else 3
    indices = np.asarray(image) if image.mode in ("1", "L", "P") else None
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        return Picture(pixels[..., :n], pixels[..., 3], None, indices, name)
    return Picture(np.atleast_3d(image.convert("L" if n == 1 else "RGB")), None, None, indices, name)


def to_array(picture: Picture, channels: int, limits: tuple[float, float] | None = None) -> np.ndarray:
    """(H, W, channels) of the picture: uint8, or float32 in [0, 1].

    It is float32 where `limits`, low and high, are given, and from 16 bits, whose whole range 0 to 65535 counts. Gray
    and colour of 8 or 16 bits become one another, by luminance; transparency is laid over white, so that hidden
    colours do not come out, unless it is asked for as a channel.
    Raises DataError where the channels are others, and on values that are not finite or of unknown range.
    """
    values = to_unit(picture, limits)
    alpha = picture.alpha
    if alpha is not None and channels == 4:
        alpha = alpha if values.dtype == np.uint8 else alpha / np.float32(np.iinfo(alpha.dtype).max)
        return np.dstack([as_colour(values), alpha])
    if alpha is not None:
        values = over_white(values, alpha)
    n = picture.channels
    if n == channels:
        return values
    if {n, channels} != {1, 3} or picture.kind == "float32":
        way_out = turned_axes(picture.array) or (f"write files of the {channels} that you want, or train with "
                                                 f"--in-channels {n} or --out-channels {n}, which takes all of them")
        raise DataError(f"{picture.name} has {n} channel{'s' * (n > 1)}, not the {channels} of the network: {way_out}")
    if channels == 3:
        return as_colour(values)
    return np.atleast_3d(Image.fromarray(values).convert("L")) if values.dtype == np.uint8 else values @ LUMINANCE


def to_unit(picture: Picture, limits: tuple[float, float] | None) -> np.ndarray:
    """uint8 as it is, or float32 in [0, 1], from `limits` or the range of 16 bits; what lies beyond is clipped."""
    array = picture.array
    if picture.kind == "float32" and not np.isfinite(array).all():
        raise DataError(f"{picture.name} holds values that are not finite as float32")
    if limits:
        low, high = limits
        return (np.subtract(array, low, dtype=np.float64) / (high - low)).clip(0, 1).astype(np.float32)
    if picture.kind == "uint8":
        return array
    if picture.kind == "uint16":
        return array / np.float32(65535)
    raise DataError(f"{picture.name} holds values of unknown range: make them 8 or 16 bits (uint8, uint16), or train "
                    "with --range-a or --range-b")


def as_colour(array: np.ndarray) -> np.ndarray:
    """(H, W, 3) of gray, (H, W, 1); others as they are."""
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def over_white(array: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, C) of uint8, or float in [0, 1], as it looks on white paper with the transparency `alpha`, (H, W)."""
    if array.dtype != np.uint8:
        share = (alpha / np.float32(np.iinfo(alpha.dtype).max))[..., None]
        return array * share + (1 - share)
    colour = array if array.shape[2] == 3 else np.tile(array, 3)[..., :3]  # of one or two bands
    image = Image.fromarray(np.dstack([colour, alpha]))
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image))[..., : array.shape[2]]
