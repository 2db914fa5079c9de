"""Bands of GeoTIFFs by number."""

from functools import partial

import numpy as np
import pytest
from conftest import write_raster

from config import Config
from pairs.checks import check_values
from pairs.identity import Pair
from pairs.images import read_picture
from pairs.reading import read_pair
from pairs.values import Values, values_of
from utils import DataError

write = partial(write_raster, photometric="MINISBLACK", alpha="NO")


def located(n, size=(32, 32), dtype="uint16"):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([1000 * band + 20 * rows + columns for band in range(1, n + 1)]).astype(dtype)


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_bands_are_taken_by_number_and_in_order(tmp_path, direction):
    a, b = located(13), located(5)
    cfg = Config(bands_a=(4, 3, 13, 2), bands_b=(5,), direction=direction, range_a=(0, 2e4), range_b=(0, 1e4))
    assert {cfg.in_channels, cfg.out_channels} == {4, 1} and (cfg.in_channels == 4) == (direction == "AtoB")
    x, y = values_of(cfg.plain())
    of_a, of_b = (x, y) if direction == "AtoB" else (y, x)
    pair = Pair((write(tmp_path / "a.tif", a),), write(tmp_path / "b.tif", b))
    made = read_pair(pair, of_a, of_b)
    assert np.allclose(made[0], a[[3, 2, 12, 1]].transpose(1, 2, 0) / 2e4, atol=1e-6)
    assert np.allclose(made[1][..., 0], b[4] / 1e4, atol=1e-6)


def test_a_band_that_is_missing_is_named_with_its_file(tmp_path, capsys):
    bands = located(3)
    bands[:, :9] = 0
    path = write(tmp_path / "a.tif", bands, nodata=0)
    picture = read_picture(path)
    with pytest.raises(DataError, match=r"a\.tif holds 3 bands, and no band 4"):
        Values(1, bands=(4,)).array([picture])
    other = write(tmp_path / "b.tif", bands // 2, nodata=0)
    check_values([Pair((path,), other)], Values(1, bands=(4,)), Values(1, bands=(4,)), "AtoB")
    assert not capsys.readouterr().out  # nor that of its pixels some count and some do not
