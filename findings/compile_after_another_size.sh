#!/usr/bin/env bash
# Guess: a network of torch.compile gives the same loss and gradients for the same batch and weights, to the bit,
# whenever it is called in a process, as it does without the compiler.
# What happens: once a batch of another size has come, such as an epoch's last, the first size too runs through the code
# that was compiled for any size, and other sums round in another order. With dynamic=False, each size keeps its code.
# Versions: torch 2.14.1, NumPy 2.4.6, of PyPI for Linux; g++ compiles what the CPU runs.
# Why it matters here: a run that goes on from a checkpoint meets the sizes in another order than one that was not cut,
# so that the two differ in the last place, however carefully seeds and places are kept.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 "$scratch/env/bin/python" - <<'PYTHON'
import torch
from torch import nn


def differ(dynamic, *calls):
    """Of loss and gradients for a batch of 3, how many numbers are others after these batch sizes."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 1, 1))
    net.compile(dynamic=dynamic)
    batches = {n: torch.rand(n, 3, 32, 32) for n in (3, 2)}

    def learnt(n):
        net.zero_grad()
        loss = net(batches[n]).square().mean()
        loss.backward()
        return torch.cat([loss.detach().view(1), *(p.grad.flatten() for p in net.parameters())])

    first = learnt(3)
    for n in calls:
        learnt(n)
    return int((learnt(3) != first).sum())


found = {(dynamic, calls): differ(dynamic, *calls) for dynamic in (None, False) for calls in ((3,), (2,))}
print(torch.__version__, "dynamic, sizes in between: numbers that differ", found)
assert found[None, (2,)] > 0 and not any(number for case, number in found.items() if case != (None, (2,)))
PYTHON
