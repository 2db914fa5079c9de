#!/usr/bin/env bash
# Guess: in which layout a network's weights lie is a matter of speed; torch.export makes the same program of both.
# What happens: a program may take a size of 1 only where it is traced without regard to such sizes
# (backed_size_oblivious). That works with contiguous weights. With channels-last ones, the way through a convolution asks
# whether sizes are larger than 1, and the answer for the example becomes a guard: the saved program refuses a single
# image and a single row of blocks, though the network takes them and Dim(min=1) was accepted. Nothing tells so before the
# loaded program is called.
# Versions: torch 2.14.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: networks of pix2pix are trained channels-last, batch 1 is what nearly everybody translates, and a
# U-Net's sides are multiples of 256 pixels, of which one is the size of the paper.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
import io
import warnings

import torch
import torch.fx.experimental._config
from torch import nn
from torch.export import Dim

warnings.filterwarnings("ignore")
SIZES = {"one image": (1, 3, 64, 64), "two images": (2, 3, 64, 64), "one row of blocks": (2, 3, 2, 64)}


def accepted(layout):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())
    net = net.eval().to(memory_format=layout)
    batch, rows, columns = (Dim(name, min=1, max=64) for name in ("batch", "rows", "columns"))
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = torch.export.export(net, (torch.zeros(2, 3, 4, 6),),
                                      dynamic_shapes=({0: batch, 2: 2 * rows, 3: 2 * columns},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    answers = {}
    for name, size in SIZES.items():
        with torch.no_grad():
            assert net(torch.zeros(size)).shape == size
        try:
            answers[name] = "taken" if loaded(torch.zeros(size)).shape == size else "another shape"
        except AssertionError as error:
            answers[name] = f"refused: {str(error).splitlines()[0]}"
    return answers


print(f"torch {torch.__version__}")
found = {}
for name, layout in (("contiguous", torch.contiguous_format), ("channels-last", torch.channels_last)):
    found[name] = accepted(layout)
    for size, answer in found[name].items():
        print(f"{name} weights, {size}: {answer}")
assert set(found["contiguous"].values()) == {"taken"}
assert found["channels-last"]["two images"] == "taken"
assert found["channels-last"]["one image"].startswith("refused")
assert found["channels-last"]["one row of blocks"].startswith("refused")
print("of channels-last weights, the program refuses sizes that were declared free, and of contiguous ones it does not")
PYTHON
