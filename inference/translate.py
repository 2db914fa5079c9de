"""The translation of images and tensors of any size: scale, padding and tiles."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generator import Generator
from inference.load import values_in
from pairs.geometry import Geometry, Scale, Size, resize
from pairs.images import read_image, to_tensor
from pairs.values import kind_of
from runtime.devices import seeded
from utils import DataError, UserError

PIXELS = 2048 * 2048  # that go through the network at once


def translate(gen: Generator, image: Image.Image | np.ndarray | Sequence, *, scale: Scale = "trained",
              resize: bool = False, **options) -> Image.Image | np.ndarray:
    """The translation of a PIL image or an array, (H, W) or (H, W, C): the same kind, the same size.

    Gray and RGB become what the network takes, and the result has the network's channels: (H, W) for one, (H, W, 3)
    for three, in the numbers and the range of its training targets; from 16 bits, it has no less. Several inputs come
    as a list. Transparency is laid over white for the network and carried through as a fourth channel. Pillow has no
    16-bit colour: of an I;16 image, a colour network gives 8 bits; and where it has no such image at all, the result
    is an array. EXIF orientation is left alone; files are turned upright.
    scale and resize are those of `network_size`, the other options those of `translate_tensors`. Raises ValueError on
    other images.
    """
    images = list(image) if isinstance(image, list | tuple) else [image]
    pictures = [each if isinstance(each, Image.Image) else read_image(each) for each in images]
    x_values, y_values = values_in(gen)
    several = len(images) > 1  # of which arrays count with all of their channels, as .npy files do
    x = x_values.array(pictures, [each if several and isinstance(each, np.ndarray) else "the image" for each in images])
    y_fake = translate_pixels(gen, x, scale, resize, **options)
    result = y_values.from_network(y_fake, "uint16" in map(kind_of, pictures), x_values.alpha(pictures))
    if isinstance(images[0], np.ndarray):
        return result
    if result.ndim == 3 and result.dtype == np.uint16:
        result = (result >> 8).astype(np.uint8)
    is_picture = result.ndim == 2 or result.dtype == np.uint8 and result.shape[2] in (3, 4)
    return Image.fromarray(result) if is_picture else result


def translate_pixels(gen: Generator, pixels: np.ndarray, scale: Scale = "trained",
                     resize: bool = False, **options) -> Tensor:
    """What `Values.array` returns, (H, W, C) → y_fake (C', H, W) in [-1, 1]; the options are those of `translate`."""
    x = to_tensor(to_scale(gen, pixels, scale, resize))
    x = values_in(gen)[0].to_network(x[None])
    return to_size(gen, translate_tensors(gen, x, **options)[0], pixels.shape[1::-1])


def network_size(gen: Generator, size: Size, scale: Scale, resize: bool) -> Size:
    """The width and height at which the network sees an image of `size`.

    scale: "trained", as training images were shown to it in validation, larger ones larger; "native", as it is; or a
    factor. resize: the size of training, whatever the image's. Where the network's file does not tell how it was
    trained, "trained" is the same, as the authors' programs do. Raises ValueError on other words, and on factors that
    make no image.
    """
    if not isinstance(resize, bool):
        raise UserError(f"resize must be True or False; it is {resize!r}")
    trained = getattr(gen, "trained", {})
    if resize or scale == "trained" and "usual_size" not in trained:
        return (gen.crop_width or gen.crop_size, gen.crop_size) if gen.crop_size else size
    if scale == "trained":
        return Geometry.of(trained).trained(size, trained["usual_size"])
    if scale == "native":
        return size
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise UserError(f"scale must be trained, native or a factor above 0; it is {scale!r}")
    return tuple(max(1, round(side * scale)) for side in size)


def to_scale(gen: Generator, array: np.ndarray, scale: Scale, resize: bool) -> np.ndarray:
    """The image (H, W, C) as `network_size` wants it. Raises DataError where that is too large."""
    width, height = network_size(gen, array.shape[1::-1], scale, resize)
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise DataError(f"at the scale of the network, an image of {array.shape[1]}×{array.shape[0]} becomes "
                        f"{width}×{height}, which is too large")
    return Geometry.of(getattr(gen, "trained", {})).interpolate(array, (width, height), is_label(gen, 0))


def to_size(gen: Generator, y_fake: Tensor, size: Size) -> Tensor:
    """(C, H, W), brought back to the width and height `size`, on the CPU."""
    if y_fake.shape[:0:-1] == size:
        return y_fake
    how = "nearest" if is_label(gen, -1) else "linear"
    return to_tensor(resize(y_fake.cpu().permute(1, 2, 0).numpy(), size, how))


def is_label(gen: Generator, side: int) -> bool:
    """Whether the network was trained on label maps on this side: 0, its input, or -1, its output."""
    trained = getattr(gen, "trained", {})
    indices = side == 0 and trained.get("n_labels", 0) > 0
    return indices or trained.get("label_side") in ("both", str(trained.get("direction"))[side])


@torch.inference_mode()
def translate_tensors(gen: Generator, x: Tensor, *, tile: int = 0, norm: str = "image", dropout: bool | str = "on",
                      seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """x (N, C, H, W) in [-1, 1], of any height and width → y_fake (N, C', H, W) on the CPU, computed in `dtype`.

    Padding and tiles are those of `at_any_size`; with norm "image", each tile is normalised by its own statistics.
    `norm` and `dropout` take the words of the command line; dropout may be a bool too. No image's result depends on
    the others; the size of the batch changes its rounding only. Raises ValueError on a wrong option.
    """
    device = next(gen.parameters()).device
    if tile < 0 or tile % gen.multiple or 0 < tile < gen.smallest:
        raise UserError(f"tile must be a multiple of what the network takes, {gen.multiple}, and at least "
                        f"{gen.smallest}; it is {tile}")

    def network(x: Tensor) -> Tensor:
        """As many images at a time as PIXELS allows."""
        parts = []
        for part in x.split(max(1, PIXELS // (x.shape[-2] * x.shape[-1]))):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), seeded(seed, device):
                parts.append(gen(part.to(device)).float().cpu())
        return torch.cat(parts)

    with gen.test_time(norm, dropout):
        return at_any_size(gen, x, network, tile)


def at_any_size(gen: Generator, x: Tensor, network: Callable[[Tensor], Tensor] | None = None, tile: int = 0) -> Tensor:
    """gen(x) for any height and width: padded by reflection to what `gen` takes, and cropped again.

    In tiles of `tile` pixels, or where the padded image has more than PIXELS, which overlap by a quarter and fade into
    one another. `network`, if given, is called in the place of gen.
    """
    network, multiple = network or gen, gen.multiple
    index, crop = [], []
    for length in x.shape[-2:]:
        missing = max(-length % multiple, gen.smallest - length)
        index.append(np.pad(np.arange(length), (missing // 2, missing - missing // 2), mode="reflect"))
        crop.append(slice(missing // 2, missing // 2 + length))
    padded = x[..., index[0][:, None], index[1]] if crop != [slice(0, n) for n in x.shape[-2:]] else x
    if not tile and padded.shape[-2] * padded.shape[-1] > PIXELS:
        tile = multiple * max(1, 1024 // multiple)
    return (_in_tiles(network, padded, tile, multiple) if tile else network(padded))[..., crop[0], crop[1]]


def _in_tiles(network: Callable[[Tensor], Tensor], x: Tensor, tile: int, size: int) -> Tensor:
    """network(x) tile by tile; neighbours overlap by a quarter of a tile or more, where one fades into the other.

    x's height and width are multiples of `size`, and so, where tile > size, are the places of the tiles: every layer
    of the network then samples them as it would sample the whole image.
    """
    step = max(tile * 3 // 4 // size * size, size * 3 // 4)
    result = total = None

    def spans(length: int) -> list[tuple[int, int]]:
        side = min(tile, length)
        return [(start, side) for start in [*range(0, length - side, step), length - side]]

    def weight(side: int) -> Tensor:
        ramp = (torch.arange(side) + 0.5) / (tile - step)
        return torch.sin(torch.minimum(ramp, ramp.flip(0)).clamp(max=1) * math.pi / 2) ** 2

    for top, h in spans(x.shape[-2]):
        for left, w in spans(x.shape[-1]):
            place = (..., slice(top, top + h), slice(left, left + w))
            part = network(x[place])
            if result is None:
                result, total = part.new_zeros(*part.shape[:2], *x.shape[-2:]), part.new_zeros(x.shape[-2:])
            fade = (weight(h)[:, None] * weight(w)).to(part)
            result[place] += part * fade
            total[place] += fade
    return result.div_(total)
