"""Writes a generator for other programs: ONNX (.onnx) or PyTorch's exported format (.pt2)."""

import errno
import importlib.util
import os
from pathlib import Path

import torch
import torch.fx.experimental._config

from generator import Generator
from runtime.console import say
from runtime.files import atomic
from utils import UserError, name_of


def export(gen: Generator, path: Path, norm: str = "image", checkpoint: Path | None = None) -> None:
    """Writes `gen` without dropout: x (N, C, H, W) in [-1, 1] → y_fake, N free, H and W multiples of gen.multiple.

    N is at most 1024, H and W are at most 64 · gen.multiple.
    Raises ValueError on another ending, where `path` is the `checkpoint`, or when the packages that ONNX needs are not
    installed, and OSError, naming `path`, when it cannot be written.
    """
    if path.suffix.lower() not in (".onnx", ".pt2"):
        raise UserError(f"an export ends in .onnx or .pt2, not {path.suffix or 'a name without an ending'}")
    if checkpoint and path.exists() and path.samefile(checkpoint):
        raise UserError(f"the export {name_of(path)} would overwrite the checkpoint itself")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if path.suffix.lower() == ".onnx" and missing:
        raise UserError(f"exporting to ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}")
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
            with atomic(path) as file:
                torch.export.save(program, file)
        else:
            onnx = torch.onnx.export(program, (), input_names=["x"], output_names=["y_fake"], verbose=False)
            with atomic(path) as file:
                file.write(onnx.model_proto.SerializeToString())
    say(f"wrote {path}: for batches up to 1024, widths and heights in multiples of {size} up to {most * size}")
