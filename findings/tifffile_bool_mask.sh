#!/bin/sh
# Guess: a mask of True and False that tifffile writes is white where it is True, in every reader.
# What happens: tifffile.imwrite makes a picture of 1 bit in which 0 is white (PhotometricInterpretation 0). Pillow turns
# it round, as the file says, so that True comes out black; tifffile and rasterio give the stored bits, where True is 1.
# No reader warns. The same mask as uint8 is white in all of them.
# Versions: tifffile 2026.3.3, Pillow 13.0.0, rasterio 1.4.4 (GDAL 3.10.3), November 2026.
# Who meets it: whoever writes masks of pairs (what counts, what belongs to a class) with tifffile and trains with a
# loader on Pillow, or the other way round: the mask selects exactly what it should leave out.
set -eu
cd "$(mktemp -d)"
python3 -m venv venv
venv/bin/pip install -q tifffile==2026.3.3 pillow==13.0.0 rasterio==1.4.4 numpy
venv/bin/python -W ignore - <<'EOF'
import numpy as np, PIL, rasterio, tifffile
from PIL import Image

print("tifffile", tifffile.__version__, "Pillow", PIL.__version__, "rasterio", rasterio.__version__)
mask = np.zeros((4, 6), bool)
mask[:, :2] = True
found = {}
for kind, array in (("bool", mask), ("uint8", mask.astype(np.uint8) * 255)):
    tifffile.imwrite(f"{kind}.tif", array)
    with tifffile.TiffFile(f"{kind}.tif") as file:
        print(kind, "written as", file.pages[0].photometric.name)
    pillow = np.asarray(Image.open(f"{kind}.tif")).astype(bool)
    with rasterio.open(f"{kind}.tif") as file:
        stored = file.read(1).astype(bool)
    for name, read in (("Pillow", pillow), ("tifffile", tifffile.imread(f"{kind}.tif").astype(bool)), ("rasterio", stored)):
        found[kind, name] = (read == mask).mean()
        print(f"  {name}: {found[kind, name]:.0%} of the pixels as in the mask")
wanted = {(kind, name): 0.0 if (kind, name) == ("bool", "Pillow") else 1.0 for kind, name in found}
raise SystemExit(found != wanted)
EOF
