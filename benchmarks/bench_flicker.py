"""How much the part of a video that stands still changes from frame to frame: as the network makes it, and in the file.

    python benchmarks/bench_flicker.py --checkpoint runs/demo/gen.pth.tar --image data/demo/val/001.png

A square moves along the top of an input (the left half of a side-by-side file); the bottom quarter stands still.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import common  # noqa: F401 (it finds the modules above this folder)
import numpy as np
import tyro
from PIL import Image

from inference.load import load_generator
from inference.translate import Translator
from inference.video import translate_video
from making.frames import Video, upright


@dataclass(frozen=True)
class Options:
    checkpoint: Path  # of a generator of three channels
    image: Path  # side by side; its left half is the input
    frames: int = 12


def moving(path: Path, image: np.ndarray, n: int) -> None:
    """Without loss, so that what stands still is the same in all frames."""
    side = image.shape[0] // 8
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "bgr0"
        for i in range(n):
            left = i * (image.shape[1] - side) // max(1, n - 1)
            frame = image.copy()
            frame[side : 2 * side, left : left + side] = 255 - image[side, 0]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    gen = load_generator(options.checkpoint)
    pixels = np.asarray(Image.open(options.image).convert("RGB"))
    print("statistics  the network's  the written file's  (grey levels from frame to frame)")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.mkv", Path(folder) / "out.mp4"
        moving(source, np.ascontiguousarray(pixels[:, : pixels.shape[1] // 2]), options.frames)
        for norm in ("image", "running"):
            translator = Translator(gen, norm=norm, dropout=False)
            translate_video(translator, Video(source), output)
            made = [translator.picture(upright(frame)) for _, frame in Video(source).frames()]
            written = [upright(frame) for _, frame in Video(output).frames()]
            print(f"{norm:10} {change(made):12.4f} {change(written):17.4f}", flush=True)


def change(frames: list[np.ndarray]) -> float:
    """Grey levels from frame to frame in the bottom quarter."""
    still = [frame[-(len(frame) // 4) :].astype(float) for frame in frames]
    return np.mean([np.abs(a - b).mean() for a, b in zip(still, still[1:], strict=False)])


if __name__ == "__main__":
    main()
