"""Checks the palettes against real label maps in $PIX2PIX_DATA: their flat parts have the palette's colours."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from pairs.find import list_images
from pairs.identity import Pair
from pairs.palettes import load_palette
from pairs.reading import read_pair
from pairs.values import Values

for name in ("cityscapes", "facades"):
    colours = np.array(list(load_palette(name).values()), np.float32)
    near = total = 0
    for path in list_images(Path(os.environ["PIX2PIX_DATA"], name, "train"))[:100]:
        labels = read_pair(Pair((path,)), Values(), Values())[1].astype(np.float32)
        steps = [np.abs(labels - np.roll(labels, 1, axis)).max(-1) for axis in (0, 1)]
        flat = labels[np.maximum(*steps) <= 1][::7]  # away from the edges, which JPEG disturbs
        distance = np.sqrt(((flat[:, None] - colours) ** 2).sum(-1)).min(1)
        near, total = near + (distance < 6).sum(), total + len(flat)
    print(f"{name}: {near / total:.2%} of {total} flat label pixels are within 6 of a palette colour")
    if near < 0.98 * total:
        sys.exit(f"the palette {name} does not fit the published files")
