#!/usr/bin/env bash
# Guess: BatchNorm's backward pass takes as long whoever asks for the gradient, as the tensor is as large.
# What happens: on the CPU, in channels-last, it takes many times as long when the gradient is half of a concatenation's,
# which autograd hands over as a view with gaps; a dense copy of it first costs next to nothing. Contiguous networks
# are not slowed down so.
# Versions: torch 2.14.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: each decoder block of a U-Net ends in BatchNorm (and Dropout, which is off in most of them) and
# torch.cat with the skip. So all of its norms meet this, the last and largest worst.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
import statistics
import time

import torch

LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
ratios = {}
print(f"torch {torch.__version__}: backward passes of BatchNorm, 64 channels of 128×128")
for name, layout in LAYOUTS.items():
    x = torch.randn(1, 64, 128, 128).to(memory_format=layout).requires_grad_()
    y = torch.nn.BatchNorm2d(64)(x)
    both = torch.randn(1, 128, 128, 128).to(memory_format=layout)
    half = both[:, 64:]
    grads = {"half of another": lambda: half, "that, made dense": lambda: half.contiguous(memory_format=layout)}
    results = {way: torch.autograd.grad(y, x, grad(), retain_graph=True)[0] for way, grad in grads.items()}
    torch.testing.assert_close(*results.values())
    times = {way: [] for way in grads}
    for _ in range(60):
        for way, grad in grads.items():
            start = time.perf_counter()
            torch.autograd.grad(y, x, grad(), retain_graph=True)
            times[way].append(1e3 * (time.perf_counter() - start))
    for way, taken in times.items():
        print(f"{name}, gradient {way}: {statistics.median(taken):.2f} ms ({min(taken):.2f} to {max(taken):.2f})")
    ratios[name] = statistics.median(times["half of another"]) / statistics.median(times["that, made dense"])
assert ratios["channels-last"] > 3 and ratios["contiguous"] < 2
PYTHON
