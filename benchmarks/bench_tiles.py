"""How far an image in tiles is from the same image in one piece, by the statistics that its tiles take.

    python benchmarks/bench_tiles.py --checkpoint runs/demo/gen.pth.tar --data data/demo/val

The image is a mosaic of 4 × 4 inputs (the left halves of side-by-side files), a quarter of it one flat colour.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import torch

from inference.load import load_generator
from inference.translate import Translator


@dataclass(frozen=True)
class Options:
    checkpoint: Path  # of a generator of three channels
    data: Path  # a folder of side-by-side PNGs, whose left halves are the inputs
    tile: int = 256  # pixels


def mosaic(folder: Path) -> np.ndarray:
    """(4H, 4W, 3) of uint8."""
    inputs = [np.asarray(image) for image in common.left_halves(folder, 16)]
    rows = [np.hstack([inputs[(4 * i + j) % len(inputs)] for j in range(4)]) for i in range(4)]
    image = np.vstack(rows)
    height, width = image.shape[:2]
    image[: height // 2, : width // 2] = inputs[0][0, 0]
    return image


def bench(opts: Options, device: torch.device) -> Iterator[dict]:
    gen = load_generator(opts.checkpoint)
    image, results = mosaic(opts.data), []
    print("statistics  tile  grey levels from one piece  seconds")
    for norm, tile in [("image", 0), ("image", opts.tile), ("tile", opts.tile), ("running", opts.tile)]:
        translator = Translator(gen, scale="native", norm=norm, dropout=False, precision="fp32", tile=tile)
        seconds, _ = common.wall_and_cpu(lambda t=translator: results.append(t.picture(image).astype(float)))
        off = np.abs(results[-1] - results[0]).mean()
        print(f"{norm:10} {tile:5} {off:27.2f} {seconds:8.1f}")
        yield {"norm": norm, "tile": tile, "off": float(off), "seconds": seconds}


if __name__ == "__main__":
    common.start(Options, bench, __doc__)
