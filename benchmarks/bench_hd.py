"""Times a training step of the U-Net and of pix2pixHD's generators, and measures its peak memory, at several sizes.

    python benchmarks/bench_hd.py [--sizes 256 512 1024] [--steps N] [--json FILE]

The U-Net trains as the paper does, the others as the recipe pix2pixhd. Memory is what the
second step takes at once on top of weights, gradients and Adam's moments.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import common
import torch
from bench_train import batch_of, real_step

from config import RECIPES, Config
from runtime.state import count

HD = {name: value for name, value in RECIPES["pix2pixhd"].items() if name not in ("crop_size", "load_size")}
LOCAL = dict(HD, generator="local", ngf=32)
VARIANTS = {"U-Net": {}, "global": HD, "global, checkpointing": HD, "local": LOCAL, "local, checkpointing": LOCAL}


@dataclass(frozen=True)
class Bench:
    sizes: tuple[int, ...] = (256, 512, 1024)  # pixels
    variants: tuple[str, ...] = tuple(VARIANTS)  # which of them
    steps: int = 3  # counted, behind two others
    ngf: int = 0  # width of the generators, where not their own
    device: str = "auto"  # auto, cuda, cuda:1 or cpu
    json: Path | None = None  # also write the table, the hardware and the versions there


def measure(name: str, size: int, opts: Bench, device: torch.device) -> dict:
    """One row: seconds a step, peak memory in bytes."""
    width = {"ngf": opts.ngf, "ndf": opts.ngf} if opts.ngf else {}
    cfg = replace(Config(), **{**VARIANTS[name], "crop_size": size, "load_size": size, **width})
    torch.manual_seed(0)
    state, step = real_step(cfg, device)
    state.gen.checkpointing = name.endswith("checkpointing")
    act = partial(step, *batch_of(1, cfg, device))
    act()  # makes the moments
    return {"variant": name, "size": size, "parameters": count(state.gen), "memory": common.memory_of(act, device),
            **common.spread(common.seconds_of(act, device) for _ in range(opts.steps))}


def bench(opts: Bench, device: torch.device) -> Iterator[dict]:
    for size in opts.sizes:
        for name in opts.variants:
            row = measure(name, size, opts, device)
            print(f"{size:>4} {name:<22} {common.told(row)} s a step, {opts.steps} steps, "
                  f"{row['memory'] / 2**30:.2f} GiB, {row['parameters']:,} parameters", flush=True)
            yield row


if __name__ == "__main__":
    common.start(Bench, bench, __doc__)
