#!/usr/bin/env bash
# Guess: memory_format is about speed alone; with the same seed, weights and input, a network gives the same output in
# channels-last, but for rounding.
# What happens: F.dropout draws its mask in the order of memory. In channels-last, half of the mask is another one, and
# with it the output. rand_like of a channels-last tensor differs in the same way; Dropout2d does not, as its mask has
# one number a channel.
# Versions: torch 2.14.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: dropout is the only noise of pix2pix, on at test time too, and channels-last is the usual advice
# for its U-Net. Who compares a faster run with a plain one, or two programs by their seed, compares two draws.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
import torch
from torch import nn

LAYOUTS = torch.contiguous_format, torch.channels_last


def draws(act, shape):
    """What act gives of ones in each layout, after the same seed."""
    for layout in LAYOUTS:
        torch.manual_seed(0)
        yield act(torch.ones(shape).to(memory_format=layout))


def decoder(dropout):
    """Three blocks of a U-Net's decoder, 4×4 to 32×32."""
    torch.manual_seed(1)
    blocks = [(nn.ReLU(), nn.ConvTranspose2d(n, n // 2, 4, 2, 1), nn.BatchNorm2d(n // 2), dropout) for n in (128, 64, 32)]
    return nn.Sequential(*[layer for block in blocks for layer in block], nn.Conv2d(16, 3, 3, padding=1), nn.Tanh())


print(f"torch {torch.__version__}: after the same seed, what differs between contiguous and channels-last")
shape = 1, 512, 4, 4
for name, act in (("dropout", nn.Dropout(0.5)), ("rand_like", torch.rand_like)):
    plain, last = draws(act, shape)
    share = (plain != last).float().mean()
    print(f"{name} of {shape}: {share:.0%} of the numbers; in the order of memory, none")
    assert share > 0.4 and torch.equal(plain.flatten(), last.permute(0, 2, 3, 1).flatten())
plain, last = draws(nn.Dropout2d(0.5), shape)
print(f"dropout2d of {shape}: {(plain != last).float().mean():.0%} of the numbers")
assert torch.equal(plain, last)

gaps = {}
for name, dropout in (("with dropout", nn.Dropout(0.5)), ("without", nn.Identity())):
    net = decoder(dropout)
    x = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(2))
    outputs = []
    for layout in LAYOUTS:
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(net.to(memory_format=layout)(x.to(memory_format=layout)))
    gaps[name] = (outputs[0] - outputs[1]).abs().max().item()
    print(f"output in [-1, 1] of three decoder blocks, {name}: differs by up to {gaps[name]:.1e}")
assert gaps["with dropout"] > 0.1 and gaps["without"] < 1e-5
PYTHON
