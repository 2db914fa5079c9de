"""The scale of training: to what size an image is brought before a network sees it."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from pairs.picture import Picture
from pairs.values import stack

Size = tuple[int, int]  # width, height
Interpolation = Literal["linear", "bicubic", "nearest"]
Scale = Literal["trained", "crop", "native"] | float  # at which a trained network sees an image


@dataclass(frozen=True)
class Geometry:
    """What the settings of these names say about sizes.

    Training crops an image that was resized to `load`; validation shows it whole, resized to `whole`:

        stretch   load is load_size high, whole crop_size, both of the crop's aspect, whatever the image's (the paper)
        aspect    both keep the image's aspect; its shorter side becomes load_size
        none      both are the image's own size
    """

    resize: str = "stretch"
    load_size: int = 286
    crop_size: int = 256
    crop_width: int = 0
    interpolation: Interpolation = "linear"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Geometry":
        """Those of a run, or of a file; without a word on interpolation, that of its generator."""
        told = {f.name: settings[f.name] for f in fields(cls) if f.name in settings}
        return cls(**{"interpolation": "bicubic" if settings.get("generator") == "release" else "linear", **told})

    @property
    def crop(self) -> Size:
        return self.crop_width or self.crop_size, self.crop_size

    def load(self, size: Size) -> Size:
        if self.resize == "none":
            return size
        shape, height = (self.crop, self.crop_size) if self.resize == "stretch" else (size, min(size))
        return tuple(round(side * self.load_size / height) for side in shape)

    def whole(self, size: Size) -> Size:
        return self.crop if self.resize == "stretch" else self.load(size)

    def how(self, label: bool) -> Interpolation:
        """By which an image is resized: of labels, no new values are made."""
        return "nearest" if label else self.interpolation

    def pad(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C), at least as large as a crop: reflected at its edges where it is smaller."""
        missing = [max(0, wanted - length) for wanted, length in zip(self.crop[::-1], image.shape, strict=False)]
        return np.pad(image, [*((n // 2, n - n // 2) for n in missing), (0, 0)], "reflect") if any(missing) else image

    def trained(self, size: Size, sizes: "Sizes") -> Size:
        """`size` at the scale of training: an image like those in there becomes `whole`, a larger one larger."""
        like = sizes.nearest(size)
        scales = zip(size, self.whole(like), like, strict=True)
        return tuple(max(1, round(side * new / old)) for side, new, old in scales)


@dataclass(frozen=True)
class Sizes:
    """The sizes of the training images: the usual one, and what all have but for a hundredth at either end."""

    usual: Size
    shorter: tuple[float, float]  # the least and the most of the shorter sides, in pixels
    aspect: tuple[float, float]  # the least and the most of width / height

    @classmethod
    def of_file(cls, usual: Sequence[int], ranges: Sequence[float] | None = None) -> "Sizes":
        """As a generator's file tells them; some tell the usual size only. Raises ValueError, TypeError."""
        width, height = map(int, usual)
        if min(width, height) < 1:
            raise ValueError(f"training images cannot be {width}×{height}")
        low, high, narrow, wide = map(float, ranges or size_range(Counter([(width, height)])))
        if not (0 < low <= high < math.inf and 0 < narrow <= wide < math.inf):
            raise ValueError(f"the sizes of training images cannot be {ranges}")
        return cls((width, height), (low, high), (narrow, wide))

    def nearest(self, size: Size) -> tuple[float, float]:
        """The width and height of the training image that is most like one of `size`: itself, where that is one."""
        aspect = size[0] / size[1]
        shorter = min(size)
        near = float(np.clip(aspect, *self.aspect))
        short = float(np.clip(shorter, *self.shorter))
        if (near, short) == (aspect, shorter):
            return size
        return (short * near, short) if near >= 1 else (short, short / near)


def largest_of(sizes: Sequence[Size]) -> Size:
    """The size that the others are enlarged to."""
    return max(sizes, key=math.prod)


def has_shape_of(size: Size, other: Size) -> bool:
    """Whether a smaller image has the shape of the other: each side is within less than a pixel of its like."""
    width, height = size
    wide, high = other
    return width < wide and height < high and abs(width * high - height * wide) < max(wide, high)


def enlargement(size: Size, other: Size) -> float:
    """The factor from one to the other; a whole one, where rounding of the smaller image explains the rest."""
    exact = other[0] / size[0]
    whole = round(exact)
    explained = all(abs(new - whole * old) < whole for old, new in zip(size, other, strict=True))
    return float(whole) if explained else exact


def size_range(sizes: Counter) -> tuple[float, float, float, float]:
    """What a generator's file keeps for `Sizes.of_file`: the ends of the shorter sides, then those of the aspects."""
    width, height = np.array([*sizes.elements()], np.float64).T
    return tuple(float(np.percentile(values, share, method=method))
                 for values in (np.minimum(width, height), width / height)
                 for share, method in ((1, "lower"), (99, "higher")))


def usual_size(sizes: Counter) -> Size:
    """The size of at least half of the images, else the medians of their widths and heights."""
    size, n = sizes.most_common(1)[0]
    return size if 2 * n >= sizes.total() else tuple(map(statistics.median_low, zip(*sizes.elements(), strict=True)))


def resize(image: np.ndarray, size: Size, how: Interpolation = "linear") -> np.ndarray:
    """(H, W, C) → (height, width, C), uint8 or float32 in [0, 1].

    linear averages areas where it shrinks, and interpolates linearly where it enlarges; bicubic is that of Pillow,
    which the authors' PyTorch release uses.
    """
    height, width, channels = image.shape
    if channels > 4:  # of which OpenCV averages no areas
        parts = np.split(image, range(4, channels, 4), axis=2)
        return np.concatenate([resize(part, size, how) for part in parts], axis=2)
    if how == "bicubic" and size != (width, height):
        batch = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # a copy: Pillow's arrays are read-only
        batch = F.interpolate(batch, size[::-1], mode="bicubic", antialias=True)  # of uint8: rounded and clamped
        image = (batch.clamp(0, 1) if batch.is_floating_point() else batch)[0].permute(1, 2, 0).numpy()
    elif how == "nearest":
        rows, columns = (nearest(old, new) for old, new in zip((height, width), size[::-1], strict=True))
        image = image[rows[:, None], columns]  # OpenCV 4 takes other pixels than OpenCV 5 does
    else:  # one axis may shrink while the other grows
        image = cv2.resize(image, (min(width, size[0]), min(height, size[1])), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return image.reshape(*size[::-1], channels)


def nearest(old: int, new: int) -> np.ndarray:
    """Of `new` pixels along an axis of `old`, the old pixel in which the centre of each lies, as Pillow takes it."""
    step = old / new
    centres = np.cumsum([step / 2, *[step] * (new - 1)])  # one after the other, since it rounds so
    return centres.astype(np.intp).clip(max=old - 1)


def resize_masked(image: np.ndarray, mask: np.ndarray, size: Size, how: Interpolation) -> list[np.ndarray]:
    """An image (H, W, C) and its mask (H, W, 1), so that what fills a hole, where the mask is 0, never matters.

    A new pixel is the mean of the old ones, which the mask weights too, and counts by the mean of the mask; where that
    is 0, it is 0. Bicubic weights, of which some are negative, are for pixels that see white only.
    """
    image = np.where(mask > 0, image, image.dtype.type(0))
    if how == "nearest" or size == image.shape[1::-1]:
        return [resize(image, size, how), resize(mask, size, how)]
    weight = mask / np.float32(255) if mask.dtype == np.uint8 else mask
    share = resize(weight, size)
    total = resize(image * weight, size)
    mean = np.divide(total, share, out=np.zeros_like(total), where=share > 0)
    mean = mean.round().astype(np.uint8) if image.dtype == np.uint8 else mean.clip(0, 1)
    reach = [2 * math.ceil(max(1, old / new)) + 1 for old, new in zip(mask.shape, size[::-1], strict=False)]
    darkest = cv2.erode(weight, np.ones([2 * n + 1 for n in reach], np.uint8)).reshape(mask.shape)
    sees_white = resize(darkest, size, "nearest") == 1
    return [np.where(sees_white, resize(image, size, how), mean), resize(mask, size)]


def resize_sprite(image: np.ndarray, size: Size, how: Interpolation) -> np.ndarray:
    """The same as `resize` for (H, W, 4), whose last channel is transparency: hidden colours add nothing to others."""
    plain = resize(image, size, how)
    colour, _ = resize_masked(image[..., :3], image[..., 3:], size, how)
    return np.dstack([np.where(plain[..., 3:] > 0, colour, plain[..., :3]), plain[..., 3]])


def resize_pair(x: np.ndarray, y: np.ndarray, mask: np.ndarray | None, size: Size, x_how: Interpolation,
                y_how: Interpolation, masked: bool, sprites: tuple[bool, bool] = (False, False)) -> np.ndarray:
    """x, y and the mask, each (H, W, C), as the channels of one (height, width, C); the mask weights y.

    Without a mask, where all pairs are `masked`, comes a white one. sprites: whether x and y are such as
    `resize_sprite` takes; under a mask, y is not.
    """
    resize_x, resize_y = (resize_sprite if sprite else resize for sprite in sprites)
    x = resize_x(x, size, x_how)
    if mask is not None:
        return stack([x, *resize_masked(y, mask, size, y_how)])
    white = [np.full((*x.shape[:2], 1), 255, np.uint8)] if masked else []
    return stack([x, resize_y(y, size, y_how), *white])


def resized(picture: Picture, size: Size, how: Interpolation, shown: np.ndarray | None = None) -> Picture:
    """The picture in another size, in the numbers that it holds.

    Its indices, and whether it holds values, are those of the nearest pixel. What is transparent, holds no value, or
    will be nowhere `shown`, (H, W) of bool in the new size, adds nothing to its neighbours.
    """
    if picture.size == size:
        return picture
    shape = size[::-1]
    found = picture.map(lambda plane: resize(np.atleast_3d(plane), size, "nearest").reshape(*shape, *plane.shape[2:]))
    array = picture.array
    alpha = picture.alpha
    if shown is not None:
        shown = resize(shown[..., None].astype(np.float32), picture.size) > 0
        array = np.where(shown, array, array.dtype.type(0))
    if how == "nearest" or not np.isfinite(array).all():
        return found

    # Numbers of any range become those from 0 to 1 on the way
    low = float(array.min())
    high = float(array.max())
    span = high - low or 1.0
    if array.dtype != np.uint8:
        array = (np.subtract(array, low, dtype=np.float64) / span).astype(np.float32)
    weight = picture.valid if alpha is None else alpha / np.float32(np.iinfo(alpha.dtype).max)
    if shown is not None:
        weight = shown[..., 0] if weight is None else weight * shown[..., 0]
    if weight is None:
        array = resize(array, size, how)
    else:
        array, _ = resize_masked(array, weight[..., None].astype(np.float32), size, how)
    if array.dtype != np.uint8:
        array = array * np.float64(span) + low
        array = array.round() if picture.kind == "uint16" else array
    array = array.astype(picture.kind)
    if alpha is not None:
        return replace(found, array=array, alpha=resize(alpha[..., None], size)[..., 0])
    if picture.valid is not None:
        array = np.where(found.valid[..., None], array, array.dtype.type(0))
    return replace(found, array=array)
