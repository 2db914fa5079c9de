#!/usr/bin/env bash
# Guess: FID and KID of torchmetrics, which takes its network and its weights from torch-fidelity, are torch-fidelity's,
# and one version gives what the next one gives.
# What happens: from 1.8.0 on, images are resized to 299×299 by another method (antialias=True) than the original FID's,
# which torch-fidelity and torchmetrics up to 1.7.4 keep. Features, FID and KID change without a word, also where images
# are enlarged, where nothing is smoothed. FrechetInceptionDistance has an argument to turn it off,
# KernelInceptionDistance and InceptionScore have none: metric.inception.use_antialias = False does it for all three.
# Versions: torchmetrics 1.9.0 and 1.7.4, torch-fidelity 0.4.0, torch 2.14.1 (CPU); random weights, no download.
# Why it matters here: translators are compared by FID and KID at 256×256, across papers and years.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torchmetrics==1.9.0 torch-fidelity==0.4.0 torch==2.14.1 torchvision scipy
"$scratch/env/bin/pip" install --quiet --no-deps --target "$scratch/before" torchmetrics==1.7.4
cat > "$scratch/compare.py" <<'PYTHON'
import sys
from unittest.mock import patch

import torch
import torchmetrics
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torchmetrics.image.kid import KernelInceptionDistance

weights = sys.argv[1] + "/random.pth"
torch.manual_seed(0)
with patch.object(fidelity, "load_state_dict_from_url"), patch.object(torch.nn.Module, "load_state_dict"):
    random = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
for name, value in random.named_parameters():
    value.requires_grad_(False)
    if value.dim() == 4:
        torch.nn.init.kaiming_normal_(value)
torch.save(random.state_dict(), weights)
theirs = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=weights)
images = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
wanted = theirs(images)[0]
with patch.object(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: torch.load(weights)):
    metric = KernelInceptionDistance()
for antialias in (getattr(metric.inception, "use_antialias", None), False):
    metric.inception.use_antialias = antialias
    off = ((metric.inception(images) - wanted).norm() / wanted.norm()).item()
    print(f"torchmetrics {torchmetrics.__version__}, use_antialias {antialias}: features are {off:.1%} off")
    assert (off > 0.001) == bool(antialias), off
PYTHON
"$scratch/env/bin/python" "$scratch/compare.py" "$scratch"
PYTHONPATH=$scratch/before "$scratch/env/bin/python" "$scratch/compare.py" "$scratch"
