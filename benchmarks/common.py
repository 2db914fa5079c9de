"""What the benchmarks share: the machine, times taken in turns, and the way from the command line to a file of rows."""

import itertools
import json
import multiprocessing
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import tyro
from torch.backends import cudnn

from runtime.console import run_main
from runtime.devices import use_device
from runtime.summary import peak_memory


def hardware(device: torch.device) -> dict:
    name, cpuinfo, more = platform.processor() or platform.machine(), Path("/proc/cpuinfo"), {}
    if device.type == "cuda":
        name, more = torch.cuda.get_device_name(device), {"cuda": torch.version.cuda, "cudnn": cudnn.version()}
        if shutil.which("nvidia-smi"):
            asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
            more["driver, clock, power"] = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    elif cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
            "python": platform.python_version(), "system": platform.system(), **more}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(act: Callable, device: torch.device, n: int = 1) -> float:
    """Seconds a call, until the device has done them all."""
    wait(device)
    start = time.perf_counter()
    for _ in range(n):
        act()
    wait(device)
    return (time.perf_counter() - start) / n


def wall_and_cpu(act: Callable) -> tuple[float, float]:
    """Seconds by the clock, and of this process on its cores."""
    start = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def in_turns(acts: dict[str, Callable], rounds: int = 0, seconds: float = 0.0) -> dict[str, list]:
    """What each act measures, so many rounds or, with 0, for `seconds`, three at least.

    In turns, because what disturbs the machine then disturbs them all.
    """
    found, end = {name: [] for name in acts}, time.perf_counter() + seconds
    for i in itertools.count():
        if not acts or i >= (rounds or 3) and (rounds or time.perf_counter() >= end):
            return found
        for name, act in acts.items():
            found[name].append(act())


class Elsewhere:
    """make(*args)() in a process of its own, so that what one variant does to its process does not help the others.

    Raises what was raised there, and RuntimeError where the process has died.
    """

    def __init__(self, make: Callable, *args):
        spawn = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, spawn, signal.signal, (signal.SIGINT, signal.SIG_IGN))
        self.pool.submit(begin, make, *args).result()
        self()

    def __call__(self) -> None:
        self.pool.submit(go_on).result()

    def end(self) -> int | None:
        """Ends the process. Returns the most bytes that it has held at once."""
        with self.pool:
            return self.pool.submit(peak_memory).result()


def begin(make: Callable, *args) -> None:
    global act
    act = make(*args)


def go_on() -> None:
    act()  # whose result stays there


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def told(row: dict[str, float], form: str = ".2f", times: float = 1.0) -> str:
    """A spread in words."""
    median, low, high = (format(times * row[name], form) for name in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def start(options: type, bench: Callable, description: str) -> None:
    """Runs bench(options, device), which prints its table and yields its rows; --json writes them, and the machine."""
    def main() -> None:
        opts = tyro.cli(options, description=description)
        device = use_device(getattr(opts, "device", "cpu"))
        machine = hardware(device)
        print(", ".join(f"{key} {value}" for key, value in machine.items()))
        try:
            rows = [*bench(opts, device)]
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():  # else each would be waited for
                child.kill()
            raise
        if path := getattr(opts, "json", None):
            path.write_text(json.dumps({"hardware": machine, "rows": rows}, indent=2), encoding="utf-8")

    run_main(main)
