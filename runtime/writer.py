"""Work on files beside the training, in a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch


class Writer:
    """Does one piece of work after the other, in a thread of its own; of each kind, only the newest is worth doing.

    So that a slow disk holds up neither training nor its end, nor fills the memory: what waits is given up for newer
    work of its kind. Work that reads tensors which training changes must be given copies. On CUDA it runs on a stream
    of its own, behind all that was submitted before.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.pool = ThreadPoolExecutor(1, initializer=self._begin)
        self.lock = threading.Lock()
        self.waiting: dict[str, Callable] = {}  # by kind
        self.running: str | None = None  # the kind of the work that is being done
        self.jobs: list[Future] = []  # whose errors are yet to be raised

    def submit(self, kind: str, act: Callable, *args) -> None:
        """Has act(*args) done, in the place of the work of that kind that has not begun yet."""
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with self.lock:
            queued = kind in self.waiting
            self.waiting[kind] = partial(act, *args)
        if not queued:
            self.jobs.append(self.pool.submit(self._run, kind))

    def _begin(self) -> None:
        if self.stream:
            torch.cuda.set_device(self.device)  # a thread begins on the first one

    def _run(self, kind: str) -> None:
        with self.lock:
            act = self.waiting.pop(kind)
            self.running = kind
        try:
            with torch.cuda.stream(self.stream):  # None: does nothing
                act()
        finally:
            self.running = None

    def busy(self, kind: str) -> bool:
        """Whether work of that kind is waiting or being done."""
        with self.lock:
            return kind in self.waiting or kind == self.running

    def check(self, wait: bool = False) -> None:
        """Raises what went wrong in the work that is done; with `wait`, in all of it."""
        done = [job for job in self.jobs if wait or job.done()]
        self.jobs = [job for job in self.jobs if job not in done]
        for job in done:
            job.result()
