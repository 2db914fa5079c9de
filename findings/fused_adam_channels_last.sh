#!/usr/bin/env bash
# Guess: Adam works element by element, so that fused=True takes as long for weights that are channels-last as for
# contiguous ones of the same size.
# What happens: on the CPU the fused kernel first copies every gradient that is not contiguous, in the order of the
# dimensions, and then does not need the copy: the update is right in either layout. The copy goes against the order of
# memory, and takes longer than the update. With the same storage handed over as permuted, contiguous views, there is
# no copy.
# Versions: torch 2.14.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: channels-last is the advice for convolutions, and a U-Net of pix2pix has 54 million weights in
# 4×4 kernels. At batch 1, what the layout gains in convolutions, Adam loses again, so that channels-last looks useless.
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
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def begin(layout):
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(SHAPE, generator=generator).to(memory_format=layout))
    weight.grad = torch.randn(SHAPE, generator=generator).to(memory_format=layout)
    return weight, torch.optim.Adam([weight], 2e-4, fused=True)


runs = {name: begin(layout) for name, layout in LAYOUTS.items()}
for weight, adam in runs.values():
    for _ in range(3):
        adam.step()
difference = (runs["contiguous"][0] - runs["channels-last"][0]).abs().max().item()
print(f"torch {torch.__version__}: after three steps, the weights of both layouts differ by at most {difference:.1e}")
assert difference < 1e-6

copies = {}
for name, (_, adam) in runs.items():
    with profile(activities=[ProfilerActivity.CPU]) as found:
        adam.step()
    copies[name] = sum(event.name == "aten::clone" for event in found.events())

times = {name: [] for name in runs}
for _ in range(40):
    for name, (_, adam) in runs.items():
        start = time.perf_counter()
        adam.step()
        times[name].append(1e3 * (time.perf_counter() - start))
for name in runs:
    print(f"{name}: {statistics.median(times[name]):.2f} ms a step "
          f"({min(times[name]):.2f} to {max(times[name]):.2f}), {copies[name]} copies")
assert copies == {"contiguous": 0, "channels-last": 1}
assert statistics.median(times["channels-last"]) > 1.5 * statistics.median(times["contiguous"])
PYTHON
