#!/usr/bin/env bash
# Guess: a transform of torchvision's v2 that is called with both halves of a pair, flip(x, y), does the same to both:
# that is what v2 is for.
# What happens: of plain tensors only the first is transformed, and the other handed back as it was, in a tuple, a list
# or a dict; where one half is a PIL image or a tv_tensors.Image, only that one is. Nothing warns: mirrored inputs train
# with targets that are not. As tv_tensors.Image, both are mirrored, but any arithmetic, such as x * 2 - 1, and
# torch.stack make plain tensors of them again.
# Versions: torchvision 0.29.1, torch 2.14.1, NumPy 2.4.6, Pillow 13.0.0.
# Why it matters here: pairs are often kept as tensors in [-1, 1], and mirrored together at random as the paper does.
# Half of the time, such a network is shown a mirrored input with a target that is not.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torchvision==0.29.1 torch==2.14.1 numpy==2.4.6 pillow==13.0.0
"$scratch/env/bin/python" - <<'PYTHON'
import torch
import torchvision
from torchvision.transforms import v2
from torchvision.tv_tensors import Image

print(f"torchvision {torchvision.__version__}, torch {torch.__version__}")
flip = v2.RandomHorizontalFlip(p=1.0)
x = torch.arange(3 * 4 * 4).view(3, 4, 4) / 48
y = 1 - x
as_pil = v2.functional.to_pil_image
ranged = [Image(side) * 2 - 1 for side in (x, y)]
cases = {"tensors": (x, y), "a list of tensors": [x, y], "a dict of tensors": {"x": x, "y": y},
         "a tensor and a PIL image": (x, as_pil(y)), "a PIL image and a tensor": (as_pil(x), y),
         "two PIL images": (as_pil(x), as_pil(y)), "two of tv_tensors.Image": (Image(x), Image(y)),
         "the same, after * 2 - 1": tuple(ranged)}
mirrored = {}
for name, pair in cases.items():
    result = flip(pair)
    halves = [list(each.values()) if isinstance(each, dict) else list(each) for each in (pair, result)]
    before, after = ([v2.functional.to_image(half).as_subclass(torch.Tensor) for half in side] for side in halves)
    mirrored[name] = tuple(torch.equal(new, old.flip(-1)) for old, new in zip(before, after, strict=True))
    kept = [torch.equal(new, old) for old, new in zip(before, after, strict=True)]
    assert all(a != b for a, b in zip(mirrored[name], kept, strict=True))  # either mirrored or left as it was
    print(f"{name}: mirrored {mirrored[name]}")
assert type(ranged[0]) is torch.Tensor and type(torch.stack([Image(x), Image(y)])) is torch.Tensor
both, first, second = (True, True), (True, False), (False, True)
assert list(mirrored.values()) == [first, first, first, second, first, both, both, first], mirrored
PYTHON
