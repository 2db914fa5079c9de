"""Pairs of images as tensors: cut, resized and jittered together (appendix 6.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from config import Config
from pairs.geometry import Geometry, resize_pair
from pairs.identity import Pair
from pairs.jitter import Jitter, check_colours
from pairs.loading import keep_in_memory
from pairs.reading import read_pictures
from pairs.survey import Survey
from pairs.values import Values, batch_of, mask_array, to_batch, values_of
from runtime.console import say
from utils import DataError


@dataclass
class PairedImages(Dataset):
    """Pairs (x, y), each a float (C, H, W) tensor in [-1, 1]: a crop if there is a jitter, else whole (`Geometry`).

    If the pairs have masks, the mask is the last channel of y, with -1 for pixels to ignore (see `composite`). There y
    is -1 too; elsewhere resizing averages y with the mask as weight, so that what fills a hole never matters. Pixels
    without a value (NaN, no data) are ignored too. If `masked`, every pair gets a mask for them; if not, only the pairs
    that have such pixels, and with a jitter these are refused: all training steps must see the same channels.
    The key of an item is its index, or (epoch, index). Raises DataError if a file cannot be used; with `skip`, prints
    a note instead and returns the next pair that can be read.
    """

    pairs: Sequence[Pair]
    direction: str = "AtoB"
    x: Values = Values()
    y: Values = Values()
    geometry: Geometry = Geometry()
    label_side: str = "none"
    jitter: Jitter | None = None
    skip: bool = False
    masked: bool = False
    cache: dict[int, np.ndarray] | None = None  # pairs read so far, resized but not jittered; None: no cache

    def __post_init__(self):
        self.masked |= self.pairs[0].mask is not None  # either all have a mask or none
        self.x_is_label = self.x.n_labels > 0 or self.label_side in ("both", self.direction[0])
        self.y_is_label = self.label_side in ("both", self.direction[-1])
        one_size = self.jitter or self.geometry.resize == "stretch"
        self.size = self.geometry.crop if one_size else None  # None: items differ

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        pixels, _ = self.item(epoch, index)
        x, y = to_batch(batch_of([pixels]), self.x)
        return x[0], y[0]

    def pixels(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, tuple[bool, ...]]:
        """A loader's batch: pixels for `to_batch`, a quarter of its floats' bytes, and which pairs were skipped."""
        items, skipped = zip(*[self.item(epoch, index) for epoch, index in keys], strict=True)
        return batch_of(items), skipped

    def item(self, epoch: int, index: int) -> tuple[np.ndarray, bool]:
        """The pair as `read` returns it, jittered; and whether it replaces one that cannot be read (with `skip`)."""
        for place in chain(range(index, len(self)), range(index)):
            try:
                pixels = self.read(place)
                break
            except DataError as error:
                if not self.skip:
                    raise
                if place == index:
                    say(f"skipped: {error}")
                problem = error
        else:
            raise DataError(f"none of the {len(self)} pairs could be read: {problem}")
        if self.jitter:
            pixels = self.jitter(pixels, self.x, self.y, epoch, place)
        return pixels, place != index

    def readable(self) -> Iterator[Pair]:
        """The pairs; with `skip`, those that can be read, and a note of each other is printed."""
        for index, pair in enumerate(self.pairs):
            try:
                if self.skip:
                    self.read(index)
            except DataError as error:
                say(f"skipped: {error}")
            else:
                yield pair

    def read(self, index: int) -> np.ndarray:
        """x, y and the mask as channels, resized: (H, W, C), uint8, or float32 in [0, 1] if one of them needs it."""
        if self.cache is not None and index in self.cache:
            return self.cache[index]

        # Scored images stay exact, and decoding at a fraction of the size would mix masked pixels into the others.
        size = self.geometry.load if self.jitter else self.geometry.whole
        exact = not self.jitter or self.x_is_label or self.y_is_label or self.masked
        x_how = self.geometry.how(self.x_is_label)
        y_how = self.geometry.how(self.y_is_label)
        how = (x_how, y_how) if self.direction == "AtoB" else (y_how, x_how)
        of_a, of_b, mask = read_pictures(self.pairs[index], None if exact else size, how, self.direction[-1])
        of_x, of_y = (of_a, of_b) if self.direction == "AtoB" else (of_b, of_a)
        pictures = [*of_a, *of_b]
        mask = mask_array(mask, pictures)
        x = self.x.array(of_x)
        y = self.y.array(of_y)

        name = of_a[0].name
        width, height = size(x.shape[1::-1])
        if width * height > Image.MAX_IMAGE_PIXELS:
            raise DataError(f"{name} becomes {width}×{height} with resize {self.geometry.resize}, which is too large")
        if self.jitter and not self.masked and mask is not None:
            names = " and ".join(dict.fromkeys(picture.name for picture in pictures))
            raise DataError(f"{names} hold pixels without a value (NaN or no data), which the first look at the data "
                            "did not find in any pair: masks in a folder M let training ignore them")

        sprites = self.x.is_sprite(of_x), self.y.is_sprite(of_y)
        pixels = resize_pair(x, y, mask, (width, height), x_how, y_how, self.masked, sprites)
        if self.jitter:
            pixels = self.geometry.pad(pixels)  # to a crop
        if self.cache is not None:
            self.cache[index] = pixels
        return pixels


def load_data(cfg: Config, world: int = 1, before: dict | None = None,
              resumed: bool = True) -> tuple[PairedImages, PairedImages, Survey]:
    """The training and the validation pairs, and what a checkpoint keeps of them.

    before: what the file says that the run goes on from (`resumed`) or has begun with; no pair changes its side.
    Raises FileNotFoundError or UserError when they cannot be used.
    """
    # Find the pairs.
    survey = Survey.find(cfg.plain(), before, resumed)
    survey.check_batch(cfg.batch_size, world)
    check_colours(survey.train, cfg)

    # Look at them, before hours are spent on what was not meant.
    x, y = values_of(vars(cfg))
    geometry = Geometry.of(cfg.plain())
    shown_above = 175 if cfg.best_by == "ms_ssim" else 0
    survey.look(x, y, geometry, cfg.direction, cfg.n_val, skip=cfg.skip_unreadable, shown_above=shown_above)

    # Make the two data sets, which read the files as they are asked.
    x, y = values_of({**vars(cfg), **{name: survey.record[name] for name in ("counts", "ranged_inputs")}})
    make = partial(
        PairedImages,
        direction=cfg.direction,
        x=x,
        y=y,
        geometry=geometry,
        label_side=cfg.label_side,
        skip=cfg.skip_unreadable,
    )
    train_data = make(survey.train, jitter=Jitter(cfg), masked=survey.masked)
    val_data = make(survey.scored)
    keep_in_memory(cfg.cache, world, train_data, val_data)
    return train_data, val_data, survey
