#!/usr/bin/env bash
# Guess: rasterio's colorinterp says `palette` of a TIFF with a colour map, and `gray` of a grayscale one, of any depth.
# What happens: of a 1-bit grayscale TIFF it says `palette`, and colormap(1) returns black and white, though the file
# holds no colour map (tag 320) and its photometric interpretation is 1, grayscale. Of 8 bits it says `gray`.
# Versions: rasterio 1.4.4 (GDAL 3.10.3), Pillow 13.0.0.
# Why it matters here: masks and CAD drawings are 1-bit TIFFs, and label maps have palettes. Programs that tell the two
# apart by colorinterp take drawings for label maps, which are resized without averages and never interpolated.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet rasterio==1.4.4 pillow==13.0.0 numpy
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import PIL
import rasterio
from PIL import Image

warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
print(f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}, Pillow {PIL.__version__}")
rows = np.arange(64)[:, None] + np.zeros((1, 64), int)
for bits, array in ((1, rows % 2 == 1), (8, (rows * 4).astype(np.uint8))):
    Image.fromarray(array).save("gray.tif")
    with Image.open("gray.tif") as image:
        tags = image.tag_v2
        print(f"{bits} bit: colour map in the file: {320 in tags}, photometric interpretation {tags[262]}", end="; ")
        assert 320 not in tags and tags[262] == 1
    with rasterio.open("gray.tif") as image:
        print(f"rasterio says {image.colorinterp[0].name}")
        assert image.colorinterp[0].name == ("palette" if bits == 1 else "gray")
        if bits == 1:
            print("colormap(1):", image.colormap(1))
            assert image.colormap(1) == {0: (0, 0, 0, 255), 1: (255, 255, 255, 255)}
PYTHON
