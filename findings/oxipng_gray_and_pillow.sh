#!/usr/bin/env bash
# Guess: a drawing on a transparent ground looks the same before and after a lossless optimiser, whoever opens it.
# What happens: with --alpha, oxipng writes a gray drawing without an alpha channel, in 2 or 4 bits a pixel, and names a
# gray that the drawing does not use transparent, as PNG allows. Pillow spreads these bits to 0 to 255, but leaves the
# named gray as it is: it looks for 1 where the ground became 85. convert("RGBA") makes the ground opaque, and a drawing
# in black and white that was laid over white paper now lies on dark gray. Of 8 bits it is right. OpenCV, asked for the
# file unchanged, gives gray without any transparency.
# Versions: pyoxipng 9.1.1, Pillow 13.0.0, opencv-python-headless 5.0.0.93, NumPy 2.4.6.
# Why it matters here: drawings and sprites are inputs of paired translation, and are laid over white before a network
# sees them. GDAL writes the same kind of file where a PNG of 2 or 4 bits has a number for no data.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet pyoxipng==9.1.1 pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import cv2
import numpy as np
import oxipng
import PIL
from PIL import Image

print(f"Pillow {PIL.__version__}, OpenCV {cv2.__version__}")


def ground():
    """What Pillow shows of the drawing's corner on white paper, and how many channels OpenCV finds in the file."""
    image = Image.open("drawing.png").convert("RGBA")
    paper = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return paper.getpixel((0, 0))[0], np.atleast_3d(cv2.imread("drawing.png", cv2.IMREAD_UNCHANGED)).shape[2]


expected = {2: ([0, 255], (85, 1)), 4: ([0, 17, 34, 255], (85, 1)), 8: (range(0, 256, 5), (255, 1))}
for bits, (grays, wanted) in expected.items():
    drawing = np.zeros((64, 64, 4), np.uint8)  # transparent, but for a square of these grays
    drawing[10:50, 10:50, :3] = np.random.default_rng(0).choice(grays, (40, 40, 1))
    drawing[10:50, 10:50, 3] = 255
    Image.fromarray(drawing).save("drawing.png")
    before = ground()
    oxipng.optimize("drawing.png", level=2, optimize_alpha=True)
    with open("drawing.png", "rb") as file:
        header = file.read(26)
    after = ground()
    print(f"{len(grays)} grays, {header[24]} bits: on white, the ground was {before[0]} and is {after[0]}; channels by "
          f"OpenCV {before[1]}, then {after[1]}")
    assert (header[24], header[25]) == (bits, 0) and before == (255, 4) and after == wanted
PYTHON
