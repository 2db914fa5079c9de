"""Times train_step: plain eager fp32, auto, and each single optimisation, interleaved in one process.

    python benchmarks/bench_train.py [--batches 1 4 16] [--steps N] [--json FILE]

Without arguments: batch 1, 4 and 16 at 256×256; on the CPU the two larger ones compare plain and auto only.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import tyro

from config import Config
from runtime.devices import choose_device, choose_precision
from runtime.speed import choose_levers, graphed
from train import make_state, train_step

# What the well-known implementations run. On CUDA torch's default lets fp32 convolutions use TF32, so that is "plain".
PLAIN = dict(precision="fp32", fused_adam=False, channels_last="off", small_matmul="off", compile="off",
             cuda_graph="off")


@dataclass(frozen=True)
class Bench:
    batches: tuple[int, ...] = (1, 4, 16)  # batch sizes
    steps: int = 0  # counted steps of each variant; 0: as many as fit into the time
    seconds: float = 0  # for one batch size, warm-up apart; 0 chooses 15 on CUDA, 25 on the CPU
    crop_size: int = 256  # pixels
    every: bool = False  # every variant at every batch size, and compile, also on the CPU
    device: str = "auto"  # auto, cuda, cuda:1 or cpu
    json: Path | None = None  # also write the table, the hardware and the versions there


def variants(device: torch.device, few: bool, every: bool) -> dict[str, dict]:
    """Settings by name: plain first, then each single change to it, then auto."""
    cuda = device.type == "cuda"
    plain = dict(PLAIN, precision="tf32") if cuda else PLAIN
    single = {"fused Adam": dict(fused_adam=True), "bf16": dict(precision="bf16"),
              "channels-last": dict(channels_last="on"), "small matmul": dict(small_matmul="on")}
    if cuda:
        single |= {"strict fp32": dict(precision="fp32"), "fp16": dict(precision="fp16"),
                   "CUDA graph": dict(cuda_graph="on", fused_adam=True)}
    if cuda or every:
        single |= {"compile": dict(compile="on")}
    if few:
        return {"plain eager fp32": plain, "auto": {}}
    named = {"plain eager fp32": plain} | {name: {**plain, **change} for name, change in single.items()} | {"auto": {}}
    if cuda:
        named |= {"auto - channels-last": dict(channels_last="off"), "auto - graph": dict(cuda_graph="off"),
                  "auto + small matmul": dict(small_matmul="on")}
    else:
        named |= {"auto - small matmul": dict(small_matmul="off"), "auto + channels-last": dict(channels_last="on")}
    return named | ({"auto + compile": dict(compile="on")} if cuda or every else {})


def make_step(settings: dict, batch: int, crop_size: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """A function that takes one real training step on random images."""
    cfg = replace(Config(), crop_size=crop_size, load_size=crop_size, **settings)
    dtype = choose_precision(cfg.precision, device)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.manual_seed(0)
    levers = choose_levers(cfg, device, dtype)
    state = make_state(cfg, device, dtype, levers)
    autocast = partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)
    step = lambda x, y: train_step(state, x, y, cfg.lambda_l1, autocast)  # noqa: E731
    step = graphed(step, levers)
    x, y = (torch.rand(batch, 3, crop_size, crop_size, device=device) * 2 - 1 for _ in range(2))

    def run() -> torch.Tensor:
        torch.backends.cudnn.allow_tf32 = tf32
        return step(x, y)

    return run


def seconds_of(run: Callable, device: torch.device, n: int = 1) -> float:
    """Seconds a call, by device events on CUDA."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(n):
            run()
        return (time.perf_counter() - start) / n
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(n):
        run()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / n / 1000


def measure(named: dict[str, dict], batch: int, opts: Bench, device: torch.device) -> list[dict]:
    """One row a variant: median, fastest and slowest step in seconds, the ratio to the first, peak memory in bytes."""
    cuda, runs, rows = device.type == "cuda", {}, {}
    for name, settings in named.items():
        before = torch.cuda.memory_allocated(device) if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        try:
            run = make_step(settings, batch, opts.crop_size, device)
            for _ in range(6 if cuda else 1):
                run()
            if cuda:
                torch.cuda.synchronize(device)
        except (RuntimeError, ValueError) as error:
            print(f"batch {batch}, {name}: not measured: {str(error).splitlines()[0]}")
            continue
        runs[name] = run
        rows[name] = {"batch": batch, "variant": name, "warm_up": time.perf_counter() - start,
                      "memory": torch.cuda.max_memory_allocated(device) - before if cuda else None}
    times = {name: [] for name in runs}
    end = time.perf_counter() + (opts.seconds or (15 if cuda else 25))
    while min(map(len, times.values())) < (opts.steps or 10**6):
        for name, run in runs.items():  # interleaved: what disturbs the machine disturbs them all
            times[name].append(seconds_of(run, device, 10 if cuda else 1))
        if time.perf_counter() > end and not opts.steps and min(map(len, times.values())) >= 3:
            break
    base = statistics.median(times[next(iter(times))])
    for name, row in rows.items():
        median = statistics.median(times[name])
        row |= {"median": median, "min": min(times[name]), "max": max(times[name]), "n": len(times[name]),
                "ratio": base / median}
    return list(rows.values())


def hardware(device: torch.device) -> dict:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    if device.type == "cpu" and Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
            "python": platform.python_version(), "system": platform.system()}


def bench(opts: Bench) -> dict:
    device = choose_device(opts.device)
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = True
    result = {"hardware": hardware(device), "rows": []}
    print(", ".join(f"{key} {value}" for key, value in result["hardware"].items()))
    print(f"{'batch':>5} {'variant':<22} {'ms/step':>9} {'fastest':>9} {'slowest':>9} {'steps':>6} {'ratio':>7} "
          f"{'images/s':>9} {'memory':>9}")
    for batch in opts.batches:
        few = batch > 1 and not cuda and not opts.every
        for row in measure(variants(device, few, opts.every), batch, opts, device):
            result["rows"].append(row)
            memory = f"{row['memory'] / 2**30:.2f} GiB" if row["memory"] else "-"
            print(f"{batch:>5} {row['variant']:<22} {row['median'] * 1e3:9.2f} {row['min'] * 1e3:9.2f} "
                  f"{row['max'] * 1e3:9.2f} {row['n'] * (10 if cuda else 1):6} {row['ratio']:6.2f}x "
                  f"{batch / row['median']:9.1f} {memory:>9}", flush=True)
    if opts.json:
        opts.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    return result


def main() -> None:
    result = bench(tyro.cli(Bench, description=__doc__))
    for row in result["rows"][::-1]:
        if row["variant"] == "auto":
            print(f"auto: {row['ratio']:.2f}x plain eager fp32 (batch {row['batch']})")


if __name__ == "__main__":
    main()
