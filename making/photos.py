"""Pairs from photos alone: the photo is B, and A is what can be made of it."""

import contextlib
import functools
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
from tyro.conf import Positional, arg

from making.edges import edges
from making.folder import Job, Made, Out, There, check_names, share, split_of
from pairs.find import list_images
from pairs.geometry import resize
from pairs.images import drawn_here, png, read_header, read_picture
from pairs.patterns import SPLIT_OF
from pairs.picture import to_array
from runtime.console import say
from utils import DataError, UserError, name_of

LOADED = 286  # pixels: to what training shrinks pairs unless told otherwise


@dataclass(frozen=True)
class Photos:
    """Pairs from photos alone: the photo is B, and A is made of it."""

    threads: ClassVar[int] = 4
    photos: Positional[Annotated[Path, arg(metavar="PHOTOS")]]  # a folder, sub-folders included; train, val, test stay
    out: Out  # the folder of pairs to make, or to go on with
    input: Literal["edges", "gray", "hole", "small", "blur"]  # what A is: lines, gray, a photo with holes, ...
    size: int = 0  # pixels of the shorter side, to which larger photos are shrunk first; 0 keeps all as they are
    sigma: float = 2.0  # pixels: width of the Gaussian that smooths before edges are looked for, or that blurs
    threshold: float = 25.0  # of 255: weaker steps are no edges
    factor: float = 4.0  # by which small shrinks the photo, before it is enlarged to its size again
    masks: Path | None = None  # a folder of pictures, white where holes are; none draws boxes
    val: float = 0.1  # share that is held out; 0 leaves it to training
    preview: bool = False  # only draw a sheet of six pairs

    @property
    def inputs(self) -> list[Path]:
        return [path for path in (self.photos, self.masks) if path]

    def jobs(self, there: There) -> list[Job]:
        for folder in self.inputs:
            if not folder.is_dir():
                raise FileNotFoundError(f"{name_of(folder)} is no folder")
        masks = list_images(self.masks) if self.masks else []
        if self.masks and not masks:
            raise FileNotFoundError(f"0 masks in {name_of(self.masks)}")
        if masks and self.input != "hole":
            raise UserError(f"masks are for --input hole, not for --input {self.input}")
        bounds = {"size": (0, 10**5), "sigma": (0.1, 100), "threshold": (1, 10**5), "factor": (1, 10**5)}
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} must be from {least} to {most}; it is {getattr(self, name)}")
        found = list_images(self.photos)
        real = functools.cache(Path.resolve)
        once = {real(path.parent) / path.name: path for path in found[::-1]}  # links show some folders again
        photos = [path for path in sorted(once.values()) if not drawn_here(path)]
        if not photos:
            raise FileNotFoundError(f"0 images in {name_of(self.photos)}")
        named = [(*split_in_path(path.relative_to(self.photos)), path) for path in photos]
        check_names(named)
        stems = {mask.stem for mask in masks}
        if masks and (n := sum(path.stem not in stems for path in photos)):
            say(f"photos without a mask of their name, for which one is drawn: {n} of {len(photos)}")
        if self.input == "edges" and not self.size:
            with contextlib.suppress(DataError):  # it is told later
                width, height = read_header(photos[0]).size
                if min(width, height) > 2 * LOADED:
                    say(f"{name_of(photos[0])} has {width}×{height} pixels, and lines of one pixel fade where training "
                        f"shrinks them: --size {LOADED} makes edges of the photos at the size that training loads, "
                        "unless you train on crops of the full size (--resize none)")
        return [Job(name, partial(self.make, path, name, split, masks), split, (path,))
                for split, name, path in named]

    def make(self, path: Path, name: str, split: str, masks: list[Path]) -> Made:
        picture = read_picture(path)
        array = to_array(picture, 1 if picture.channels == 1 else 3)
        b = path
        shorter = min(picture.size)
        if 0 < self.size < shorter:
            scale = self.size / shorter
            array = resize(array, tuple(max(1, round(side * scale)) for side in picture.size))
            b = encoded(array)
        a = encoded(self.input_of(array, path, name, masks))
        return Made(split or split_of(path.read_bytes(), self.val), a, b)

    def input_of(self, photo: np.ndarray, path: Path, name: str, masks: list[Path]) -> np.ndarray:
        """(H, W, C) of uint8, or float32 in [0, 1], and of the same size."""
        white = 255 if photo.dtype == np.uint8 else 1
        if self.input == "edges":
            found = edges(photo * np.float32(255 / white), self.sigma, self.threshold)
            return np.where(found, 0, 255).astype(np.uint8)
        if self.input == "gray":
            return cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY) if photo.shape[2] == 3 else photo
        if self.input == "blur":
            return cv2.GaussianBlur(photo, (0, 0), self.sigma)
        size = photo.shape[1::-1]
        if self.input == "small":
            small = tuple(max(1, round(side / self.factor)) for side in size)
            return resize(resize(photo, small), size)
        hole = mask_for(path, name, size, masks) if masks else boxes(name, size)
        return np.where(hole[..., None], photo.dtype.type(white), photo)


def split_in_path(path: Path) -> tuple[str, str]:
    """The split that a folder names, the outermost of several, if any, and what the pair is called."""
    name = path.with_suffix("").as_posix()
    first, _, rest = name.partition("/")
    split = next((SPLIT_OF[word] for word in name.lower().split("/")[:-1] if word in SPLIT_OF), "")
    return split, rest if first.lower() in SPLIT_OF and rest else name


def boxes(name: str, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, True in one to three boxes, each side a quarter to a half of the picture's: a matter of the name."""
    rng = np.random.default_rng(int(share(name.encode()) * 2**48))
    hole = np.zeros(size[::-1], bool)
    for _ in range(rng.integers(1, 4)):
        sides = [max(1, int(side * rng.uniform(0.25, 0.5))) for side in hole.shape]
        top, left = (int(rng.integers(0, whole - side + 1)) for whole, side in zip(hole.shape, sides, strict=True))
        hole[top : top + sides[0], left : left + sides[1]] = True
    return hole


def mask_for(photo: Path, name: str, size: tuple[int, int], masks: list[Path]) -> np.ndarray:
    """(H, W) bool, True where the mask of this name is white, or that which the name draws among all.

    Of several of one name, it is that whose folders are called like the photo's, from the inmost outwards.
    """
    drawn = masks[int(share(name.encode()) * len(masks))]
    own = [mask for mask in masks if mask.stem == photo.stem]
    alike = {mask: len(os.path.commonprefix([mask.parts[-2::-1], photo.parts[-2::-1]])) for mask in own}
    mask = max(own, key=lambda mask: (alike[mask], -len(mask.parts)), default=drawn)
    array = to_array(read_picture(mask).painted(), 1)
    return resize(array, size, "nearest")[..., 0] > array.max() / 2


def encoded(array: np.ndarray) -> bytes:
    """The PNG of uint8, or of float32 in [0, 1], which takes 16 bits."""
    if array.dtype != np.uint8:
        array = (array * 65535).round().astype(np.uint16)
    return png(array)
