#!/usr/bin/env bash
# Guess: a PFM's floats are read as they lie in the file; of the number in its third line, the sign tells the byte order,
# and the rest is for people.
# What happens: OpenCV divides all floats by that number, Pillow leaves them alone. In files with -1 or 1, as most
# programs write them, the two agree. Middlebury's stereo sets say -0.003922, 1/255: a disparity of 40.5 pixels is read
# as 10326 by OpenCV. Nothing fails: a map that is scaled by its own maximum even looks the same.
# Versions: opencv-python-headless 5.0.0.93 (and 4.13.0.90), Pillow 13.0.0, NumPy 2.4.6.
# Why it matters here: depth and disparity are one side of many pairs and come as PFM. A network that is trained on two
# such sets, or on files that Pillow reads here and OpenCV there, gets targets 255 times as large from one of them.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
for opencv in 5.0.0.93 4.13.0.90; do
  python3 -m venv "env-$opencv"
  "env-$opencv/bin/pip" install --quiet "opencv-python-headless==$opencv" pillow==13.0.0 numpy==2.4.6
  "env-$opencv/bin/python" - <<'PYTHON'
import cv2
import numpy as np
import PIL
from PIL import Image

print(f"OpenCV {cv2.__version__}, Pillow {PIL.__version__}")
disparity = np.linspace(40.5, 200, 12, dtype="<f4").reshape(3, 4)
factors = {}
for scale in ("-1.0", "-0.003922", "-255.0"):
    header = f"Pf\n4 3\n{scale}\n".encode()
    with open("disparity.pfm", "wb") as file:
        file.write(header + disparity[::-1].tobytes())  # rows from the bottom up
    by_pillow = np.asarray(Image.open("disparity.pfm"))
    by_opencv = cv2.imread("disparity.pfm", cv2.IMREAD_UNCHANGED)
    factors[scale] = by_opencv / disparity
    print(f"{scale}: 40.5 is {by_pillow[0, 0]:g} by Pillow, {by_opencv[0, 0]:g} by OpenCV")
    assert (by_pillow == disparity).all()
assert (factors["-1.0"] == 1).all()
assert np.allclose(factors["-0.003922"], 1 / 0.003922) and np.allclose(factors["-255.0"], 1 / 255)
PYTHON
done
