"""Reads the files of a pair: as pictures, or as arrays."""

from collections.abc import Callable

import numpy as np

from pairs.geometry import Size
from pairs.identity import Pair
from pairs.images import read_picture, read_size
from pairs.picture import Picture
from pairs.values import Values, mask_array
from utils import DataError, name_of


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
    reduce = fraction((width, height), wanted)
    inputs = [read_picture(source, reduce) for source in pair.inputs]
    if pair.side_by_side:
        return [[half] for half in inputs[0].halves()]
    target = inputs if pair.alone else [read_picture(pair.target, reduce)]
    mask = [] if pair.mask is None else [[read_picture(pair.mask, nodata=False)]]  # of which a tag may name white
    return [inputs, target, *mask]


def fraction(size: Size, wanted: Size) -> int:
    """The largest of 8, 4, 2 and 1 that divides a size without a rest and leaves at least what is wanted."""
    for n in (8, 4, 2):
        exact = not any(side % n for side in size)
        if exact and all(side >= n * least for side, least in zip(size, wanted, strict=True)):
            return n
    return 1


def read_pair(pair: Pair, a: Values, b: Values, enough: Callable[[Size], Size] | None = None) -> list[np.ndarray]:
    """The arrays of A and B, by `Values.array`; and, unless all pixels count, of the mask, by `mask_array`."""
    of_a, of_b, *masks = read_pictures(pair, enough)
    mask = mask_array(masks[0][0] if masks else None, [*of_a, *of_b])
    return [a.array(of_a), b.array(of_b), *([] if mask is None else [mask])]
