"""What the file of a generator tells of its training, whichever program wrote it."""

import contextlib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import nn

from config import Config
from pairs.geometry import Geometry, Size, Sizes
from pairs.identity import Known, Source
from pairs.images import read_header
from pairs.patterns import Patterns
from pairs.values import KINDS, Values, values_of
from runtime.checkpoint import VERSION
from utils import DataError, UserError

# Settings that are words, of which an unknown one would silently give other pictures
WORDS = {name: get_args(get_type_hints(Config)[name])
         for name in ("direction", "resize", "label_side", "space", "generator")}
WORDS |= {"interpolation": ("linear", "bicubic"), "dropout_blocks": ("paper", "release")}


def floats(values: Sequence) -> tuple[float, ...]:
    return tuple(map(float, values))


def ints(values: Sequence) -> tuple[int, ...]:
    return tuple(map(int, values))


# What a file tells beside sizes, patterns and pairs, and how it is read: JSON has lists for tuples
READ = dict(direction=str, space=str, n_labels=int, label_side=str, seed=int, range_a=floats, range_b=floats,
            bands_a=ints, bands_b=ints, kind=str, inputs=int, counts=str, ranged_inputs=ints, enlarge=float, epoch=int,
            colours=lambda colours: tuple((int(r), int(g), int(b), float(n)) for r, g, b, n in colours))


@dataclass(frozen=True)
class Trained:
    """What is known of a generator's training. A file that tells nothing leaves the defaults.

    A and B are the two sides of a pair; `direction` says which of them the network takes.
    """

    in_channels: int
    out_channels: int
    geometry: Geometry  # how images were resized
    direction: Literal["AtoB", "BtoA"] | None = None
    space: Literal["rgb", "lab"] = "rgb"  # lab: the network makes ab of L
    range_a: tuple[float, float] | None = None  # the numbers in A that became -1 and 1
    range_b: tuple[float, float] | None = None  # the same in B
    bands_a: tuple[int, ...] = ()  # of A's files that were taken, from 1; empty: all
    bands_b: tuple[int, ...] = ()  # the same of B's
    n_labels: int = 0  # classes, where the inputs were their indices
    label_side: str = "none"  # the side that held label maps: A, B, both or none
    kind: str = "uint8"  # of KINDS: the numbers of the targets
    inputs: int = 1  # images that go in together
    counts: str = ""  # the channels of several in A, such as "3 + 1"; empty: the file does not tell
    ranged_inputs: tuple[int, ...] = ()  # those of several, from 1, that range_a is for; empty: those of the most bits
    sizes: Sizes | None = None  # of the training images
    enlarge: float = 1.0  # by how much those that went in were, where the targets were larger
    epoch: int | None = None
    colours: tuple[tuple[int, int, int, float], ...] = ()  # of label maps that went in: red, green, blue, share
    known: Known | None = None  # the pairs that were trained on and held out; None: the file does not tell
    patterns: Patterns = Patterns()  # where the files of the sides lay
    seed: int = 0

    @classmethod
    def of_network(cls, gen: nn.Module, interpolation: str = "linear") -> "Trained":
        """Where there is nothing but the network: images of its own size, or of any if it has none."""
        geometry = Geometry("none", interpolation=interpolation)
        if gen.crop_size:
            geometry = Geometry("stretch", gen.crop_size, gen.crop_size, gen.crop_width, interpolation)
        return cls(gen.in_channels, gen.out_channels, geometry)

    @classmethod
    def of(cls, saved: Mapping[str, Any], gen: nn.Module) -> "Trained":
        """What was read from the file of `gen`. Raises ValueError or TypeError where it makes no sense."""
        if "config" not in saved:  # the authors' programs, which resize as Pillow does
            return cls.of_network(gen, interpolation="bicubic")
        told, geometry = saved["config"], Geometry.of(saved["config"])
        sizes = Sizes.of_file(saved["usual_size"], saved.get("size_range")) if "usual_size" in saved else None
        if sizes and min(geometry.whole(sizes.usual)) < 1:
            raise UserError(f"its training images are {sizes.usual[0]}×{sizes.usual[1]}")
        everything = {**told, **saved}
        found = cls(gen.in_channels, gen.out_channels, geometry,
                    **{name: read(everything[name]) for name, read in READ.items() if everything.get(name) is not None},
                    patterns=Patterns.of(told),
                    sizes=sizes,
                    known=Known.of(saved))
        if not 1 <= found.enlarge < math.inf:
            raise ValueError(f"inputs cannot have been enlarged by {found.enlarge}")
        found.values()  # says what is wrong with them
        return found

    def values(self, direction: str | None = None) -> tuple[Values, Values]:
        """What the numbers of x and of y mean, also for another direction than that of training."""
        return values_of(vars(self) | {"direction": direction or self.direction or "AtoB"})

    def enlarged(self, size: Size) -> Size:
        """Of the translation of an input of that size."""
        width, height = size
        return round(width * self.enlarge), round(height * self.enlarge)

    @property
    def x(self) -> Values:
        return self.values()[0]

    @property
    def y(self) -> Values:
        return self.values()[1]

    @property
    def input_side(self) -> str | None:
        """A or B, or None where the file does not tell."""
        return self.direction and self.direction[0]

    @property
    def target_side(self) -> str | None:
        return self.direction and self.direction[-1]

    def may_be_a_pair(self, source: Source) -> bool:
        """Whether the image would be, cut in two, what the network was trained on."""
        with contextlib.suppress(DataError):  # told by whoever needs it
            width, height = read_header(source).size
            if self.sizes:
                return (width // 2, height) == self.sizes.usual
            return self.geometry.resize == "stretch" and width == 2 * height  # the authors' networks, of squares
        return False

    @property
    def x_is_label(self) -> bool:
        """Whether label maps or class indices went in, which must not be blended."""
        return self.n_labels > 0 or self.label_side in ("both", self.input_side)

    @property
    def y_is_label(self) -> bool:
        """Whether label maps come out."""
        return self.label_side in ("both", self.target_side)


def trained_of(gen: nn.Module) -> Trained:
    """What `load_generator` read of `gen`; of a network that came from no file, its channels and its size."""
    return getattr(gen, "trained", None) or Trained.of_network(gen)


def check_pictures(trained: Trained, medium: str, holds: bool) -> None:
    """Raises UserError where the network does not take a picture, or does not make one that the medium `holds`."""
    x, y = trained.values()
    if trained.inputs > 1 or x.n_labels or x.channels not in (1, 3):
        what = f"{trained.inputs} inputs together" if trained.inputs > 1 else x
        raise UserError(f"the network takes {what}, where a {medium} gives one gray or colour image: predict.py "
                        "translates image files")
    if not holds:
        raise UserError(f"the outputs are {y.kind} of {y.written} channels, which no {medium} shows: predict.py "
                        "writes image files")


def mark_of(gen: nn.Module) -> str:
    """The SHA-256 of its weights: another network has another."""
    mark = hashlib.sha256()
    for value in gen.state_dict().values():
        mark.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return mark.hexdigest()


def crop_of(gen: nn.Module) -> Size | None:
    """The width and height of its training crops; None where the file does not tell them."""
    return (gen.crop_width or gen.crop_size, gen.crop_size) if gen.crop_size else None


def check_known(saved: Mapping[str, Any]) -> None:
    """Raises UserError where a newer version of this program wrote the file: what it means cannot be known."""
    newer = "a newer version of this program wrote it"
    if (version := int(saved.get("version", 1))) > VERSION:
        raise UserError(f"{newer}: its format is {version}, and this one knows {VERSION}")
    told = {"kind": saved.get("kind", "uint8"), **saved["config"]}
    for name, words in {"kind": KINDS, **WORDS}.items():
        if name in told and told[name] not in words:
            raise UserError(f"{newer}, or it is damaged: its {name} is {told[name]!r}, none of {', '.join(words)}")
