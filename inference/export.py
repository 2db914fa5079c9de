"""Writes a generator for other programs: ONNX (.onnx) or PyTorch's exported format (.pt2)."""

import copy
import errno
import importlib.util
import io
import json
import os
from pathlib import Path

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch.nn.utils import parametrize

from generator import Generator
from inference.trained import trained_of
from runtime.console import say
from runtime.files import atomic
from utils import UserError, name_of


class Widened(nn.Module):
    """Weights that are kept in fp16 and computed with in fp32."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.float()


def halved(gen: Generator) -> Generator:
    """A copy whose large convolutions keep their weights in fp16. Raises UserError where one is too large for that.

    Those of less than 1 % of all weights, which are the ones beside the images, are left alone: together they have 2 %
    of the weights of the paper's network and more than half of the error.
    """
    if not fits_fp16(gen):
        raise UserError("a weight of the generator is too large for fp16: export it without --half")
    gen = copy.deepcopy(gen)
    least = sum(p.numel() for p in gen.parameters()) / 100
    for module in gen.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() >= least:
            module.weight = nn.Parameter(module.weight.detach().half(), requires_grad=False)
            parametrize.register_parametrization(module, "weight", Widened(), unsafe=True)
    return gen


def fits_fp16(gen: Generator) -> bool:
    return all(bool(parameter.half().isfinite().all()) for parameter in gen.parameters())


def metadata(gen: Generator, norm: str) -> dict[str, str]:
    """What another program must know to use `gen`, each value as JSON; what its file does not tell is left out."""
    trained = trained_of(gen)
    told = vars(trained) | vars(trained.geometry)
    for name in ("geometry", "sizes", "known", "seed"):  # the last two are of the training alone
        del told[name]
    if trained.sizes:
        told["usual_size"] = trained.sizes.usual
    told |= dict(in_channels=gen.in_channels, out_channels=gen.out_channels, crop_size=gen.crop_size,
                 multiple=gen.multiple, crop_width=gen.crop_width, norm=norm)
    return {name: json.dumps(value) for name, value in told.items() if value is not None}


def export(gen: Generator, path: Path, norm: str = "image", checkpoint: Path | None = None, half: bool = False) -> None:
    """Writes `gen` without dropout: x (N, C, H, W) in [-1, 1] → y_fake, N free, H and W multiples of gen.multiple.

    N is at most 1024, H and W are at most 64 · gen.multiple, or 4096. With `half`, the file holds most weights in
    fp16, and is half as large; x, y_fake and all arithmetic stay fp32. Beside the network it holds its `metadata`: ONNX
    as metadata_props, .pt2 as extra files.
    Raises UserError on another ending, where `path` is the `checkpoint`, or when the packages that ONNX needs are not
    installed, and OSError, naming `path`, when it cannot be written.
    """
    if path.suffix.lower() not in (".onnx", ".pt2"):
        raise UserError(f"an export ends in .onnx or .pt2, not {path.suffix or 'a name without an ending'}")
    if checkpoint and path.exists() and path.samefile(checkpoint):
        raise UserError(f"the export {name_of(path)} would overwrite the checkpoint itself")
    write(gen, path, norm, half)
    most = max(64, 4096 // gen.multiple) * gen.multiple
    say(f"wrote {path}: for batches up to 1024, widths and heights in multiples of {gen.multiple} up to {most}")


def write(gen: Generator, path: Path, norm: str, half: bool) -> None:
    """The same, without a word."""
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if path.suffix.lower() == ".onnx" and missing:
        raise UserError(f"exporting to ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    told = metadata(gen, norm)
    if half:
        gen = halved(gen)
    size, device = gen.multiple, next(gen.parameters()).device
    least, most = gen.smallest // size, max(64, 4096 // size)
    x = torch.zeros(2, gen.in_channels, 2 * size, 3 * size, device=device)
    rows, columns = (torch.export.Dim(name, min=least, max=most) for name in ("rows", "columns"))
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=1024), 2: size * rows, 3: size * columns}}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    # Size oblivious: the bottleneck of the smallest image is 1×1, a size that the tracer would take for a constant.
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    with torch.no_grad(), gen.test_time(norm, dropout=False), oblivious:
        program = torch.export.export(gen, (x,), dynamic_shapes=shapes)
        if path.suffix.lower() == ".pt2":
            packed = io.BytesIO()  # torch's own writer aborts the process where a disk is full
            torch.export.save(program, packed, extra_files=told)
            with atomic(path) as file:
                file.write(packed.getbuffer())
        else:
            onnx = torch.onnx.export(program, (), input_names=["x"], output_names=["y_fake"], verbose=False)
            onnx.model.metadata_props.update(told)
            with atomic(path) as file:
                file.write(onnx.model_proto.SerializeToString())
