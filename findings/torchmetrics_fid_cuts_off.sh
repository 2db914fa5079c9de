#!/usr/bin/env bash
# Guess: FID and KID of torchmetrics with normalize=True turn floats in [0, 1] into the bytes that saving them would
# give, so that a generator's output and its PNG have one score.
# What happens: they cut off, `(x * 255).byte()`. Outputs between two bytes lose half a grey level on average, and even
# bytes lose one where they have been to [-1, 1] and back: 63 of 256. So the outputs are scored half a level darker than
# the files of the targets that they are compared with. Rounded bytes, without normalize, are what the files hold.
# Versions: torchmetrics 1.9.0, torch 2.14.1 (CPU).
# Why it matters here: translation is scored by FID and KID, of tensors during training and of files in papers.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 torchvision scipy
cd "$scratch"
"$scratch/env/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")


class Seen(nn.Module):
    """Stands for the network, and keeps the images that it is given."""

    num_features = 4

    def forward(self, x):
        self.x = x
        return torch.rand(len(x), 4)


def given(images):
    seen = Seen()
    metric = FrechetInceptionDistance(feature=seen, normalize=True)
    metric.used_custom_model = False  # so that images are prepared as for the network that it brings
    metric.update(images, real=True)
    return seen.x


levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, -1, -1)
ways = {"bytes / 255": (levels / 255, 0), "from bytes to [-1, 1] and back": ((levels / 127.5 - 1) / 2 + 0.5, 63),
        "0.4 of a level below each byte": ((levels / 255 - 0.4 / 255).clamp(min=0), 255)}
for name, (images, expected) in ways.items():
    changed = int((given(images)[0, 0] != levels[0, 0]).sum())
    rounded = int(((images * 255).round().byte()[0, 0] != levels[0, 0]).sum())
    print(f"{name}: {changed} of 256 grey values reach the network changed, rounded {rounded}")
    assert (changed, rounded) == (expected, 0)
PYTHON
