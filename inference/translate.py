"""The translation of images and tensors of any size: padding and tiles."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from generator import Generator
from pairs.images import from_network, normalise, read_image, to_array, to_tensor, transparency
from runtime.devices import seeded
from utils import UserError

PIXELS = 2048 * 2048  # that go through the network at once


def translate(gen: Generator, image: Image.Image | np.ndarray, **options) -> Image.Image | np.ndarray:
    """The translation of a PIL image or a uint8 or uint16 array, (H, W) or (H, W, C): the same kind, the same size.

    Gray and RGB become what the network takes, and the result has the network's channels: (H, W) for one, (H, W, 3)
    for three. Transparency is laid over white for the network and carried through as a fourth. Pillow has no 16-bit
    colour: of an I;16 image, a colour network gives 8 bits. EXIF orientation is left alone; files are turned upright.
    The options are those of `translate_tensors`. Raises ValueError on other images.
    """
    picture = image if isinstance(image, Image.Image) else read_image(image)
    x = to_tensor(to_array(picture, gen.in_channels))
    y_fake = translate_tensors(gen, normalise(x)[None], **options)[0]
    result = from_network(y_fake, x.dtype != torch.uint8, transparency(picture))
    if isinstance(image, np.ndarray):
        return result
    deep_colour = result.ndim == 3 and result.dtype == np.uint16
    return Image.fromarray((result >> 8).astype(np.uint8) if deep_colour else result)


def multiple_of(gen: Generator) -> int:
    """What the height and the width of an input must be multiples of."""
    return gen.crop_size if isinstance(gen, Generator) else gen.multiple


def smallest_of(gen: Generator) -> int:
    """The least height and width of an input: a network that pads by reflection inside needs two pixels there."""
    return multiple_of(gen) * (1 if isinstance(gen, Generator) else 2)


@torch.inference_mode()
def translate_tensors(gen: Generator, x: Tensor, *, resize: bool = False, tile: int = 0, norm: str = "image",
                      dropout: bool | str = "on", seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """x (N, C, H, W) in [-1, 1], of any height and width → y_fake (N, C', H, W), computed in `dtype`.

    The image is padded by reflection to the next size that the network takes (the U-Net: multiples of crop_size), or
    with `resize` scaled to crop_size, and the result cropped or scaled back. Tiles of `tile` pixels, or where the
    padded image has more than PIXELS, overlap by a quarter and fade into one another; with norm "image", each tile is
    normalised by its own statistics.
    `norm` and `dropout` take the words of the command line; dropout may be a bool too. No image's result depends on
    the others; the size of the batch changes its rounding only. Raises ValueError on a wrong option.
    """
    if not isinstance(resize, bool):
        raise UserError(f"resize must be True or False; it is {resize!r}")
    size, least = multiple_of(gen), smallest_of(gen)
    (height, width), device = x.shape[-2:], next(gen.parameters()).device
    if tile < 0 or tile % size or 0 < tile < least or tile and resize:
        whose = "network's crop_size" if isinstance(gen, Generator) else f"network's {size}, at least"
        raise UserError(f"tile must be a multiple of the {whose}, {least}, and 0 with resize; it is {tile}")
    if not tile and (height + -height % size) * (width + -width % size) > PIXELS:
        tile = size * max(1, 1024 // size)

    def network(x: Tensor) -> Tensor:
        """As many images at a time as PIXELS allows."""
        parts = []
        for part in x.split(max(1, PIXELS // (x.shape[-2] * x.shape[-1]))):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), seeded(seed, device):
                parts.append(gen(part.to(device)).float().cpu())
        return torch.cat(parts)

    with gen.test_time(norm, dropout):
        if resize:
            small = F.interpolate(x, (gen.crop_size, gen.crop_size), mode="bilinear", antialias=True)
            return F.interpolate(network(small), (height, width), mode="bilinear", antialias=True)
        if tile:
            return _padded(lambda x: _in_tiles(network, x, tile, size, gen.out_channels), x, size, least)
        return _padded(network, x, size, least)


def _padded(network: Callable[[Tensor], Tensor], x: Tensor, multiple: int, least: int = 0) -> Tensor:
    """network(x) for any size: both sides padded by reflection to a multiple, `least` at least, and cropped again."""
    if not any(length % multiple or length < least for length in x.shape[-2:]):
        return network(x)
    index, crop = [], []
    for length in x.shape[-2:]:
        missing = max(-length % multiple, least - length)
        index.append(np.pad(np.arange(length), (missing // 2, missing - missing // 2), mode="reflect"))
        crop.append(slice(missing // 2, missing // 2 + length))
    return network(x[..., index[0][:, None], index[1]])[..., crop[0], crop[1]]


def _in_tiles(network: Callable[[Tensor], Tensor], x: Tensor, tile: int, size: int, out_channels: int) -> Tensor:
    """network(x) tile by tile; neighbours overlap by a quarter of a tile or more, where one fades into the other.

    x's height and width are multiples of `size`, and so, where tile > size, are the places of the tiles: every layer
    of the network then samples them as it would sample the whole image.
    """
    step = max(tile * 3 // 4 // size * size, size * 3 // 4)
    result = torch.zeros(len(x), out_channels, *x.shape[-2:])
    total = torch.zeros(x.shape[-2:])

    def spans(length: int) -> list[tuple[int, int]]:
        side = min(tile, length)
        return [(start, side) for start in [*range(0, length - side, step), length - side]]

    def weight(side: int) -> Tensor:
        ramp = (torch.arange(side) + 0.5) / (tile - step)
        return torch.sin(torch.minimum(ramp, ramp.flip(0)).clamp(max=1) * math.pi / 2) ** 2

    for top, h in spans(x.shape[-2]):
        for left, w in spans(x.shape[-1]):
            place = (..., slice(top, top + h), slice(left, left + w))
            fade = weight(h)[:, None] * weight(w)
            result[place] += network(x[place]) * fade
            total[place] += fade
    return result.div_(total)
