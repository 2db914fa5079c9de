#!/bin/sh
# Guess: rasterio.warp.transform gives infinity for a point that the projection does not reach, as pyproj does unless it is
# told otherwise; or it raises one of rasterio.errors; in any case, the same for the same points.
# What happens: one such point of any number raises, so that no other one is transformed. The class is private
# (rasterio._err.CPLE_AppDefinedError), and is neither a RasterioError nor an OSError, which a program would catch. And it
# raises the first 20 times only: then GDAL is quiet about this pair of projections, in this process, and the very same
# call returns infinity for that point, and all others as they should be. So code that was tried in a long session, or
# whose worker has failed often enough, works, and fails in a fresh process.
# Versions: rasterio 1.4.4 (GDAL 3.10.3), NumPy 2.4.6, November 2026.
# Who meets it: whoever pairs a raster of the whole Earth (elevation, climate, land cover in degrees) with an image in UTM:
# to see where the two meet, points of the first are projected to the second, and most lie beyond it.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
python3 -m venv venv
venv/bin/pip install -q rasterio==1.4.4 numpy==2.4.6
venv/bin/python -W ignore - <<'EOF'
import math

import rasterio
from rasterio.errors import RasterioError
from rasterio.warp import transform

print("rasterio", rasterio.__version__, "GDAL", rasterio.__gdal_version__)
raised = []
for call in range(30):
    try:
        x, y = transform("EPSG:4326", "EPSG:32633", [15, 110], [45, 0])  # near the middle of the zone, and 95 degrees off
        raised.append(False)
    except Exception as error:
        raised.append(True)
        if call == 0:
            kind = type(error)
            print(f"{kind.__module__}.{kind.__name__}: {error}")
print(f"raised in {sum(raised)} of {len(raised)} equal calls; the last gave {x}, {y}")
public = issubclass(kind, (RasterioError, OSError, ValueError))
right = abs(x[0] - 500_000) < 1 and math.isinf(x[1])
raise SystemExit(public or not right or raised != [True] * 20 + [False] * 10)
EOF
