"""Tells what is unlikely to be a pair, from the headers of files and the values in use."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pairs.find import Pair, evenly
from pairs.geometry import Geometry
from pairs.images import has_frames, read_size
from runtime.console import say
from utils import DataError, UserError, name_of


def check_sizes(pair: Pair, sizes: list[tuple[int, int]]) -> None:
    """Raises DataError when a side-by-side file has an odd width, or when A and B differ in size."""
    if len(pair) == 1 and sizes[0][0] % 2:
        raise DataError(f"{name_of(pair[0])} is {sizes[0][0]}×{sizes[0][1]}: an odd width has no middle to split it at")
    if sizes[0] != sizes[-1]:
        raise DataError(f"{name_of(pair[0])} is {sizes[0][0]}×{sizes[0][1]}, but {name_of(pair[1])} is "
                        f"{sizes[1][0]}×{sizes[1][1]}: a pair must be of one size")


def check_headers(pairs: list[Pair], at_most: int = 2000, skip: bool = False) -> Counter:
    """Reads the headers of up to `at_most` pairs (0: all), evenly spaced, and counts the sizes of one side.

    Says which are unlikely to be pairs. Raises DataError for the first pair that cannot be used; with `skip`, only when
    none can be; ValueError when most side-by-side files are not wider than high, but for names that end in _AB.
    """
    sizes, narrow, moving = Counter(), [], []
    for pair in evenly(pairs, at_most):
        try:
            found = [read_size(source) for source in pair]
            check_sizes(pair, found)
            width, height = found[0]
            sizes[width * len(pair) // 2, height] += 1
            if len(pair) == 1 and width <= height and not pair[0].stem.lower().endswith(("_ab", "-ab")):
                narrow.append(f"{name_of(pair[0])} ({width}×{height})")
            moving += [name_of(source) for source in pair if has_frames(source)]
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


def describe(sizes: Counter, pairs: list[Pair]) -> str:
    """What `check_headers` has counted, for a message."""
    ((width, height), _), *others = sizes.most_common()
    size = f"{2 * width}×{height} side by side" if len(pairs[0]) == 1 else f"{width}×{height} each side"
    return size + (f" and {len(others)} other sizes" if others else "")


def check_small(sizes: Counter, geometry: Geometry) -> None:
    """Says how many of the training pairs that `check_headers` has counted are smaller than a crop."""
    width, height = geometry.crop
    loaded = [(geometry.load(size), n) for size, n in sizes.items()]
    if small := sum(n for size, n in loaded if size[0] < width or size[1] < height):
        say(f"{small} of {sizes.total()} training pairs are smaller than a crop, {width}×{height}, where it is taken: "
            "they are padded by reflection")


def check_ranges(pairs: Sequence[Pair], read: Callable, at_most: int = 20) -> None:
    """Says which sides of up to `at_most` pairs, evenly spaced, use less than a tenth of their range.

    White beside other values is left out of account: label maps often mark by it what belongs to no class.
    """
    used = np.zeros((2, 256), bool)
    for pair in evenly(pairs, at_most):
        with contextlib.suppress(DataError):  # told by whoever needs the pair
            for row, side in zip(used, read(pair), strict=True):
                row[side if side.dtype == np.uint8 else (side * 255).astype(np.uint8)] = True
    for name, row in zip("AB", used, strict=True):
        values = np.flatnonzero(row)
        if len(values) > 2 and values[-1] == 255:
            values = values[:-1]
        if len(values) and values[-1] - values[0] < 25:
            say(f"side {name} uses less than a tenth of its range, {values[0] / 255:.0%} to {values[-1] / 255:.0%}: "
                "class indices or depth train better spread over all of it")
