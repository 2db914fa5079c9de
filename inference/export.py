"""Writes a generator for other programs: ONNX (.onnx), PyTorch's exported format (.pt2) or LiteRT's (.tflite)."""

import copy
import io
import json
from pathlib import Path

import torch
import torch.fx.experimental._config
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils import parametrize

from generator import BatchNorm, Generator
from inference.trained import crop_of, trained_of
from runtime.files import atomic, remove_leftovers
from utils import UserError, name_of, need


class Widened(nn.Module):
    """Weights that are kept in fp16, or in 8 bits with a scale for each output channel, and computed with in fp32."""

    def __init__(self, scale: Tensor | None = None):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, weight: Tensor) -> Tensor:
        return weight.float() if self.scale is None else weight.float() * self.scale


def reduced(gen: Generator, int8: bool) -> Generator:
    """A copy whose large convolutions keep their weights in fp16, or 8 bits. Raises UserError where fp16 is too small.

    Those of less than 1 % of all weights, which are the ones beside the images, are left alone: together they have 2 %
    of the weights of the paper's network and, in fp16, more than half of the error. Activations stay as they are: in 8
    bits too, they took as long and moved the output four times as far (benchmarks/LOG.md).
    """
    if not int8 and not fits_fp16(gen):
        raise UserError("a weight of the generator is too large for fp16: export it without --half")
    gen, least = copy.deepcopy(gen), sum(p.numel() for p in gen.parameters()) / 100
    for module in gen.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() >= least:
            weight, scale = module.weight.detach(), None
            if int8:
                others = [1, 2, 3] if isinstance(module, nn.Conv2d) else [0, 2, 3]  # than that of the output channels
                most = weight.abs().amax(others, keepdim=True)
                scale = torch.where(most > 0, most / 127, 1)
            kept = weight.half() if scale is None else (weight / scale).round().to(torch.int8)
            module.weight = nn.Parameter(kept, requires_grad=False)
            parametrize.register_parametrization(module, "weight", Widened(scale), unsafe=True)
    return gen


class Cropped(nn.ConvTranspose2d):
    """A transposed convolution of kernel 3, stride 2, padding 1, output_padding 1, as LiteRT's converter takes it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2)[..., 1:, 1:]


def crop_instead_of_padding(net: nn.Module) -> None:
    """Of the layers that the converter refuses, those of ResNets and pix2pixHD, makes their like."""
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d) and module.output_padding == (1, 1):
            module.__class__ = Cropped


def fits_fp16(gen: Generator) -> bool:
    return all(bool(parameter.half().isfinite().all()) for parameter in gen.parameters())


def metadata(gen: Generator, norm: str, size: tuple[int, int] | None = None) -> dict[str, str]:
    """What another program must know to use `gen`, each value as JSON; what its file does not tell is left out."""
    trained = trained_of(gen)
    told = vars(trained) | vars(trained.geometry)
    told |= dict(usual_size=trained.sizes and trained.sizes.usual, size=size[::-1] if size else crop_of(gen), norm=norm,
                 crop_size=gen.crop_size, crop_width=gen.crop_width, multiple=gen.multiple, smallest=gen.smallest)
    left_out = "geometry", "sizes", "known", "patterns", "seed"  # the last three are of the training alone
    return {name: json.dumps(value) for name, value in told.items() if value is not None and name not in left_out}


NEEDS = {".onnx": ("onnx", "onnxscript"), ".pt2": (), ".tflite": ("litert_torch",)}  # modules of each format


def export(gen: Generator, path: Path, norm: str = "image", checkpoint: Path | None = None, half: bool = False,
           size: tuple[int, int] | None = None, int8: bool = False) -> str:
    """Writes `gen` without dropout: x (N, C, H, W) in [-1, 1] → y_fake, N free, H and W multiples of gen.multiple.

    N is at most 1024, H and W are at most 64 · gen.multiple, or 4096. With `size`, height and width, N is 1, and H and
    W are these; so they are in .tflite, which knows no free ones. With `half`, the file holds most weights in fp16 and
    is half as large, with `int8` in 8 bits and a quarter; x, y_fake and all arithmetic stay fp32. Beside
    the network it holds its `metadata`: ONNX as metadata_props, .pt2 as extra files, .tflite none.
    Returns a sentence that says what was written.
    Raises UserError on another ending or a size that the network does not take, where `path` is the `checkpoint`, or
    when the packages that the format needs are not installed, and OSError, naming `path`, when it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in NEEDS:
        raise UserError(f"an export ends in .onnx, .pt2 or .tflite, not {suffix or 'a name without an ending'}")
    if checkpoint and path.exists() and path.samefile(checkpoint):
        raise UserError(f"the export {name_of(path)} would overwrite the checkpoint itself")
    if suffix == ".tflite":
        width, height = crop_of(gen) or (256, 256)
        size = size or (height, width)
    largest = gen.multiple * most(gen)
    if any(side % gen.multiple or not gen.smallest <= side <= largest for side in size or ()):
        raise UserError(f"size must be two multiples of {gen.multiple} from {gen.smallest} to {largest}, height and "
                        f"width; it is {size[0]} {size[1]}")
    packages = [need(name, name.replace("_", "-"), f"exports to {suffix}") for name in NEEDS[suffix]]
    if half and int8 or (half or int8) and suffix == ".tflite":
        raise UserError("--half or --int8, not both, is for .onnx and .pt2: what a .tflite computes with is for "
                        "LiteRT's own tools")
    if norm == "running" and not any(isinstance(layer, BatchNorm) for layer in gen.modules()):
        raise UserError("--norm running takes the statistics of BatchNorm, of which this generator has none")
    told = metadata(gen, norm, size)
    gen = copy.deepcopy(gen).to(memory_format=torch.contiguous_format)  # of others, the tracer would fix sizes
    gen = reduced(gen, int8) if half or int8 else gen
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with torch.no_grad(), gen.test_time(norm, dropout=False):
        if suffix == ".tflite":
            litert_torch, = packages
            crop_instead_of_padding(gen)
            sample = {"x": torch.zeros(1, gen.in_channels, *size)}
            content = litert_torch.convert(gen, sample_kwargs=sample).model_content()
        elif suffix == ".onnx":
            content = as_onnx(traced(gen, size), told)
        else:
            packed = io.BytesIO()  # torch's own writer aborts the process where a disk is full
            program = traced(gen, size)
            if not size:  # else 9 MB of zeros would go with it, at the paper's size
                program.example_inputs = (torch.zeros(2, gen.in_channels, gen.smallest, gen.smallest),), {}
            torch.export.save(program, packed, extra_files=told)
            content = packed.getbuffer()
    with atomic(path) as file:
        file.write(content)
    if size:
        return f"wrote {path}: for one image of {size[1]}×{size[0]} at a time"
    return (f"wrote {path}: for batches up to 1024, widths and heights in multiples of {gen.multiple} up to {largest}")


def most(gen: Generator) -> int:
    """How many times its multiple a side may have."""
    return max(64, 4096 // gen.multiple)


def traced(gen: Generator, size: tuple[int, int] | None) -> ExportedProgram:
    """The network as a graph, for one image of that height and width, or for batches of any that it takes."""
    device = next(gen.parameters()).device
    if size:
        return torch.export.export(gen, (torch.zeros(1, gen.in_channels, *size, device=device),))
    multiple = gen.multiple
    rows, columns = (Dim(name, min=gen.smallest // multiple, max=most(gen)) for name in ("rows", "columns"))
    shapes = {"x": {0: Dim("batch", min=1, max=1024), 2: multiple * rows, 3: multiple * columns}}
    x = torch.zeros(2, gen.in_channels, 2 * multiple, 3 * multiple, device=device)
    # Size oblivious: the bottleneck of the smallest image is 1×1, a size that the tracer would take for a constant.
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        return torch.export.export(gen, (x,), dynamic_shapes=shapes)


def as_onnx(program: ExportedProgram, told: dict[str, str]) -> bytes:
    onnx = torch.onnx.export(program, (), input_names=["x"], output_names=["y_fake"], verbose=False)
    onnx.model.metadata_props.update(told)
    proto = onnx.model_proto
    del proto.graph.value_info[:]  # which calls free sizes s77 and 256*s30, as the tracer does
    for value in (*proto.graph.input, *proto.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, ("batch", "channels", "height", "width"), strict=True):
            if dim.HasField("dim_param"):
                dim.dim_param = name
    return proto.SerializeToString()
