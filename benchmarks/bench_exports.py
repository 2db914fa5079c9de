"""What other programs make of an exported generator: how far they are from PyTorch, and how long they take.

    python benchmarks/bench_exports.py --checkpoint runs/demo/gen.pth.tar --data data/demo

Inputs are the left halves of the side-by-side PNGs in data/val; differences are in grey levels of 255 from PyTorch in
fp32. Milliseconds are of one picture on one thread, wall and CPU, medians of rounds in turns: wall times suffer from
what else runs. Runtimes that are not installed are left out; `pip install onnxruntime openvino opencv-python` has all.
"""

import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image

from generator import Generator
from inference.export import export
from inference.load import load_generator
from utils import UserError

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Options:
    checkpoint: Path  # of a generator of three channels, from left to right
    data: Path  # a folder with val/
    pictures: int = 4
    rounds: int = 10


def inputs(folder: Path, n: int, gen: Generator) -> list[np.ndarray]:
    """(1, 3, H, W) in [-1, 1], of the size of a training crop."""
    if not (files := sorted(folder.glob("*.png"))[:n]):
        raise UserError(f"{folder} holds no PNG")
    size = gen.crop_width or gen.crop_size, gen.crop_size
    images = [Image.open(file).convert("RGB") for file in files]
    halves = [image.crop((0, 0, image.width // 2, image.height)).resize(size) for image in images]
    return [np.asarray(half, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1 for half in halves]


def in_pytorch(gen: Generator, dtype: torch.dtype) -> Run:
    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), gen.test_time(dropout=False), \
             torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return gen(torch.from_numpy(x)).float().numpy()
    return run


def in_onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def in_openvino(path: Path, precision: str) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1} | ({"INFERENCE_PRECISION_HINT": precision} if precision else {})
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda x: model({"x": x})["y_fake"]


def in_opencv(path: Path) -> Run:
    import cv2

    cv2.setNumThreads(1)
    net = cv2.dnn.readNetFromONNX(str(path))

    def run(x: np.ndarray) -> np.ndarray:
        net.setInput(x)
        return net.forward()
    return run


def runtimes(gen: Generator, folder: Path) -> Iterator[tuple[str, Run, Path | None]]:
    """What each is called, how it runs a picture, and from which file."""
    full, half, int8 = (folder / f"{name}.onnx" for name in ("fp32", "half", "int8"))
    export(gen, full, "image")
    export(gen, half, "image", half=True)
    export(gen, int8, "image", int8=True)
    yield "PyTorch", in_pytorch(gen, torch.float32), None
    yield "PyTorch, bf16", in_pytorch(gen, torch.bfloat16), None
    if importlib.util.find_spec("onnxruntime"):
        for name, path in (("", full), (", --half", half), (", --int8", int8)):
            yield f"onnxruntime{name}", in_onnxruntime(path), path
    if importlib.util.find_spec("openvino"):
        for name, path, precision in (("as it chooses", full, ""), ("f32", full, "f32"), ("--int8", int8, "")):
            yield f"OpenVINO, {name}", in_openvino(path, precision), path
    if importlib.util.find_spec("cv2"):
        yield "OpenCV dnn", in_opencv(full), full


def bench(opts: Options, device: torch.device) -> Iterator[dict]:
    torch.set_num_threads(1)
    gen = load_generator(opts.checkpoint)
    shown = inputs(opts.data / "val", opts.pictures, gen)
    with tempfile.TemporaryDirectory() as folder:
        found = [*runtimes(gen, Path(folder))]
        wanted = [found[0][1](x) for x in shown]
        times = common.in_turns({name: partial(common.wall_and_cpu, partial(run, shown[0])) for name, run, _ in found},
                                opts.rounds)
        print(f"{'runtime':26} {'MB':>6} {'difference, at most':>20} {'mean':>7} {'ms':>6} {'CPU ms':>7}")
        for name, run, path in found:
            off = np.concatenate([np.abs(run(x) - y) * 127.5 for x, y in zip(shown, wanted, strict=True)])
            wall, cpu = (1000 * statistics.median(each) for each in zip(*times[name], strict=True))
            size = f"{path.stat().st_size / 1e6:.1f}" if path else ""
            print(f"{name:26} {size:>6} {off.max():20.4f} {off.mean():7.4f} {wall:6.0f} {cpu:7.0f}")
            yield {"runtime": name, "off": float(off.max()), "wall": wall, "cpu": cpu}


if __name__ == "__main__":
    common.start(Options, bench, __doc__)
