"""Times train_step: plain eager fp32, auto, and each single optimisation, in turns; on the CPU in a process each.

    python benchmarks/bench_train.py [--batches 1 4 16] [--crop-size 128] [--ngf 32] [--steps N] [--json FILE]
    python benchmarks/bench_train.py --generator local --ngf 32 --crop-size 512 --batches 1 --only "plain|^auto$"

Without arguments: batch 1, 4 and 16 at 256×256; on the CPU the two larger ones compare plain and auto only.
The generators of pix2pixHD train as its recipe does.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Literal

import common
import torch

from config import Config, recipe
from hd.networks import make_networks
from runtime.devices import use_precision
from runtime.speed import Levers, choose_levers, graphed
from runtime.state import State
from train import step_for
from utils import UserError

# What the well-known implementations run. On CUDA torch's default lets fp32 convolutions use TF32, so that is "plain".
PLAIN = dict(precision="fp32", speed="plain")
LEVERS = {f.name for f in fields(Levers)}


@dataclass(frozen=True)
class Bench:
    batches: tuple[int, ...] = (1, 4, 16)  # batch sizes
    steps: int = 0  # counted rounds of all variants, of 3 steps each, on CUDA of 10; 0: as many as fit into the time
    seconds: float = 0  # for one batch size, warm-up apart; 0 chooses 15 on CUDA, 60 on the CPU
    crop_size: int = 256  # pixels
    ngf: int = 64  # of both networks
    generator: Literal["unet", "global", "local"] = "unet"
    every: bool = False  # every variant at every batch size, and compile, also on the CPU
    only: str = ""  # a regular expression: variants whose names match
    device: str = "auto"  # auto, cuda, cuda:1 or cpu
    json: Path | None = None  # also write the table, the hardware and the versions there


def variants(device: torch.device) -> dict[str, dict]:
    """Plain first, then each single change to it, then auto and its neighbours."""
    cuda = device.type == "cuda"
    base = dict(PLAIN, precision="tf32") if cuda else PLAIN
    single = {"fused Adam": dict(fused_adam=True), "bf16": dict(precision="bf16"),
              "channels-last": dict(channels_last=True), "small matmul": dict(small_matmul=True),
              "compile": dict(compile=True)}
    if cuda:
        single |= {"strict fp32": dict(precision="fp32"), "fp16": dict(precision="fp16"),
                   "CUDA graph": dict(cuda_graph=True, fused_adam=True)}
        around = {"- channels-last": dict(channels_last=False), "- graph": dict(cuda_graph=False),
                  "+ small matmul": dict(small_matmul=True)}
    else:
        single |= {"kept memory": dict(keep_memory=True)}
        around = {"- small matmul": dict(small_matmul=False), "- kept memory": dict(keep_memory=False)}
    around["+ compile"] = dict(compile=True)
    return {"plain eager fp32": base, **{name: {**base, **change} for name, change in single.items()},
            "auto": {}, **{f"auto {name}": change for name, change in around.items()}}


def real_step(cfg: Config, device: torch.device, **changes) -> tuple[State, Callable]:
    """State and step exactly as train() makes them, but for the levers that are changed."""
    dtype = use_precision(cfg.precision, device)
    levers = replace(choose_levers(cfg.speed, device, dtype), **changes)
    levers.use()
    state = State.begin(*make_networks(cfg), cfg, device, dtype, levers)
    autocast = contextlib.nullcontext if dtype == torch.float32 else partial(torch.autocast, device.type, dtype)
    return state, graphed(step_for(cfg, state, autocast), levers)


def batch_of(n: int, cfg: Config, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.rand(2, n, 3, cfg.crop_size, cfg.crop_size, device=device) * 2 - 1)


def make_step(settings: dict, batch: int, opts: Bench, device: torch.device) -> Callable[[], torch.Tensor]:
    """A function that takes one real training step on random images."""
    changes = {name: on for name, on in settings.items() if name in LEVERS}
    others = {name: value for name, value in settings.items() if name not in LEVERS}
    size = dict(crop_size=opts.crop_size, load_size=opts.crop_size, ngf=opts.ngf, ndf=opts.ngf)
    base = Config() if opts.generator == "unet" else recipe("pix2pixhd")
    cfg = replace(base, generator=opts.generator, **size, **others)
    torch.manual_seed(0)
    _, step = real_step(cfg, device, **changes)
    tf32, (x, y) = torch.backends.cudnn.allow_tf32, batch_of(batch, cfg, device)

    def run() -> torch.Tensor:
        torch.backends.cudnn.allow_tf32 = tf32  # the variants take turns
        return step(x, y)

    return run


def memory_of(act: Callable, device: torch.device) -> int:
    """Bytes that act() takes at once on CUDA, on top of what was there."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    act()
    return torch.cuda.max_memory_allocated(device) - before


def warm_up(runs: dict[str, Callable], name: str, *args) -> None:
    runs[name] = run = make_step(*args)
    for _ in range(6):
        run()


def measure(named: dict[str, dict], batch: int, opts: Bench, device: torch.device) -> Iterator[dict]:
    """One row a variant: median, fastest and slowest step in seconds, the ratio to the first, peak memory in bytes.

    On the CPU, a step's time is the mean of three in a row, and the memory that of its process.
    """
    cuda = device.type == "cuda"
    runs, rows, n = {}, {}, 10 if cuda else 3
    torch.backends.cudnn.benchmark = True
    for name, settings in named.items():
        args, memory, start = (settings, batch, opts, device), None, time.perf_counter()
        try:
            if cuda:
                memory = memory_of(partial(warm_up, runs, name, *args), device)
            else:
                runs[name] = common.Elsewhere(make_step, *args)
        except (RuntimeError, ValueError) as error:
            runs.pop(name, None)  # whose networks would take memory from the next
            print(f"batch {batch}, {name}: not measured: {str(error).splitlines()[0]}")
            continue
        rows[name] = {"batch": batch, "variant": name, "warm_up": time.perf_counter() - start, "memory": memory}
    acts = {name: partial(common.seconds_of, runs[name], device, n) for name in rows}
    times = common.in_turns(acts, opts.steps, opts.seconds or (15 if cuda else 60))
    for name, row in rows.items():
        if not cuda:
            row["memory"] = runs[name].end()
        row |= common.spread(times[name]) | {"n": len(times[name]) * n}
        yield row | {"ratio": rows[next(iter(rows))]["median"] / row["median"]}


def line(row: dict) -> str:
    memory = f", {row['memory'] / 2**30:.2f} GiB" if row["memory"] else ""
    return (f"{common.told(row, times=1e3)} ms, {row['n']} steps, {row['ratio']:.2f}x, "
            f"{row['batch'] / row['median']:.1f} images/s{memory}, warm-up {row['warm_up']:.1f} s")


def bench(opts: Bench, device: torch.device) -> Iterator[dict]:
    ratios = {}
    for batch in opts.batches:
        only = opts.only
        if not only and not opts.every and device.type == "cpu":
            only = "^(plain eager fp32|auto)$" if batch > 1 else "^(?!.*compile)"
        try:
            named = {name: change for name, change in variants(device).items() if re.search(only, name)}
        except re.error as error:
            raise UserError(f"--only {only} is no regular expression: {error}") from error
        if not named:
            raise UserError(f"no variant is called like --only {only}: {', '.join(variants(device))}")
        for row in measure(named, batch, opts, device):
            print(f"batch {batch:<2} {row['variant']:<22} {line(row)}", flush=True)
            if row["variant"] == "auto":
                ratios[batch] = row["ratio"]
            yield row
    for batch, ratio in ratios.items():
        print(f"auto: {ratio:.2f}x plain eager fp32 (batch {batch})")


if __name__ == "__main__":
    common.start(Bench, bench, __doc__)
