"""Writes a trained generator, without dropout, for other programs: ONNX or PyTorch's exported format.

    python export.py --checkpoint runs/demo/gen.pth.tar --output gen.onnx
    python export.py --checkpoint runs/demo/gen.pth.tar --output gen.onnx --half
    python export.py --checkpoint runs/demo/gen.pth.tar --output gen.pt2 --norm running
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from inference.export import export
from inference.load import load_generator
from runtime.console import run_main


@dataclass(frozen=True)
class Export:
    checkpoint: Path  # gen.pth.tar of a run, *_net_G.pth of the authors or its name, hf:USER/REPO, an address
    output: Path  # .onnx, which needs the packages onnx and onnxscript, or .pt2
    half: bool = False  # weights in fp16, half the file; computed with in fp32
    norm: Literal["image", "running"] = "image"  # BatchNorm's statistics: each image's (the paper) or the running ones


def main() -> None:
    opts = tyro.cli(Export, description=__doc__)
    export(load_generator(opts.checkpoint), opts.output, opts.norm, opts.checkpoint, opts.half)


if __name__ == "__main__":
    run_main(main)
