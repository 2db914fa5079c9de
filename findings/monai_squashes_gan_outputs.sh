#!/usr/bin/env bash
# Guess: MONAI's PatchAdversarialLoss is the loss that its criterion names, of D's raw outputs: least_squares is LSGAN's
# (D(x) - 1)², hinge is max(0, 1 - D(x)) for D and -D(x) for G.
# What happens: outputs pass an activation first. least_squares, the default, puts LeakyReLU(0.05) before the squares, so
# that G's gradient for a patch at -4, which D calls fake, is 0.12 instead of 10. no_activation_leastsq=True takes it
# off. hinge puts tanh before it, with no argument to turn it off: D's loss is never 0, and G, whose gradient should be 1
# anywhere, gets 0.0013 at -4. So G learns least from the patches that are worst, the very fault that both losses were
# invented against. bce puts a sigmoid, as it should.
# Versions: monai 1.6.1, torch 2.14.1, NumPy 2.4.6.
# Why it matters here: MONAI's PatchDiscriminator and this loss are what medical translation (MR to CT, PET, stains)
# builds pix2pix and pix2pixHD of.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet monai==1.6.1 torch==2.14.1 numpy==2.4.6
CUDA_VISIBLE_DEVICES= "$scratch/env/bin/python" - <<'PYTHON'
import monai
import torch
from monai.losses import PatchAdversarialLoss

# G's loss by the papers (Mao et al., 2017; Lim and Ye, 2017; Goodfellow et al., 2014)
PAPERS = {
    "least_squares": lambda output: ((output - 1) ** 2).mean(),
    "hinge": lambda output: -output.mean(),
    "bce": lambda output: torch.nn.functional.softplus(-output).mean(),
}


def gradient(loss, value):
    """How strongly G is pushed by one patch to which D gave `value`."""
    output = torch.full((1, 1, 1, 1), value, requires_grad=True)
    loss(output).backward()
    return -output.grad.item()


print(f"monai {monai.__version__}, torch {torch.__version__}")
ratio = {}
for criterion, paper in PAPERS.items():
    theirs = PatchAdversarialLoss(criterion=criterion)  # of (output, target_is_real, for_discriminator)
    for value in (-4.0, -1.0, 0.5):
        pushes = gradient(paper, value), gradient(lambda x: theirs(x, True, False), value)
        ratio[criterion, value] = pushes[1] / pushes[0]
        print(f"{criterion}, D says {value}: gradient {pushes[0]:.4f} by the paper, {pushes[1]:.4f} by MONAI")
sure = PatchAdversarialLoss(criterion="hinge")(torch.full((1, 1, 1, 1), 3.0), True, True)
plain = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)
mended = gradient(lambda x: plain(x, True, False), -4.0)
print(f"hinge, D rightly says 3 of a real patch: {sure:.4f} instead of 0; no_activation_leastsq at -4: {mended:.4f}")
assert ratio["least_squares", -4.0] < 0.02 and ratio["hinge", -4.0] < 0.002 and abs(ratio["bce", -4.0] - 1) < 1e-3
assert abs(ratio["least_squares", 0.5] - 1) < 1e-3 and sure > 0.004 and mended == 10
PYTHON
