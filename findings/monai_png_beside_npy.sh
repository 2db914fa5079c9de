#!/usr/bin/env bash
# Guess: MONAI's LoadImaged gives both images of a pair in one orientation, whatever the formats of their files.
# What happens: what is read by Pillow (PNG, JPEG, BMP) comes with its axes swapped, (width, height), as a NIfTI file
# has them; a .npy of the same array comes as it is, (height, width). So a PNG and its .npy are each other's transpose.
# Of square images nothing fails: every pair is mirrored along its diagonal. PILReader(reverse_indexing=False) mends it.
# Versions: monai 1.6.1, torch 2.14.1, NumPy 2.4.6, Pillow 13.0.0.
# Why it matters here: in medical and microscopic pairs, one side is often a picture (a stained section, a rendering, a
# label map) and the other an array of floats or of more than three channels, which only .npy or TIFF hold.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet monai==1.6.1 torch==2.14.1 numpy==2.4.6 pillow==13.0.0
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import monai
import numpy as np
from monai.data import PILReader
from monai.transforms import LoadImage, LoadImaged
from PIL import Image

print(f"monai {monai.__version__}")
square = np.arange(64, dtype=np.uint8).reshape(8, 8)
wide = np.arange(24, dtype=np.uint8).reshape(4, 6)  # 4 rows
for name, array in (("square", square), ("wide", wide)):
    Image.fromarray(array).save(f"{name}.png")
    np.save(f"{name}.npy", array)
pair = LoadImaged(keys=["x", "y"])({"x": "square.png", "y": "square.npy"})
x, y = (np.asarray(pair[key]) for key in "xy")
print(f"square.png equals square.npy: {np.array_equal(x, y)}; transposed: {np.array_equal(x.T, y)}")
assert np.array_equal(x.T, square) and np.array_equal(y, square)
shapes = {ending: tuple(LoadImage()(f"wide.{ending}").shape) for ending in ("png", "npy")}
print(f"4 rows of 6 pixels: {shapes}")
assert shapes == {"png": (6, 4), "npy": (4, 6)}
mended = LoadImage(reader=PILReader(reverse_indexing=False))("square.png")
print(f"with reverse_indexing=False: {np.array_equal(np.asarray(mended), square)}")
assert np.array_equal(np.asarray(mended), square)
PYTHON
