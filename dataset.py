"""Pairs of images as tensors: cut, resized and jittered together (appendix 6.2)."""

import os
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version
import albumentations as A  # noqa: E402
import cv2  # noqa: E402

from config import Config  # noqa: E402
from pairs.find import Pair, evenly, name_hash, usable_pairs  # noqa: E402
from pairs.images import read_image, read_size, split, to_array, to_batch  # noqa: E402
from pairs.plausible import check_headers, check_ranges, check_sizes, flat_colours  # noqa: E402
from runtime.console import say  # noqa: E402
from utils import DataError, UserError, name_of  # noqa: E402


def read_pair(pair: Pair, channels_a: int, channels_b: int, side: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A and B as `to_array` returns them; A is the left half of a file. Raises DataError.

    Both are of one height and width, but for the JPEGs that, with `side`, are decoded at 1/2, 1/4 or 1/8 of their
    size where that leaves both axes at least `side` pixels: several times faster than reducing them afterwards.
    """
    sizes = [read_size(source) for source in pair]
    check_sizes(pair, sizes)
    width, height = sizes[0][0] * len(pair) // 2, sizes[0][1]  # of a half, when one file holds both
    reduce = next((f for f in (8, 4, 2) if side and min(width, height) >= f * side and width % f == height % f == 0), 1)
    images = [read_image(source, reduce) for source in pair]
    a, b = images if len(images) == 2 else split(images[0], name_of(pair[0]))
    return to_array(a, channels_a, name_of(pair[0])), to_array(b, channels_b, name_of(pair[-1]))


def resize(image: np.ndarray, size: int, nearest: bool = False) -> np.ndarray:
    """(H, W, C) → (size, size, C); averages areas where it shrinks, interpolates linearly where it enlarges."""
    height, width, channels = image.shape
    if nearest:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    else:  # one axis may shrink while the other grows
        image = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return image.reshape(size, size, channels)


class Jitter:
    """Crops, mirrors and, on request, recolours a pair, by draws that depend on (seed, epoch, index) alone."""

    def __init__(self, cfg: Config):
        self.seed, strength = cfg.seed, cfg.color_jitter
        self.recolours_x = cfg.color_jitter_side == cfg.direction[0]
        around = (1 - strength, 1 + strength)
        self.color = [A.ColorJitter(around, around, around, (-strength / 2, strength / 2), p=1)] if strength else []
        self.place = A.Compose([A.RandomCrop(cfg.crop_size, cfg.crop_size), A.HorizontalFlip(p=0.5 if cfg.flip else 0)])

    def __call__(self, pair: np.ndarray, in_channels: int, epoch: int, index: int) -> np.ndarray:
        """(H, W, C) → (crop_size, crop_size, C); in_channels of C are x, the others y."""
        for number, transform in enumerate([*self.place, *self.color], 1):  # apart: Compose would seed all the same
            seed = np.random.SeedSequence((self.seed, epoch, index, number)).generate_state(4)
            transform.set_random_seed(int.from_bytes(seed.tobytes(), "little"))
        for transform in self.color:
            sides = np.split(pair, [in_channels], axis=2)
            side = 0 if self.recolours_x else 1
            sides[side] = transform(image=np.ascontiguousarray(sides[side]))["image"]
            pair = np.concatenate(sides, axis=2)
        return self.place(image=pair)["image"]


class PairedImages(Dataset):
    """Pairs (x, y), each a float (C, size, size) tensor in [-1, 1]; with jitter, (C, crop_size, crop_size).

    An item is asked for by index, or by (epoch, index). Raises DataError when a file cannot be used; with `skip`, says
    so, and the next pair that can be read takes its place.
    """

    split = ""  # where the pairs come from: train, val or test
    record: dict | None = None  # what a checkpoint keeps of the data: held_out, trained_on, colours
    cache: dict[int, np.ndarray] | None = None  # what was read is kept in memory, resized but not jittered yet

    def __init__(self, pairs: Sequence[Pair], direction: str = "AtoB", in_channels: int = 3, out_channels: int = 3,
                 size: int = 256, label_side: str = "none", jitter: Jitter | None = None, skip: bool = False):
        self.pairs, self.direction, self.size, self.label_side = pairs, direction, size, label_side
        self.in_channels, self.out_channels, self.jitter, self.skip = in_channels, out_channels, jitter, skip

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        pixels, _ = self.pixels([key if isinstance(key, tuple) else (0, key)])
        x, y = to_batch(pixels, self.in_channels)
        return x[0], y[0]

    def pixels(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, int]:
        """What loaders hand on, at a quarter of the bytes: pixels for `to_batch`, and how many pairs were skipped."""
        pairs, skipped = [], 0
        for epoch, index in keys:
            pair, index, missed = self._usable(index)
            pairs.append(self.jitter(pair, self.in_channels, epoch, index) if self.jitter else pair)
            skipped += missed
        if len({pair.dtype for pair in pairs}) > 1:  # 8 bits beside 16
            pairs = [pair if pair.dtype == np.float32 else pair / np.float32(255) for pair in pairs]
        return torch.from_numpy(np.stack(pairs) if len(pairs) > 1 else pairs[0][None]), skipped

    def _usable(self, index: int) -> tuple[np.ndarray, int, bool]:
        """The pair, or with `skip` the next that can be read, its index, and whether it is another."""
        for other in range(index, index + len(self)):
            try:
                return self._kept(other % len(self)), other % len(self), other != index
            except DataError as error:
                if not self.skip:
                    raise
                if other == index:
                    say(f"skipped: {error}")
                problem = error
        raise DataError(f"none of the {len(self)} pairs could be read: {problem}")

    def _kept(self, index: int) -> np.ndarray:
        if self.cache is None:
            return self.read(index)
        if index not in self.cache:
            self.cache[index] = self.read(index)
        return self.cache[index]

    def read(self, index: int) -> np.ndarray:
        """x and y side by side as channels, resized: (size, size, C), uint8, or float32 in [0, 1] from 16 bits."""
        a_is_x = self.direction == "AtoB"
        channels = (self.in_channels, self.out_channels) if a_is_x else (self.out_channels, self.in_channels)
        enough = self.size if self.jitter and self.label_side == "none" else 0  # targets that are scored stay exact
        sides = [resize(image, self.size, nearest=self.label_side in (name, "both"))
                 for name, image in zip("AB", read_pair(self.pairs[index], *channels, enough), strict=True)]
        if sides[0].dtype != sides[1].dtype:
            sides = [side if side.dtype == np.float32 else side / np.float32(255) for side in sides]
        return np.concatenate(sides if a_is_x else sides[::-1], axis=2)


def load_data(cfg: Config, world: int = 1, held_out: list[str] | None = None) -> tuple[PairedImages, PairedImages]:
    """The training and the validation pairs; held_out: what a resumed run holds out from data without a split.

    Raises FileNotFoundError or ValueError when they cannot be used.
    """
    found = usable_pairs(cfg.data_root, cfg.seed, held_out)
    train_pairs, val_pairs = found.splits["train"], found.splits.get("val") or found.splits["test"]
    if cfg.batch_size * world > len(train_pairs):
        raise UserError(f"batch_size {cfg.batch_size}" + (f" × {world} processes" if world > 1 else "")
                         + f" is larger than the data set: {len(train_pairs)} training pairs")
    sizes = check_headers(train_pairs, skip=cfg.skip_unreadable)
    check_headers(val_pairs, skip=cfg.skip_unreadable)
    read = partial(read_pair, channels_a=3, channels_b=3)
    check_ranges(train_pairs, read)
    scored = evenly(val_pairs, cfg.n_val)
    say(f"{cfg.data_root}: {len(train_pairs)} training pairs, {sizes}, {cfg.direction}; "
        f"{len(scored)} of {len(val_pairs)} validation pairs scored")
    make = partial(PairedImages, direction=cfg.direction, in_channels=cfg.in_channels, out_channels=cfg.out_channels,
                   label_side=cfg.label_side, skip=cfg.skip_unreadable)
    train_data = make(train_pairs, size=cfg.load_size, jitter=Jitter(cfg))
    val_data = make(scored, size=cfg.crop_size)
    train_data.record = {"held_out": found.held_out, "trained_on": torch.tensor(list(map(name_hash, found.names))),
                         "colours": flat_colours(train_pairs, read, "AB".index(cfg.direction[0]))}
    val_data.split = "val" if found.splits.get("val") else "test"
    if cfg.cache == "ram":
        train_data.cache, val_data.cache = {}, {}
    return train_data, val_data
