"""A raster's bands in windows of any grid, and the GeoTIFF of such a window."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairs.tiff import MOST
from utils import DataError, UserError, name_of, need

Span = tuple[int, int]  # the first pixel along an axis, and the first after it
WHAT = "rasters"


@dataclass
class Raster:
    """An open raster, its place on the map, and its bands in windows of any grid."""

    path: Path
    image: Any
    crs: Any
    matrix: np.ndarray  # (3, 3), from columns and rows to the map
    placed: bool  # whether the file itself says where it lies

    @classmethod
    def opened(cls, path: Path) -> "Raster":
        rasterio = need("rasterio", "rasterio", WHAT)
        try:
            image = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise UserError(f"{name_of(path)} cannot be read as a raster: {error}") from error
        kinds = {*image.dtypes}
        if image.count > MOST or len(kinds) > 1 or "complex" in image.dtypes[0]:
            raise UserError(f"{name_of(path)} holds {image.count} bands of {', '.join(sorted(kinds))}; up to {MOST} of "
                            "one type are read, and no complex numbers")
        if image.gcps[0] and image.transform.is_identity:
            raise UserError(f"{name_of(path)} is placed by ground control points: gdalwarp makes a raster with a grid")
        placed = image.crs is not None or not image.transform.is_identity
        return cls(path, image, image.crs, np.reshape(image.transform, (3, 3)), placed)

    def pixels(self, grid: "Raster", columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows here of points that are given in pixels of `grid`; infinite where no projection reaches."""
        x, y = moved(grid.matrix, np.asarray(columns), np.asarray(rows))
        if self.crs != grid.crs:
            warp = need("rasterio.warp", "rasterio", WHAT)
            x, y = (np.reshape(each, x.shape) for each in warp.transform(grid.crs, self.crs, x.ravel(), y.ravel()))
        return moved(np.linalg.inv(self.matrix), x, y)

    def outline(self, grid: "Raster", columns: Span, rows: Span) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels here of a rectangle in `grid`."""
        along = np.linspace(0, 1, 21)
        x = columns[0] + (columns[1] - columns[0]) * np.concatenate([along, along, along * 0, along * 0 + 1])
        y = rows[0] + (rows[1] - rows[0]) * np.concatenate([along * 0, along * 0 + 1, along, along])
        x, y = (each[np.isfinite(each)] for each in self.pixels(grid, x, y))
        return (x.min(), y.min(), x.max(), y.max()) if len(x) else (0, 0, 0, 0)

    def resolution_in(self, other: "Raster") -> float:
        """How many pixels of the other one in the middle of this one covers."""
        middle = self.image.width / 2, self.image.height / 2
        x, y = other.pixels(self, middle[0] + np.array([0.0, 1, 0]), middle[1] + np.array([0.0, 0, 1]))
        if not np.isfinite([x, y]).all():
            raise UserError(f"{name_of(self.path)} lies where the projection of {name_of(other.path)} does not reach")
        return float(abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])))

    def tile(self, grid: "Raster", row: int, column: int, size: int, exact: bool) -> "Tile":
        """The window of the grid: as it stands in the file where pixels meet, else resampled, linearly or `exact`.

        Raises DataError where the file is damaged.
        """
        if (shift := self.shift_from(grid)) is not None:
            values, valid = self.read(column + shift[0], row + shift[1], size, size)
        else:
            values, valid = self.resampled(grid, row, column, size, exact)
        return Tile(values, valid, self, grid, grid.transform(column, row))

    def transform(self, column: int, row: int):
        """The Affine of a window that begins there."""
        begin = [*moved(self.matrix, column, row)]
        return need("rasterio", "rasterio", WHAT).Affine(*np.column_stack([self.matrix[:2, :2], begin]).ravel())

    def shift_from(self, grid: "Raster") -> tuple[int, int] | None:
        """By how many columns and rows the pixels of the grid lie apart from those here; None where they never meet.

        A thousandth of a pixel over the whole raster is rounding.
        """
        here = np.linalg.inv(self.matrix) @ grid.matrix
        whole = np.rint(here[:2, 2])
        drift = np.abs(here[:2, :2] - np.eye(2)).max() * max(grid.image.shape)
        if self.crs != grid.crs or np.abs(here[:2, 2] - whole).max() + drift > 1e-3:
            return None
        return int(whole[0]), int(whole[1])

    def read(self, column: int, row: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """(C, H, W) of a window, which may reach beyond the raster, and where it holds values, (H, W) bool.

        A pixel lacks a value where all bands hold the number for no data, or any holds NaN, as in pairs/tiff.py.
        """
        left, top = max(0, column), max(0, row)
        right, bottom = min(self.image.width, column + width), min(self.image.height, row + height)
        values = np.zeros((self.image.count, height, width), self.image.dtypes[0])
        valid = np.zeros((height, width), bool)
        if right <= left or bottom <= top:
            return values, valid
        windows = need("rasterio.windows", "rasterio", WHAT)
        window = windows.Window(left, top, right - left, bottom - top)
        inside = np.s_[top - row : bottom - row, left - column : right - column]
        try:
            values[:, inside[0], inside[1]] = bands = self.image.read(window=window)
            valid[inside] = ~np.isnan(bands).any(axis=0) if bands.dtype.kind == "f" else True
            if not self.may_be_transparent:
                valid[inside] &= (self.image.read_masks(window=window) != 0).any(axis=0)
        except OSError as error:  # RasterioIOError
            raise DataError(f"{name_of(self.path)} is damaged at row {top}, column {left}: {error}") from error
        return values, valid

    @property
    def may_be_transparent(self) -> bool:
        """Whether GDAL takes the last band for transparency, as it does of red, green, blue and near infrared."""
        return any(flag.name == "alpha" for flags in self.image.mask_flag_enums for flag in flags)

    def resampled(self, grid: "Raster", row: int, column: int, size: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """The mean of the four nearest pixels by distance, without those that lack a value, or the nearest itself.

        A pixel counts where at least half of it has values. Not by rasterio.warp.reproject, whose `tolerance` of an
        eighth of a pixel cannot be lowered.
        """
        x, y = self.places(grid, row, column, size)
        inside = (x >= 0) & (x < self.image.width) & (y >= 0) & (y < self.image.height)
        if not inside.any():
            return self.read(-size, -size, size, size)
        x, y = (np.where(inside, each, each[inside][0]) for each in (x, y))
        left, right = max(0, int(x.min()) - 1), min(self.image.width, int(x.max()) + 2)
        top, bottom = max(0, int(y.min()) - 1), min(self.image.height, int(y.max()) + 2)
        values, valid = self.read(left, top, right - left, bottom - top)
        if exact:
            rows, columns = y.astype(int) - top, x.astype(int) - left
            return values[:, rows, columns], valid[rows, columns] & inside
        mean, weight = np.zeros((len(values), size, size)), np.zeros((size, size))
        for dy in (0, 1):
            for dx in (0, 1):
                to_y, to_x = np.floor(y - 0.5) + dy, np.floor(x - 0.5) + dx  # centres of pixels lie at halves
                rows = to_y.clip(0, self.image.height - 1).astype(int) - top
                columns = to_x.clip(0, self.image.width - 1).astype(int) - left
                share = (1 - abs(y - 0.5 - to_y)) * (1 - abs(x - 0.5 - to_x)) * valid[rows, columns]
                mean += share * np.where(share > 0, values[:, rows, columns], 0)
                weight += share
        mean = np.divide(mean, weight, out=np.zeros_like(mean), where=weight > 0)
        if values.dtype.kind != "f":
            mean = np.rint(mean)
        return mean.astype(values.dtype), (weight >= 0.5) & inside

    def places(self, grid: "Raster", row: int, column: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(size, size) columns and rows here of the centres of the grid's pixels in a window.

        Projections are asked every 16 pixels; in between, lines are as good as straight.
        """
        knots = np.linspace(0, size, max(2, size // 16 + 1))
        between = np.stack([np.interp(np.arange(size) + 0.5, knots, one) for one in np.eye(len(knots))], axis=1)
        x, y = self.pixels(grid, *np.meshgrid(column + knots, row + knots))
        with np.errstate(invalid="ignore"):  # infinity, where a projection does not reach, becomes NaN
            return between @ x @ between.T, between @ y @ between.T


@dataclass
class Tile:
    """What a raster holds in a window of the grid: (C, H, W), and where it holds values, (H, W) bool."""

    values: np.ndarray
    valid: np.ndarray
    raster: Raster
    grid: Raster
    transform: Any

    @property
    def empty(self) -> bool:
        return not self.valid.any() or self.raster.may_be_transparent and not self.values.any()

    def encoded(self) -> bytes:
        """The GeoTIFF, with the palette, names and scales of the raster's bands. Raises DataError."""
        rasterio, image = need("rasterio", "rasterio", WHAT), self.raster.image
        count, height, width = self.values.shape
        nodata = image.nodata
        if nodata is None and self.values.dtype.kind == "f" and not self.valid.all():
            nodata = float("nan")
        colours = [each.name for each in image.colorinterp]
        profile = dict(driver="GTiff", width=width, height=height, count=count, dtype=self.values.dtype.name,
                       nodata=nodata, compress="deflate", interleave="pixel")
        if colours != ["palette"]:
            colour = "RGB" if colours == ["red", "green", "blue"] else "MINISBLACK"
            profile |= dict(photometric=colour, alpha="NO")
        if self.grid.placed:
            profile |= dict(crs=self.grid.crs, transform=self.transform)
        values = self.values if nodata is None else np.where(self.valid, self.values, self.values.dtype.type(nodata))
        try:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
                with memory.open(**profile) as file:
                    if colours == ["palette"]:
                        file.write_colormap(1, image.colormap(1))  # before the values, or it would not fit any more
                    file.write(values)
                    file.scales, file.offsets = image.scales, image.offsets
                    for band, name in enumerate(image.descriptions, 1):
                        file.set_band_description(band, name or "")
                    if nodata is None and not self.valid.all():
                        file.write_mask(self.valid)
                return memory.read()
        except rasterio.errors.RasterioError as error:
            raise DataError(f"a tile of {name_of(self.raster.path)} cannot be encoded: {error}") from error


def moved(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (x, y), by the affine `matrix`, (3, 3)."""
    return tuple(row[0] * x + row[1] * y + row[2] for row in matrix[:2])


def place(a: Raster, b: Raster) -> None:
    """Lays rasters without a place over each other, if they have one shape. Raises UserError where that is unclear."""
    if a.placed and b.placed and (a.crs is None) == (b.crs is None):
        return
    for raster in (a, b):
        if raster.crs is None and (a.placed or b.placed):
            raise UserError(f"{name_of(raster.path)} does not say where on the map it lies, as the other one does: "
                            "rio edit-info --crs CRS FILE gives it a projection, gdal_translate -a_ullr its corners")
    wide, high = a.image.width / b.image.width, a.image.height / b.image.height
    if abs(wide / high - 1) > 0.01:
        raise UserError(f"{name_of(a.path)} and {name_of(b.path)} do not say where on the map they lie, and have "
                        f"two shapes: {a.image.width}×{a.image.height} and {b.image.width}×{b.image.height}")
    b.matrix = np.diag([wide, high, 1.0])


def shared(grid: Raster, other: Raster) -> Iterator[Span]:
    """The columns and the rows of the grid over which the other raster lies."""
    left, top, right, bottom = grid.outline(other, (0, other.image.width), (0, other.image.height))
    for low, high, length in ((left, right, grid.image.width), (top, bottom, grid.image.height)):
        yield max(0, int(np.ceil(low - 1e-3))), min(length, int(np.floor(high + 1e-3)))
