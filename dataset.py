"""Pairs of images as tensors: cut, resized and jittered together (appendix 6.2)."""

import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version
import albumentations as A  # noqa: E402

from config import Config  # noqa: E402
from pairs.find import Pair, evenly, name_hash, usable_pairs  # noqa: E402
from pairs.geometry import Geometry, Size, pad, resize, usual_size  # noqa: E402
from pairs.images import read_image, read_size, split, to_array, to_batch  # noqa: E402
from pairs.plausible import check_headers, check_ranges, check_sizes, check_small, describe  # noqa: E402
from runtime.console import say  # noqa: E402
from utils import DataError, UserError, name_of  # noqa: E402


def read_pair(pair: Pair, channels_a: int, channels_b: int, enough: Callable[[Size], Size] | None = None,
              ) -> tuple[np.ndarray, np.ndarray]:
    """A and B as `to_array` returns them; A is the left half of a file. Raises DataError.

    Both are of one height and width, but for the JPEGs that are decoded at 1/2, 1/4 or 1/8 of their size where that
    is still `enough` for images of that size: several times faster than reducing them afterwards.
    """
    sizes = [read_size(source) for source in pair]
    check_sizes(pair, sizes)
    width, height = sizes[0][0] * len(pair) // 2, sizes[0][1]  # of a half, when one file holds both
    wanted = enough((width, height)) if enough else (width, height)
    reduce = next((f for f in (8, 4, 2) if width >= f * wanted[0] and height >= f * wanted[1]
                   and width % f == height % f == 0), 1)
    images = [read_image(source, reduce) for source in pair]
    a, b = images if len(images) == 2 else split(images[0], name_of(pair[0]))
    return to_array(a, channels_a, name_of(pair[0])), to_array(b, channels_b, name_of(pair[-1]))


class Jitter:
    """Crops, mirrors and, on request, recolours a pair, by draws that depend on (seed, epoch, index) alone."""

    def __init__(self, cfg: Config):
        self.seed, strength = cfg.seed, cfg.color_jitter
        self.recolours_x = cfg.color_jitter_side == cfg.direction[0]
        around = (1 - strength, 1 + strength)
        self.color = [A.ColorJitter(around, around, around, (-strength / 2, strength / 2), p=1)] if strength else []
        self.place = A.Compose([A.RandomCrop(cfg.crop_size, cfg.crop_width or cfg.crop_size),
                                A.HorizontalFlip(p=0.5 if cfg.flip else 0)])

    def __call__(self, pair: np.ndarray, in_channels: int, epoch: int, index: int) -> np.ndarray:
        """(H, W, C) → (crop_size, crop_width, C); in_channels of C are x, the others y."""
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
    """Pairs (x, y), each a float (C, H, W) tensor in [-1, 1]: with jitter a crop, else whole (`Geometry`).

    An item is asked for by index, or by (epoch, index). Raises DataError when a file cannot be used; with `skip`, says
    so, and the next pair that can be read takes its place.
    """

    split = ""  # where the pairs come from: train, val or test
    record: dict | None = None  # what a checkpoint keeps of the data: held_out and trained_on
    cache: dict[int, np.ndarray] | None = None  # what was read is kept in memory, resized but not jittered yet

    def __init__(self, pairs: Sequence[Pair], direction: str = "AtoB", in_channels: int = 3, out_channels: int = 3,
                 geometry: Geometry | None = None, label_side: str = "none", jitter: Jitter | None = None,
                 skip: bool = False):
        self.pairs, self.direction, self.label_side = pairs, direction, label_side
        self.geometry = geometry = geometry or Geometry()
        self.in_channels, self.out_channels, self.jitter, self.skip = in_channels, out_channels, jitter, skip
        self.size = geometry.crop if jitter or geometry.resize == "stretch" else None  # of all items; None: they differ

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
        """x and y side by side as channels, resized: (H, W, C), uint8, or float32 in [0, 1] from 16 bits."""
        a_is_x = self.direction == "AtoB"
        channels = (self.in_channels, self.out_channels) if a_is_x else (self.out_channels, self.in_channels)
        size = self.geometry.load if self.jitter else self.geometry.whole
        enough = size if self.jitter and self.label_side == "none" else None  # targets that are scored stay exact
        images = read_pair(self.pairs[index], *channels, enough)
        sides = [resize(image, size(image.shape[1::-1]), nearest=self.label_side in (name, "both"))
                 for name, image in zip("AB", images, strict=True)]
        if sides[0].dtype != sides[1].dtype:
            sides = [side if side.dtype == np.float32 else side / np.float32(255) for side in sides]
        pixels = np.concatenate(sides if a_is_x else sides[::-1], axis=2)
        return pad(pixels, self.geometry.crop) if self.jitter else pixels


def load_data(cfg: Config, world: int = 1, held_out: list[str] | None = None) -> tuple[PairedImages, PairedImages]:
    """The training and the validation pairs; held_out: what a resumed run holds out from data without a split.

    Raises FileNotFoundError or ValueError when they cannot be used.
    """
    found = usable_pairs(cfg.data_root, cfg.seed, held_out)
    train_pairs, val_pairs = found.splits["train"], found.splits.get("val") or found.splits["test"]
    if cfg.batch_size * world > len(train_pairs):
        raise UserError(f"batch_size {cfg.batch_size}" + (f" × {world} processes" if world > 1 else "")
                         + f" is larger than the data set: {len(train_pairs)} training pairs")
    sizes, geometry = check_headers(train_pairs, skip=cfg.skip_unreadable), Geometry.of(cfg.plain())
    check_headers(val_pairs, skip=cfg.skip_unreadable)
    check_ranges(train_pairs, partial(read_pair, channels_a=3, channels_b=3))
    scored = evenly(val_pairs, cfg.n_val)
    say(f"{cfg.data_root}: {len(train_pairs)} training pairs, {describe(sizes, train_pairs)}, {cfg.direction}; "
        f"{len(scored)} of {len(val_pairs)} validation pairs scored")
    check_small(sizes, geometry)
    make = partial(PairedImages, direction=cfg.direction, in_channels=cfg.in_channels, out_channels=cfg.out_channels,
                   geometry=geometry, label_side=cfg.label_side, skip=cfg.skip_unreadable)
    train_data, val_data = make(train_pairs, jitter=Jitter(cfg)), make(scored)
    train_data.record = {"held_out": found.held_out, "usual_size": usual_size(sizes),
                         "trained_on": torch.tensor(list(map(name_hash, found.names)))}
    val_data.split = "val" if found.splits.get("val") else "test"
    if cfg.cache == "ram":
        train_data.cache, val_data.cache = {}, {}
    return train_data, val_data
