"""Images/s of predict.py for a folder, at batch 1 and 16, with the shares of time spent waiting for reading, in the
network, and waiting for writing.

    python benchmarks/bench_predict.py [--images DIR] [--checkpoint gen.pth.tar] [--precision auto]

Without arguments: 32 label maps of the demo, the full-size network with random weights.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import tyro
from PIL import Image

import demo
from devices import choose_device, choose_precision
from generator import Generator
from predict import Predict, find_jobs, load_generator, predict


@dataclass(frozen=True)
class Bench:
    images: Path | None = None  # a folder of images; drawn if not given
    checkpoint: Path | None = None  # random weights if not given
    precision: str = "auto"  # auto, fp32, bf16 or fp16
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu


def main() -> None:
    opts = tyro.cli(Bench, description=__doc__)
    device = choose_device(opts.device)
    dtype = choose_precision(opts.precision, device)
    gen = load_generator(opts.checkpoint, device) if opts.checkpoint else Generator().to(device).eval()
    with tempfile.TemporaryDirectory() as scratch:
        images = opts.images or Path(scratch) / "labels"
        if not opts.images:
            images.mkdir()
            for i in range(32):
                labels, _ = demo.facade(np.random.default_rng(i))
                Image.fromarray(labels).save(images / f"{i}.png")
        print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {dtype}")
        settings = Predict(Path("unused"), images, Path(scratch) / "warm")
        predict(gen, find_jobs(images, settings.output)[:4], settings, dtype)  # warm-up
        for batch_size in (1, 16):
            run = replace(settings, output=Path(scratch) / str(batch_size), batch_size=batch_size)
            print(f"batch {batch_size}: ", end="")
            predict(gen, find_jobs(images, run.output), run, dtype)


if __name__ == "__main__":
    main()
