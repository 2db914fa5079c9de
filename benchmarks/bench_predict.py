"""Images/s of predict.py for a folder: plain eager fp32 one at a time, auto, auto in batches of 16; interleaved.

    python benchmarks/bench_predict.py [--images DIR] [--checkpoint gen.pth.tar] [--json FILE]

Without arguments: 64 label maps of the demo, the full-size network with random weights. From file to file: decoding
and encoding count. The last line reads `auto: 2.50x plain eager fp32 (one image at a time)`.
"""

import contextlib
import copy
import io
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import tyro
from bench_train import hardware
from PIL import Image

from config import Config
from generator import Generator
from inference.load import load_generator
from pairs import demo
from predict import Predict, find_jobs, predict
from runtime.devices import choose_device, choose_precision
from runtime.speed import choose_levers, prepare


@dataclass(frozen=True)
class Bench:
    images: Path | None = None  # a folder of images; drawn if not given
    n_images: int = 64  # that are drawn
    checkpoint: Path | None = None  # random weights if not given
    rounds: int = 5  # passes over the folder by each variant
    every: bool = False  # also torch.compile, which takes half a minute
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    json: Path | None = None  # also write the table, the hardware and the versions there


def bench(opts: Bench) -> dict:
    device = choose_device(opts.device)
    auto = choose_precision("auto", device)
    torch.backends.cudnn.allow_tf32 = device.type == "cuda"  # torch's default, for the plain variant
    plain = load_generator(opts.checkpoint, device) if opts.checkpoint else Generator().to(device).eval()
    fast, compiled = copy.deepcopy(plain), copy.deepcopy(plain)
    levers = choose_levers(Config(), device, auto)
    prepare(fast, levers)
    variants = {"plain eager fp32": (plain, torch.float32, 1), "bf16": (plain, torch.bfloat16, 1),
                "small matmul": (fast, torch.float32, 1), "auto": (fast, auto, 1), "auto, batch 16": (fast, auto, 16)}
    if opts.every:
        prepare(compiled, levers)
        variants |= {"auto + compile": (compiled, auto, 1), "auto + compile, batch 16": (compiled, auto, 16)}
    result = {"hardware": hardware(device), "rows": []}
    print(", ".join(f"{key} {value}" for key, value in result["hardware"].items()))
    with tempfile.TemporaryDirectory() as scratch:
        images = opts.images or Path(scratch) / "labels"
        if not opts.images:
            images.mkdir()
            for i in range(opts.n_images):
                labels, _ = demo.facade(np.random.default_rng(i))
                Image.fromarray(labels).save(images / f"{i}.png")
        jobs = find_jobs(images, Path(scratch) / "out")
        times = {name: [] for name in variants}
        for round in range(opts.rounds + 1):
            for name, (gen, dtype, batch_size) in variants.items():
                settings = Predict(Path("unused"), images, Path(scratch) / "out", batch_size=batch_size,
                                   compile="compile" in name)
                start = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    failures = predict(gen, jobs[:20] if round == 0 else jobs, settings, dtype)
                assert not failures, failures
                if round:  # the first is the warm-up
                    times[name].append(time.perf_counter() - start)
    base = statistics.median(times["plain eager fp32"])
    print(f"{'variant':<25} {'images/s':>9} {'slowest':>9} {'fastest':>9} {'ratio':>7}")
    for name, seconds in times.items():
        rates = sorted(len(jobs) / each for each in seconds)
        row = {"variant": name, "images_per_s": statistics.median(rates), "min": rates[0], "max": rates[-1],
               "ratio": base / statistics.median(seconds)}
        result["rows"].append(row)
        print(f"{name:<25} {row['images_per_s']:9.1f} {row['min']:9.1f} {row['max']:9.1f} {row['ratio']:6.2f}x")
    if opts.json:
        opts.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    return result


def main() -> None:
    result = bench(tyro.cli(Bench, description=__doc__))
    ratio = next(row["ratio"] for row in result["rows"] if row["variant"] == "auto")
    print(f"auto: {ratio:.2f}x plain eager fp32 (one image at a time)")


if __name__ == "__main__":
    main()
