"""How far an image in tiles is from the same image in one piece, by the statistics that its tiles take.

    python benchmarks/bench_tiles.py --checkpoint runs/demo/gen.pth.tar --data data/demo/val

The image is a mosaic of 4 × 4 inputs (the left halves of side-by-side files), a quarter of it one flat colour.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import common  # noqa: F401 (it finds the modules above this folder)
import numpy as np
import tyro
from PIL import Image

from inference.load import load_generator
from inference.translate import Translator


@dataclass(frozen=True)
class Options:
    checkpoint: Path  # of a generator of three channels
    data: Path  # a folder of side-by-side PNGs, whose left halves are the inputs
    tile: int = 256  # pixels


def mosaic(folder: Path) -> np.ndarray:
    """(4H, 4W, 3) of uint8."""
    inputs = []
    for file in sorted(folder.glob("*.png"))[:16]:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        inputs.append(pixels[:, : pixels.shape[1] // 2])
    rows = [np.hstack([inputs[(4 * i + j) % len(inputs)] for j in range(4)]) for i in range(4)]
    image = np.vstack(rows)
    height, width = image.shape[:2]
    image[: height // 2, : width // 2] = inputs[0][0, 0]
    return image


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    gen = load_generator(options.checkpoint)
    image, whole = mosaic(options.data), None
    print("statistics  tile  grey levels from one piece  seconds")
    for norm, tile in [("image", 0), ("image", options.tile), ("tile", options.tile), ("running", options.tile)]:
        begin = time.perf_counter()
        translator = Translator(gen, scale="native", norm=norm, dropout=False, precision="fp32", tile=tile)
        result = translator.picture(image).astype(float)
        whole = result if whole is None else whole
        seconds = time.perf_counter() - begin
        print(f"{norm:10} {tile:5} {np.abs(result - whole).mean():27.2f} {seconds:8.1f}")


if __name__ == "__main__":
    main()
