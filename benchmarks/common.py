"""What the benchmarks share: the machine, times taken in turns, and the way from the command line to a file of rows."""

import itertools
import json
import multiprocessing
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import tyro
from torch.backends import cudnn
from torch.profiler import ProfilerActivity, profile

from runtime.console import run_main
from runtime.devices import use_device


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


def seconds_of(act: Callable, device: torch.device, n: int = 1) -> float:
    """Seconds a call, by device events on CUDA."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(n):
            act()
        return (time.perf_counter() - start) / n
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(n):
        act()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / n / 1000


def peak_memory(act: Callable, device: torch.device) -> int:
    """Bytes that act() takes at once, on top of what was there."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        act()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        act()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0))


def in_turns(acts: dict[str, Callable], device: torch.device, n: int = 1, rounds: int = 0,
             seconds: float = 0.0) -> dict[str, list[float]]:
    """Seconds a call of each, n calls at a time: so many rounds or, with 0, for `seconds`, three at least.

    In turns, because what disturbs the machine then disturbs them all.
    """
    times, end = {name: [] for name in acts}, time.perf_counter() + seconds
    while acts and (len(times[next(iter(acts))]) < (rounds or 3) or not rounds and time.perf_counter() < end):
        for name, act in acts.items():
            times[name].append(seconds_of(act, device, n))
    return times


class Elsewhere:
    """make(*args)() in a process of its own, so that what one variant does to its process does not help the others.

    `first` is the seconds of making it and of the first call. Raises RuntimeError with what was raised there.
    """

    def __init__(self, make: Callable, *args):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, make, *args), daemon=True)
        self.process.start()
        other.close()  # or its end would go unnoticed
        self.first = self._answer()

    def __call__(self) -> None:
        self.pipe.send("go")
        self._answer()

    def end(self) -> int:
        """Ends the process. Returns the most bytes that it has held at once."""
        self.pipe.send("end")
        return self._answer()

    def _answer(self) -> float:
        try:
            answer = self.pipe.recv()
        except EOFError:
            answer = "its process has died"
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def serve(pipe: multiprocessing.connection.Connection, make: Callable, *args) -> None:
    try:
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        start = time.perf_counter()
        act = make(*args)
        act()
        pipe.send(time.perf_counter() - start)
        while pipe.recv() == "go":
            act()
            pipe.send(0)
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    except EOFError:  # nobody asks any more
        pass
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def start(options: type, bench: Callable, description: str) -> None:
    """Runs bench(options, device), which prints its table and returns its rows; --json writes them, and the machine."""
    def main() -> None:
        opts = tyro.cli(options, description=description)
        device = use_device(opts.device)
        machine = hardware(device)
        print(", ".join(f"{key} {value}" for key, value in machine.items()))
        rows = bench(opts, device)
        if opts.json:
            opts.json.write_text(json.dumps({"hardware": machine, "rows": rows}, indent=2), encoding="utf-8")

    run_main(main)
