"""What only a GPU can tell, in one command of at most 8.5 minutes: a table, and small files in one folder.

    python benchmarks/gpu_report.py data/facades [--out gpu_report] [--only tests facades]

Each section is a process of its own: one that fails, hangs or breaks the device costs only its own lines, and leaves
its traceback in errors.txt. `--quick` tries the report itself, on any device, with tiny networks and few steps.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import common
import torch
import torch.distributed as dist
import tyro
from bench_train import batch_of, real_step
from common import seconds_of, spread, told
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

import train
from config import Config, recipe
from runtime.console import run_main
from runtime.devices import use_device, use_seed
from runtime.distributed import Ranks
from runtime.speed import WARM_UP

ROOT = Path(__file__).parents[1]
Section = Literal["tests", "profile", "data", "facades", "steps", "fidelity", "nccl", "whole"]


@dataclass(frozen=True)
class Options:
    data_root: tyro.conf.Positional[Path]  # folder of pairs, such as data/facades
    out: Path = Path("gpu_report")  # folder for report.txt, errors.txt, profile.txt, the benchmarks' rows and a grid
    only: tuple[Section, ...] = ()  # some of the sections, with all the time for them
    minutes: float = 8.5  # for all of it
    device: str = "auto"  # auto, cuda or cuda:1
    quick: bool = False  # tiny networks, few steps: to try the report itself, on the CPU too
    job: str = ""  # the report's own: the section that this process is to run


def settings(opts: Options, **changes) -> Config:
    tiny = dict(crop_size=64, load_size=72, ngf=8, ndf=8) if opts.quick else {}
    return replace(recipe("facades"), data_root=opts.data_root, device=opts.device, **{**tiny, **changes})


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


CLASSES = {"layouts": "nchwtonhwc|nhwctonchw|transpose", "Adam": "adam|multi_tensor", "BatchNorm": "norm|bn_|::bn",
           "concatenation": "cat", "copies and casts": "copy|memcpy|memset|fill|cast|_to_",
           "convolutions": "conv|gemm|xmma|cutlass|cudnn|dgrad|wgrad|implicit|mm", "activations, losses, sums": ""}


def profile(opts: Options, device: torch.device) -> None:
    cuda, n = device.type == "cuda", 3 if opts.quick else 20
    cfg = settings(opts)
    use_seed(cfg.seed)
    _, step = real_step(cfg, device)
    x, y = batch_of(1, cfg, device)
    act = partial(step, x, y)
    first = ", ".join(ms(seconds_of(act, device)) for _ in range(WARM_UP + 1))
    print(f"first steps, on CUDA the last is recorded: {first}")
    sent, _ = common.wall_and_cpu(lambda: [act() for _ in range(n)])
    spent = spread(seconds_of(act, device) for _ in range(n))
    print(f"later steps: {told(spent, '.3f', 1e3)} ms; the host sends them off in {ms(sent / n)}")
    with FlopCounterMode(display=False) as counter:
        getattr(step, "step", step)(x, y)
    print(f"one step, batch 1: {counter.get_total_flops() / 1e9:.1f} GFLOP")
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        wall = seconds_of(act, device, n)
    column = "self_device_time_total" if cuda else "self_cpu_time_total"  # microseconds
    kernels, times, counts = seen.key_averages(), Counter(), Counter()
    for kernel in [kernel for kernel in kernels if getattr(kernel, column)]:
        label = next(label for label, words in CLASSES.items() if re.search(words, kernel.key, re.IGNORECASE))
        times[label] += getattr(kernel, column) / n / 1e6
        counts[label] += kernel.count / n
    print(f"kernels a step (on the CPU, operations): {counts.total():.0f}; busy {ms(times.total())} of {ms(wall)} by "
          "the host's clock, with the profiler's own cost")  # none: profiling may not be permitted
    for label, spent in times.most_common():
        print(f"{label}: {ms(spent)} in {counts[label]:.0f} a step")
    table = kernels.table(sort_by=column, row_limit=-1, max_name_column_width=200)
    (opts.out / "profile.txt").write_text(table, encoding="utf-8")


def clocked(make: Callable, times: list[tuple[float, float]]) -> Callable:
    """make, but of each call of what it makes, beginning and end by the host's clock go into `times`."""
    def made(*args) -> Callable:
        act = make(*args)

        def timed(*args):
            begin = time.perf_counter()
            result = act(*args)
            times.append((begin, time.perf_counter()))
            return result

        return timed

    return made


def facades(opts: Options, device: torch.device) -> None:
    """Where the time of a run goes, by the host's clock, at most three steps ahead of the device."""
    cfg, steps, checks = settings(opts, n_epochs=3 if opts.quick else 10, cache="ram"), [], []
    replaced = dict(graphed=clocked(train.graphed, steps), Validation=clocked(train.Validation, checks))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, unittest.mock.patch.multiple(train, **replaced):
        train.train(replace(cfg, out_dir=Path(scratch, "run")))
        end = time.perf_counter()
        shutil.copy(max(Path(scratch, "run", "examples").iterdir()), opts.out / "grid.png")
    starts, checks = (torch.tensor(times, dtype=torch.float64) - begin for times in (steps, checks))
    starts = starts[:, 0].view(cfg.n_epochs, -1)  # of each epoch's steps
    gaps = starts[1:].diff().flatten()
    for what, seconds in {
            "from the start to the first step": starts[0, 0],
            f"the first {WARM_UP + 1} steps, search and recording": starts[0, WARM_UP + 1] - starts[0, 0],
            "the whole first epoch, which reads the files": checks[0, 0] - starts[0, 0],
            "a step": gaps,
            "the slowest of a hundred steps": gaps.quantile(0.99),
            f"validation of {cfg.n_val} pairs at most": checks.diff(),
            "from there to the next step": starts[1:, 0] - checks[:-1, 1],
            "an epoch after the first": checks[:, 1].diff(),
            "from the last validation to the end": end - begin - checks[-1, 1],
    }.items():
        print(f"{what}: {told(spread(seconds.flatten().tolist()), '.3f', 1e3)} ms")
    print(f"200 epochs would take: {end - begin + (200 - cfg.n_epochs) * checks[:, 1].diff().mean():.0f} s")


def nccl(opts: Options, device: torch.device) -> None:
    """A world of one: what several processes go through, without the others."""
    cfg, backend = settings(opts), "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    ranks = Ranks(device, world=2, group=dist.new_group(backend="gloo"), patient=dist.new_group(backend="gloo"))
    losses = []
    for name, replicate in (("alone", lambda state: state), (backend, ranks.replicate)):
        use_seed(cfg.seed, deterministic=True)
        state, step = real_step(cfg, device, cuda_graph=False)
        act = partial(train.train_step, replicate(state), *batch_of(2, cfg, device), **step.keywords)
        losses.append(torch.tensor([[*act().values()] for _ in range(4)]))
        print(f"one more step, {name}: {ms(seconds_of(act, device))}")
    total = ranks.all_reduce([1, 2])
    ranks.barrier()
    dist.destroy_process_group()
    far = (losses[0] - losses[1]).abs().max()
    same = f"DIFFER by up to {far:.2g}" if far else "equal to the bit"
    print(f"four steps: {same} alone and with {backend}; all_reduce {total}")


# The report

OWN = {act.__name__: act for act in (profile, facades, nccl)}


def sections(opts: Options, scratch: Path) -> dict[str, tuple[int, list]]:
    """Of each section, the seconds that it may take, and its command."""
    own = [__file__, *sys.argv[1:], "--job"]
    device = ["--device", opts.device]
    quick = opts.quick
    small = ["--crop-size", "64", "--ngf", "4"] if quick else ["--crop-size", "256", "--ngf", "64"]

    def bench(name: str, *flags) -> list:
        return [ROOT / "benchmarks" / f"{name}.py", *flags, *device, "--json", opts.out / f"{name}.json"]

    return {
        "tests": (90, ["-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", ROOT / "tests" / "test_speed.py"]),
        "profile": (45, [*own, "profile"]),
        "data": (70, bench("bench_data", "--data-roots", opts.data_root, "--n-pairs", 4 if quick else 400)),
        "facades": (60, [*own, "facades"]),
        "steps": (60, bench("bench_train", *small, "--batches", 1, "--seconds", 0.5 if quick else 15,
                            "--only", "^(plain|auto)(?!.*compile)")),
        "fidelity": (160, bench("bench_recipe", opts.data_root, *small, "--variants", "plain", "paper", "--rounds", 0,
                                "--last", 1, "--n-epochs", 1 if quick else 10, "--seeds", *range(1 if quick else 3),
                                "--n-val", 100, "--num-workers", 4, "--out-dir", scratch)),
        "nccl": (40, [*own, "nccl"]),
        "whole": (500, [ROOT / "train.py", "facades", "--data-root", opts.data_root, "--out-dir", scratch / "whole",
                        "--cache", "ram", *device, *(small if quick else []), "--n-epochs", 2 if quick else 200]),
    }


def carry_out(command: list, opts: Options, seconds: float) -> int:
    """The exit status of a section, which has a process of its own and at most so many seconds."""
    with (opts.out / "report.txt").open("a") as report, (opts.out / "errors.txt").open("a") as errors:
        child = subprocess.Popen([sys.executable, "-u", "-X", "faulthandler", *map(str, command)], stdout=report,
                                 stderr=errors, start_new_session=True)
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
        OWN[opts.job](opts, use_device(opts.device))
        return 0
    opts.out.mkdir(parents=True, exist_ok=True)
    for name in ("report.txt", "errors.txt"):
        (opts.out / name).write_text("")

    def tell(text: str) -> None:
        print(text, flush=True)
        for name in ("report.txt", "errors.txt"):
            with (opts.out / name).open("a") as file:
                print(text, file=file)

    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for name, (limit, command) in sections(opts, Path(scratch)).items():
            left = 60 * opts.minutes - (time.perf_counter() - begin)
            seconds = left if opts.only else min(left, limit)
            if opts.only and name not in opts.only:
                continue
            tell(f"\n## {name}")
            takes = re.findall(r"200 epochs would take: (\d+) s", (opts.out / "report.txt").read_text())
            needed = int(takes[-1]) if takes and name == "whole" and not opts.quick else 15
            if seconds < needed:
                tell(f"skipped: it may take {seconds:.0f} s, and needs {needed}")
            elif status := carry_out(command, opts, seconds):
                failed = True
                tell(f"FAILED: status {status}, a signal's number if below 0; errors.txt has the traceback")
    tell(f"\n{time.perf_counter() - begin:.0f} s in all")
    print((opts.out / "report.txt").read_text())
    return failed


if __name__ == "__main__":
    run_main(main)
