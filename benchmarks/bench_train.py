"""Times train_step: plain eager fp32, auto, and each single optimisation, in turns; on the CPU in a process each.

    python benchmarks/bench_train.py [--batches 1 4 16] [--crop-size 128] [--ngf 32] [--steps N] [--json FILE]

Without arguments: batch 1, 4 and 16 at 256×256; on the CPU the two larger ones compare plain and auto only.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import common
import torch

from config import Config
from hd.networks import make_networks
from runtime.devices import use_precision
from runtime.speed import Levers, choose_levers, graphed
from runtime.state import State
from train import step_for

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
    every: bool = False  # every variant at every batch size, and compile, also on the CPU
    device: str = "auto"  # auto, cuda, cuda:1 or cpu
    json: Path | None = None  # also write the table, the hardware and the versions there


def plain(device: torch.device) -> dict[str, dict]:
    return {"plain eager fp32": dict(PLAIN, precision="tf32") if device.type == "cuda" else PLAIN}


def around_auto(device: torch.device) -> dict[str, dict]:
    """auto, and what differs from it in one setting."""
    if device.type == "cuda":
        return {"auto": {}, "auto - channels-last": dict(channels_last=False), "auto - graph": dict(cuda_graph=False),
                "auto + small matmul": dict(small_matmul=True)}
    return {"auto": {}, "auto - small matmul": dict(small_matmul=False),
            "auto - kept memory": dict(keep_memory=False)}


def every_variant(device: torch.device, compile: bool) -> dict[str, dict]:
    """plain first, then each single change to it, then auto and its neighbours."""
    changes = {"fused Adam": dict(fused_adam=True), "bf16": dict(precision="bf16"),
               "channels-last": dict(channels_last=True), "small matmul": dict(small_matmul=True)}
    if device.type == "cpu":
        changes["kept memory"] = dict(keep_memory=True)
    if device.type == "cuda":
        changes |= {"strict fp32": dict(precision="fp32"), "fp16": dict(precision="fp16"),
                    "CUDA graph": dict(cuda_graph=True, fused_adam=True)}
    base, more = plain(device), dict(compile=True)
    single = {name: {**base["plain eager fp32"], **change} for name, change in {
        **changes, **({"compile": more} if compile else {})}.items()}
    return {**base, **single, **around_auto(device), **({"auto + compile": more} if compile else {})}


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
    cfg = replace(Config(), **size, **others)
    torch.manual_seed(0)
    _, step = real_step(cfg, device, **changes)
    tf32, (x, y) = torch.backends.cudnn.allow_tf32, batch_of(batch, cfg, device)

    def run() -> torch.Tensor:
        torch.backends.cudnn.allow_tf32 = tf32  # the variants take turns
        return step(x, y)

    return run


def measure(named: dict[str, dict], batch: int, opts: Bench, device: torch.device) -> list[dict]:
    """One row a variant: median, fastest and slowest step in seconds, the ratio to the first, peak memory in bytes.

    On the CPU, a step's time is the mean of three in a row, and the memory that of its process.
    """
    cuda, runs, rows = device.type == "cuda", {}, {}
    torch.backends.cudnn.benchmark = True
    for name, settings in named.items():
        before = torch.cuda.memory_allocated(device) if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        try:
            if cuda:
                run = make_step(settings, batch, opts, device)
                for _ in range(6):
                    run()
                torch.cuda.synchronize(device)
            else:
                run = common.Elsewhere(make_step, settings, batch, opts, device)
        except (RuntimeError, ValueError) as error:
            print(f"batch {batch}, {name}: not measured: {str(error).splitlines()[0]}")
            continue
        runs[name] = run
        rows[name] = {"batch": batch, "variant": name, "warm_up": time.perf_counter() - start,
                      "memory": torch.cuda.max_memory_allocated(device) - before if cuda else None}
    n = 10 if cuda else 3
    times = common.in_turns(runs, device, n, opts.steps, opts.seconds or (15 if cuda else 60))
    for name, row in rows.items():
        if not cuda:
            row["memory"] = runs[name].end()
        row |= common.spread(times[name])
        row |= {"n": len(times[name]) * n, "ratio": rows[next(iter(rows))]["median"] / row["median"]}
    return list(rows.values())


def line(row: dict) -> str:
    memory = f", {row['memory'] / 2**30:.2f} GiB" if row["memory"] else ""
    return (f"{row['median'] * 1e3:.2f} ms ({row['min'] * 1e3:.2f} to {row['max'] * 1e3:.2f}, {row['n']} steps), "
            f"{row['ratio']:.2f}x, {row['batch'] / row['median']:.1f} images/s{memory}, warm-up {row['warm_up']:.1f} s")


def bench(opts: Bench, device: torch.device) -> list[dict]:
    rows = []
    for batch in opts.batches:
        few = batch > 1 and device.type == "cpu" and not opts.every
        named = {**plain(device), "auto": {}} if few else every_variant(device, opts.every or device.type == "cuda")
        for row in measure(named, batch, opts, device):
            rows.append(row)
            print(f"batch {batch:<2} {row['variant']:<22} {line(row)}", flush=True)
    for row in [row for row in rows if row["variant"] == "auto"]:
        print(f"auto: {row['ratio']:.2f}x plain eager fp32 (batch {row['batch']})")
    return rows


if __name__ == "__main__":
    common.start(Bench, bench, __doc__)
