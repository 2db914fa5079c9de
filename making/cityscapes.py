"""Cityscapes as its makers hand it out: photos are A, labels B, in the splits train and val."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from making.folder import Job, Made, Out, There, check_names
from making.photos import encoded
from pairs.geometry import resize
from pairs.images import read_picture
from pairs.picture import to_array
from runtime.console import say
from utils import DataError, UserError, name_of

PHOTOS = "*_leftImg8bit.png"
LABELS = {"colors": "*_gt*_color.png", "ids": "*_gt*_labelIds.png"}
LEFT_OUT = {"test": "its labels are not published"}  # the official files are there, and empty


@dataclass(frozen=True)
class Cityscapes:
    """The official tree of Cityscapes: photos become A, labels B (the recipe cityscapes learns B to A)."""

    threads: ClassVar[int] = 4
    photos: Positional[Annotated[Path, arg(metavar="LEFTIMG8BIT")]]  # the folder leftImg8bit, which holds train and val
    labels_root: Positional[Annotated[Path, arg(metavar="GTFINE")]]  # the folder gtFine
    out: Out  # the folder of pairs to make, or to go on with
    size: tuple[int, int] | None = None  # width and height to resize to, such as 512 256; none keeps 2048 1024
    labels: Literal["colors", "ids"] = "colors"  # the official colours, or the 34 classes as numbers (--n-labels 34)
    preview: bool = False  # only draw a sheet of six pairs

    @property
    def inputs(self) -> list[Path]:
        return [self.photos, self.labels_root]

    def jobs(self, there: There) -> list[Job]:
        if self.size and min(self.size) < 1:
            raise UserError(f"size must be at least 1 1; it is {self.size[0]} {self.size[1]}")
        photos = files_in(self.photos, "leftImg8bit", PHOTOS)
        labels = files_in(self.labels_root, "gtFine", LABELS[self.labels])
        paired = {key: photo for key, photo in photos.items() if key in labels and key[0] not in LEFT_OUT}
        missing = Counter(split for split, _ in photos.keys() - paired.keys())
        for split, n in sorted(missing.items()):
            say(f"not used: {n} photos of {split}: {LEFT_OUT.get(split, f'they have no {LABELS[self.labels]}')}")
        if not paired:
            raise FileNotFoundError(f"no photo in {name_of(self.photos)} has labels in {name_of(self.labels_root)}")
        return [Job(key[1], partial(self.make, key[0], photo, labels[key]), key[0], (photo, labels[key]))
                for key, photo in paired.items()]

    def make(self, split: str, photo: Path, label: Path) -> Made:
        picture = read_picture(photo)
        drawn = read_picture(label)
        if picture.size != drawn.size:
            raise DataError(f"{name_of(photo)} and {name_of(label)} have two sizes")
        if self.labels == "ids" and drawn.indices is None:
            raise DataError(f"{name_of(label)} holds colours, not ids")
        if not self.size:
            return Made(split, photo, label)
        classes = drawn.indices[..., None] if self.labels == "ids" else to_array(drawn, 3)
        a = resize(to_array(picture, 3), self.size)
        b = resize(classes, self.size, "nearest")
        return Made(split, encoded(a), encoded(b))


def files_in(folder: Path, official: str, pattern: str) -> dict[tuple[str, str], Path]:
    """The file of each split and name. Raises FileNotFoundError, and UserError where two cities have one of a name."""
    _, mark, *_ = pattern.split("*")
    named = [(path.parts[-3], path.name.rpartition(mark)[0], path) for path in sorted(folder.glob(f"*/*/{pattern}"))]
    if not named:
        raise FileNotFoundError(f"{name_of(folder)} holds no SPLIT/CITY/{pattern}; it must be the folder {official} of "
                                "the official archive")
    check_names(named)
    return {(split, name): path for split, name, path in named}
