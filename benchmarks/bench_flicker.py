"""How much the part of a video that stands still changes from frame to frame: as the network makes it, and in the file.

    python benchmarks/bench_flicker.py --checkpoint runs/demo/gen.pth.tar --image data/demo/val/001.png

A square moves along the top of an input (the left half of a side-by-side file); the bottom quarter stands still.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import common
import numpy as np
import torch

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


def change(frames: list[np.ndarray]) -> float:
    """Grey levels from frame to frame in the bottom quarter."""
    still = np.stack([frame[-(len(frame) // 4) :] for frame in frames]).astype(float)
    return float(np.abs(np.diff(still, axis=0)).mean())


def bench(opts: Options, device: torch.device) -> Iterator[dict]:
    gen = load_generator(opts.checkpoint)
    (image,) = common.left_halves(opts.image)
    print("statistics  the network's  the written file's  (grey levels from frame to frame)")
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.mkv", Path(folder) / "out.mp4"
        moving(source, np.array(image), opts.frames)
        for norm in ("image", "running"):
            translator = Translator(gen, norm=norm, dropout=False)
            translate_video(translator, Video(source), output)
            made = change([translator.picture(upright(frame)) for _, frame in Video(source).frames()])
            written = change([upright(frame) for _, frame in Video(output).frames()])
            print(f"{norm:10} {made:12.4f} {written:17.4f}", flush=True)
            yield {"norm": norm, "made": made, "written": written}


if __name__ == "__main__":
    common.start(Options, bench, __doc__)
