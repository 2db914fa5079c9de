#!/usr/bin/env bash
# Guess: resizing a label map 256 to 286 by torch's "nearest-exact", which its documentation says matches PIL's
# nearest neighbours, takes the same pixels as Pillow's NEAREST; so a data set that resizes masks as tensors and one
# that resizes them as PIL images train on the same labels.
# What happens: for about a fifth of all pairs of sizes the two take other pixels; 256 to 286, the paper's, is one of
# them. Pillow adds the scale up from pixel to pixel, torch multiplies it, and where a position falls on the border of
# two pixels they round apart. torchvision's v2.Resize(NEAREST_EXACT) is one or the other, by what it is given.
# Versions: torch 2.14.1, torchvision 0.29.1, Pillow 13.0.0, NumPy 2.4.6.
# Why it matters here: every pix2pix data set of label maps is resized to load_size in this way, and scores of labels
# from two programs are compared to the pixel.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 pillow==13.0.0 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
import sys

import numpy as np
import PIL
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode, v2


def taken(old, new):
    """The pixels that each takes of a row of `old` when it becomes one of `new`."""
    row = np.arange(old, dtype=np.int32)
    ours = F.interpolate(torch.from_numpy(row).float()[None, None, None], (1, new), mode="nearest-exact")
    theirs = Image.fromarray(row[None]).resize((new, 1), Image.Resampling.NEAREST)
    return ours.flatten().int().numpy(), np.asarray(theirs)[0]


print("torch", torch.__version__, "torchvision", torchvision.__version__, "Pillow", PIL.__version__)
sizes = [(old, new) for old in range(20, 620, 13) for new in range(20, 620, 29)]
others = sum(bool((ours != theirs).any()) for ours, theirs in (taken(*each) for each in sizes))
print(f"{others} of {len(sizes)} pairs of sizes: not the same pixels")
ours, theirs = taken(256, 286)
places = np.flatnonzero(ours != theirs)
print(f"256 to 286: {len(places)} of 286 differ:", *(f"{i} is {ours[i]} by torch, {theirs[i]} by Pillow" for i in places))

labels = np.random.default_rng(0).integers(0, 12, (256, 256), dtype=np.uint8)
resize = v2.Resize((286, 286), InterpolationMode.NEAREST_EXACT)
tensor = resize(torch.from_numpy(labels)[None])[0].numpy()
picture = np.asarray(resize(Image.fromarray(labels)))
print(f"a label map, v2.Resize of the tensor and of the PIL image: {(tensor != picture).mean():.2%} of the labels differ")
sys.exit(not (others > len(sizes) / 10 and len(places) and (tensor != picture).any()))
PYTHON
