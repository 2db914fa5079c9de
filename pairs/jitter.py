"""The jitter of training: crops, mirrors, turns and colours, drawn by albumentations (appendix 6.2)."""

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from importlib import metadata

import numpy as np

from config import Config
from pairs.identity import Pair
from pairs.values import Values
from utils import UserError


class Jitter:
    """Crops and turns a pair and, if asked, changes its colours; the draws depend on (seed, epoch, index) only.

    Of labels, new colours would be wrong: there the target gets them.
    """

    def __init__(self, cfg: Config):
        check_albumentations()
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it asks the internet for its newest version
        import albumentations as A  # takes a third as long as torch, and training alone needs it

        width = cfg.crop_width or cfg.crop_size
        height = cfg.crop_size
        strength = cfg.color_jitter
        around = (1 - strength, 1 + strength)
        self.color = [A.ColorJitter(around, around, around, (-strength / 2, strength / 2), p=1)] if strength else []
        self.seed = cfg.seed
        self.recolours_x = not cfg.input_is_label
        turns = [A.HorizontalFlip(p=0.5 if cfg.flip == "mirror" else 0)]
        if cfg.flip == "all":  # a rectangle has four symmetries, a square all eight
            turns = [A.D4(p=1)] if width == height else [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
        self.place = A.Compose([A.RandomCrop(height, width), *turns])

    def __call__(self, pair: np.ndarray, x: Values, y: Values, epoch: int, index: int) -> np.ndarray:
        """(H, W, C) → (crop_size, crop_width, C), where C counts the channels of x, y and the mask."""
        for number, transform in enumerate([*self.place, *self.color], 1):  # Compose would give all the same seed
            seed = np.random.SeedSequence((self.seed, epoch, index, number)).generate_state(4)
            transform.set_random_seed(int.from_bytes(seed.tobytes(), "little"))
        for transform in self.color:
            sides = np.split(pair, [x.stored, x.stored + y.stored], axis=2)
            side = 0 if self.recolours_x else 1
            sides[side] = transform(image=np.ascontiguousarray(sides[side]))["image"]
            if side and sides[2].size:
                sides[1] = sides[1] * (sides[2] > 0)  # what is hidden stays black
            pair = np.concatenate(sides, axis=2)
        return placed(self.place, pair)


def check_colours(pairs: Sequence[Pair], cfg: Config) -> None:
    """Raises UserError where color_jitter would mix the several pictures of a side."""
    side = cfg.direction[-1] if cfg.input_is_label else cfg.direction[0]
    if cfg.color_jitter and side == "A" and len(pairs[0].inputs) > 1:
        raise UserError(f"color_jitter changes one picture, and side A holds {len(pairs[0].inputs)}: --color-jitter 0 "
                        "leaves them as they are")


def placed(place: Callable, image: np.ndarray) -> np.ndarray:
    """The same crop and turn of all channels: OpenCV, which mirrors, takes at most 128, so that most go as a mask."""
    if image.shape[2] <= 64:
        return place(image=image)["image"]
    parts = place(image=image[..., :64], mask=image[..., 64:])
    return np.concatenate([parts["image"], parts["mask"]], axis=2)


def check_albumentations() -> None:
    """Raises UserError unless the package that draws the jitter is the one it was proven with.

    AlbumentationsX puts itself into the same folder: under the AGPL, with telemetry, and with other draws from a seed.
    """
    installed = []
    for name in ("albumentations", "albumentationsx"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed.append(f"{name} {metadata.version(name)}")
    found = ", ".join(installed) or "none"
    if not re.fullmatch(r"albumentations 2\.([1-9]|0\.([89]|\d\d))[^,]*", found):
        raise UserError(f"training needs albumentations>=2.0.8,<3, and here is {found}: pip uninstall albumentationsx, "
                        "then pip install --force-reinstall 'albumentations>=2.0.8,<3'")
