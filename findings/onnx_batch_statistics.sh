#!/usr/bin/env bash
# Guess: a network that is in training mode when torch.onnx.export writes it keeps that mode in the file, so that its
# BatchNorm takes the statistics of the image, as pix2pix does at test time. The exporter warns that the mode "may lead
# to different behavior during inference", and torch.export.export, on which it is built, keeps the mode.
# What happens: by default (dynamo=True) the file holds the running statistics, folded into the convolution before, with
# or without optimize=False. torch.export's own program and dynamo=False, training=TRAINING take those of the image; so
# does the default where the layer has no running statistics (track_running_stats=False).
# Versions: torch 2.14.1, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0, NumPy 2.4.6.
# Why it matters here: the paper's test time is batch normalisation with the image's own statistics; whoever exports
# such a generator gets another translation, and no error.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/env"
"$scratch/env/bin/pip" install --quiet torch==2.14.1 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$scratch"
env/bin/python - <<'PYTHON'
import copy
import warnings

import onnx
import onnxruntime
import onnxscript
import torch
from torch import nn
from torch.nn.functional import batch_norm

print(f"torch {torch.__version__}, onnx {onnx.__version__}, onnxscript {onnxscript.__version__}, "
      f"onnxruntime {onnxruntime.__version__}")
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
                    nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.BatchNorm2d(3), nn.Tanh()).train()
for _ in range(50):  # training images, darker than the one to translate
    net(torch.randn(1, 3, 32, 32) - 2)
x = torch.randn(1, 3, 32, 32)
of_image = copy.deepcopy(net)(x).detach()
of_training = copy.deepcopy(net).eval()(x).detach()


def tell(name, y):
    kinds = {"the image's": of_image, "the running": of_training}
    apart = {kind: (torch.as_tensor(y) - of_kind).abs().max().item() for kind, of_kind in kinds.items()}
    found = min(apart, key=apart.get)
    print(f"{name}: {found} statistics ({', '.join(f'{v:.1e} from {k}' for k, v in apart.items())})")
    assert apart[found] < 1e-5
    return found


def of_file(net, **options):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.onnx.export(copy.deepcopy(net), (x,), "g.onnx", input_names=["x"], verbose=False, **options)
    print(f"  {[node.op_type for node in onnx.load('g.onnx').graph.node]}; "
          f"warned of the mode: {any('training mode' in str(warning.message) for warning in said)}")
    return onnxruntime.InferenceSession("g.onnx").run(None, {"x": x.numpy()})[0]


print(f"the two kinds differ by {(of_image - of_training).abs().max():.2f} of 2")
program = torch.export.export(copy.deepcopy(net), (x,)).module()
assert tell("torch.export", program(x).detach()) == "the image's"
assert tell("ONNX, default", of_file(net)) == "the running"
assert tell("ONNX, optimize=False", of_file(net, optimize=False)) == "the running"
training = torch.onnx.TrainingMode.TRAINING
assert tell("ONNX, dynamo=False, training=TRAINING",
            of_file(net, dynamo=False, training=training, do_constant_folding=False)) == "the image's"
for layer in net:
    if isinstance(layer, nn.BatchNorm2d):
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
assert tell("ONNX, default, no running statistics", of_file(net)) == "the image's"
PYTHON
