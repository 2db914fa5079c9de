"""Pairs of images as tensors: cut, resized and jittered together (appendix 6.2)."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it asks the internet for its newest version
import albumentations as A  # noqa: E402

from config import Config  # noqa: E402
from pairs.checks import (  # noqa: E402
    check_headers,
    check_shown,
    check_sizes,
    check_small,
    check_values,
    describe,
    may_lack_values,
)
from pairs.find import evenly, usable_pairs  # noqa: E402
from pairs.geometry import Geometry, Size, pad, resize, resize_masked, size_range, usual_size  # noqa: E402
from pairs.identity import Known, Pair, changes, digest  # noqa: E402
from pairs.images import read_picture, read_size  # noqa: E402
from pairs.palettes import flat_colours  # noqa: E402
from pairs.patterns import Patterns  # noqa: E402
from pairs.picture import Picture  # noqa: E402
from pairs.values import Values, alike, mask_array, stack, to_batch, values_of  # noqa: E402
from runtime.console import say  # noqa: E402
from utils import DataError, UserError, name_of  # noqa: E402


def read_pictures(pair: Pair, enough: Callable[[Size], Size] | None = None) -> list[list[Picture]]:
    """The pictures of the pair's sides A, B and, if there is one, of the mask.

    A may have several images, its inputs. In a side-by-side file, A is the left half. All images have the same height
    and width, except that JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if that leaves at least enough(size)
    pixels: this is several times faster than shrinking them afterwards. Raises DataError.
    """
    sizes = [read_size(source) for source in pair.files]
    check_sizes(pair, sizes)
    width, height = sizes[0]
    if pair.side_by_side:
        width //= 2
    wanted = enough((width, height)) if enough else (width, height)
    reduce = next((f for f in (8, 4, 2) if width >= f * wanted[0] and height >= f * wanted[1]
                   and width % f == height % f == 0), 1)
    inputs = [read_picture(source, reduce) for source in pair.inputs]
    if pair.side_by_side:
        return [[half] for half in inputs[0].halves()]
    target = inputs if pair.alone else [read_picture(pair.target, reduce)]
    mask = [] if pair.mask is None else [[read_picture(pair.mask, nodata=False)]]  # of which a tag may name white
    return [inputs, target, *mask]


def read_pair(pair: Pair, a: Values, b: Values, enough: Callable[[Size], Size] | None = None) -> list[np.ndarray]:
    """The arrays of A and B, by `Values.array`; and, unless all pixels count, of the mask, by `mask_array`."""
    of_a, of_b, *masks = read_pictures(pair, enough)
    mask = mask_array(masks[0][0] if masks else None, [*of_a, *of_b])
    return [a.array(of_a), b.array(of_b), *([] if mask is None else [mask])]


AUTO_CACHE = 2 * 10**9  # bytes; the most that cache "auto" keeps in memory


class Jitter:
    """Crops and turns a pair and, if asked, changes its colours; the draws depend on (seed, epoch, index) only."""

    def __init__(self, cfg: Config):
        check_albumentations()
        self.seed, strength = cfg.seed, cfg.color_jitter
        self.recolours_x = not cfg.input_is_label  # else the target, as training on labels of other colours is wrong
        around = (1 - strength, 1 + strength)
        self.color = [A.ColorJitter(around, around, around, (-strength / 2, strength / 2), p=1)] if strength else []
        width = cfg.crop_width or cfg.crop_size
        turns = [A.HorizontalFlip(p=0.5 if cfg.flip == "mirror" else 0)]
        if cfg.flip == "all":  # a rectangle has four symmetries, a square all eight
            turns = [A.D4(p=1)] if width == cfg.crop_size else [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
        self.place = A.Compose([A.RandomCrop(cfg.crop_size, width), *turns])

    def __call__(self, pair: np.ndarray, x: Values, y: Values, epoch: int, index: int) -> np.ndarray:
        """(H, W, C) → (crop_size, crop_width, C), where C counts the channels of x, y and the mask."""
        for number, transform in enumerate([*self.place, *self.color], 1):  # Compose would give all the same seed
            seed = np.random.SeedSequence((self.seed, epoch, index, number)).generate_state(4)
            transform.set_random_seed(int.from_bytes(seed.tobytes(), "little"))
        for transform in self.color:
            sides = np.split(pair, [x.stored, x.stored + y.stored], axis=2)
            side = 0 if self.recolours_x else 1
            sides[side] = transform(image=np.ascontiguousarray(sides[side]))["image"]
            pair = np.concatenate(sides, axis=2)
        if pair.shape[2] <= 64:
            return self.place(image=pair)["image"]
        placed = self.place(image=pair[..., :64], mask=pair[..., 64:])  # OpenCV mirrors at most 128 channels
        return np.concatenate([placed["image"], placed["mask"]], axis=2)


def check_albumentations() -> None:
    """Raises UserError unless the package that draws the jitter is the one it was proven with.

    AlbumentationsX puts itself into the same folder: under the AGPL, with telemetry, and with other draws from a seed.
    """
    installed = {}
    for name in ("albumentations", "albumentationsx"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    version = installed.get("albumentations", "0")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if "albumentationsx" in installed or not (2, 0, 8) <= numbers < (3,):
        found = ", ".join(f"{name} {version}" for name, version in installed.items()) or "none"
        raise UserError(f"training needs albumentations>=2.0.8,<3, and here is {found}: pip uninstall albumentationsx, "
                        "then pip install --force-reinstall 'albumentations>=2.0.8,<3'")


class PairedImages(Dataset):
    """Pairs (x, y), each a float (C, H, W) tensor in [-1, 1]: a crop if there is a jitter, else whole (`Geometry`).

    If the pairs have masks, the mask is the last channel of y, with -1 for pixels to ignore (see `composite`). There y
    is -1 too; elsewhere resizing averages y with the mask as weight, so that what fills a hole never matters. Pixels
    without a value (NaN, no data) are ignored too. If `masked`, every pair gets a mask for them; if not, only the pairs
    that have such pixels, and with a jitter these are refused: all training steps must see the same channels.
    The key of an item is its index, or (epoch, index). Raises DataError if a file cannot be used; with `skip`, prints
    a note instead and returns the next pair that can be read.
    """

    split = ""  # the split that the pairs belong to: train, val or test
    unchanged = True  # whether the pairs are those that a resumed run knows, in their order
    record: dict | None = None  # facts about the data that a checkpoint keeps
    cache: dict[int, np.ndarray] | None = None  # pairs read so far, resized but not jittered; None: no cache

    def __init__(self, pairs: Sequence[Pair], direction: str = "AtoB", x: Values | None = None,
                 y: Values | None = None, geometry: Geometry | None = None, label_side: str = "none",
                 jitter: Jitter | None = None, skip: bool = False, masked: bool = False):
        self.pairs, self.direction = pairs, direction
        self.geometry = geometry = geometry or Geometry()
        self.x, self.y, self.jitter, self.skip = x or Values(), y or Values(), jitter, skip
        self.masked = masked or len(pairs) > 0 and pairs[0].mask is not None  # either all have a mask or none
        labels = {"none": "", "both": "AB"}.get(label_side, label_side)
        self.nearest = labels + (direction[0] if self.x.n_labels else "")  # sides resized without new values
        self.size = geometry.crop if jitter or geometry.resize == "stretch" else None  # None: items differ

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        pixels, _ = self.pixels([key if isinstance(key, tuple) else (0, key)])
        x, y = to_batch(pixels, self.x)
        return x[0], y[0]

    def pixels(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, int]:
        """A loader's batch: pixels for `to_batch`, a quarter of its floats' bytes, and how many pairs were skipped."""
        pairs, skipped = [], 0
        for epoch, index in keys:
            pair, index, missed = self._usable(index)
            pairs.append(self.jitter(pair, self.x, self.y, epoch, index) if self.jitter else pair)
            skipped += missed
        pairs = same_channels(alike(pairs))
        return torch.from_numpy(np.stack(pairs) if len(pairs) > 1 else pairs[0][None]), skipped

    def _usable(self, index: int) -> tuple[np.ndarray, int, bool]:
        """The pair (with `skip`, the next one that can be read), its index, and whether it replaces another."""
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
        """x, y and the mask as channels, resized: (H, W, C), uint8, or float32 in [0, 1] if one of them needs it."""
        x_side, y_side = self.direction[0], self.direction[-1]
        a, b = (self.x, self.y) if x_side == "A" else (self.y, self.x)
        size = self.geometry.load if self.jitter else self.geometry.whole
        # Scored images stay exact, and decoding at a fraction of the size would mix masked pixels into the others
        exact = not self.jitter or self.nearest or self.masked
        sides = dict(zip("ABM", read_pair(self.pairs[index], a, b, None if exact else size), strict=False))
        width, height = shape = size(sides[x_side].shape[1::-1])
        if width * height > Image.MAX_IMAGE_PIXELS:
            raise DataError(f"{name_of(self.pairs[index].files[0])} becomes {width}×{height} with resize "
                            f"{self.geometry.resize}, which is too large")
        x_how, y_how = (self.geometry.how(label=side in self.nearest) for side in (x_side, y_side))
        x, y, mask = resize(sides[x_side], shape, x_how), sides[y_side], sides.get("M")
        if self.jitter and not self.masked and mask is not None:
            names = " and ".join(map(name_of, self.pairs[index].files))
            raise DataError(f"{names} hold pixels without a value (NaN or no data), which the first look at the data "
                            "did not find in any pair: masks in a folder M let training ignore them")
        if mask is not None:
            pixels = stack([x, *resize_masked(y, mask, shape, y_how)])
        else:
            white = [np.full((*x.shape[:2], 1), 255, np.uint8)] if self.masked else []
            pixels = stack([x, resize(y, shape, y_how), *white])
        return pad(pixels, self.geometry.crop) if self.jitter else pixels


def load_data(cfg: Config, world: int = 1, before: dict | None = None,
              resumed: bool = True) -> tuple[PairedImages, PairedImages]:
    """The training and the validation pairs.

    before: what the file says that the run goes on from (`resumed`) or has begun with; no pair changes its side.
    Raises FileNotFoundError or UserError when they cannot be used.
    """
    known = Known.of(before) if before else None
    patterns, photos = Patterns.of(cfg.plain()), cfg.space == "lab"
    found = usable_pairs(cfg.data_root, cfg.seed, known, resumed, patterns, cfg.group, photos)
    train_pairs, val_pairs = found.splits["train"], found.splits[found.validation]
    if cfg.batch_size * world > len(train_pairs):
        raise UserError(f"batch_size {cfg.batch_size}" + (f" × {world} processes" if world > 1 else "")
                         + f" is larger than the data set: {len(train_pairs)} training pairs")
    sizes = check_headers(train_pairs, skip=cfg.skip_unreadable, halved=found.known_to(known, "train"))
    check_headers(val_pairs, skip=cfg.skip_unreadable, halved=found.known_to(known, found.validation))
    geometry = Geometry(cfg.resize, cfg.load_size, cfg.crop_size, cfg.crop_width, cfg.interpolation)
    x, y = values_of(cfg.plain())
    seen = check_values(train_pairs, read_pictures, x, y, cfg.direction, colours=not cfg.n_labels)
    scored = evenly(val_pairs, cfg.n_val)
    say(f"{cfg.data_root}: {len(train_pairs)} training pairs, {describe(sizes, train_pairs)}, {cfg.direction}; "
        f"{len(scored)} of {len(val_pairs)} validation pairs scored")
    check_small(sizes, geometry)
    if cfg.best_by == "ms_ssim":
        check_shown(scored, geometry, 160)
    make = partial(PairedImages, direction=cfg.direction, x=x, y=y, geometry=geometry, label_side=cfg.label_side,
                   skip=cfg.skip_unreadable)
    masked = may_lack_values(train_pairs, seen.values())
    train_data, val_data = make(train_pairs, jitter=Jitter(cfg), masked=masked), make(scored)
    splits = "train", found.validation
    marks = [found.marks[split] for split in splits]
    looks = [found.seen_by(known)[split] for split in splits] if known else marks
    met = (known if known and resumed else Known()).next(*marks, np.concatenate(looks))
    train_data.record = {"usual_size": usual_size(sizes),
                         "size_range": size_range(sizes),
                         "kind": seen[cfg.direction[-1]].kind,
                         "inputs": len(train_pairs[0].inputs) if cfg.direction == "AtoB" else 1,
                         "colours": flat_colours(seen[cfg.direction[0]].samples),
                         "pairs": met.plain(),
                         "validated_on": digest(np.sort(evenly(marks[1][:, 0], cfg.n_val)).tobytes())}
    if known and resumed:
        tell_changes(looks, known)
        train_data.unchanged = np.array_equal(looks[0][:, 0], known.train[:, 0])
        val_data.unchanged = before.get("validated_on") in (None, train_data.record["validated_on"])
    val_data.split = found.validation
    if cfg.cache != "none":
        needed = world * sum(map(in_memory, (train_data, val_data)))  # each process has a cache of its own
        if cfg.cache == "ram" or needed <= AUTO_CACHE:
            say(f"reading the pairs once, into memory: {needed / 1e6:,.0f} MB")
            train_data.cache, val_data.cache = {}, {}
    return train_data, val_data


def tell_changes(now: Sequence[np.ndarray], known: Known) -> None:
    """Says how the training and the validation pairs differ from those that the run has last met."""
    said = []
    for name, new, old in zip(("training", "validation"), now, (known.train, known.val), strict=True):
        if len(old) and (change := changes(new, old)):
            said.append(f"{name} pairs: {change}")
    if said:
        say(f"the data is no longer what the run was trained on: {'; '.join(said)}")


def same_channels(pairs: list[np.ndarray]) -> list[np.ndarray]:
    """All with a mask where one has it: white where it was missing."""
    most = max(pair.shape[2] for pair in pairs)
    white = 255 if pairs[0].dtype == np.uint8 else 1
    return [pair if pair.shape[2] == most else np.pad(pair, ((0, 0), (0, 0), (0, 1)), constant_values=white)
            for pair in pairs]


def in_memory(data: PairedImages) -> float:
    """Bytes of all pairs in the cache, estimated from five; infinite if one of these cannot be read."""
    try:
        return len(data) * float(np.mean([data.read(index).nbytes for index in evenly(range(len(data)), 5)]))
    except DataError:
        return math.inf
