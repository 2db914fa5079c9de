"""A raster's bands in windows of any grid, and the GeoTIFF of such a window."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pairs.images import read_header
from pairs.tiff import MOST, Place, encode
from utils import DataError, UserError, name_of, need

Span = tuple[int, int]  # the first pixel along an axis, and the first after it
WHAT = "rasters"


class Raster:
    """An open raster, its place on the map, and its bands in windows of any grid. Raises UserError."""

    def __init__(self, path: Path):
        rasterio = need("rasterio", "rasterio", WHAT)
        try:
            image = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise UserError(f"{name_of(path)} cannot be read as a raster: {error}") from error
        kinds = {*image.dtypes}
        if image.count > MOST or len(kinds) > 1 or "complex" in image.dtypes[0]:
            raise UserError(f"{name_of(path)} holds {image.count} bands of {', '.join(sorted(kinds))}; up to {MOST} of "
                            "one type are read, and no complex numbers")
        ways = {"ground control points": image.gcps[0], "RPCs": image.rpcs,
                "arrays of places": image.tags(ns="GEOLOCATION")}
        for how, told in ways.items():
            if told and image.transform.is_identity:
                raise UserError(f"{name_of(path)} is placed by {how}: gdalwarp makes a raster with a grid")
        self.path = path
        self.image = image
        self.crs = image.crs
        self.matrix = np.reshape(image.transform, (3, 3))  # from columns and rows to the map
        self.indexed = image.colorinterp[0].name == "palette"  # the mean of two colours' numbers is a third colour's
        self.placed = self.crs is not None or not image.transform.is_identity  # whether the file says where it lies
        if not self.placed:
            with contextlib.suppress(DataError):  # other formats have no orientation
                if (orientation := read_header(path).orientation) in range(2, 9):
                    raise UserError(f"{name_of(path)} is shown turned or mirrored (orientation {orientation} in its "
                                    "header), which tiles would not be: save it upright first")
        # GDAL takes the last band for transparency, as it does of red, green, blue and near infrared.
        by_alpha = [any(flag.name == "alpha" for flag in flags) for flags in image.mask_flag_enums]
        self.by_alpha = np.reshape(by_alpha, (-1, 1, 1))
        self.may_be_transparent = any(by_alpha)
        # Each band may have its own number for no data, as in a VRT; a tile has one. In colours, it may be a shade.
        self.nodata = next((n for n in image.nodatavals if Place(nodata=n).fits(np.dtype(image.dtypes[0]))), None)
        names = [each.name for each in image.colorinterp[:3]]
        self.coloured = names == ["red", "green", "blue"] and image.dtypes[0].startswith("uint")
        self.in_bands = self.nodata is not None and image.count > 1 and not self.coloured  # one may lack a value alone

    def pixels(self, grid: "Raster", columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows here of points that are given in pixels of `grid`; infinite where no projection reaches."""
        x, y = moved(grid.matrix, columns, rows)
        if self.crs != grid.crs:
            x, y = np.reshape(projected(grid.crs, self.crs, x.ravel(), y.ravel()), (2, *x.shape))
        return moved(np.linalg.inv(self.matrix), x, y)

    def resolution_in(self, other: "Raster") -> float:
        """How many pixels of the other one this one's covers, in the middle of whichever both projections reach."""
        for middle, outside, power in ((self, other, 1), (other, self, -1)):
            columns = middle.image.width / 2 + np.array([0, 1, 1])
            rows = middle.image.height / 2 + np.array([0, 0, 1])
            corners = outside.pixels(middle, columns, rows)
            if np.isfinite(corners).all():
                return abs(np.linalg.det(np.diff(corners))) ** power
        raise UserError(f"{name_of(self.path)} lies where the projection of {name_of(other.path)} does not reach, or "
                        "none leads from one to the other: rio info FILE shows both, rio edit-info --crs CRS FILE "
                        "mends one")

    def tile(self, grid: "Raster", row: int, column: int, size: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """The window of the grid, (C, H, W), and where it holds values, (H, W) bool.

        As it stands in the file where pixels meet, else resampled, linearly or, as palettes are, `exact`. Where some
        bands have a value, the others hold `nodata`. Raises DataError where the file is damaged.
        """
        if (shift := self.shift_from(grid)) is not None:
            left = column + shift[0]
            top = row + shift[1]
            values, valid = self.read(top, left, top + size, left + size)
        else:
            values, valid = self.resampled(grid, row, column, size, exact or self.indexed)
        if self.may_be_transparent and not values.any():
            valid[:] = False
        if self.nodata is not None:
            values = np.where(valid, values, np.array(self.nodata).astype(values.dtype))
        return values, valid.any(axis=0)

    def encoded(self, values: np.ndarray, valid: np.ndarray, grid: "Raster", row: int, column: int) -> bytes:
        """The GeoTIFF of a tile, with the palette, names and scales of the bands here. Raises OSError."""
        nodata = self.nodata
        if nodata is None and values.dtype.kind == "f" and not valid.all():
            nodata = math.nan
        window = (row, row + 1), (column, column + 1)
        transform = grid.image.window_transform(window) if grid.placed else None
        place = Place(grid.crs, transform, nodata, self.image.descriptions)
        array = values.transpose(1, 2, 0)
        return encode(array, place=place, valid=None if valid.all() else valid, like=self.image)

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

    def read(self, top: int, left: int, bottom: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """(C, H, W) of a window, up to the edges of the raster at most, and where it holds values, (C, H, W) bool.

        A band lacks a value where it holds its number for no data, a colour where all three do, and all bands where
        any holds NaN, as in pairs/tiff.py.
        """
        window = (top, bottom), (left, right)
        try:
            values = self.image.read(window=window)
            valid = (self.image.read_masks(window=window) > 0) | self.by_alpha
        except OSError as error:  # RasterioIOError
            raise DataError(f"{name_of(self.path)} is damaged at row {top}, column {left}: {error}") from error
        if self.coloured:
            valid[:] = valid.any(axis=0)
        return values, valid & ~np.isnan(values).any(axis=0)

    def resampled(self, grid: "Raster", row: int, column: int, size: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """The mean of the four nearest pixels by distance, without those that lack a value, or the nearest itself.

        A band counts where at least half of the pixel has values. Not by rasterio.warp.reproject, whose `tolerance` of
        an eighth of a pixel cannot be lowered.
        """
        at = self.places(grid, row, column, size)
        shape = np.reshape(self.image.shape, (2, 1, 1))
        inside = ((at >= 0) & (at < shape)).all(axis=0)
        if not inside.any():
            shape = self.image.count, size, size
            return np.zeros(shape, self.image.dtypes[0]), np.zeros(shape, bool)
        at = np.where(inside, at, at[:, inside][:, :1, None])
        begin = np.maximum(at.min(axis=(1, 2), keepdims=True).astype(int) - 1, 0)
        end = at.max(axis=(1, 2), keepdims=True).astype(int) + 2
        values, valid = self.read(*begin.flat, *end.flat)
        if exact:
            rows, columns = at.astype(int) - begin
            return values[:, rows, columns], valid[:, rows, columns] & inside
        at = at - begin - 0.5  # centres of pixels lie at halves
        linear = need("scipy.ndimage", "scipy", WHAT).map_coordinates
        masks = valid if (valid != valid[0]).any() else valid[:1]
        weight = np.stack([linear(mask.astype(float), at, order=1, mode="nearest") for mask in masks])
        mean = np.stack([linear(band, at, order=1, mode="nearest") for band in np.where(valid, values, 0.0)])
        mean = np.divide(mean, weight, out=np.zeros_like(mean), where=weight > 0)
        if values.dtype.kind != "f":
            mean = np.rint(mean)
        return mean.astype(values.dtype), (weight >= 0.5) & inside

    def places(self, grid: "Raster", row: int, column: int, size: int) -> np.ndarray:
        """(2, size, size): rows and columns here of the centres of the grid's pixels in a window.

        Projections are asked every 16 pixels; in between, lines are as good as straight.
        """
        knots = np.linspace(0, size, max(2, size // 16 + 1))
        between = np.stack([np.interp(np.arange(size) + 0.5, knots, one) for one in np.eye(len(knots))], axis=1)
        x, y = self.pixels(grid, *np.meshgrid(column + knots, row + knots))
        with np.errstate(invalid="ignore"):  # as in `moved`
            return between @ np.stack([y, x]) @ between.T


def projected(source: Any, target: Any, x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """The points in another projection, infinite where it does not reach.

    For such points, rasterio raises at first, and GDAL is quiet later on; its class of errors is private.
    """
    try:
        return need("rasterio.warp", "rasterio", WHAT).transform(source, target, x, y)
    except Exception:
        if len(x) == 1:
            return [math.inf], [math.inf]
    points = [projected(source, target, *point) for point in zip(x[:, None], y[:, None], strict=True)]
    return tuple(map(np.concatenate, zip(*points, strict=True)))


def moved(matrix: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (x, y), by the affine `matrix`, (3, 3)."""
    with np.errstate(invalid="ignore"):  # infinity, where a projection does not reach, becomes NaN
        return tuple(row[0] * x + row[1] * y + row[2] for row in matrix[:2])


def place(a: Raster, b: Raster) -> None:
    """Lays rasters without a place over each other, if they have one shape. Raises UserError where that is unclear."""
    if a.placed and b.placed and (a.crs is None) == (b.crs is None):
        return
    for raster in (a, b):
        if raster.crs is None and (a.placed or b.placed):
            raise UserError(f"{name_of(raster.path)} does not say where on the map it lies, as the other one does: "
                            "rio edit-info --crs CRS FILE gives it a projection, gdal_translate -a_ullr its corners")
    wide = a.image.width / b.image.width
    high = a.image.height / b.image.height
    if abs(wide / high - 1) > 0.01:
        raise UserError(f"{name_of(a.path)} and {name_of(b.path)} do not say where on the map they lie, and have "
                        f"two shapes: {a.image.width}×{a.image.height} and {b.image.width}×{b.image.height}")
    b.matrix = np.diag([wide, high, 1.0])


def shared(grid: Raster, other: Raster) -> Iterator[Span]:
    """The columns and the rows of the grid over which the other raster lies."""
    knots = (np.linspace(0, side, 21) for side in (other.image.width, other.image.height))
    x, y = grid.pixels(other, *np.meshgrid(*knots))
    for places, length in ((x, grid.image.width), (y, grid.image.height)):
        known = places[np.isfinite(places)]
        low, high = (known.min(), known.max()) if len(known) else (0, 0)
        yield max(0, math.ceil(low - 1e-3)), min(length, math.floor(high + 1e-3))
