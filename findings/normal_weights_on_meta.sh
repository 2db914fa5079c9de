#!/usr/bin/env bash
# Guess: a network that is made under torch.device("meta"), to be filled from a file by load_state_dict(assign=True),
# costs nothing: its layers hold no numbers, so drawing their first weights does nothing.
# What happens: PyTorch's own initial weights, uniform ones, do cost nothing there. The first normal_, however, runs a
# decomposition in Python that imports torch._dynamo and SymPy, more than 500 modules, nearly as long again as
# `import torch`; that is longer than drawing the weights of the paper's U-Net on the CPU would have taken.
# Versions: torch 2.14.1, NumPy 2.4.6.
# Why it matters here: pix2pix, pix2pixHD and the DCGANs before them draw N(0, 0.02) in every convolution, so that
# whoever loads a generator in this way to start sooner starts later.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
import sys
import time

start = time.process_time()
import torch
from torch import nn

importing = time.process_time() - start


def layers():
    return nn.Sequential(nn.Conv2d(3, 64, 4, stride=2), nn.BatchNorm2d(64), nn.ConvTranspose2d(64, 3, 4, stride=2))


def cost(act):
    """Modules that are new in this process, and seconds of CPU time."""
    before, start = {*sys.modules}, time.process_time()
    act()
    return {*sys.modules} - before, time.process_time() - start


print(f"torch {torch.__version__}: import torch takes {importing:.2f} s")
with torch.device("meta"):
    made, seconds = cost(lambda: globals().update(net=layers()))
print(f"three layers on meta, with their own initial weights: {len(made)} modules, {seconds:.2f} s")
weight = net[0].weight
uniform, seconds = cost(lambda: nn.init.uniform_(weight))
print(f"uniform_ of a weight there: {len(uniform)} modules, {seconds:.2f} s")
normal, seconds = cost(lambda: nn.init.normal_(weight, 0.0, 0.02))
print(f"normal_ of the same weight: {len(normal)} modules, {seconds:.2f} s")
again, seconds = cost(lambda: nn.init.normal_(weight, 0.0, 0.02))
print(f"once more: {len(again)} modules, {seconds:.2f} s")
on_cpu = layers()
assert "torch._dynamo" in normal and "sympy" in normal and len(normal) > 500, len(normal)
assert len(made) < 20 and not uniform and not again
PYTHON
