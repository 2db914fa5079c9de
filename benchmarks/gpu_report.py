"""What only a GPU can tell, in one command of at most 8.5 minutes: a table, and small files in one folder.

    python benchmarks/gpu_report.py data/facades [--out gpu_report] [--only smoke facades]

Each section is a process of its own: one that fails, hangs or breaks the device costs only its own lines, and leaves
its traceback in errors.txt. `--quick` tries the report itself, on any device, with tiny networks and few steps.
"""

import contextlib
import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import unittest.mock
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import bench_fidelity
import bench_train
import common
import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
from bench_train import batch_of, real_step
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import train
from config import Config, recipe
from discriminator import Discriminator
from generator import Generator
from runtime.console import run_main
from runtime.devices import seed_step, use_device, use_seed, without_cudnn_benchmark
from runtime.distributed import Ranks
from runtime.logger import LOSSES
from runtime.speed import WARM_UP, GraphedStep, Levers, choose_levers
from runtime.state import on_cpu, snapshot
from runtime.writer import Writer

Section = Literal["smoke", "profile", "layers", "host", "facades", "steps", "fidelity", "nccl", "whole"]
LIMITS = dict(zip(get_args(Section), (60, 45, 90, 70, 60, 60, 160, 40, 500), strict=True))  # seconds of each


@dataclass(frozen=True)
class Options:
    data_root: tyro.conf.Positional[Path]  # folder of pairs, such as data/facades
    out: Path = Path("gpu_report")  # folder for report.txt, report.jsonl, errors.txt, profile.txt and a grid
    only: tuple[Section, ...] = ()  # some of the sections, with all the time for them
    minutes: float = 8.5  # for all of it
    device: str = "auto"  # auto, cuda or cuda:1
    quick: bool = False  # tiny networks, few steps: to try the report itself, on the CPU too
    job: tuple[Section, float] | None = None  # the report's own: what this process is to run, and when it was started

    def since_begin(self) -> float:
        return time.perf_counter() - self.job[1]


class Report:
    """Lines of the table, each in the file as soon as it is known; `data` is what it was made from."""

    def __init__(self, opts: Options, section: str):
        self.path, self.section = opts.out / "report.jsonl", section

    def __call__(self, what: str, value: str, **data) -> None:
        print(f"{self.section}: {what}: {value}", flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"section": self.section, "what": what, "value": value, **data}) + "\n")

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


def settings(opts: Options, **changes) -> Config:
    tiny = dict(crop_size=64, load_size=72, ngf=8, ndf=8) if opts.quick else {}
    return replace(recipe("facades"), data_root=opts.data_root, device=opts.device, **{**tiny, **changes})


def until_done(act: Callable, device: torch.device) -> float:
    """Seconds by the host's clock."""
    start = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ms(seconds: list[float]) -> str:
    return "{median:.3f} ms ({min:.3f} to {max:.3f})".format(**common.spread([1e3 * each for each in seconds]))


# Smoke: does a graph record, and compute what eager steps compute?

def pretend(act: Callable) -> tuple[Callable, Tensor]:
    """Stands in for a CUDA graph where there is none."""
    losses = torch.zeros(4)
    return lambda: losses.copy_(act()), losses


def trajectory(cfg: Config, device: torch.device, graph: bool) -> dict[str, Tensor]:
    """Losses, weights and a validation of twelve deterministic steps, with what comes between the steps of a run."""
    use_seed(cfg.seed, deterministic=True)
    state, step = real_step(cfg, device, cuda_graph_needed=True)  # what goes wrong is raised
    eager = getattr(step, "step", step)  # with the same Adam, of a graph's kind
    if not graph or device.type != "cuda":
        step = GraphedStep(eager, pretend) if graph else eager
    seen, writer, (x, y) = {}, Writer(device), batch_of(2, cfg, device)
    for i in range(4 * WARM_UP):
        if i == 2 * WARM_UP:
            with torch.no_grad(), state.gen.test_time(), without_cudnn_benchmark(), eager.keywords["autocast"]():
                seen["validation"] = state.gen(x).float()
            writer.submit("copy", on_cpu, snapshot(state.state_dict()))
            state.set_rate(cfg.lr / 2)
        n = 1 if i == 2 * WARM_UP + 1 else 2  # an epoch's last, smaller batch
        seed_step(cfg.seed, 0, 1, i, device)
        losses = step((x[:n] * (1 - i / 50)).contiguous(), y[:n])
        seen[f"losses of step {i + 1}"] = torch.stack(list(losses.values()))
    writer.pool.shutdown()
    writer.check(wait=True)
    return {**seen, **{f"{net}.{name}": value for net in ("gen", "disc")
                       for name, value in getattr(state, net).state_dict().items()}}


def smoke(opts: Options, device: torch.device, report: Report) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, before deterministic steps ask for it
    cuda = device.type == "cuda"
    cfg = settings(opts)
    use_seed(cfg.seed)
    _, step = real_step(cfg, device, cuda_graph_needed=True)  # what goes wrong is raised
    x, y = batch_of(1, cfg, device)
    report("eager steps, of which the first searches", ", ".join(
        f"{1e3 * until_done(lambda: step(x, y), device):.1f} ms" for _ in range(WARM_UP)))
    report("recording, with one replay" if cuda else "recording needs CUDA; one more eager step",
           f"{1e3 * until_done(lambda: step(x, y), device):.1f} ms")
    more = [common.seconds_of(lambda: step(x, y), device) for _ in range(20)]
    report("20 replays" if cuda else "20 eager steps", ms(more))
    for name, changes in (("auto", {}), ("fp32", dict(precision="fp32"))):
        eager, graph = (trajectory(replace(cfg, **changes), device, graph) for graph in (False, True))
        differ = [key for key in eager if not torch.equal(eager[key], graph[key])]
        far = max(((eager[key] - graph[key]).abs().max().item() for key in differ), default=0)
        report(f"{'graph' if cuda else 'what stands in for a graph'} against eager, {name}", (
            f"DIFFER in {len(differ)} of {len(eager)}, by up to {far:.2g}, first {differ[0]}" if differ else
            f"equal to the bit: {len(eager)} tensors"), differ=differ)


# Profile of replays

CLASSES = {"layouts": "nchwtonhwc|nhwctonchw|transpose", "Adam": "adam|multi_tensor", "BatchNorm": "norm|bn_|::bn",
           "concatenation": "cat", "copies and casts": "copy|memcpy|memset|fill|cast|_to_",
           "convolutions": "conv|gemm|xmma|cutlass|cudnn|dgrad|wgrad|implicit|mm", "activations, losses, sums": ""}


def busy(spans: list[tuple[float, float]]) -> float:
    """The time that at least one of the (start, end) covers."""
    total, until = 0.0, -math.inf
    for start, end in sorted(spans):
        total, until = total + max(0.0, end - max(start, until)), max(until, end)
    return total


def profile(opts: Options, device: torch.device, report: Report) -> None:
    cfg, cuda, n = settings(opts), device.type == "cuda", 3 if opts.quick else 20
    use_seed(cfg.seed)
    _, step = real_step(cfg, device)
    x, y = batch_of(1, cfg, device)
    with FlopCounterMode(display=False) as counter:
        getattr(step, "step", step)(x, y)
    report("one step, batch 1", f"{counter.get_total_flops() / 1e9:.1f} GFLOP")
    for _ in range(2 * WARM_UP):
        step(x, y)
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if cuda else activity.CPU]) as seen:
        wall = until_done(lambda: [step(x, y) for _ in range(n)], device)
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events = [(e.name, e.time_range.start, e.time_range.end) for e in seen.events()
              if e.device_type == kind and not e.cpu_children and not e.name.startswith("ProfilerStep")]
    if not events:
        return report("profile", "the profiler saw no kernels: it may not be permitted here")
    at_work, span = busy([e[1:] for e in events]), max(e[2] for e in events) - min(e[1] for e in events)
    report("kernels a step" if cuda else "operations a step, needs CUDA for kernels",
           f"{len(events) / n:.0f}; busy {at_work / n / 1e3:.3f} ms, gaps {(span - at_work) / n / 1e3:.3f} ms, "
           f"host's clock {1e3 * wall / n:.3f} ms, with the profiler's own cost")
    times, counts, kernels = Counter(), Counter(), Counter()
    for name, start, end in events:
        label = next(label for label, words in CLASSES.items() if re.search(words, name, re.IGNORECASE))
        times[label] += (end - start) / n / 1e3
        counts[label] += 1 / n
        kernels[f"{label}: {name}"] += (end - start) / n
    for label, spent in times.most_common():
        report(label, f"{spent:.3f} ms in {counts[label]:.0f} a step")
    (opts.out / "profile.txt").write_text("".join(f"{spent:9.1f} µs a step  {name}\n" for name, spent in
                                                  kernels.most_common()), encoding="utf-8")


# Layers: convolutions of two memory layouts, and as products of matrices

def ways(conv: nn.Module, x: Tensor, dtype: torch.dtype) -> dict[str, dict[str, Callable]]:
    """Of forward, dgrad and wgrad, what computes them: cuDNN (or its like) in NHWC and NCHW, and a matmul."""
    across, acts = isinstance(conv, nn.ConvTranspose2d), {"forward": {}, "dgrad": {}, "wgrad": {}}
    args = (None, conv.stride, conv.padding, (1, 1), across, (0, 0), 1)
    grad = torch.randn_like(conv(x)).to(dtype)
    for name, layout in (("NHWC", torch.channels_last), ("NCHW", torch.contiguous_format)):
        image, weight, out = (t.to(dtype).contiguous(memory_format=layout) for t in (x, conv.weight, grad))
        acts["forward"][name] = lambda a=image, w=weight: torch.ops.aten.convolution(a, w, *args)
        for i, side in enumerate(("dgrad", "wgrad")):
            acts[side][name] = lambda a=image, w=weight, g=out, i=i: torch.ops.aten.convolution_backward(
                g, a, w, *args, [i == 0, i == 1, False])[i]
    # Either kind of layer leads between a large image and a small one
    large, small = (out, image.flatten(2)) if across else (image, out.flatten(2))
    how, matrix = dict(kernel_size=4, padding=conv.padding, stride=conv.stride), weight.flatten(1)
    acts["dgrad" if across else "forward"]["matmul"] = lambda: matrix @ F.unfold(large, **how)
    acts["forward" if across else "dgrad"]["matmul"] = lambda: F.fold(matrix.t() @ small, large.shape[2:], **how)
    acts["wgrad"]["matmul"] = lambda: small @ F.unfold(large, **how).transpose(1, 2)
    return acts


def alone(act: Callable, device: torch.device, n: int = 20) -> float:
    """Seconds a call; on CUDA within a graph, without the host's."""
    if device.type != "cuda":
        return common.seconds_of(act, device, 2)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            act()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(n):
            act()
    graph.replay()
    return common.seconds_of(graph.replay, device, 5) / n


@torch.no_grad()
def layers(opts: Options, device: torch.device, report: Report) -> None:
    cfg, found = settings(opts), []
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.backends.cudnn.benchmark = True
    gen = Generator(ngf=cfg.ngf, crop_size=cfg.crop_size).to(device)
    disc = Discriminator(ndf=cfg.ndf).to(device)
    for net in (gen, disc):
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                title = f"{type(net).__name__[0]} {name} {module.in_channels}→{module.out_channels}"
                module.register_forward_hook(lambda m, x, y, title=title: found.append((title, m, x[0])))
    x, _ = batch_of(1, cfg, device)
    disc(x, gen(x))
    sums, off = Counter(), 0.0
    for title, conv, image in found:
        conv._forward_hooks.clear()
        row = {}
        for side, acts in ways(conv, image, dtype).items():
            results = {name: act().flatten().float() for name, act in acts.items()}
            wanted = results["NCHW"]
            off = max([off, *(((each - wanted).abs().max() / wanted.abs().max()).item() for each in results.values())])
            row[side] = {name: 1e6 * alone(act, device) for name, act in acts.items()}
            sums.update(row[side] | {"the best of each": min(row[side].values())})
        told = [f"{side} " + " ".join(f"{name} {spent:.1f}" for name, spent in times.items())
                for side, times in row.items()]
        report(f"{title}, {image.shape[3]}×{image.shape[2]}", "; ".join(told) + " µs", us=row)
    report("sums, weights warm in the cache", ", ".join(f"{name} {spent:.0f} µs" for name, spent in sums.items())
           + f"; the ways agree to {off:.1g}")


# Whole runs

def run(cfg: Config, opts: Options, **replaced) -> list[dict]:
    """The log of train(cfg), with other things in the place of some names in train.py."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        for name, other in replaced.items():
            stack.enter_context(unittest.mock.patch.object(train, name, other))
        folder = Path(scratch) / "run"
        train.train(replace(cfg, out_dir=folder))
        shutil.copy(max((folder / "examples").iterdir()), opts.out / "grid.png")
        return list(csv.DictReader((folder / "log.csv").read_text(encoding="utf-8").splitlines()))


def eager_levers(*args) -> Levers:
    return replace(choose_levers(*args), cuda_graph=False)


def host(opts: Options, device: torch.device, report: Report) -> None:
    """What the data path alone can deliver, what one replay takes, and what becomes of both."""
    cfg = settings(opts, n_epochs=3, n_val=8, num_workers=4)
    losses = dict.fromkeys(LOSSES, torch.zeros((), device=device))
    data = {"cache ram": dict(cache="ram"), "4 processes": dict(cache="none"),
            "8 processes": dict(cache="none", num_workers=8)}
    for name, changes in data.items():
        log = run(replace(cfg, **changes), opts, train_step=lambda *_, **__: losses, choose_levers=eager_levers)
        rate = max(float(row["images_per_s"]) for row in log[1:])
        report(f"real loop without a step, {name}", f"{rate:.0f} pairs/s, {1e3 / rate:.3f} ms a pair")
    use_seed(cfg.seed)
    _, step = real_step(cfg, device)
    x, y = batch_of(1, cfg, device)
    for _ in range(2 * WARM_UP):
        step(x, y)
    n = 3 if opts.quick else 100
    device_time = common.seconds_of(lambda: step(x, y), device, n)
    start = time.perf_counter()
    for _ in range(n):
        step(x, y)
    sent = time.perf_counter() - start
    report("one step on one batch", f"{1e3 * device_time:.3f} ms; the host sends it off in {1e3 * sent / n:.3f} ms")
    for name, changes in list(data.items())[:2]:
        rate = max(float(row["images_per_s"]) for row in run(replace(cfg, **changes), opts)[1:])
        report(f"real loop, {name}", f"{rate:.0f} pairs/s, {1e3 / rate:.3f} ms a step")


def timeline(cfg: Config, opts: Options, report: Report) -> float:
    """Where the time of a run goes, by the host's clock, at most three steps ahead of the device; seconds an epoch."""
    graphed, begin, epochs, checks = train.graphed, train.Validation, [[]], []

    def marked(*args) -> Callable:
        step = graphed(*args)

        def act(x: Tensor, y: Tensor) -> Tensor:
            epochs[-1].append(time.perf_counter())
            return step(x, y)

        return act

    def timed(*args) -> Callable:
        validate = begin(*args)

        def act(*args) -> tuple:
            checks.append([time.perf_counter()])
            result = validate(*args)
            checks[-1].append(time.perf_counter())
            epochs.append([])
            return result

        return act

    log = run(cfg, opts, graphed=marked, Validation=timed)
    end, first, later = time.perf_counter(), epochs[0], epochs[1:-1]
    gaps = sorted(b - a for steps in later for a, b in zip(steps, steps[1:], strict=False))
    an_epoch = (checks[-1][1] - checks[0][1]) / len(later)
    for what, value in {
            "from the start of Python to the first step": f"{first[0] - opts.job[1]:.1f} s",
            f"the first {WARM_UP + 1} steps, search and recording": f"{first[WARM_UP + 1] - first[0]:.2f} s",
            "the whole first epoch, which reads the files": f"{checks[0][0] - first[0]:.2f} s",
            "a step": f"{ms(gaps)}, p99 {1e3 * gaps[int(0.99 * len(gaps))]:.3f}",
            f"validation of {cfg.n_val} pairs at most": ms([b - a for a, b in checks]),
            "from there to the next step": ms([b[0] - a[1] for a, b in zip(checks, later, strict=False)]),
            "from the last validation to the end": f"{end - checks[-1][1]:.1f} s",
            "an epoch after the first": f"{an_epoch:.3f} s",
            "images/s in the last": f"{float(log[-1]['images_per_s']):.0f}",
            "val L1": f"{float(log[-1]['val_l1']):.4f}",
            f"{cfg.n_epochs} epochs from start to end": f"{end - opts.job[1]:.1f} s",
    }.items():
        report(what, value)
    return an_epoch


def facades(opts: Options, device: torch.device, report: Report) -> None:
    cfg = settings(opts, n_epochs=3 if opts.quick else 10, cache="ram")
    an_epoch = timeline(cfg, opts, report)
    whole = opts.since_begin() + (200 - cfg.n_epochs) * an_epoch
    report("200 epochs would take", f"{whole:.0f} s", whole=whole)


def whole(opts: Options, device: torch.device, report: Report) -> None:
    """The paper's 200 epochs, when there is time for them."""
    left = 60 * opts.minutes - opts.since_begin()
    expected = max((line.get("whole", 0) for line in report.lines()), default=0)
    if expected > left and not opts.quick:
        return report("200 epochs", f"skipped: {expected:.0f} s expected, {left:.0f} s left; --only whole has more")
    timeline(settings(opts, n_epochs=2 if opts.quick else 200, cache="ram"), opts, report)


def steps(opts: Options, device: torch.device, report: Report) -> None:
    bench = bench_train.Bench(seconds=0.5 if opts.quick else 15, crop_size=64 if opts.quick else 256)
    named = {**bench_train.plain(device), **bench_train.around_auto(device)}
    for row in bench_train.measure(named, 1, bench, device):
        report(f"batch 1, {row['variant']}", bench_train.line(row), row=row)


def fidelity(opts: Options, device: torch.device, report: Report) -> None:
    tiny = dict(crop_size=64, ngf=8, n_val=10, n_epochs=1, seeds=(0,)) if opts.quick else {}
    rows = []
    for row in bench_fidelity.runs(bench_fidelity.Fidelity(opts.data_root, device=opts.device, cache="ram", **tiny)):
        rows.append(row)
        report(f"{row['variant']}, seed {row['seed']}", f"val L1 {row['val_l1']:.4f}", row=row)
    for name, scores in bench_fidelity.lines(rows):
        report(name, scores)


def nccl(opts: Options, device: torch.device, report: Report) -> None:
    """A world of one: what several processes go through, without the others."""
    cfg, backend = settings(opts), "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    ranks = Ranks(device, world=2, group=dist.new_group(backend="gloo"), patient=dist.new_group(backend="gloo"))
    losses = []
    for alone in (True, False):
        use_seed(cfg.seed, deterministic=True)
        state, step = real_step(cfg, device, cuda_graph=False)
        x, y = batch_of(2, cfg, device)
        parallel = state if alone else ranks.replicate(state)
        steps = [train.train_step(parallel, x, y, **step.keywords) for _ in range(4)]
        losses.append(torch.stack([loss for each in steps for loss in each.values()]))
        spent = until_done(lambda: train.train_step(parallel, x, y, **step.keywords), device)  # noqa: B023
        report(f"one more step, {'alone' if alone else backend}", f"{1e3 * spent:.1f} ms")
    total = ranks.all_reduce([1, 2])
    ranks.barrier()
    dist.destroy_process_group()
    report("four steps", ("equal to the bit" if torch.equal(*losses) else "DIFFER by up to "
           f"{(losses[0] - losses[1]).abs().max():.2g}") + f" alone and with {backend}; all_reduce {total}")


# The report

def carry_out(section: str, opts: Options, seconds: float) -> int:
    """The exit status of one section, which has a process of its own and at most so many seconds."""
    command = [sys.executable, "-X", "faulthandler", __file__, *sys.argv[1:], "--minutes", str(seconds / 60), "--job",
               section, str(time.perf_counter())]
    with (opts.out / "errors.txt").open("a", encoding="utf-8") as errors:
        print(f"\n## {section}", file=errors, flush=True)
        child = subprocess.Popen(command, stderr=errors, start_new_session=True)
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)  # the fault handler writes where it stands
            return child.wait(5)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # and its loader processes


def main() -> int:
    begin, opts = time.perf_counter(), tyro.cli(Options, description=__doc__)
    if opts.job:
        report = Report(opts, opts.job[0])
        try:
            device = use_device(opts.device)
            if not report.path.exists():
                for key, value in common.hardware(device).items():
                    report(key, str(value))
            globals()[opts.job[0]](opts, device, report)
            return 0
        except Exception as error:
            traceback.print_exc()
            report("FAILED", f"{type(error).__name__}: {(str(error).splitlines() or ['?'])[0]}; errors.txt has it all")
            return 1
    opts.out.mkdir(parents=True, exist_ok=True)
    for name in ("report.jsonl", "errors.txt"):
        (opts.out / name).unlink(missing_ok=True)
    failed = False
    for section in opts.only or LIMITS:
        report, left = Report(opts, section), 60 * opts.minutes - (time.perf_counter() - begin)
        if left < 15:
            report("skipped", f"{left:.0f} s left of {opts.minutes:g} minutes")
        elif status := carry_out(section, opts, left if opts.only else min(left, LIMITS[section])):
            failed = True
            if status != 1:  # else it has told itself
                report("FAILED", f"status {status}, a signal's number if below 0; errors.txt tells where it stood")
    lines = [f"{line['section']:<9} {line['what']}: {line['value']}" for line in report.lines()]
    (opts.out / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\n{time.perf_counter() - begin:.0f} s in all\n" + "\n".join(lines))
    return failed


if __name__ == "__main__":
    run_main(main)
