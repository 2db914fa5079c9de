#!/usr/bin/env bash
# Guess: bicubic resizing of bytes is that of floats, rounded: the two differ by 1 at most, the more so with antialias.
# What happens: bytes are resized along one axis, rounded and clamped to 0 to 255, and then along the other, in torch
# as in Pillow; floats are clamped by whoever wants it, at the end. Bicubic overshoots at each edge of black on white,
# and what the clamp between the axes cuts off is missing in the second. Of a line drawing, one pixel in ten differs by
# more than 2, some by up to 30 of 255. Bilinear has no overshoot: there the guess holds.
# Versions: torch 2.14.1, torchvision 0.29.1, Pillow 13.0.0, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: the authors' program resizes by Pillow's bicubic, and edges and label maps are what pix2pix
# learns from. A data set that converts to float before v2.Resize feeds a published network other lines, and pictures
# of 16 bits, which become floats, are not resized as their 8-bit copies are.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 pillow==13.0.0 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageDraw
from torchvision.transforms import InterpolationMode, v2

drawing = Image.new("RGB", (512, 512), "white")
pen = ImageDraw.Draw(drawing)
for i in range(20):
    pen.ellipse([20 + 10 * i, 30 + 5 * i, 300 + 8 * i, 200 + 12 * i], outline="black")
    pen.line([0, 25 * i, 511, 511 - 25 * i], fill="black")
pixels = v2.functional.pil_to_tensor(drawing)

print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}")
for mode, pillow in ((InterpolationMode.BICUBIC, Image.BICUBIC), (InterpolationMode.BILINEAR, Image.BILINEAR)):
    for side in (256, 286, 572):
        resize = v2.Resize((side, side), mode, antialias=True)
        of_bytes = resize(pixels).float()
        of_floats = (255 * resize(v2.functional.to_dtype(pixels, scale=True))).round().clamp(0, 255)
        of_pillow = v2.functional.pil_to_tensor(drawing.resize((side, side), pillow)).float()
        gap = (of_bytes - of_floats).abs()
        most, share = gap.max().item(), (gap > 2).float().mean().item()
        beside = (of_bytes - of_pillow).abs().max().item()
        print(f"{mode.value}, 512 to {side}: bytes and floats differ by up to {most:.0f}, {share:.1%} of the pixels by "
              f"more than 2; bytes and Pillow by up to {beside:.0f}")
        assert beside <= 1
        assert (most > 10 and share > 0.04) if pillow == Image.BICUBIC else most <= 1
PYTHON
