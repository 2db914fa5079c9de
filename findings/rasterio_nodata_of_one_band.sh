#!/usr/bin/env bash
# Guess: WarpedVRT and reproject leave pixels of no data out of their means, in each band those of its own number.
# What happens: by default, a pixel is left out only where all bands lack it (rasterio sets UNIFIED_SRC_NODATA to YES).
# Where one band lacks it and another does not, -9999 is averaged with 100 to -4949.5, which no mask marks. With
# UNIFIED_SRC_NODATA="NO" it is not. Of a VRT whose bands have two numbers, -9999 and -1 (dataset.nodata is the first
# band's), WarpedVRT takes the first for both, with NO as well: the second band's holes become values, -1 and 49.5.
# Versions: rasterio 1.4.4 (GDAL 3.10.3), NumPy 2.4.6.
# Why it matters here: bands of one place rarely lack the same pixels (clouds, swaths, elevation beside radar). Along
# all such holes, a network would be trained on numbers that nobody measured, and no search for -9999 finds them.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv env
env/bin/pip install --quiet rasterio==1.4.4 numpy==2.4.6
env/bin/python -W ignore - <<'PYTHON'
import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.shutil import copy
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

print(f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}")
place = dict(crs="EPSG:32633", transform=from_origin(500_000, 5e6, 10, 10), width=8, height=8)
found = []
for hole in (-9999, -1):
    bands = np.full((2, 8, 8), 100, np.float32)
    bands[0, :, :2] = -9999
    bands[1, :, 6:] = hole
    with rasterio.open("a.tif", "w", driver="GTiff", count=2, dtype="float32", nodata=-9999, **place) as file:
        file.write(bands)
    copy("a.tif", "a.vrt", driver="VRT")
    with open("a.vrt") as file:
        first, second = file.read().rsplit("<NoDataValue>-9999", 1)
    with open("a.vrt", "w") as file:
        file.write(f"{first}<NoDataValue>{hole}{second}")
    for unified in ("YES", "NO"):
        options = {} if unified == "YES" else {"UNIFIED_SRC_NODATA": unified}
        half = place | dict(transform=from_origin(500_005, 5e6, 10, 10), resampling=Resampling.bilinear, **options)
        with rasterio.open("a.vrt") as file, WarpedVRT(file, **half) as warped:
            assert file.nodata == -9999 and file.nodatavals == (-9999, hole)
            row = warped.read(2, masked=True)[0]
            found.append(sorted({*row.compressed().tolist()}))
            print(f"no data {file.nodatavals}, unified {unified}: {warped.nodatavals}, band 2 holds {found[-1]}")
assert found == [[-4949.5, 100], [100], [-1, 49.5, 100], [-1, 49.5, 100]]
PYTHON
