#!/usr/bin/env bash
# Guess: to_tensor, make_grid or save_image of torchvision cost the import of a few small modules.
# What happens: any of them runs torchvision/__init__, which imports all of its models, of which those for detection
# need roi_align, which imports torch._dynamo, PyTorch's compiler, to ask whether it could compile. A program that
# compiles nothing waits for it all the same: nearly twice the processor time of `import torch`, a third more memory.
# Versions: torch 2.14.1, torchvision 0.29.1, NumPy 2.4.6, of PyPI for Linux.
# Why it matters here: programs of paired translation take from torchvision little but conversions and grids of images.
# One picture from the command line takes a second or two, most of which is imports, and each loader process that is
# spawned imports them anew.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
CUDA_VISIBLE_DEVICES= "$scratch/env/bin/python" - <<'PYTHON'
import statistics
import subprocess
import sys

PROGRAMS = {
    "import torch": "import torch",
    "make_grid alone": "from torchvision.utils import make_grid",
    "to_tensor alone": "from torchvision.transforms.functional import to_tensor",
}
TOLD = """
import resource, sys
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3, "torch._dynamo" in sys.modules, len(sys.modules))
"""
rows = {name: [] for name in PROGRAMS}
for turn in range(6):  # in turns; the first one, which compiles bytecode, does not count
    for name, program in PROGRAMS.items():
        done = subprocess.run([sys.executable, "-c", program + TOLD], check=True, capture_output=True, text=True)
        seconds, megabytes, dynamo, modules = done.stdout.split()
        if turn:
            rows[name].append((float(seconds), float(megabytes), dynamo == "True", int(modules)))

medians = {}
for name, measured in rows.items():
    seconds, megabytes, dynamo, modules = zip(*measured)
    medians[name] = statistics.median(seconds)
    print(f"{name}: {medians[name]:.2f} s of processor time ({min(seconds):.2f} to {max(seconds):.2f}), "
          f"{statistics.median(megabytes):.0f} MB, {modules[0]} modules, torch._dynamo among them: {dynamo[0]}")
assert [measured[0][2] for measured in rows.values()] == [False, True, True]
assert min(medians[name] for name in rows if name != "import torch") > 1.3 * medians["import torch"]
PYTHON
