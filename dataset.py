"""Pairs of images as tensors: cut, resized and jittered together (appendix 6.2)."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version
import albumentations as A  # noqa: E402
import cv2  # noqa: E402

from config import Config  # noqa: E402
from pairs.find import Pair, evenly, name_hash, usable_pairs  # noqa: E402
from pairs.images import levels, read_image, read_size, to_array  # noqa: E402
from pairs.plausible import check_headers, check_sizes, dark_sides  # noqa: E402
from runtime.devices import usable_cores  # noqa: E402
from utils import DataError, UserError, name_of, say  # noqa: E402


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
    if len(images) == 1 and isinstance(images[0], np.ndarray):
        images = np.hsplit(images[0], 2)
    elif len(images) == 1:
        width, height = images[0].size
        images = [images[0].crop((0, 0, width // 2, height)), images[0].crop((width // 2, 0, width, height))]
    return to_array(images[0], channels_a, name_of(pair[0])), to_array(images[1], channels_b, name_of(pair[-1]))


def resize(image: np.ndarray, size: int, nearest: bool = False) -> np.ndarray:
    """(H, W, C) → (size, size, C); averages areas where it shrinks, interpolates linearly where it enlarges."""
    height, width, channels = image.shape
    if nearest:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    else:  # one axis may shrink while the other grows
        image = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return image.reshape(size, size, channels)


def to_tensor(image: np.ndarray) -> Tensor:
    """(H, W, C), uint8 or float32 in [0, 1] → (C, H, W), uint8 as it is or float in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return tensor if image.dtype == np.uint8 else tensor * 2 - 1


def normalise(images: Tensor) -> Tensor:
    """What `to_tensor` returns, as float in [-1, 1]."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images


class PairedImages(Dataset):
    """Pairs (x, y), each a float (C, crop_size, crop_size) tensor in [-1, 1].

    Training pairs are jittered (appendix 6.2): resized to load_size, cropped and mirrored together, by draws that
    depend on (seed, epoch, index) alone, each transform its own. Validation pairs are only resized to crop_size.
    An item is asked for by index, or by (epoch, index). Raises DataError when a file cannot be used.
    """

    cache: list[dict | DataError] | None = None
    record: dict | None = None  # what a checkpoint keeps of the data: held_out and trained_on

    def __init__(self, pairs: list[Pair], cfg: Config, train: bool):
        self.pairs, self.cfg, self.train = pairs, cfg, train
        self.channels = {"A": cfg.in_channels, "B": cfg.out_channels}
        if cfg.direction == "BtoA":
            self.channels = {"A": cfg.out_channels, "B": cfg.in_channels}
        jitter = [A.RandomCrop(cfg.crop_size, cfg.crop_size), A.HorizontalFlip(p=0.5 if cfg.flip else 0)]
        self.jitter = A.Compose(jitter, additional_targets={"b": "image"})
        strength = cfg.color_jitter
        self.color = A.Compose([A.ColorJitter((1 - strength, 1 + strength), (1 - strength, 1 + strength),
                                              (1 - strength, 1 + strength), (-strength / 2, strength / 2), p=1)])
        self.transforms = [*self.jitter, *(self.color if strength else [])]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        x, y = self.pixels(key)
        return normalise(x), normalise(y)

    def fill_cache(self) -> None:
        """Reads every pair into memory, resized but not jittered yet."""
        def read(index: int) -> dict | DataError:
            try:
                return self._read(index)
            except DataError as error:
                if not self.cfg.skip_unreadable:
                    raise
                return error

        with ThreadPoolExecutor(usable_cores()) as pool:
            self.cache = list(pool.map(read, range(len(self))))

    def _read(self, index: int) -> dict[str, np.ndarray]:
        """The sides A and B, (H, W, C) each, resized."""
        cfg = self.cfg
        size = cfg.load_size if self.train else cfg.crop_size
        enough = size if self.train and cfg.label_side == "none" else 0  # targets that are scored stay exact
        arrays = read_pair(self.pairs[index], self.channels["A"], self.channels["B"], enough)
        sides = dict(zip("AB", arrays, strict=True))
        for side in "AB":
            sides[side] = resize(sides[side], size, nearest=cfg.label_side in (side, "both"))
        return sides

    def pixels(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The item before `normalise`: a quarter of the bytes to hand from process to process and to a GPU."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        cfg, sides = self.cfg, self.cache[index] if self.cache else self._read(index)
        if isinstance(sides, DataError):
            raise sides
        sides = dict(sides)
        if self.train:
            for number, transform in enumerate(self.transforms, 1):  # apart: what Compose seeds would draw the same
                seed = np.random.SeedSequence((cfg.seed, epoch, index, number)).generate_state(4)
                transform.set_random_seed(int.from_bytes(seed.tobytes(), "little"))
            if cfg.color_jitter:
                sides[cfg.color_jitter_side] = self.color(image=sides[cfg.color_jitter_side])["image"]
            jittered = self.jitter(image=sides["A"], b=sides["B"])
            sides = {"A": jittered["image"], "B": jittered["b"]}
        x, y = sides[cfg.direction[0]], sides[cfg.direction[-1]]
        return to_tensor(x), to_tensor(y)


def check_ranges(pairs: list[Pair], at_most: int = 20) -> None:
    """Says which sides of up to `at_most` pairs, evenly spaced, use less than a tenth of their range."""
    used = [np.zeros(256, bool), np.zeros(256, bool)]
    for pair in evenly(pairs, at_most):
        try:
            used = [before | levels(image) for before, image in zip(used, read_pair(pair, 3, 3), strict=True)]
        except DataError:  # told by whoever needs the pair
            continue
    for sentence in dark_sides(used):
        say(sentence)


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
    check_ranges(train_pairs)
    scored = evenly(val_pairs, cfg.n_val)
    say(f"{cfg.data_root}: {len(train_pairs)} training pairs, {sizes}, {cfg.direction}; "
        f"{len(scored)} of {len(val_pairs)} validation pairs scored")
    both = PairedImages(train_pairs, cfg, train=True), PairedImages(scored, cfg, train=False)
    both[1].split = "val" if found.splits.get("val") else "test"
    both[0].record = {"held_out": found.held_out, "trained_on": torch.tensor(list(map(name_hash, found.names)))}
    if cfg.cache == "ram":
        for data in both:
            data.fill_cache()
        size = sum(image.nbytes for data in both for sides in data.cache if isinstance(sides, dict)
                   for image in sides.values())
        say(f"cache: {len(both[0]) + len(both[1])} pairs in memory, {size / 1e9:.2f} GB")
    return both
