#!/usr/bin/env bash
# Guess: torchmetrics' MeanAbsoluteError of two images of bytes is that of the same numbers as floats, or it is refused.
# What happens: bytes are subtracted as bytes, modulo 256. Where the prediction is 1 darker than the target, the error is
# 255: images that differ by 1.2 of 255 on average score 101. MeanSquaredError squares modulo 256 as well: it is right as
# long as no pixel differs by 16 or more, and then counts 20² as 144. So a test with a little noise passes, and a bad
# translation scores better than it is. PeakSignalNoiseRatio, in the same library, converts first and is right.
# Versions: torchmetrics 1.9.0, torch 2.14.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: L1 is what pix2pix trains and is scored by, and outputs are bytes as soon as they are files; FID
# and KID, in the same evaluation, demand uint8.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.6
CUDA_VISIBLE_DEVICES= "$scratch/env/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics import MeanAbsoluteError, MeanSquaredError
from torchmetrics.image import PeakSignalNoiseRatio

METRICS = {"MAE": MeanAbsoluteError, "MSE": MeanSquaredError, "PSNR": lambda: PeakSignalNoiseRatio(data_range=255.0)}
print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
random = torch.Generator().manual_seed(0)
target = torch.randint(64, 192, (4, 3, 64, 64), dtype=torch.uint8, generator=random)
found = {}
for reach in (2, 15, 60):
    change = torch.randint(-reach, reach + 1, target.shape, generator=random)
    output = (target + change).to(torch.uint8)
    for name, metric in METRICS.items():
        score = [metric()(output.to(kind), target.to(kind)).item() for kind in (torch.uint8, torch.float32)]
        found[name, reach] = score
        print(f"{name} of pixels up to {reach} off: {score[0]:.2f} of bytes, {score[1]:.2f} of floats")
assert found["MAE", 2][0] > 100 and found["MAE", 2][1] < 2
assert found["MSE", 15][0] == found["MSE", 15][1] and found["MSE", 60][0] < found["MSE", 60][1] / 5
assert all(abs(of_bytes - of_floats) < 1e-3 for (name, _), (of_bytes, of_floats) in found.items() if name == "PSNR")
PYTHON
