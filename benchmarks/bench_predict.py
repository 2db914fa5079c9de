"""Images/s of predict.py for a folder: plain eager fp32 one at a time, auto, auto in batches of 16; interleaved.

    python benchmarks/bench_predict.py [--images DIR] [--checkpoint gen.pth.tar] [--json FILE]

Without arguments: 64 label maps of the demo, the full-size network with random weights. From file to file: decoding
and encoding count. The last line reads `auto: 2.50x plain eager fp32 (one image at a time)`.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image

from generator import Generator
from inference.load import load_generator
from inference.trained import trained_of
from inference.translate import Translator
from pairs import demo
from predict import Job, Predict, find_jobs, predict
from runtime.devices import use_precision
from runtime.speed import SmallConv, SmallConvTranspose


@dataclass(frozen=True)
class Bench:
    images: Path | None = None  # a folder of images; drawn if not given
    n_images: int = 64  # that are drawn
    checkpoint: Path | None = None  # random weights if not given
    rounds: int = 5  # passes over the folder by each variant
    every: bool = False  # also torch.compile, which takes half a minute
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    json: Path | None = None  # also write the table, the hardware and the versions there


def translate(translator: Translator, jobs: list[Job], opts: Predict) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        failures = predict(translator, jobs, opts)  # ends with every image written, so the host's clock is right
    assert not failures, failures


def plain(gen: Generator, precision: str) -> Translator:
    """Without the levers: gen itself, as `prepare` found it."""
    translator = Translator(gen, precision=precision)
    for net in {translator.exact, translator.fast}:
        for module in net.modules():
            if isinstance(module, SmallConv | SmallConvTranspose):
                module.__class__ = type(module).__base__
        net.to(memory_format=torch.contiguous_format)
    return translator


def bench(opts: Bench, device: torch.device) -> Iterator[dict]:
    use_precision("auto", device)
    torch.backends.cudnn.allow_tf32 = device.type == "cuda"  # torch's default, for the plain variant
    gen = load_generator(opts.checkpoint, device) if opts.checkpoint else Generator().to(device).eval()
    fast = Translator(gen, precision="auto")
    variants = {"plain eager fp32": (plain(gen, "fp32"), 1), "bf16": (plain(gen, "bf16"), 1),
                "auto": (fast, 1), "auto, batch 16": (fast, 16)}
    if opts.every:
        for name in ("auto", "auto, batch 16"):
            compiled = Translator(gen, precision="auto")
            compiled.compile()
            variants[f"{name}, compile"] = (compiled, variants[name][1])
    with tempfile.TemporaryDirectory() as scratch:
        images, out = opts.images or Path(scratch) / "labels", Path(scratch) / "out"
        if not opts.images:
            images.mkdir()
            for i in range(opts.n_images):
                Image.fromarray(demo.facade(np.random.default_rng(i))[0]).save(images / f"{i}.png")
        jobs, acts = find_jobs(Predict(Path("unused"), images, out), trained_of(gen)), {}
        for name, (translator, batch_size) in variants.items():
            settings = Predict(Path("unused"), images, out, batch_size=batch_size)
            translate(translator, jobs[:20], settings)  # to warm up
            acts[name] = partial(common.seconds_of, partial(translate, translator, jobs, settings), device)
        times = common.in_turns(acts, opts.rounds)
    rows = {name: common.spread(len(jobs) / each for each in seconds) for name, seconds in times.items()}
    for name, row in rows.items():
        ratio = row["median"] / rows["plain eager fp32"]["median"]
        print(f"{name:<25} {common.told(row, '.1f')} images/s, {ratio:.2f}x")
        yield {"variant": name, "ratio": ratio, **row}
    ratio = rows["auto"]["median"] / rows["plain eager fp32"]["median"]
    print(f"auto: {ratio:.2f}x plain eager fp32 (one image at a time)")


if __name__ == "__main__":
    common.start(Bench, bench, __doc__)
