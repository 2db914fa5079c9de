#!/usr/bin/env bash
# Guess: a PGM of class indices, or of depth in mm, comes as the numbers that its file holds, whichever library reads it.
# What happens: its header tells the largest value, and Pillow stretches all of them so that this becomes 255 (of up to
# 8 bits) or 65535: of 19 classes, 3 is read as 40, and of depth with 4095 as the largest, 300 as 4801. OpenCV stretches
# too, but only files that spell their numbers out (P2), up to 8 bits: of the same classes in bytes (P5), 3 stays 3. So
# one label map, saved in the format's two forms, is read as two, and of scaled labels nothing fails: they are pixels.
# Versions: Pillow 13.0.0, opencv-python-headless 5.0.0.93, NumPy 2.4.6.
# Why it matters here: the labels and depth maps of paired translation are kept in this format by older retina, stereo
# and RGB-D data sets, and are often read by Pillow on one side of a program and by OpenCV on the other.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import cv2
import numpy as np
import PIL
from PIL import Image

print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}")
expected = {
    ("labels", "P5"): ([0, 40, 255], [0, 3, 19]),
    ("labels", "P2"): ([0, 40, 255], [0, 40, 255]),
    ("depth", "P5"): ([0, 4801, 65535], [0, 300, 4095]),
    ("depth", "P2"): ([0, 4801, 65535], [0, 300, 4095]),
}
for (what, form), wanted in expected.items():
    values, kind = ([0, 3, 19], "u1") if what == "labels" else ([0, 300, 4095], ">u2")
    content = np.array(values, kind).tobytes() if form == "P5" else " ".join(map(str, values)).encode()
    with open("held.pgm", "wb") as file:
        file.write(f"{form}\n3 1\n{values[-1]}\n".encode() + content + b"\n")
    pillow = np.asarray(Image.open("held.pgm")).ravel().tolist()
    opencv = cv2.imread("held.pgm", cv2.IMREAD_UNCHANGED).ravel().tolist()
    print(f"{what} {values} as {form}: Pillow {pillow}, OpenCV {opencv}")
    assert (pillow, opencv) == wanted, wanted
PYTHON
