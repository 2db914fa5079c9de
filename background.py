"""Work that need not hold up the training loop: a thread for writing files."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch


class Background:
    """Runs one piece of work after the other, in a thread of its own; all of it is done when the block ends.

    What goes wrong there is raised by the next `check`, or at the end of the block. Work that reads tensors which
    training changes must be given copies. On CUDA it runs on a stream of its own, behind all that was submitted before.
    """

    def __init__(self, device: torch.device):
        self.pool, self.jobs, self.device = ThreadPoolExecutor(1), [], device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def submit(self, act: Callable, *args) -> Future:
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        job = self.pool.submit(self._run, act, *args)
        job.act = act
        self.jobs.append(job)
        return job

    def busy(self, act: Callable) -> bool:
        """Whether an earlier call of `act` is still waiting or at work."""
        return any(job.act == act and not job.done() for job in self.jobs)

    def _run(self, act: Callable, *args) -> None:
        if self.stream:
            with torch.cuda.stream(self.stream):
                act(*args)
        else:
            act(*args)

    def check(self, wait: bool = False) -> None:
        """Raises what went wrong in the work that is done; with `wait`, in all of it."""
        done = [job for job in self.jobs if wait or job.done()]
        self.jobs = [job for job in self.jobs if job not in done]
        for job in done:
            job.result()

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind, *_) -> None:
        self.pool.shutdown()
        if kind is None:
            self.check(wait=True)
