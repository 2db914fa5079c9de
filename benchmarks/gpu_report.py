"""Everything that only a GPU can tell, in one command of at most nine minutes: one table last, small files only.

    python benchmarks/gpu_report.py data/facades [--out gpu_report] [--epochs 20]

Runs the tests marked cuda, measures the card's own ceilings, times the training step, trains on the folder in fp32,
auto and eager, times the loader beside the step, and inference. What there is no time or no device for is skipped, with
the reason. `--epochs 200` times the whole of the paper's facades training. `--quick` tries the report itself, on any
device, with tiny networks.
"""

import contextlib
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench_fidelity
import bench_predict
import bench_train
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from config import Config
from runtime.devices import choose_device, choose_precision
from runtime.speed import choose_levers
from train import make_state, train_step

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    data_root: tyro.conf.Positional[Path]  # folder of pairs, such as data/facades
    out: Path = Path("gpu_report")  # folder for report.json, report.txt, profile.txt and a grid
    epochs: int = 20  # of the timed facades run
    minutes: float = 9.0  # nothing new is begun that is not expected to end by then
    device: str = "auto"  # auto, cuda or cuda:1
    quick: bool = False  # tiny networks, few steps: to try the report itself, on the CPU too


@dataclass
class Report:
    """Lines of the table, and what they were made from."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    results: dict = field(default_factory=dict)

    def say(self, what: str, value: str) -> None:
        self.lines.append((what, value))
        print(f"## {what}: {value}", flush=True)

    def table(self) -> str:
        width = max(len(what) for what, _ in self.lines)
        return "\n".join(f"{what:<{width}}  {value}" for what, value in self.lines)


def tests(opts: Options, device: torch.device, report: Report) -> None:
    if device.type != "cuda":
        return report.say("tests marked cuda", "skipped: needs a CUDA device")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "--tb=short"],
                          cwd=ROOT, capture_output=True, text=True, timeout=150)
    print(done.stdout[-6000:])
    report.results["tests"] = done.stdout[-6000:]
    report.say("tests marked cuda", done.stdout.strip().splitlines()[-1])


def ceilings(opts: Options, device: torch.device, report: Report) -> None:
    """The bf16 matrix rate and the memory bandwidth of this very card, as large products and copies reach them."""
    if device.type != "cuda":
        return report.say("ceilings", "skipped: needs a CUDA device")
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    big = torch.empty(2**30, dtype=torch.uint8, device=device)
    other = torch.empty_like(big)
    for _ in range(5):
        a @ b
        other.copy_(big)
    rate = 2 * 8192**3 / bench_train.seconds_of(lambda: a @ b, device, 30)
    width = 2 * 2**30 / bench_train.seconds_of(lambda: other.copy_(big), device, 30)
    report.results["ceilings"] = {"bf16": rate, "bandwidth": width}
    report.say("ceilings", f"{rate / 1e12:.0f} TFLOP/s bf16, {width / 1e12:.2f} TB/s")


def flops(opts: Options, device: torch.device, report: Report) -> None:
    """Of one step at batch 1, counted on the real networks."""
    cfg = Config(ngf=8, ndf=8) if opts.quick else Config()
    cfg = replace(cfg, cuda_graph="off")
    state = make_state(cfg, device, torch.float32, choose_levers(cfg, device, torch.float32))
    x = torch.zeros(1, 3, cfg.crop_size, cfg.crop_size, device=device)
    with FlopCounterMode(display=False) as counter:
        train_step(state, x, x, 100.0, contextlib.nullcontext)
    report.results["flops"] = counter.get_total_flops()
    report.say("one step, batch 1", f"{counter.get_total_flops() / 1e9:.1f} GFLOP")


def step(batch: int, compile: bool, opts: Options, device: torch.device, report: Report) -> None:
    bench = bench_train.Bench((batch,), seconds=0.5 if opts.quick else 8, crop_size=64 if opts.quick else 256)
    named = bench_train.variants(device, few=opts.quick, every=compile)
    if compile:
        named = {name: named[name] for name in named if name == "plain eager fp32" or "compile" in name}
    else:
        named = {name: settings for name, settings in named.items() if "compile" not in name}
    rows = bench_train.measure(named, batch, bench, device)
    report.results[f"step, batch {batch}{', compile' * compile}"] = rows
    ceiling, work = report.results.get("ceilings", {}).get("bf16"), report.results.get("flops")
    for row in rows:
        share = f", {batch * work / row['median'] / ceiling:.0%} of the bf16 rate" if ceiling and work else ""
        memory = f", {row['memory'] / 2**30:.2f} GiB" if row["memory"] else ""
        report.say(f"step, batch {batch}, {row['variant']}",
                   f"{row['median'] * 1e3:.3f} ms ({row['min'] * 1e3:.3f} to {row['max'] * 1e3:.3f}), "
                   f"{row['ratio']:.2f}x, {batch / row['median']:.0f} images/s{memory}{share}, "
                   f"warm-up {row['warm_up']:.0f} s")


def profile(opts: Options, device: torch.device, report: Report) -> None:
    """The kernels of five steps at batch 16, by their time."""
    if device.type != "cuda":
        return report.say("profile", "skipped: needs a CUDA device")
    run = bench_train.make_step(dict(cuda_graph="off"), 16, 64 if opts.quick else 256, device)
    for _ in range(5):
        run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            run()
        torch.cuda.synchronize(device)
    text = seen.key_averages().table(sort_by="cuda_time_total", row_limit=30, max_name_column_width=90)
    (opts.out / "profile.txt").write_text(text, encoding="utf-8")
    events = sorted(seen.key_averages(), key=lambda e: e.device_time_total, reverse=True)
    total = sum(e.device_time_total for e in events) or 1
    for event in events[:8]:
        report.say("profile, batch 16", f"{event.device_time_total / total:4.0%} {event.key[:80]}")


def run_of(opts: Options, *flags: str) -> tuple[float, list[dict], Path]:
    """Seconds from start to exit of `python train.py facades`, its log and its last grid."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        small = ["--ngf", "8", "--ndf", "8", "--crop-size", "64", "--load-size", "72"] if opts.quick else []
        command = [sys.executable, "train.py", "facades", "--data-root", str(opts.data_root.absolute()), "--out-dir",
                   str(run), "--device", opts.device, *small, *flags]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 * opts.minutes)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        log = list(csv.DictReader((run / "log.csv").read_text(encoding="utf-8").splitlines()))
        shutil.copy(max((run / "examples").iterdir()), opts.out / "grid.png")
        return seconds, log, run


def facades(opts: Options, device: torch.device, report: Report) -> None:
    """From start to exit: loading, validation, grids and checkpoints included."""
    seconds, log, _ = run_of(opts, "--n-epochs", str(opts.epochs))
    training = sum(float(row["seconds"]) for row in log)
    best = max(float(row["images_per_s"]) for row in log)
    report.results["facades"] = {"epochs": opts.epochs, "seconds": seconds, "training": training, "log": log}
    report.say(f"python train.py facades --n-epochs {opts.epochs}",
               f"{seconds:.1f} s from start to exit, {training:.1f} s of it in steps, {best:.0f} images/s in the best "
               f"epoch, val L1 {float(log[-1]['val_l1']):.4f}")


def loader(opts: Options, device: torch.device, report: Report) -> None:
    """Images a second of training: with the loader's processes, and from memory."""
    for flags in (("--num-workers", "4"), ("--num-workers", "8"), ("--cache", "ram")):
        _, log, _ = run_of(opts, "--n-epochs", "4", *flags)
        rate = max(float(row["images_per_s"]) for row in log)
        report.results[f"loader {flags}"] = rate
        report.say("training with " + " ".join(flags), f"{rate:.0f} images/s")


def fidelity(opts: Options, device: torch.device, report: Report) -> None:
    small = dict(crop_size=64, ngf=8, n_val=10, num_workers=0) if opts.quick else {}
    variants = ("fp32", "auto", "eager") if device.type == "cuda" else ("fp32", "auto")
    rows = bench_fidelity.fidelity(bench_fidelity.Fidelity(
        opts.data_root, n_epochs=1 if opts.quick else 3, variants=variants, device=opts.device, **small))
    report.results["fidelity"] = rows
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        l1, ssim = (sorted(row[key] for row in own) for key in ("val_l1", "val_ssim"))
        report.say(f"{len(own)} seeds, {variant}", f"val L1 {l1[0]:.4f} to {l1[-1]:.4f}, val SSIM {ssim[0]:.4f} to "
                   f"{ssim[-1]:.4f}, {max(row['images_per_s'] for row in own):.0f} images/s")


def inference(opts: Options, device: torch.device, report: Report) -> None:
    result = bench_predict.bench(bench_predict.Bench(n_images=8 if opts.quick else 64, rounds=1 if opts.quick else 3,
                                                     device=opts.device))
    report.results["inference"] = result["rows"]
    for row in result["rows"]:
        report.say(f"inference, {row['variant']}", f"{row['images_per_s']:.1f} images/s, {row['ratio']:.2f}x")


def main() -> None:
    opts = tyro.cli(Options, description=__doc__)
    begin = time.perf_counter()
    opts.out.mkdir(parents=True, exist_ok=True)
    device, report = choose_device(opts.device), Report()
    choose_precision("auto", device)
    torch.backends.cudnn.benchmark = True
    report.results["hardware"] = bench_train.hardware(device)
    report.say("hardware", ", ".join(f"{key} {value}" for key, value in report.results["hardware"].items()))
    # In the order of their worth, with the seconds that each may take
    sections: list[tuple[Callable, float]] = [
        (tests, 90), (ceilings, 10), (flops, 10), (partial(step, 1, False), 70), (facades, 40 + 1.5 * opts.epochs),
        (partial(step, 16, False), 80), (fidelity, 80), (inference, 40), (loader, 60), (profile, 20),
        (partial(step, 1, True), 120), (partial(step, 16, True), 120), (partial(step, 4, False), 70)]
    for act, expected in sections:
        name = getattr(act, "__name__", None) or f"step, batch {act.args[0]}{', compile' * act.args[1]}"
        left = 60 * opts.minutes - (time.perf_counter() - begin)
        if left < expected and not opts.quick:
            report.say(name, f"skipped: {left:.0f} s left of {opts.minutes:g} minutes, {expected:.0f} wanted")
            continue
        started = time.perf_counter()
        try:
            act(opts, device, report)
        except Exception as error:  # the rest of the report is worth having
            report.say(name, f"failed: {type(error).__name__}: {(str(error).splitlines() or ['?'])[0]}")
        print(f"## {name} took {time.perf_counter() - started:.0f} s", flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        (opts.out / "report.json").write_text(json.dumps(report.results, indent=2, default=str), encoding="utf-8")
        (opts.out / "report.txt").write_text(report.table() + "\n", encoding="utf-8")
    print(f"\n{time.perf_counter() - begin:.0f} s in all\n{report.table()}")


if __name__ == "__main__":
    main()
