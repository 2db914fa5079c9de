#!/usr/bin/env bash
# Guess: litert-torch converts the upsampling of ResNet generators, ConvTranspose2d(kernel 3, stride 2, padding 1,
# output_padding 1), as it does the U-Net's, ConvTranspose2d(kernel 4, stride 2, padding 1).
# What happens: the U-Net's converts; the other one ends in "failed to legalize operation 'mhlo.convolution'". The same
# layer without padding, whose first row and column are cut off, converts, and equals it.
# Versions: litert-torch 0.10.0, torch 2.14.1 (CPU).
# Why it matters here: the generators of CycleGAN, pix2pixHD and the authors' resnet_9blocks are built of that layer, and
# phones are what people export them for.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet litert-torch==0.10.0 torch==2.14.1 torchvision
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON' 2>&1 | grep -v -i -E "warning|^WARNING|tensorrt|cuda|onednn|cpu_feature"
import importlib.metadata

import litert_torch
import torch
from torch import nn
from torch.nn import functional as F

print(f"litert-torch {importlib.metadata.version('litert-torch')}, torch {torch.__version__}")
x = torch.randn(1, 4, 8, 8)
resnet = nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1).eval()


class Cropped(nn.Module):
    def forward(self, x):
        return F.conv_transpose2d(x, resnet.weight, resnet.bias, stride=2)[..., 1:, 1:]


def converts(module):
    try:
        litert_torch.convert(module.eval(), (x,))
    except Exception as error:
        told = [line for line in str(error).splitlines() if "legalize" in line]
        return told[0].strip() if told else type(error).__name__
    return "converts"


found = {"kernel 4": converts(nn.ConvTranspose2d(4, 2, 4, 2, 1)), "kernel 3": converts(resnet),
         "kernel 3, cropped": converts(Cropped())}
for name, told in found.items():
    print(f"{name}: {told}")
off = (Cropped()(x) - resnet(x)).abs().max().item()
print(f"cropped against kernel 3: {off:.1e}")
assert found["kernel 4"] == found["kernel 3, cropped"] == "converts" and found["kernel 3"] != "converts" and off < 1e-5
PYTHON
