"""Tells from headers and pixels what is unlikely to be a pair, and which colours a label map has."""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pairs.find import Pair, evenly
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


def check_headers(pairs: list[Pair], at_most: int = 2000, skip: bool = False) -> str:
    """Reads the headers of up to `at_most` pairs (0: all), evenly spaced, and returns their sizes for a message.

    Says which are unlikely to be pairs. Raises DataError for the first pair that cannot be used; with `skip`, only when
    none can be; ValueError when most side-by-side files are not wider than high, but for names that end in _AB.
    """
    sizes, narrow, moving = Counter(), [], []
    for pair in evenly(pairs, at_most):
        try:
            found = [read_size(source) for source in pair]
            check_sizes(pair, found)
            width, height = found[0]
            sizes[width, height] += 1
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
    (width, height), _ = sizes.most_common(1)[0]
    layout = "side by side" if len(pairs[0]) == 1 else "each side"
    return f"{width}×{height} {layout}" + (f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else "")


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


def flat_colours(pairs: Sequence[Pair], read: Callable, side: int, at_most: int = 20) -> list[list] | None:
    """[red, green, blue, share] of each colour in label maps or line drawings, the commonest first.

    None where `side` (0 is A, 1 is B) holds photos. Shares are of up to `at_most` pairs, evenly spaced. What counts are
    flat places: at edges, JPEG disturbs the colours.
    """
    sides = []
    for pair in evenly(pairs, at_most):
        with contextlib.suppress(DataError):  # told by whoever needs the pair
            sides.append(read(pair)[side])
    pixels, flat = [np.zeros((0, 3), np.int32)], [np.zeros((0, 3), np.int32)]
    for image in sides:
        image = (image if image.dtype == np.uint8 else image * 255).astype(np.int32)
        step = max(1, min(image.shape[:2]) // 256)  # enough of a large image
        here = image[:-1:step, :-1:step]
        change = [abs(there - here) for there in (image[1::step, :-1:step], image[:-1:step, 1::step])]
        pixels.append(here.reshape(-1, 3))
        flat.append(here[np.max(change, axis=(0, 3)) <= 3])
    pixels, flat = np.concatenate(pixels), np.concatenate(flat)
    found = _peaks(flat)
    if not found or len(flat) < 0.3 * len(pixels):
        return None
    if len(found) == 1:  # lines on paper are too thin to be flat anywhere
        lines = pixels[abs(pixels - found[0][0]).max(1) > 64]
        found = [(found[0][0], len(pixels) - len(lines)), (_peaks(lines)[0][0], len(lines))] if len(lines) else []
    # A photo has flat places too, and white paper around what it shows; but what else is flat has any colour.
    elif sum(n for _, n in found[1:]) < 0.7 * (len(flat) - found[0][1]):
        return None
    total = sum(n for _, n in found)
    return [[*colour, n / total] for colour, n in found] or None


def _peaks(pixels: np.ndarray) -> list[tuple[tuple, int]]:
    """Up to 40 colours of (N, 3) that stand out, and how many pixels are within 6 of each; the commonest first.

    Within 12 of another there is no colour; within 24 of one that is 3 times as common it is JPEG's noise.
    """
    codes, n = np.unique(pixels @ (65536, 256, 1), return_counts=True)
    colours, peaks = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1), []
    while n.any() and len(peaks) < 40:
        colour = colours[n.argmax()]
        distance = abs(colours - colour).max(axis=1)
        if (count := int(n[distance <= 6].sum())) < 0.0005 * len(pixels):
            break
        if all(times < 3 * count or abs(colour - other).max() > 24 for other, times in peaks):
            peaks.append((tuple(colour.tolist()), count))
        n = np.where(distance < 12, 0, n)
    return sorted(peaks, key=lambda peak: -peak[1])
