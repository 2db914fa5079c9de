#!/usr/bin/env bash
# Guess: Adam works element by element, so that it makes no difference in which layout the weights, their gradients and
# moments lie in memory; fused=True only makes it faster.
# What happens: on the CPU, the fused kernel goes through all of them in the order of memory. Where one is channels-last
# and another contiguous, each weight gets a step that belongs to another weight, without a word. That is so when
# moments of a contiguous run are loaded for a network that has become channels-last: load_state_dict keeps their layout.
# Where all are channels-last, the steps are right, but the kernel first makes a copy of the gradient in the other order
# that it does not use, which takes longer than the step.
# Versions: torch 2.14.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: a U-Net of pix2pix has 54 million weights in 4×4 kernels, channels-last is the advice for such
# networks, and runs are resumed for hundreds of epochs. At batch 1, what the layout gains, Adam's copies lose again.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

SHAPE = 512, 512, 4, 4  # one of the U-Net's kernels
LR = 2e-4


def draws(n, layout):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator).to(memory_format=layout) for _ in range(n)]


def begin(layout, fused):
    weight, gradient = draws(2, layout)
    weight = torch.nn.Parameter(weight)
    weight.grad = gradient
    return weight, torch.optim.Adam([weight], LR, fused=fused)


def resumed(fused):
    """The weights after a step of a contiguous run, and one more as channels-last."""
    weight, adam = begin(torch.contiguous_format, fused)
    adam.step()
    after = torch.nn.Parameter(weight.detach().clone(memory_format=torch.channels_last))
    after.grad = draws(3, torch.channels_last)[2]
    again = torch.optim.Adam([after], LR, fused=fused)
    again.load_state_dict(adam.state_dict())
    again.step()
    return after.detach()


print(f"torch {torch.__version__}, steps of {LR}")
wrong = (resumed(True) - resumed(False)).abs()
print(f"moments loaded from a contiguous run: the weights of the fused and the plain Adam differ by up to "
      f"{wrong.max():.1e}, {(wrong > LR / 10).float().mean():.0%} of them by more than {LR / 10:.0e}")
assert wrong.max() > LR / 2

runs = {"contiguous": begin(torch.contiguous_format, True), "channels-last": begin(torch.channels_last, True)}
copies, times = {}, {name: [] for name in runs}
for name, (_, adam) in runs.items():
    adam.step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        adam.step()
    copies[name] = sum(event.name == "aten::clone" for event in found.events())
right = (runs["contiguous"][0] - runs["channels-last"][0]).abs().max()
print(f"all in one layout, contiguous or channels-last: they differ by up to {right:.1e}")
for _ in range(40):
    for name, (_, adam) in runs.items():
        start = time.perf_counter()
        adam.step()
        times[name].append(1e3 * (time.perf_counter() - start))
for name in runs:
    print(f"{name}: {statistics.median(times[name]):.2f} ms a step "
          f"({min(times[name]):.2f} to {max(times[name]):.2f}), {copies[name]} copies")
assert right < LR / 100 and copies == {"contiguous": 0, "channels-last": 1}
assert statistics.median(times["channels-last"]) > 1.5 * statistics.median(times["contiguous"])
PYTHON
