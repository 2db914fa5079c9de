#!/usr/bin/env bash
# Guess: MS-SSIM of five scales needs images of more than 160 pixels a side: torchmetrics says so, in the very words
# "must be larger than 160". So a guard that lets 161 and more pass is safe.
# What happens: 161 to 175 are refused as well, by the sentence that demands more than 160. The size is divided by 16
# without a rest before it is compared with 10, so that 176 is the first that passes.
# Versions: torchmetrics 1.9.0, torch 2.14.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: translations are scored after each epoch, and photos of 168 pixels become outputs of 168. A guard
# that was written after the sentence lets the first validation end the training.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

print(", ".join(f"{name} {version(name)}" for name in ("torchmetrics", "torch")))
told = {}
for side in (160, 161, 175, 176):
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        told[side] = f"{multiscale_structural_similarity_index_measure(image, image, data_range=1.0).item():.3f}"
    except ValueError as error:
        told[side] = str(error)
    print(f"{side}×{side}: {told[side]}")
assert told[160] == told[161] == told[175] and "larger than 160" in told[175] and told[176] == "1.000"
PYTHON
