#!/bin/sh
# Guess: of a GeoTIFF that is written window by window, what no call of write_mask touches stays valid; so it is enough to
# write the mask of those windows that have holes.
# What happens: the first write_mask makes a mask for the whole file, in which every block that is not written is 0: all
# pixels of all other windows are read as missing. Without any call, all are valid. Nothing warns, and the pixels
# themselves are right, so that a viewer which ignores masks shows nothing of it.
# Versions: rasterio 1.4.4 (GDAL 3.10.3), November 2026.
# Who meets it: whoever translates a large raster by windows and hands on which pixels hold a value: one hole at the edge of
# an orthophoto makes the rest of the output no data.
set -eu
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q rasterio==1.4.4 numpy==2.4.6
venv/bin/python -W ignore - <<'EOF'
import numpy as np, rasterio
from rasterio.windows import Window

print("rasterio", rasterio.__version__, "GDAL", rasterio.__gdal_version__)
size, rows = 768, 256
holes = np.zeros((size, size), bool)
holes[10:20, 10:20] = True
valid = {}
for name, needed in (("no window", lambda hole: False), ("windows with holes", np.any), ("every window", lambda hole: True)):
    profile = dict(driver="GTiff", width=size, height=size, count=1, dtype="uint8", tiled=True, blockxsize=256, blockysize=256)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open("out.tif", "w", **profile) as file:
        for top in range(0, size, rows):
            window = Window(0, top, size, rows)
            file.write(np.full((rows, size), 7, np.uint8), 1, window=window)
            hole = holes[top : top + rows]
            if needed(hole):
                file.write_mask(~hole, window=window)
    with rasterio.open("out.tif") as file:
        assert (file.read(1) == 7).all()
        valid[name] = float((file.dataset_mask() > 0).mean())
    print(f"mask written for {name}: {valid[name]:.2%} of the pixels are valid, {1 - holes.mean():.2%} should be")
raise SystemExit(valid != {"no window": 1.0, "windows with holes": 1 / 3 - 100 / size**2, "every window": 1 - holes.mean()})
EOF
