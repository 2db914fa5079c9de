"""A generator from what a --checkpoint names: of a run, of the Hub, or of the authors' PyTorch release (`*_net_G.pth`).

The authors' U-Net nests each block in the one above it: `model.model.1.model.3.…`. Inside a block, the layers stand in
the order LeakyReLU, convolution, norm, the next block, ReLU, transposed convolution, norm; the outermost block has no
activation and no norm in front, the innermost no norm behind its convolution, which shifts their numbers.

Their `resnet_9blocks`, and the generators of pix2pixHD, are sequences, `model.1`, `model.4`, …, as in hd/networks.py.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generator import Generator
from hd.networks import GlobalGenerator, LocalEnhancer, make_generator, release_dropout
from inference.trained import Trained, check_known
from runtime.console import say
from runtime.speed import is_channels_last
from runtime.state import result_of
from runtime.weights import PUBLISHED, find_weights, read_weights
from utils import UserError

UNET = "model.model.0.weight"  # which every U-Net of the authors' has
PUBLISHED_SIZE = 54_413_955  # parameters of each network of PUBLISHED
NORM = ("weight", "bias", "running_mean", "running_var")  # the count of batches, new in PyTorch 0.4.1, has no use


def load_generator(path: Path | str, device: torch.device | str = "cpu") -> Generator:
    """The generator in gen.pth.tar, in checkpoint.pth.tar, in a `*_net_G.pth` of the authors' PyTorch releases, or in
    a folder that `export.py --hub` wrote; also by one of their five names, hf:USER/REPO or an address.

    Its attribute `trained` is what the file tells of the training (`Trained`).
    Raises FileNotFoundError, or UserError when the file is damaged, holds no generator, or cannot be fetched; nothing
    in it is executed.
    """
    path = find_checkpoint(path)
    gen = generator_of(read_weights(path), path).to(device).eval()
    if torch.device(device).type == "mps":  # whose layers are slow in other layouts, and in some versions wrong
        gen.to(memory_format=torch.contiguous_format)
    return gen


def find_checkpoint(checkpoint: Path | str) -> Path:
    """The file or folder that a --checkpoint names; what lies on the network is fetched once. Raises UserError."""

    def check(path: Path) -> None:
        gen = generator_of(read_weights(path), path)
        size = sum(weight.numel() for weight in gen.parameters())
        if str(checkpoint) in PUBLISHED and size != PUBLISHED_SIZE:
            raise UserError("what came is no U-Net of 256 pixels, three channels to three, ngf 64, as the authors' are")

    return find_weights(checkpoint, check)


def generator_of(saved: dict, path: Path) -> Generator:
    """The same, from what was read of the file at `path`."""
    try:
        layers = named(saved)
        if UNET in layers:
            gen = from_published(layers)
        elif "model.1.weight" in layers:
            gen = from_sequence(layers)
        else:
            whole = saved.get("format") == "pix2pix checkpoint"
            weights = result_of(saved["state"]) if whole else saved.get("state_dict")
            if not isinstance(weights, dict) or "config" not in saved:
                raise UserError(f"its keys are {', '.join(map(str, list(saved)[:5]))}, not those of a generator")
            check_known(saved)
            with torch.device("meta"):
                gen = make_generator(saved["config"])
            hold(gen, {key.removeprefix("module."): value for key, value in weights.items()})
        gen.trained = Trained.of(saved, gen)
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        reason = textwrap.shorten(str(error), 300)
        raise UserError(f"{path} holds no generator that this program knows: {reason}") from error
    if not all(value.isfinite().all() for value in gen.state_dict().values()):
        raise UserError(f"{path} holds weights that are not finite")
    return gen


def hold(gen: nn.Module, weights: dict[str, Tensor]) -> None:
    """Gives these weights to a network that was made on the device "meta", without any: none are drawn, nor copied.

    Training on the CPU or in half precision leaves them channels-last, and so they stay.
    """
    held = {}
    for key, value in weights.items():
        value = value.float() if value.is_floating_point() else value
        held[key] = value if is_channels_last(value) else value.contiguous()
    gen.load_state_dict(held, assign=True)


def named(saved: dict[str, Any]) -> dict[str, Any]:
    """What a file of the authors' holds, without what their DataParallel and PyTorch 0.4.1 added."""
    return {str(key).removeprefix("module."): value for key, value in saved.items()
            if not str(key).endswith("num_batches_tracked")}


def head_start(gen: nn.Module, disc: nn.Module, path: Path) -> None:
    """Puts the weights in `path` that fit into `gen`, and those of a checkpoint into `disc`; the others stay as drawn.

    Weights are matched by name and shape, of U-Nets of different depths the blocks of one resolution. Of a network of
    which less than half fits, nothing is taken. Says what was.
    Raises FileNotFoundError, or UserError when the file is damaged, holds no generator, or one that does not fit.
    """
    saved = read_weights(path)
    theirs = generator_of(saved, path)
    shift = depth_of(gen) - depth_of(theirs)  # the decoder is numbered from the bottleneck
    of_gen = {re.sub(r"^decoder\.(\d+)", lambda found: f"decoder.{int(found[1]) + shift}", key): value
              for key, value in theirs.state_dict().items()}
    of_disc = saved["state"].get("disc") if saved.get("format") == "pix2pix checkpoint" else None
    told = []
    for name, net, weights in (("G", gen, of_gen), ("D", disc, of_disc)):
        if not isinstance(weights, dict):
            told.append("D begins anew")
            continue
        own, sizes = net.state_dict(), {key: parameter.numel() for key, parameter in net.named_parameters()}
        fits = {key: value for key, value in weights.items() if key in own and isinstance(value, Tensor)
                and value.shape == own[key].shape and value.isfinite().all()}
        fresh = [key for key in sizes if key not in fits]
        total, missing = sum(sizes.values()), sum(sizes[key] for key in fresh)
        taken = f"{total - missing:,} of {total:,} parameters of {name}"
        if 2 * missing <= total:
            net.load_state_dict(fits, strict=False)
            told.append(taken + (f", not {textwrap.shorten(', '.join(fresh), 120, placeholder=' …')}" if fresh else ""))
        elif net is gen:
            why = ("a local generator takes those of a global one of twice its ngf, the same n_downs and n_blocks"
                   if isinstance(gen, LocalEnhancer) else "its generator, or what sets that one's size, is another")
            raise UserError(f"only {taken} have their like in {path}, too few to begin with: {why}")
        else:
            told.append(f"D begins anew, as only {taken} have their like there")
    if UNET in named(saved) and isinstance(gen, Generator) and gen.decoder[0][3].p:
        told.append("dropout stays where this generator has it; theirs is that of --generator release")
    say(f"weights from {path}: " + "; ".join(told))


def depth_of(gen: nn.Module) -> int:
    return len(getattr(gen, "encoder", ()))


def published_keys(depth: int) -> dict[str, str]:
    """Our key → theirs, for a U-Net of `depth` stride-2 convolutions (8 for unet_256, 7 for unet_128)."""
    keys = {"encoder.0.weight": UNET,
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


def from_published(theirs: dict[str, Tensor]) -> Generator:
    """The generator whose weights these are. On another layout, raises UserError with the first keys that differ."""
    depth, block = 2, "model.model.1"
    while f"{block}.model.5.weight" in theirs:
        depth, block = depth + 1, f"{block}.model.3"
    keys = published_keys(depth)
    differ = sorted(theirs.keys() ^ keys.values())
    if differ or depth < 4:
        raise UserError(f"these are no weights of a published BatchNorm U-Net; the first keys that differ: "
                         f"{', '.join(differ[:3]) or 'a depth of ' + str(depth)}")
    ngf, in_channels = theirs[UNET].shape[:2]
    out_channels = theirs["model.model.3.bias"].shape[0]
    with torch.device("meta"):
        gen = release_dropout(Generator(in_channels, out_channels, ngf, 2**depth), 0.5)
    hold(gen, {ours: theirs[key] for ours, key in keys.items()})
    return gen


def from_sequence(theirs: dict[str, Tensor]) -> GlobalGenerator | LocalEnhancer:
    """The same for a ResNet of the authors' release, with 9 blocks or another number, and for pix2pixHD's networks."""
    local, batch = "model1_1.1.weight" in theirs, "model.2.weight" in theirs
    if not batch:  # statistics that files of 2017 keep, though they were never used
        theirs = {key: value for key, value in theirs.items() if ".running_" not in key}

    def blocks(part: str) -> list[int]:
        """Where the residual blocks stand in a sequence of layers."""
        return sorted({int(key.split(".")[1]) for key in theirs if key.startswith(part) and ".conv_block." in key})

    at = blocks("model.")
    if not at:
        raise UserError("these are no weights of a published ResNet or pix2pixHD: there are no residual blocks")
    first = at[0]
    n_downs, n_local = (first - 4) // 3, len(blocks("model1_2."))
    ngf, in_channels = theirs["model1_1.1.weight" if local else "model.1.weight"].shape[:2]
    last = f"model1_2.{n_local + 4}.bias" if local else f"model.{first + len(at) + 3 * n_downs + 1}.bias"
    sizes = in_channels, theirs[last].shape[0], ngf, n_downs, len(at)
    with torch.device("meta"):
        if local:
            gen = LocalEnhancer(*sizes, n_local_blocks=n_local)
        else:
            dropout = f"model.{first}.conv_block.5.weight" not in theirs  # it moves the second convolution
            gen = GlobalGenerator(*sizes, norm="batch" if batch else "instance", dropout=dropout)
            gen.crop_size = 256 if n_downs == 2 else 0
    hold(gen, theirs)
    return gen
