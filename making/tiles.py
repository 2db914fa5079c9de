"""Aligned tiles of two rasters of one place, which may have other resolutions, extents and projections."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from making.folder import Blocks, Job, Made, Out, There
from making.raster import Raster, Span, place, shared
from runtime.console import say
from utils import UserError, name_of

BLOCKS = 10  # at least, where the map is large enough: one of ten is held out


@dataclass(frozen=True)
class Tiles:
    """Two rasters of one place, cut into aligned, georeferenced tiles; blocks of the map are held out, not tiles."""

    threads: ClassVar[int] = 1  # GDAL's open files are not to be shared
    too_few: ClassVar[str] = (", tiles that overlap or touch others, whose scores say nothing of new places: a smaller "
                              "--size makes blocks to hold out")
    a: Positional[Annotated[Path, arg(metavar="A.tif")]]  # the raster of A
    b: Positional[Annotated[Path, arg(metavar="B.tif")]]  # the raster of B; the coarser one is resampled to the finer
    out: Out  # the folder of pairs to make, or to go on with
    size: int = 512  # pixels of a side of a tile, in the finer raster
    overlap: int = 0  # pixels that neighbours share, inside a block
    block: int = 4  # tiles of a side of a block, at most: a map of fewer than ten blocks has smaller ones
    label_side: Literal["none", "A", "B"] = "none"  # that is resampled by nearest neighbour, as classes must be
    val: float = 0.1  # share of the blocks that is held out; 0 leaves it to training
    preview: bool = False  # only draw a sheet of six pairs

    @property
    def inputs(self) -> list[Path]:
        return [self.a, self.b]

    @property
    def rules(self) -> int:
        """Another number wherever pixels or blocks become others: no folder mixes two."""
        return 2 if any(Raster(path).in_bands for path in self.inputs) else 1

    def jobs(self, there: There) -> list[Job]:
        if self.size < 16 or not 0 <= self.overlap < self.size or self.block < 1:
            raise UserError("size must be at least 16, overlap from 0 to below size, and block at least 1; they are "
                            f"{self.size}, {self.overlap} and {self.block}")
        a = Raster(self.a)
        b = Raster(self.b)
        place(a, b)
        grid, other = (b, a) if a.resolution_in(b) > 1 + 1e-6 else (a, b)
        across, down = shared(grid, other)
        width, height = (max(0, end - begin) for begin, end in (across, down))
        if min(width, height) < self.size:
            raise UserError(f"{name_of(self.a)} and {name_of(self.b)} share {width}×{height} pixels, less than a tile "
                            f"of --size {self.size}")
        n = next((n for n in range(self.block, 1, -1)
                  if len(self.spans(across, n)) * len(self.spans(down, n)) >= BLOCKS), 1)
        tiles = [((i, j), row, column, f"{row:06d}_{column:06d}") for i, rows in enumerate(self.spans(down, n))
                 for j, columns in enumerate(self.spans(across, n))
                 for row in self.starts(rows) for column in self.starts(columns)]
        say(f"the tiles take the pixels of {name_of(grid.path)}: {len(tiles)} of {self.size}×{self.size}")
        self.tell({"A": a, "B": b}, grid)
        split_of = {name: split for split, name in there}
        blocks = Blocks(self.val, len({block for block, *_ in tiles}))
        blocks.splits = {block: split_of[name] for block, _, _, name in tiles if name in split_of}
        return [Job(name, partial(self.make, {"A": a, "B": b}, grid, row, column, partial(blocks.split, block)))
                for block, row, column, name in tiles]

    def tell(self, sides: dict[str, Raster], grid: Raster) -> None:
        """What of the rasters may not be as it was meant."""
        for side, raster in sides.items():
            if raster.indexed and side != self.label_side and raster.shift_from(grid) is None:
                say(f"{name_of(raster.path)} has a palette or 1 bit: its nearest pixels are taken, as --label-side "
                    f"{side} says")
            if raster.may_be_transparent:
                alpha = [each.name for each in raster.image.colorinterp].index("alpha") + 1
                others = " ".join(f"-b {band}" for band in raster.image.indexes if band != alpha)
                say(f"band {alpha} of {name_of(raster.path)} is declared transparency, but stays a band of values, as "
                    f"near infrared is: gdal_translate {others} -mask {alpha} IN OUT makes a mask of it")

    def spans(self, axis: Span, n: int) -> list[Span]:
        """The axis in blocks of `n` tiles; the last takes what is left. No tile crosses their borders."""
        length = self.size + (n - 1) * (self.size - self.overlap)
        count = max(1, (axis[1] - axis[0]) // length)
        ends = [axis[0] + i * length for i in range(count)] + [axis[1]]
        return [*pairwise(ends)]

    def starts(self, block: Span) -> list[int]:
        """Of the tiles in a block; the last one ends with it."""
        last = block[1] - self.size
        return [*range(block[0], last, self.size - self.overlap), last]

    def make(self, sides: dict[str, Raster], grid: Raster, row: int, column: int, split: Callable) -> Made | None:
        """None where the two have no pixel with values in common. split: asked where they have."""
        tiles = {raster: raster.tile(grid, row, column, self.size, exact=side == self.label_side)
                 for side, raster in sides.items()}
        (_, in_a), (_, in_b) = tiles.values()
        if not (in_a & in_b).any():
            return None
        return Made(split(), *(raster.encoded(*tile, grid, row, column) for raster, tile in tiles.items()))
