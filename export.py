"""Writes a trained generator, without dropout, for other programs, as a page, or for the Hugging Face Hub.

    python export.py --checkpoint runs/demo/gen.pth.tar --output gen.onnx
    python export.py --checkpoint runs/demo/gen.pth.tar --output gen.onnx --half
    python export.py --checkpoint runs/demo/gen.pth.tar --page page --int8
    python export.py --checkpoint runs/demo/gen.pth.tar --output gen.pt2 --norm running --size 256 256
    python export.py --checkpoint runs/demo/gen.pth.tar --hub demo --licence mit --data-licence "drawn by a program"
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from inference.export import export
from inference.hub import write_hub
from inference.load import find_checkpoint, load_generator
from inference.page import write_page
from runtime.console import run_main, say
from runtime.weights import read_weights
from utils import UserError


@dataclass(frozen=True)
class Export:
    checkpoint: Path  # gen.pth.tar of a run, *_net_G.pth of the authors or its name, hf:USER/REPO, an address
    output: Path | None = None  # .onnx (needs the packages onnx and onnxscript), .pt2 or .tflite (litert-torch)
    size: tuple[int, int] | None = None  # of output: height and width, fixed, as some converters want it; else free
    page: Path | None = None  # a new folder: the page of draw.py with the network in it, for any web space
    hub: Path | None = None  # a new folder for the Hugging Face Hub; needs the package safetensors
    half: bool = False  # of output: weights in fp16, half the file; a page's always are, unless int8
    int8: bool = False  # of output and page: weights in 8 bits, a quarter of the file
    norm: Literal["image", "running"] = "image"  # of output and page: each image's statistics, or those of training
    palette: str = ""  # of the page, as for draw.py
    examples: int = 3  # validation pairs that page and hub show, at most, if the run's data is at hand
    runtime: Path | None = None  # for the page: the package onnxruntime-web; fetched once if not given
    webgpu: bool = False  # for the page: the runtime that also takes a graphics card, 13 MB larger
    cdn: bool = False  # for the page: leave the runtime out; browsers fetch it from jsdelivr.net and check its hash
    licence: str = ""  # for hub: of the weights, by the Hub's names: mit, apache-2.0, cc-by-nc-4.0, …
    data_licence: str = ""  # for hub: of the images that they were trained on, in words


def main() -> None:
    opts = tyro.cli(Export, description=__doc__)
    if not opts.output and not opts.page and not opts.hub:
        raise UserError("nothing to write: give --output FILE, --page FOLDER or --hub FOLDER")
    checkpoint = find_checkpoint(opts.checkpoint)
    gen = load_generator(checkpoint)
    if opts.output:
        say(export(gen, opts.output, opts.norm, checkpoint, opts.half, opts.size, opts.int8))
    if opts.page:
        write_page(gen, opts.page, checkpoint, norm=opts.norm, palette=opts.palette, examples=opts.examples,
                   runtime=opts.runtime, webgpu=opts.webgpu, cdn=opts.cdn, int8=opts.int8)
    if opts.hub:
        write_hub(read_weights(checkpoint), gen, opts.hub, checkpoint, licence=opts.licence,
                  data_licence=opts.data_licence, examples=opts.examples)


if __name__ == "__main__":
    run_main(main)
