#!/bin/sh
# Guess: rasterio knows that a land cover map has a palette, and one Resampling is one thing: what read(out_shape=…) makes of
# the map, reproject makes of it too. As read() only ever gives classes that are in the palette, reproject is safe as well.
# What happens: read() honours the palette: "average" takes the entry of the nearest colour to the mean colour, "bilinear" and
# "cubic" the nearest pixel. reproject() takes means of the indices: of the classes 11 and 90 it makes 47 to 54, which no
# palette holds, or 50, which is another class. Nothing warns, and the file that is written of it looks like a map. Nor is
# read() without invention: the mean of blue and green may be the colour of a third class, in every pixel.
# Versions: rasterio 1.4.4 (GDAL 3.10.3), NumPy 2.4.6, November 2026.
# Who meets it: whoever brings a land cover map of 20 m to the grid of an image of 10 m, to pair them as label and photo:
# WorldCover, CORINE and NLCD come with palettes. A loader that tried it with read() and then turned to reproject() or
# WarpedVRT, which it needs for another projection, trains on classes that nobody mapped. "nearest" and "mode" are right.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv venv
venv/bin/pip install -q rasterio==1.4.4 numpy==2.4.6
venv/bin/python -W ignore - <<'EOF'
import numpy as np, rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject

print("rasterio", rasterio.__version__, "GDAL", rasterio.__gdal_version__)
classes = {11: (0, 0, 255, 255), 50: (0, 128, 128, 255), 90: (0, 255, 0, 255)}
fine = np.tile(np.array([[11, 90], [90, 11]], np.uint8), (32, 32))  # 50 does not occur
there = from_origin(0, 64, 1, 1)
coarser = from_origin(0, 64, 64 / 21, 64 / 21)
crs = "EPSG:32633"
invented = {}
with rasterio.open("map.tif", "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8", crs=crs, transform=there,
                   photometric="PALETTE") as file:
    file.write_colormap(1, classes)
    file.write(fine, 1)
with rasterio.open("map.tif") as file:
    for name in ("nearest", "mode", "bilinear", "cubic", "average"):
        how = Resampling[name]
        warped = np.zeros((21, 21), np.uint8)
        reproject(rasterio.band(file, 1), warped, dst_transform=coarser, dst_crs=crs, resampling=how)
        with WarpedVRT(file, crs=crs, transform=coarser, width=21, height=21, resampling=how) as vrt:
            virtual = vrt.read(1)
        for function, made in (("read", file.read(1, out_shape=(21, 21), resampling=how)), ("reproject", warped),
                               ("WarpedVRT", virtual)):
            invented[name, function] = not np.isin(made, fine).all()
            print(f"{name:9}{function:10} of classes 11 and 90: {np.unique(made).tolist()}")
expected = {("bilinear", "reproject"), ("cubic", "reproject"), ("average", "reproject"), ("bilinear", "WarpedVRT"),
            ("cubic", "WarpedVRT"), ("average", "WarpedVRT"), ("average", "read")}
raise SystemExit({key for key, value in invented.items() if value} != expected)
EOF
