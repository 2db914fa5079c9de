#!/usr/bin/env bash
# Guess: torch.manual_seed sets a number in a generator, and costs as little as random.seed does.
# What happens: without a GPU, each call also hands the seed on to CUDA, XPU and MTIA, none of which is there. For each
# of the three, torch writes the whole call stack down as text, in case the device comes to life later. One call takes
# a hundred times as long as torch.default_generator.manual_seed, which draws the same numbers, and the deeper the call,
# the longer.
# Versions: torch 2.14.1, NumPy 2.4.6, of PyPI for Linux, which know CUDA.
# Why it matters here: pix2pix draws its z by dropout, at test time too, so that whoever wants one step or one picture
# to repeat seeds each of them, and at batch 1 these are short.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
CUDA_VISIBLE_DEVICES= "$scratch/env/bin/python" - <<'PYTHON'
import statistics
import time
import traceback

import torch

WAYS = torch.manual_seed, torch.default_generator.manual_seed
written = []
format_stack = traceback.format_stack


def noted(*args, **kwargs):
    written.append(format_stack(*args, **kwargs))
    return written[-1]


def stacks(seed):
    """How many call stacks are written down."""
    written.clear()
    traceback.format_stack = noted
    seed(7)
    traceback.format_stack = format_stack
    return len(written)


def called(depth, act):
    return called(depth - 1, act) if depth else act(7)


def microseconds(depth, seed):
    times = []
    for _ in range(500):
        start = time.perf_counter()
        called(depth, seed)
        times.append(1e6 * (time.perf_counter() - start))
    return statistics.median(times)


drawn = []
for seed in WAYS:
    seed(7)
    drawn.append(torch.nn.functional.dropout(torch.ones(1000)))
print(f"torch {torch.__version__}: the same dropout after both: {torch.equal(*drawn)}")
print("call stacks written down by torch.manual_seed and by the generator's own:", *map(stacks, WAYS))
for depth in (5, 40):
    all_devices, own = (microseconds(depth, seed) for seed in WAYS)
    print(f"{depth} calls deep, medians: {all_devices:.0f} µs and {own:.1f} µs, {all_devices / own:.0f} times as long")
    assert all_devices > 20 * own
assert torch.equal(*drawn) and [*map(stacks, WAYS)] == [3, 0]
PYTHON
