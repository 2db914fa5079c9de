#!/usr/bin/env bash
# Guess: torchmetrics' SSIM, with its defaults the Gaussian window of 11 pixels and sigma 1.5, gives what scikit-image
# with those settings and pytorch-msssim give: the mean over all places where the window lies inside the image.
# What happens: torchmetrics mirrors the images at their borders and counts the windows there too. Where the network's
# error is even, as here, the border scores lower: a few thousandths less at 256 pixels, some hundredths at 64; more
# than between two recipes of training. Both others leave the border out and agree with one another.
# Versions: torchmetrics 1.9.0, torch 2.14.1, scikit-image 0.26.0, pytorch-msssim 1.0.0, NumPy 2.4.6.
# Why it matters here: scores of paired translation at 64, 128 and 256 pixels are compared from paper to paper and from
# program to program by SSIM, which most name without saying whose.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 scikit-image==0.26.0 pytorch-msssim==1.0.0 \
  numpy==2.4.6
"$scratch/env/bin/python" - <<'PYTHON'
import skimage
import torch
import torchmetrics
from pytorch_msssim import ssim
from skimage.metrics import structural_similarity
from torch.nn.functional import interpolate, pad
from torchmetrics.functional.image import structural_similarity_index_measure as of_torchmetrics

print(f"torchmetrics {torchmetrics.__version__}, scikit-image {skimage.__version__}, torch {torch.__version__}")
torch.manual_seed(0)
gaps = {}
for size in (64, 128, 256):
    y = interpolate(torch.rand(1, 3, size // 8, size // 8), size=size, mode="bilinear").double()
    y_fake = (y + 0.1 * torch.randn_like(y)).clamp(0, 1)

    def of_skimage(a, b):
        return structural_similarity(a[0].numpy(), b[0].numpy(), channel_axis=0, data_range=1.0,
                                     gaussian_weights=True, sigma=1.5, use_sample_covariance=False)

    theirs = of_torchmetrics(y_fake, y, data_range=1.0).item()
    inside = of_skimage(y_fake, y)
    mirrored = of_skimage(*(pad(image, (5, 5, 5, 5), mode="reflect") for image in (y_fake, y)))
    third = ssim(y_fake, y, data_range=1.0).item()
    print(f"{size} pixels: torchmetrics {theirs:.4f}, scikit-image {inside:.4f}, pytorch-msssim {third:.4f}; "
          f"scikit-image with mirrored borders {mirrored:.4f}")
    assert abs(inside - third) < 1e-3 and abs(theirs - mirrored) < 1e-4
    gaps[size] = inside - theirs
assert gaps[64] > 0.02 and gaps[64] > gaps[128] > gaps[256] > 0, gaps
PYTHON
