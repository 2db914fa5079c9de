#!/usr/bin/env bash
# Guess: torchvision's ToTensor, which scales no 16-bit images, as its page says, gives the numbers in the file.
# What happens: it gives them as int16, so that all from 32768 on are negative: 40000 becomes -25536, and white -1. What
# then divides by 65535 trains on images whose upper half lies below black. PILToTensor and v2's ToImage, of the same
# library, give uint16 and are right. v2's ToTensor is as wrong, while it warns that ToImage and ToDtype(float32,
# scale=True) are to replace it, with equivalent output: theirs is the right one, from 0 to 1.
# Versions: torchvision 0.29.1, torch 2.14.1, Pillow 13.0.0, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: ToTensor stands in most programs for paired images. With depth in mm, or 12 bits, no number is
# that large and all is well; X-rays, microscopes and thermal cameras use all 16 bits, and the brightest turns dark.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torchvision==0.29.1 torch==2.14.1 pillow==13.0.0 numpy==2.4.6
cd "$scratch"
CUDA_VISIBLE_DEVICES= "$scratch/env/bin/python" - <<'PYTHON'
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

print(f"torchvision {torchvision.__version__}")
numbers = np.array([[0, 4095, 32767, 32768, 40000, 65535]], np.uint16)
Image.fromarray(numbers).save("depth.png")
image = Image.open("depth.png")
assert image.mode == "I;16" and (np.asarray(image) == numbers).all()
ways = {"ToTensor": transforms.ToTensor(), "v2.ToTensor": v2.ToTensor(), "PILToTensor": transforms.PILToTensor(),
        "v2.ToImage": v2.ToImage()}
found = {name: way(image) for name, way in ways.items()}
for name, tensor in found.items():
    print(f"{name}: {tensor.dtype}, {tensor.flatten().tolist()}")
wrong = numbers.astype(np.int16)
assert wrong.tolist() == [[0, 4095, 32767, -32768, -25536, -1]]
for name, tensor in found.items():
    assert np.array_equal(tensor[0].numpy(), wrong if name in ("ToTensor", "v2.ToTensor") else numbers), name
scaled = v2.ToDtype(torch.float32, scale=True)(found["v2.ToImage"])
assert torch.allclose(scaled[0], torch.from_numpy(numbers / 65535).float())
PYTHON
