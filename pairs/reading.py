"""Reads the files of a pair: as pictures, or as arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pairs.geometry import Interpolation, Size, has_shape_of, largest_of, resized
from pairs.identity import Pair
from pairs.images import Header, read_header, read_picture
from pairs.picture import Picture
from pairs.values import Values, mask_array, mask_weight
from utils import DataError, name_of


def side_sizes(pair: Pair, headers: Sequence[Header] = ()) -> tuple[Size, ...]:
    """Width and height of the inputs and the target, or of one half, from the headers of the files, which may be given.

    Raises DataError when a side-by-side file has an odd width, when the files of the sides are not of one shape, or
    when the mask has the size of none of them.
    """
    sizes = [header.size for header in headers or map(read_header, pair.files)]
    if pair.side_by_side:
        width, height = sizes[0]
        if width % 2:
            raise DataError(f"{name_of(pair.files[0])} is {width}×{height}: an odd width has no middle to split it at")
        return ((width // 2, height),)
    n = len(pair.sides)
    sides = tuple(sizes[:n])
    most = largest_of(sides)
    for i, size in enumerate(sizes):
        if size != most and not (size in sides if i >= n else has_shape_of(size, most)):
            first = name_of(pair.files[sizes.index(most)])
            rule = ("a mask must have the size of a side" if i >= n else
                    "a pair must be of one shape, so that the smaller image can be enlarged: cut both to the same "
                    "place")
            raise DataError(f"{first} is {most[0]}×{most[1]}, but {name_of(pair.files[i])} is {size[0]}×{size[1]}: "
                            f"{rule}")
    return sides


def read_pictures(pair: Pair, enough: Callable[[Size], Size] | None = None,
                  how: tuple[Interpolation, Interpolation] = ("nearest", "nearest"), masked: str = ""
                  ) -> tuple[list[Picture], list[Picture], Picture | None]:
    """The pictures of the pair's sides A and B, and that of the mask, if there is one.

    A may have several images, its inputs. In a side-by-side file, A is the left half. All images have the same height
    and width, as the smaller ones are enlarged (`how`: of A and of B; of the side that is `masked`, what the mask hides
    adds nothing to other pixels), except that JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if that leaves at
    least enough(size) pixels: this is several times faster than shrinking them afterwards. Raises DataError.
    """
    sizes = side_sizes(pair)
    size = largest_of(sizes)
    wanted = enough(size) if enough else size
    reduce = [fraction(own, wanted) for own in sizes]
    inputs = list(map(read_picture, pair.inputs, reduce))
    if pair.side_by_side:
        left, right = inputs[0].halves()
        return [left], [right], None
    if len({*sizes}) == 1 < len({picture.size for picture in inputs}):  # JPEGs at a fraction beside others, whole
        inputs = list(map(read_picture, pair.inputs))
    target = inputs if pair.alone else [read_picture(pair.target, reduce[-1])]
    mask = None if pair.mask is None else read_picture(pair.mask, nodata=False)  # of which a tag may name white
    if len({*sizes}) > 1:
        size = largest_of([picture.size for picture in (*inputs, *target)])
        mask = mask and resized(mask, size, "nearest")
        shown = mask and mask_weight(mask)[..., 0] > 0
        inputs, target = ([resized(picture, size, each, shown if name == masked else None) for picture in side]
                          for name, side, each in zip("AB", (inputs, target), how, strict=True))
    return inputs, target, mask


def fraction(size: Size, wanted: Size) -> int:
    """The largest of 8, 4, 2 and 1 that divides a size without a rest and leaves at least what is wanted."""
    for n in (8, 4, 2):
        exact = not any(side % n for side in size)
        if exact and all(side >= n * least for side, least in zip(size, wanted, strict=True)):
            return n
    return 1


def read_pair(pair: Pair, a: Values, b: Values, *more: Any) -> list[np.ndarray]:
    """The arrays of A and B, by `Values.array`; and, unless all pixels count, of the mask, by `mask_array`.

    more: what `read_pictures` takes behind the pair.
    """
    of_a, of_b, mask = read_pictures(pair, *more)
    mask = mask_array(mask, [*of_a, *of_b])
    return [a.array(of_a), b.array(of_b), *([] if mask is None else [mask])]
