"""A generator from a file: of a run, or of the authors' PyTorch release (`*_net_G.pth`).

The authors' U-Net nests each block in the one above it: `model.model.1.model.3.…`. Inside a block, the layers stand in
the order LeakyReLU, convolution, norm, the next block, ReLU, transposed convolution, norm; the outermost block has no
activation and no norm in front, the innermost no norm behind its convolution, which shifts their numbers.
"""

import textwrap
from pathlib import Path

import torch
from torch import Tensor

from generator import Generator
from runtime.checkpoint import GENERATOR, load_tensors
from utils import UserError

NORM = ("weight", "bias", "running_mean", "running_var")  # the count of batches, new in PyTorch 0.4.1, has no use


def load_generator(path: Path | str, device: torch.device | str = "cpu") -> Generator:
    """The generator in gen.pth.tar, in checkpoint.pth.tar, or in a `*_net_G.pth` of the authors' PyTorch release.

    Its attribute `trained` holds what the file tells: direction, load_size, label_side, epoch, colours.
    Raises FileNotFoundError, or ValueError when the file is damaged or holds no generator; nothing in it is executed.
    """
    path = Path(path)
    saved = load_tensors(path)
    try:
        if is_published(saved):
            gen = from_published(saved)
        else:
            weights = saved["state"]["gen"] if saved.get("format") == "pix2pix checkpoint" else saved.get("state_dict")
            if not isinstance(weights, dict) or "config" not in saved:
                raise UserError(f"its keys are {', '.join(map(str, list(saved)[:5]))}, not those of a generator")
            gen = Generator(*(saved["config"][name] for name in GENERATOR))
            gen.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
        gen.trained = dict(saved.get("config") or {})  # how, as far as the file tells
        if "held_out" in saved:
            gen.trained["held_out"] = [str(name) for name in saved["held_out"] or []]
        gen.trained["epoch"] = saved.get("epoch")
        gen.trained["colours"] = [(int(r), int(g), int(b), float(n)) for r, g, b, n in saved.get("colours") or []]
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        reason = textwrap.shorten(str(error), 300)
        raise UserError(f"{path} holds no generator that this program knows: {reason}") from error
    if {gen.in_channels, gen.out_channels} - {1, 3}:
        raise UserError(f"{path} translates {gen.in_channels} channels to {gen.out_channels}; "
                         "images have 1 or 3")
    if not all(value.isfinite().all() for value in gen.state_dict().values()):
        raise UserError(f"{path} holds weights that are not finite")
    return gen.to(device).eval()


def published_keys(depth: int) -> dict[str, str]:
    """Our key → theirs, for a U-Net of `depth` stride-2 convolutions (8 for unet_256, 7 for unet_128)."""
    keys = {"encoder.0.weight": "model.model.0.weight",
            "output.1.weight": "model.model.3.weight", "output.1.bias": "model.model.3.bias"}
    block = "model.model.1"
    for level in range(1, depth):
        innermost = level == depth - 1
        encoder, decoder = f"encoder.{level}", f"decoder.{depth - 1 - level}"
        keys[f"{encoder}.1.weight"] = f"{block}.model.1.weight"
        keys[f"{decoder}.1.weight"] = f"{block}.model.{3 if innermost else 5}.weight"
        for name in NORM:
            keys[f"{decoder}.2.{name}"] = f"{block}.model.{4 if innermost else 6}.{name}"
            if not innermost:
                keys[f"{encoder}.2.{name}"] = f"{block}.model.2.{name}"
        block += ".model.3"
    return keys


def is_published(saved: dict) -> bool:
    return any(key.removeprefix("module.").startswith("model.model.") for key in saved if isinstance(key, str))


def from_published(saved: dict[str, Tensor]) -> Generator:
    """The generator whose weights these are. On another layout, raises ValueError with the first keys that differ."""
    theirs = {key.removeprefix("module."): value for key, value in saved.items()
              if not key.endswith("num_batches_tracked")}
    depth, block = 2, "model.model.1"
    while f"{block}.model.5.weight" in theirs:
        depth, block = depth + 1, f"{block}.model.3"
    keys = published_keys(depth)
    differ = sorted(set(keys.values()) ^ set(theirs))
    if differ or depth < 4:
        raise UserError(f"these are no weights of a published BatchNorm U-Net; the first keys that differ: "
                         f"{', '.join(differ[:3]) or 'a depth of ' + str(depth)}")
    ngf, in_channels = theirs["model.model.0.weight"].shape[:2]
    out_channels = theirs["model.model.3.bias"].shape[0]
    gen = Generator(in_channels, out_channels, ngf, 2**depth)
    for i, block in enumerate(gen.decoder):  # that release starts dropout one block later, and ends it at 8·ngf
        block[3].p = 0.5 if 1 <= i <= depth - 5 else 0.0
    gen.load_state_dict({ours: theirs[key] for ours, key in keys.items()})
    return gen
