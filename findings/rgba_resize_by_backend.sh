#!/usr/bin/env bash
# Guess: torchvision's v2.Resize makes the same picture of an RGBA image, PIL or tensor, up to rounding; and a fourth
# channel that is data comes through Pillow's resize like the other three.
# What happens: Pillow weights colours by transparency, tensors know no such thing. A white disc on a hidden black ground
# stays white by PIL, and gets pixels of 3 of 255 by tensor, visible ones. The other way round, where the fourth channel
# holds data and is 0, Pillow's bilinear resize returns black for all colours, and its nearest one returns the colours.
# Versions: torchvision 0.29.1, torch 2.14.1 (CPU), Pillow 13.0.0, NumPy 2.4.6.
# Why it matters here: sprites are a target of paired translation; dark fringes are learnt from one backend and not from
# the other, and RGB with depth or a mask in the fourth channel loses its colours.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torchvision==0.29.1 torch==2.14.1 pillow==13.0.0 numpy==2.4.6
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

print(f"torchvision {torchvision.__version__}, torch {torch.__version__}, Pillow {PIL.__version__}")
rows, columns = np.mgrid[:64, :64]
disc = np.zeros((64, 64, 4), np.uint8)
disc[(rows - 31.5) ** 2 + (columns - 31.5) ** 2 < 24**2] = 255
resize = v2.Resize((36, 36), antialias=True)
image = Image.fromarray(disc)
made = {"PIL": np.asarray(resize(image)),
        "tensor": resize(v2.functional.to_image(image)).permute(1, 2, 0).numpy()}
darkest = {name: int(array[..., :3][array[..., 3] > 0].min()) for name, array in made.items()}
print(f"a white disc, its darkest visible pixel: {darkest}")
assert darkest["PIL"] == 255 and darkest["tensor"] < 20

data = np.random.default_rng(0).integers(1, 256, (64, 64, 4), dtype=np.uint8)
data[..., 3] = 0
brightest = {how.name: int(np.asarray(Image.fromarray(data).resize((36, 36), how))[..., :3].max())
             for how in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR)}
print(f"colours beside a fourth channel of 0, the brightest: {brightest}")
assert brightest["NEAREST"] > 200 and brightest["BILINEAR"] == 0
PYTHON
