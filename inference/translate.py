"""A trained generator at work on images and tensors of any size: scale, precision, padding and tiles."""

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generator import BatchNorm, Dropout, Generator, use_test_time
from inference.trained import Trained, crop_of, trained_of
from pairs.geometry import Scale, Size, has_shape_of, largest_of, resize, resize_sprite, resized
from pairs.images import to_tensor
from pairs.picture import Picture, of_pillow, picture_of
from pairs.values import Values
from runtime.console import say
from runtime.devices import check_seed, choose_precision
from runtime.speed import choose_levers, copy_in, is_channels_last, prepare
from utils import DataError, UserError

PIXELS = 2048 * 2048  # that go through the network at once
SAMPLES = 4  # along either side: parts of a tiled image whose statistics are taken
ROW = 10 * 2**20  # pixels of a row of tiles, which is in memory at once: wider images have smaller tiles
Rows = Callable[[int, int], Tensor]  # top, bottom → those rows of an image, (N, C, bottom - top, W)


@dataclass(frozen=True)
class Taken:
    """An image on its way: what the network takes, and what is needed to finish its translation."""

    x: Tensor  # (C, H, W) as `Values.to_network` takes it, at the scale of the network
    size: Size  # of the output
    photo: np.ndarray | None  # (H, W, 3), where its L goes into the output
    deep: bool  # whether it has 16 bits
    alpha: np.ndarray | None  # (H, W), its transparency
    valid: np.ndarray | None  # (H, W) bool, False where it holds no value


class Translator:
    """A generator ready to work, in any number of threads: a call changes nothing that others see.

    Neither `gen`, whose weights it uses, nor torch's random numbers, nor another Translator of the same `gen`. No
    image's result depends on the others; the size of the batch changes its rounding only.

    trained: what is known of gen's training; if None, what `load_generator` read.
    scale: the size at which the network sees an image: "trained", as training images were shown to it in validation,
        larger ones larger; "crop", the size of a training crop, whatever the image's; "native", the image's own; or a
        factor. Where the network's file does not tell the sizes of its training images, "trained" is "crop", as the
        authors' programs do.
    norm, dropout: as for `Generator.test_time`. Where an image goes through the network in tiles, "image" takes the
        statistics of SAMPLES² parts of it together, for all of its tiles; "tile" those of each tile.
    seed: of dropout, whose mask depends on it, the layer and the size.
    precision: auto, fp32, bf16 or fp16, for images of 8 bits with targets of 8 bits; others get fp32, because bf16 has
        too few digits for them.
    tile: the side of overlapping tiles; 0 for none below PIXELS.
    Raises UserError on anything else.
    """

    def __init__(self, gen: Generator, trained: Trained | None = None, *, scale: Scale = "trained", norm: str = "image",
                 dropout: bool | str = True, seed: int = 0, precision: str = "auto", tile: int = 0):
        check_scale(scale)
        check_seed(seed)
        if tile < 0 or tile % gen.multiple or 0 < tile < gen.smallest:
            raise UserError(f"tile must be a multiple of what the network takes, {gen.multiple}, and at least "
                            f"{gen.smallest}; it is {tile}")
        if other := next((weight.dtype for weight in gen.parameters() if weight.dtype != torch.float32), None):
            raise UserError(f"the generator's weights are {other}: call gen.float() first, and let precision say what "
                            "to compute in")
        self.trained = trained or trained_of(gen)
        self.x, self.y = self.trained.values()
        self.x_how = self.trained.geometry.how(self.trained.x_is_label)
        self.y_how = "nearest" if self.trained.y_is_label else "linear"
        self.scale, self.norm, self.seed, self.tile = scale, norm, seed, tile
        self.dropout = dropout in (True, "on")
        self.device = next(gen.parameters()).device
        self.noise = Noise()

        # Two networks in test-time state for good, of which `tensor` takes one
        wanted = choose_precision(precision, self.device)
        self.dtype = wanted if self.y.kind == "uint8" else torch.float32
        self.exact = self.fast = self._ready(gen, torch.float32, dropout)
        if self.dtype != torch.float32:
            self.fast = self._ready(gen, self.dtype, dropout)

    def _ready(self, gen: Generator, dtype: torch.dtype, dropout: bool | str) -> Generator:
        """A copy of `gen` that shares its weights, as far as they are in `dtype`, and nothing else."""
        net = copy_in(gen, dtype)
        use_test_time(net, "image" if self.norm == "tile" else self.norm, dropout)
        draw_by(self.noise.mask, net)
        if dtype != torch.float32 or any(map(is_channels_last, net.parameters())):  # shared weights keep their layout
            prepare(net, choose_levers("auto", self.device, dtype))
        return net

    def compile(self) -> None:
        """From now on through torch.compile: slow to start, faster for many images of one size."""
        draw = torch.compiler.disable(self.noise.mask)  # a decorator would import half of torch.compile for everyone
        for net in {self.exact, self.fast}:
            draw_by(draw, net)
            net.compile()

    def picture(self, image: Image.Image | np.ndarray | Sequence) -> Image.Image | np.ndarray:
        """The translation of a PIL image or an array, (H, W) or (H, W, C): the same kind, the same size.

        Where training enlarged the inputs to the size of the targets, the result is larger by that factor.
        Gray and RGB become what the network takes, and the result has the network's channels: (H, W) for one,
        (H, W, 3) for three, in the numbers and the range of its training targets; from 16 bits, it has no less.
        A network that makes ab of L gives colour, as sharp as the image.
        Several inputs come as a list. Transparency is laid over white for the network and carried through as a fourth
        channel. Pillow has no 16-bit colour: where an image comes in, 16-bit colour becomes 8 bits; and where Pillow
        has no such image at all, the result is an array. EXIF orientation is left alone; files are turned upright.
        Raises UserError on other images.
        """
        images = list(image) if isinstance(image, list | tuple) else [image]
        has_alpha = len(images) == 1 and self.x.channels in (1, 3)  # else arrays count with all of their channels
        pictures = [of_pillow(each) if isinstance(each, Image.Image) else of_array(each, has_alpha) for each in images]
        result = self.numbers(pictures)
        if isinstance(images[0], np.ndarray):
            return result
        if result.ndim == 3 and result.dtype == np.uint16:
            result = (result >> 8).astype(np.uint8)
        is_picture = result.ndim == 2 or result.dtype == np.uint8 and result.shape[2] in (3, 4)
        return Image.fromarray(result) if is_picture else result

    def numbers(self, pictures: Sequence[Picture]) -> np.ndarray:
        """What a file of the translation holds."""
        taken = self.take(self.enlarged(pictures))
        return self.finished(self.tensor(taken.x[None])[0], taken).numbers

    def enlarged(self, pictures: Sequence[Picture]) -> list[Picture]:
        """The inputs in the size of the translation, as training enlarged them. Raises DataError."""
        largest = largest_of([picture.size for picture in pictures])
        for picture in pictures:
            if picture.size != largest and not has_shape_of(picture.size, largest):
                raise DataError(f"{picture.name} is {picture.size[0]}×{picture.size[1]}, which is not the shape of "
                                f"another input, {largest[0]}×{largest[1]}")
        size = self.trained.enlarged(largest)
        if math.prod(size) > max(Image.MAX_IMAGE_PIXELS, math.prod(largest)):
            raise DataError(f"{pictures[0].name} would become {size[0]}×{size[1]}, which is too large: cut it into "
                            "parts, or let input and output be TIFFs")
        return [resized(picture, size, self.x_how) for picture in pictures]

    def take(self, pictures: Sequence[Picture]) -> Taken:
        """What `enlarged` returns, on its way. Raises DataError."""
        x = to_tensor(self.to_scale(self.x.array(pictures), self.x.is_sprite(pictures)))
        photo = self.x.array([replace(pictures[0], alpha=None)]) if self.y.lab else None  # alpha comes back later
        deep = any(picture.kind == "uint16" for picture in pictures)
        return Taken(x, pictures[0].size, photo, deep, self.x.alpha(pictures), pictures[0].valid)

    def finished(self, y_fake: Tensor, taken: Taken) -> Picture:
        """The translation: y_fake (C', H, W), at the scale of the network, as a file holds it."""
        picture = self.y.picture(self.shown(y_fake, taken), taken.deep, taken.alpha)
        return replace(picture, valid=taken.valid)

    def shown(self, y_fake: Tensor, taken: Taken) -> Tensor:
        """y_fake in its whole size, as `Values.picture` takes it: ab beside the photo's L."""
        y_fake = self.to_size(y_fake, taken.size)
        if taken.photo is None:
            return y_fake
        return self.y.shown(self.x.to_network(to_tensor(taken.photo)), y_fake)

    @torch.inference_mode()
    def tensor(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) of any size, uint8 or float in [0, 1] → y_fake (N, C', H, W) in [-1, 1], on the CPU.

        C counts one channel for class indices. Pixels are taken as they are, whatever the scale.
        """
        return at_any_size(self.exact, pixels, self.tile, self.network_for)

    def network_for(self, samples: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """What translates pixels, (N, C, H, W) of a size that the network takes, to y_fake on the CPU.

        For the tiles of one image, parts of which are its `samples`: with the statistics of these, if it may.
        """
        shared = samples is not None and self.norm == "image"
        return functools.partial(self._run, self._with_statistics(samples) if shared else None)

    def _with_statistics(self, samples: Tensor) -> Generator:
        """A copy of the network whose statistics are those of all samples together."""
        net = copy_in(self._net(samples), torch.float32)  # whose weights are in their types already
        norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
        for norm in norms:
            norm.per_image, norm.training, norm.momentum = False, True, 1.0
            norm.num_batches_tracked = None
            norm.running_mean, norm.running_var = norm.running_mean.clone(), norm.running_var.clone()
        self._forward(net, samples)
        for norm in norms:
            norm.training = False
        return net

    def _net(self, pixels: Tensor) -> Generator:
        return self.fast if pixels.dtype == torch.uint8 else self.exact

    def _run(self, net: Generator | None, pixels: Tensor) -> Tensor:
        """y_fake, of as many images at a time as PIXELS allows, each time with the same noise."""
        parts = pixels.split(max(1, PIXELS // (pixels.shape[-2] * pixels.shape[-1])))
        return torch.cat([self._forward(net or self._net(part), part) for part in parts])

    def _forward(self, net: Generator, pixels: Tensor) -> Tensor:
        x = self.x.to_network(pixels).to(self.device)
        is_fast = pixels.dtype == torch.uint8 and self.dtype != torch.float32
        self.noise.begin(self.seed, self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=is_fast):
            return net(x).float().cpu()

    def network_size(self, size: Size) -> Size:
        """The width and height at which the network sees an image of `size`."""
        sizes = self.trained.sizes
        if self.scale == "native":
            return size
        if self.scale == "trained" and sizes:
            return self.trained.geometry.trained(size, sizes)
        if isinstance(self.scale, str):
            return crop_of(self.exact) or size
        return tuple(max(1, round(side * self.scale)) for side in size)

    def to_scale(self, array: np.ndarray, sprite: bool = False) -> np.ndarray:
        """The image (H, W, C) as `network_size` wants it. Raises DataError where that is too large."""
        width, height = self.network_size(array.shape[1::-1])
        if width * height > Image.MAX_IMAGE_PIXELS:
            raise DataError(f"at the scale of the network, an image of {array.shape[1]}×{array.shape[0]} becomes "
                            f"{width}×{height}, which is too large")
        return (resize_sprite if sprite else resize)(array, (width, height), self.x_how)

    def to_size(self, y_fake: Tensor, size: Size) -> Tensor:
        """(C, H, W), brought back to the width and height `size`, on the CPU."""
        if y_fake.shape[:0:-1] == size:
            return y_fake
        return to_tensor(resize(y_fake.cpu().permute(1, 2, 0).numpy(), size, self.y_how))


def translate(gen: Generator, image: Image.Image | np.ndarray | Sequence, **options) -> Image.Image | np.ndarray:
    """`Translator.picture` for one image; the options are Translator's, which is made once where there are many."""
    return Translator(gen, **options).picture(image)


def of_array(array: np.ndarray, has_alpha: bool) -> Picture:
    """The picture; where it may, the last of 2 or 4 channels of 8 or 16 bits is transparency."""
    picture = picture_of(array)
    if not has_alpha or picture.channels not in (2, 4) or picture.kind == "float32":
        return picture
    return replace(picture, array=picture.array[..., :-1], alpha=picture.array[..., -1])


def tell_clipped(x: Values, pictures: Sequence[Picture]) -> None:
    """Says where a picture holds hardly any number of the range that the network was trained on."""
    for name, share in x.beyond(pictures).items():
        if share > 0.9:
            say("{}: {:.0%} of the values lie outside of {:g} to {:g}, the range of training, and are clipped"
                .format(name, share, *x.limits))


def check_finite(y_fake: Tensor, name: str) -> None:
    """Raises DataError where it is not."""
    if not y_fake.isfinite().all():
        raise DataError(f"{name} is not translated: the network's output is not finite; --precision fp32 may help")


def check_scale(scale: Scale) -> None:
    """Raises UserError where it is none."""
    if scale in ("trained", "crop", "native"):
        return
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise UserError(f"scale must be trained, crop, native or a factor above 0; it is {scale!r}")


def draw_by(mask: Callable[[Tensor, float], Tensor], net: Generator) -> None:
    """Lets the dropouts of `net` that drop anything take their masks from there."""
    for layer in net.modules():
        if isinstance(layer, Dropout) and layer.p > 0:
            layer.draw = mask


class Noise(threading.local):
    """Where the dropouts of a Translator draw their masks: from a generator of the call's own, one in each thread."""

    source: torch.Generator

    def __deepcopy__(self, memo: dict) -> "Noise":
        return self  # a copy of a network draws from where the network does

    def __reduce__(self) -> tuple:
        return Noise, ()  # in another process, it begins anew, as in another thread

    def begin(self, seed: int, device: torch.device) -> None:
        self.source = torch.Generator(device).manual_seed(seed)

    def mask(self, x: Tensor, p: float) -> Tensor:
        """0 with the probability p, else 1 / (1 - p), in the shape of x."""
        return torch.empty_like(x).bernoulli_(1 - p, generator=self.source).div_(1 - p)


def at_any_size(gen: Generator, x: Tensor, tile: int = 0, network_for: Callable | None = None) -> Tensor:
    """gen(x) for any height and width: padded by reflection to what `gen` takes, and cropped again.

    In tiles of `tile` pixels, or where the padded image has more than PIXELS, which overlap by a quarter and fade into
    one another. network_for(), if given, returns what is called in the place of gen; for the tiles of each image,
    network_for(samples) of some parts of it.
    """
    network_for = network_for or (lambda samples=None: gen)
    rows, columns = (frame(gen, length) for length in x.shape[-2:])
    size = len(rows.index), len(columns.index)
    padded = x if x.shape[-2:] == size else x[..., rows.index[:, None], columns.index]
    tile = tile or tile_for(gen, *size)
    if not tile:
        y_fake = network_for()(padded)
    else:
        y_fake = torch.cat([torch.cat([part.clone() for part in strips(network_for, rows_of(image), *size, tile, gen)],
                                      dim=-2) for image in padded.split(1)])
    return y_fake[..., rows.crop, columns.crop]


@dataclass(frozen=True)
class Frame:
    """How one axis of an image is padded to what a network takes."""

    index: np.ndarray  # of each padded pixel, the pixel whose value it has
    crop: slice  # where the image lies in it


def frame(gen: Generator, length: int) -> Frame:
    """Padded by reflection at both ends."""
    missing = max(-length % gen.multiple, gen.smallest - length)
    before = missing // 2
    index = np.pad(np.arange(length), (before, missing - before), mode="reflect")
    return Frame(index, slice(before, before + length))


def tile_for(gen: Generator, height: int, width: int) -> int:
    """The side of the tiles of an image that none was asked for; 0 where it goes through the network whole."""
    if height * width <= PIXELS:
        return 0
    side = max(512, min(1024, ROW // width))
    return gen.multiple * max(1, side // gen.multiple)


def rows_of(x: Tensor) -> Rows:
    return lambda top, bottom: x[..., top:bottom, :]


def samples(rows: Rows, height: int, width: int, gen: Generator) -> Tensor:
    """Up to SAMPLES² evenly spaced parts of a padded image as a batch, of about 256 pixels a side."""
    side = gen.multiple * max(1, 256 // gen.multiple)

    def places(length: int) -> list[int]:
        gaps = max(0, length - side) // gen.multiple
        return sorted({round(i * gaps / (SAMPLES - 1)) * gen.multiple for i in range(SAMPLES)})

    bands = (rows(top, top + side) for top in places(height))
    return torch.cat([band[..., left : left + side] for band in bands for left in places(width)])


def strips(network_for: Callable, rows: Rows, height: int, width: int, tile: int, gen: Generator,
           start: int = 0) -> Iterator[Tensor]:
    """What network_for(samples) makes of an image tile by tile, from above: y_fake (N, C, rows, W), as soon as no tile
    below adds to them.

    What is returned is a view, whose memory the next rows take.

    Neighbours overlap by a quarter of a tile or more, where one fades into the other. Height and width are multiples of
    gen.multiple, and so, where tile is larger, are the places of the tiles: every layer of the network then samples
    them as it would sample the whole image.
    start: the row from which results are wanted; they are the same to the bit.
    """
    size, network = gen.multiple, network_for(samples(rows, height, width, gen))
    step = max(tile * 3 // 4 // size * size, size * 3 // 4)
    h, w = min(tile, height), min(tile, width)

    def shares(length: int) -> dict[int, Tensor]:
        """By the place of each tile along an axis, its share in the pixels there."""
        places = [*range(0, length - tile, step), max(0, length - tile)]
        side = min(tile, length)
        ramp = (torch.arange(side) + 0.5) / (tile - step)
        weight = torch.sin(torch.minimum(ramp, ramp.flip(0)).clamp(max=1) * math.pi / 2) ** 2
        total = torch.zeros(length)
        for place in places:
            total[place : place + side] += weight
        return {place: weight / total[place : place + side] for place in places}

    down, across = shares(height), shares(width)
    result = None  # of the rows from `top` on, as many as a tile is high
    for (top, share), bottom in zip(down.items(), [*down, height][1:], strict=True):
        if top + h <= start:
            continue
        x = rows(top, top + h)
        for left, own in across.items():
            part = network(x[..., left : left + w])
            if result is None:
                result = part.new_zeros(*part.shape[:2], h, width)
            result[..., left : left + w] += part * (share[:, None] * own).to(part)
        del x, part  # before the next rows are read
        yield result[..., max(top, start) - top : bottom - top, :]
        kept = result[..., bottom - top :, :].clone()  # what the next tiles add to
        result.zero_()
        result[..., : kept.shape[-2], :] = kept
        del kept
