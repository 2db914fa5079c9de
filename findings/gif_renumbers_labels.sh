#!/usr/bin/env bash
# Guess: GIF keeps a map of class indices as it is: it is lossless, and holds the indices and their palette.
# What happens: where a map uses few of its palette's 256 colours, Pillow writes only these, so that its classes are
# numbered anew, in each file by what occurs in it: 1, 2, 3 become 0, 1, 2, and 0, 5, 2 become 0, 2, 1. Gray comes back
# as such numbers too (mode P), until it is converted. Colours stay right, so that nothing looks wrong. The default does
# so, as optimize=True does; optimize=False keeps the numbers, and PNG always does.
# Versions: Pillow 13.0.0, NumPy 2.4.6.
# Why it matters here: masks and label maps of well-known sets (retina vessels, car outlines) come as GIF, and tools
# that convert or crop them save them so again; a network that is trained on indices then learns classes that are
# another one in each picture.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import numpy as np
import PIL
from PIL import Image

print(f"Pillow {PIL.__version__}")
palette = [value for i in range(256) for value in (i, 255 - i, i * 37 % 256)]


def kept(image, name, **options):
    """The numbers of the first row, and whether the colours stay."""
    image.save(name, **options)
    back = Image.open(name)
    same = np.array_equal(np.asarray(back.convert("RGB")), np.asarray(image.convert("RGB")))
    return np.asarray(back)[0, :3].tolist(), same


for classes, wanted in (([1, 2, 3], [0, 1, 2]), ([0, 5, 2], [0, 2, 1])):
    labels = Image.fromarray(np.array([classes * 100] * 300, np.uint8))
    labels.putpalette(palette)
    default, plain = kept(labels, "a.gif"), kept(labels, "b.gif", optimize=False)
    png = kept(labels, "c.png")
    print(f"{classes}: GIF {default[0]}, with optimize=False {plain[0]}, PNG {png[0]}; colours stay: {default[1]}")
    assert default == (wanted, True) and plain == png == (classes, True)
gray = Image.fromarray(np.array([[50, 100, 250]], np.uint8))
numbers, same = kept(gray, "d.gif")
print(f"gray 50, 100, 250: mode {Image.open('d.gif').mode}, {numbers}; converted to RGB, equal: {same}")
assert (numbers, same) == ([0, 1, 2], True)
PYTHON
