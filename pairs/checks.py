"""Tells from headers and pixels what is unlikely to be a pair, or to be meant as the settings take it."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pairs.find import Pair, evenly
from pairs.geometry import Geometry
from pairs.images import has_frames, has_nodata, read_size
from pairs.palettes import sample
from pairs.picture import Picture, to_array
from pairs.values import KINDS, VOID, Values
from runtime.console import say
from utils import DataError, UserError, name_of


def check_sizes(pair: Pair, sizes: list[tuple[int, int]]) -> None:
    """Raises DataError when a side-by-side file has an odd width, or when the files of a pair differ in size."""
    first, *others = zip(pair.files, sizes, strict=True)
    if pair.side_by_side and first[1][0] % 2:
        raise DataError(f"{name_of(first[0])} is {first[1][0]}×{first[1][1]}: an odd width has no middle to split it "
                        "at")
    for source, size in others:
        if size != first[1]:
            raise DataError(f"{name_of(first[0])} is {first[1][0]}×{first[1][1]}, but {name_of(source)} is "
                            f"{size[0]}×{size[1]}: a pair must be of one size")


def check_headers(pairs: list[Pair], at_most: int = 2000, skip: bool = False) -> Counter:
    """Reads the headers of up to `at_most` pairs (0: all), evenly spaced, and counts the sizes of one side.

    Says which are unlikely to be pairs. Raises DataError for the first pair that cannot be used; with `skip`, only when
    none can be; ValueError when most side-by-side files are not wider than high, but for names that end in _AB.
    """
    sizes, narrow, moving = Counter(), [], []
    for pair in evenly(pairs, at_most):
        try:
            found = [read_size(source) for source in pair.files]
            check_sizes(pair, found)
            width, height = found[0]
            sizes[width // 2 if pair.side_by_side else width, height] += 1
            file = pair.files[0]
            if pair.side_by_side and width <= height and not file.stem.lower().endswith(("_ab", "-ab")):
                narrow.append(f"{name_of(file)} ({width}×{height})")
            moving += [name_of(source) for source in pair.files if has_frames(source)]
        except DataError as error:
            if not skip:
                raise
            problem = error
    if not sizes:
        raise DataError(f"none of the pairs can be read: {problem}")
    n = sizes.total()
    if narrow:
        sentence = (f"{len(narrow)} of {n} files are not wider than high, such as {narrow[0]}: they do not look like "
                    "two images side by side")
        if 2 * len(narrow) > n:
            raise UserError(f"{sentence}. Put the two sides into folders A and B, or name them 1_A, 1_B; if each file "
                            "does hold both, let the names end in _AB")
        say(sentence)
    if moving:
        say(f"{len(moving)} of {n} pairs hold files of several pages or frames, of which the first is taken, such as "
            f"{moving[0]}")
    return sizes


def may_lack_values(pairs: Sequence[Pair], seen: Iterable["Seen"]) -> bool:
    """Whether some pixels may hold no value: floats may be NaN, and a TIFF's header tells of a number for no data."""
    if any(side.kind == "float32" for side in seen):
        return True
    for pair in evenly(pairs, 2000):
        with contextlib.suppress(DataError):  # told by whoever needs the pair
            if any(map(has_nodata, pair.files)):
                return True
    return False


def describe(sizes: Counter, pairs: list[Pair]) -> str:
    """What `check_headers` has counted, for a message."""
    ((width, height), _), *others = sizes.most_common()
    size = f"{2 * width}×{height} side by side" if pairs[0].side_by_side else f"{width}×{height} each side"
    return size + (f" and {len(others)} other sizes" if others else "")


def check_small(sizes: Counter, geometry: Geometry) -> None:
    """Says how many of the training pairs that `check_headers` has counted are smaller than a crop."""
    width, height = geometry.crop
    loaded = [(geometry.load(size), n) for size, n in sizes.items()]
    if small := sum(n for size, n in loaded if size[0] < width or size[1] < height):
        say(f"{small} of {sizes.total()} training pairs are smaller than a crop, {width}×{height}, where it is taken: "
            "they are padded by reflection")


def check_shown(pairs: Sequence[Pair], geometry: Geometry, most: int) -> None:
    """Raises UserError for the first pair that validation shows with at most so many pixels a side."""
    for pair in pairs:
        with contextlib.suppress(DataError):  # told by whoever needs the pair
            width, height = read_size(pair.files[0])
            shown = geometry.whole((width // 2 if pair.side_by_side else width, height))
            if min(shown) <= most:
                raise UserError(f"best_by must be another than ms_ssim, which needs more than {most} pixels a side: "
                                f"validation shows {name_of(pair.files[0])} as {shown[0]}×{shown[1]}")


@dataclass
class Seen:
    """What the files of one side hold, as far as they were read."""

    kind: str = "uint8"  # of KINDS: the narrowest that holds their numbers
    low: float = math.inf  # of floats, all but a thousandth at either end lie between the two
    high: float = -math.inf
    channels: Counter = field(default_factory=Counter)
    indices: set[int] | None = field(default_factory=set)  # all values; None where they cannot be class indices
    used: np.ndarray = field(default_factory=lambda: np.zeros(256, bool))  # of the range that `Values` says
    samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # of colours, for `flat_colours`

    def add(self, pictures: Sequence[Picture]) -> None:
        """One pair's pictures."""
        self.channels[" + ".join(str(picture.channels) for picture in pictures)] += 1
        for picture in pictures:
            kind, array, indices = picture.kind, picture.array, picture.indices
            if picture.valid is not None:
                array = array[picture.valid]
                indices = None if indices is None else indices[picture.valid]
            if kind == "float32" != self.kind:  # beside floats, what is of 8 or 16 bits needs no range
                self.low, self.high = math.inf, -math.inf
            self.kind = max(self.kind, kind, key=KINDS.index)
            finite = array[np.isfinite(array)] if kind == "float32" else array
            if finite.size and (kind == "float32" or self.kind != "float32"):
                ends = np.percentile(finite, [0.1, 99.9]) if kind == "float32" else (finite.min(), finite.max())
                self.low, self.high = min(self.low, float(ends[0])), max(self.high, float(ends[1]))
            flat = self.indices is not None and indices is not None and indices.dtype.kind in "iu"
            found = self.indices | {*np.unique(indices).tolist()} - {VOID} if flat else None
            self.indices = found if found and 0 <= min(found) <= max(found) < 64 else None

    def range(self) -> str:
        """The two values, rounded outward to two digits, for a command line."""
        ends = (self.low, self.high if self.high > self.low else self.low + 1) if self.low < math.inf else (0, 1)
        powers = [10.0 ** (1 - math.floor(math.log10(abs(v)))) if v else 1.0 for v in ends]
        return f"{math.floor(ends[0] * powers[0]) / powers[0]:.6g} {math.ceil(ends[1] * powers[1]) / powers[1]:.6g}"

    def __str__(self) -> str:
        return f"channels {' or '.join(self.channels)}, {self.kind}, {self.low:.6g} to {self.high:.6g}"


def check_values(pairs: Sequence[Pair], read: Callable, x: Values, y: Values, direction: str,
                 at_most: int = 20, colours: bool = False) -> dict[str, Seen]:
    """What A and B of up to `at_most` pairs hold, evenly spaced; says where that is unlikely to be meant so.

    read(pair) returns the pictures of A and of B. With `colours`, those of x's pictures are sampled too.
    Raises UserError where numbers need a range, and proposes one.
    """
    seen, wanted = {"A": Seen(), "B": Seen()}, {direction[0]: x, direction[-1]: y}
    for pair in evenly(pairs, at_most):
        with contextlib.suppress(DataError):  # told by whoever needs the pair
            sides = dict(zip("AB", read(pair), strict=False))
            for name, pictures in sides.items():
                seen[name].add(pictures)
            for name, pictures in sides.items():
                if not wanted[name].n_labels:
                    values = wanted[name].array(pictures)
                    seen[name].used[values if values.dtype == np.uint8 else (values * 255).astype(np.uint8)] = True
            pictures = sides[direction[0]]
            if colours and len(pictures) == 1:
                seen[direction[0]].samples.append(sample(to_array(pictures[0], 3)))
    for name, side in seen.items():
        values, used = wanted[name], np.flatnonzero(side.used)
        flag = f"--range-{name.lower()} {side.range()}" if side.channels else ""
        if side.kind == "float32" and not values.limits and not values.n_labels:
            raise UserError(f"side {name} holds numbers of which nobody knows what is black and what is white: {flag} "
                            f"takes in nearly all of those in {side.channels.total()} pairs")
        if len(used) > 2 and used[-1] == 255:  # label maps often mark by white what belongs to no class
            used = used[:-1]
        if name == direction[0] and side.indices and (top := max(side.indices)) >= max(1, values.n_labels):
            say(f"side {name} looks like class indices, 0 to {top}: --n-labels {top + 1} makes each a channel"
                + (f", and those from {values.n_labels} on belong to no class" if values.n_labels else ""))
        elif len(used) and used[-1] - used[0] < 25:
            say(f"side {name} uses less than a tenth of its range, {used[0] / 255:.0%} to {used[-1] / 255:.0%}: class "
                "indices or depth train better spread over all of it" + (f", {flag}" if side.high != VOID else ""))
    return seen
