#!/usr/bin/env bash
# Guess: SSIM at default settings (11×11 Gaussian, sigma 1.5) is one number; two packages agree but for what they do at
# the border, and of one kind of noise it says about the same at any size.
# What happens: piq.ssim first averages pixels together where the shorter side is 384 or more, by its 256th part,
# rounded. From 383 to 384 pixels, the SSIM of the same noise leaps from 0.6 to 0.9; torchmetrics stays at 0.6. Below,
# and with downsample=False, the two agree to 0.01.
# Versions: piq 0.8.0, torchmetrics 1.9.0, torch 2.14.1, torchvision 0.29.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: translations of 256×256 (pix2pix) and of 512 and 1024 (pix2pixHD) are compared by their SSIM. By
# piq, larger outputs seem far better for their size alone, and do not compare with scores of other programs.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet piq==0.8.0 torchmetrics==1.9.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
from importlib.metadata import version

import piq
import torch
import torch.nn.functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

print(", ".join(f"{name} {version(name)}" for name in ("piq", "torchmetrics", "torch")))
leap = {}
for side in (256, 383, 384, 512, 1024):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, side // 8, side // 8, generator=generator)
    target = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    output = (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    by_piq = piq.ssim(output, target, data_range=1.0).item()
    plain = piq.ssim(output, target, data_range=1.0, downsample=False).item()
    other = structural_similarity_index_measure(output, target, data_range=1.0).item()
    print(f"{side}×{side}: piq {by_piq:.3f}, with downsample=False {plain:.3f}, torchmetrics {other:.3f}")
    assert abs(plain - other) < 0.02
    leap[side] = by_piq - plain
assert abs(leap[256]) < 1e-6 and abs(leap[383]) < 1e-6 and leap[384] > 0.2 and leap[1024] > leap[384]
PYTHON
