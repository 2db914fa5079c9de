"""Batches of pairs: their order, the processes that load them, their way to the device."""

import contextlib
import errno
import math
import multiprocessing.queues
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from config import Config
from pairs.find import evenly
from pairs.values import to_batch
from runtime.console import say
from runtime.devices import usable_cores
from runtime.distributed import Ranks
from runtime.signals import held_back, ignore_child_deaths, leave_signals
from utils import DataError

MESSAGE = 16  # pairs that a loader process hands over at once, where they are small
AUTO_CACHE = 2 * 10**9  # bytes; the most that cache "auto" keeps in memory
AHEAD = 3  # steps that wait on the device; more would only delay Ctrl-C and hold memory


@dataclass
class EpochSampler(Sampler):
    """Indices (epoch, index) in an order that depends on (seed, epoch) alone, from position `start` on.

    Set `epoch` and `start` before each pass. Carrying the epoch in the index keeps persistent workers up to date.
    Of `world` processes, each takes every world-th index; the last ones are filled up with the first of the order, so
    that all have equally many.
    """

    length: int
    seed: int
    rank: int = 0
    world: int = 1
    epoch: int = 1
    start: int = 0

    def __len__(self) -> int:
        return max(0, math.ceil((self.length - self.start) / self.world))  # more processes may have filled it up

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        rest = order[self.start :]
        rest = np.concatenate([rest, np.resize(order, -len(rest) % self.world)])
        return iter([(self.epoch, int(index)) for index in rest[self.rank :: self.world]])


def init_worker(_: int) -> None:
    """Leaves signals to the main process, which ends the workers, and the other cores to the other workers."""
    leave_signals()
    cv2.setNumThreads(0)
    sys.excepthook = lambda *_: None  # by which a thread of multiprocessing's tells that nobody fetched a message
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(leave)


def leave(error: BaseException, _: Any) -> None:
    """Ends a loader process whose message was lost on the way: the main process would wait for it for ever.

    The thread that sends calls this; by itself it would print a traceback and go on with the next message.
    """
    print(f"a process that loads images cannot hand them over: {error}", file=sys.stderr, flush=True)
    os._exit(1)


@dataclass
class Messages(Dataset):
    """What loader processes hand over: the `pixels` of several pairs at once, collated already.

    They lie in shared memory. Where that is full (Docker gives a container 64 MB), they go through a pipe from then on,
    as arrays, which takes two to three times as long.
    """

    data: Dataset
    shared: bool = True

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor | np.ndarray, tuple[bool, ...]]:
        pixels, skipped = self.data.pixels(keys)
        if self.shared:
            try:  # here, where an error can be answered, and not in the thread that sends
                return pixels.share_memory_(), skipped
            except RuntimeError:
                self.shared = False  # each failure leaves an empty file of torch's in /dev/shm
        return pixels.numpy(), skipped


@dataclass
class Batches:
    """Batches (x, y), each float (N, C, H, W) in [-1, 1], on the device; `skipped` counts the pairs left out.

    On CUDA they travel while the steps before are computed, and the host runs at most AHEAD steps ahead of the device.
    Iterating raises DataError when a pair cannot be read, or when a process that loads images dies.
    """

    data: Dataset
    order: BatchSampler
    loader: DataLoader | None
    batch_size: int
    device: torch.device
    channels_last: bool
    skipped: int = 0
    told: bool = False  # that shared memory is full

    def __post_init__(self):
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def epoch(self, epoch: int, start: int = 0) -> "Batches":
        """The same, in the order of `epoch` from position `start` on."""
        self.order.sampler.epoch = epoch
        self.order.sampler.start = start
        return self

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.skipped = 0
        steps = deque()
        for pixels, skipped in self._messages():
            with torch.cuda.stream(self.stream):  # None: does nothing
                pixels = pixels.to(self.device, non_blocking=self.stream is not None)
            for first, part in zip(range(0, len(pixels), self.batch_size), pixels.split(self.batch_size), strict=True):
                self.skipped += sum(skipped[first : first + self.batch_size])
                with torch.cuda.stream(self.stream):
                    x, y = to_batch(part, self.data.x, self.channels_last)
                if self.stream:
                    now = torch.cuda.current_stream(self.device)
                    now.wait_stream(self.stream)
                    for images in (pixels, x, y):
                        images.record_stream(now)
                yield x, y
                if self.stream:
                    steps.append(torch.cuda.current_stream(self.device).record_event())
                    if len(steps) > AHEAD:
                        steps.popleft().synchronize()

    def _messages(self) -> Iterator[tuple[Tensor, tuple[bool, ...]]]:
        try:
            for pixels, skipped in self._start():
                if isinstance(pixels, np.ndarray) and not self.told:
                    say("shared memory is full: pairs reach the main process through pipes, which takes longer (Docker "
                        "gives 64 MB, or what --shm-size says)")
                    self.told = True
                yield torch.as_tensor(pixels), skipped
        except (RuntimeError, OSError, EOFError) as error:  # the last two: one died while handing over a batch
            words = ("DataLoader worker", "Pin memory thread", "Too many open files")
            if isinstance(error, RuntimeError) and not any(word in str(error) for word in words):
                raise
            if isinstance(error, BlockingIOError) or "Too many open files" in str(error):
                raise DataError("the limit of processes or open files (ulimit) is too low for the processes that load "
                                "images: --num-workers 0 needs none") from error
            raise DataError("a process that loads images was killed or crashed, perhaps for want of memory: try a "
                            "smaller --num-workers") from error

    def _start(self) -> Iterator:
        """What the loader processes hand over, or what the main process loads, also for want of shared memory."""
        before = {*multiprocessing.active_children()}
        try:
            with held_back():
                if self.loader:
                    messages = iter(self.loader)
                    ignore_child_deaths()  # torch would raise an error at the death of a process, inside a step
                    return messages
        except OSError as error:
            if error.errno != errno.ENOSPC:  # no room for the semaphores of their queues
                raise
            end_processes({*multiprocessing.active_children()} - before)
            say(NO_PROCESS.format(error=error))
            self.loader = None
        return map(self.data.pixels, self.order)


NO_PROCESS = "no process that loads images can be started ({error}): the main one loads them, which takes longer"


def end_processes(processes: Iterable[multiprocessing.Process]) -> None:
    """At once: they ignore signals, may wait on a disk that hangs, and have nothing to lose."""
    ignore_child_deaths()
    for process in processes:
        process.kill()
    for process in processes:
        process.join(1)


@contextlib.contextmanager
def open_batches(data: Dataset, sampler: Iterable, batch_size: int, workers: int, device: torch.device,
                 channels_last: bool = False) -> Iterator[Batches]:
    """The batches of `data` in the order of `sampler`'s (epoch, index), loaded in at most `workers` processes.

    A process hands over several small batches at once: each message costs as much as a small pair. They end with the
    block, even when an exception would keep the loader alive.
    """
    workers = min(workers, usable_cores())
    if workers:
        try:
            torch.multiprocessing.Queue()  # each process needs some; their semaphores lie in shared memory
        except (OSError, ImportError) as error:
            say(NO_PROCESS.format(error=error))
            workers = 0
    pairs = 1  # of several sizes, each pair travels alone
    if workers and data.size:
        pairs = min(MESSAGE, 2**24 // (math.prod(data.size) * (data.x.stored + data.y.stored)))
    messages = BatchSampler(sampler, batch_size * max(1, pairs // batch_size), drop_last=False)
    # A generator of its own for the seeds it draws: nothing else must notice the loader.
    loader = DataLoader(Messages(data), batch_sampler=messages, num_workers=workers, persistent_workers=True,
                        worker_init_fn=init_worker, pin_memory=device.type == "cuda", generator=torch.Generator(),
                        collate_fn=tuple) if workers else None
    batches = Batches(data, messages, loader, batch_size, device, channels_last)
    others = {*multiprocessing.active_children()}
    try:
        yield batches
    except BaseException:
        end_processes({*multiprocessing.active_children()} - others)
        raise
    finally:
        if loader and loader._iterator is not None:
            loader._iterator._shutdown_workers()


def keep_in_memory(cache: str, world: int, *data: Dataset) -> None:
    """Gives the data sets a cache if the setting says so; auto: if that of all processes together is not too large."""
    if cache == "none":
        return
    needed = world * sum(map(in_memory, data))  # each process has a cache of its own
    if cache == "ram" or needed <= AUTO_CACHE:
        say(f"reading the pairs once, into memory: {needed / 1e6:,.0f} MB")
        for each in data:
            each.cache = {}


def in_memory(data: Dataset) -> float:
    """Bytes of all pairs in the cache, estimated from five; infinite if one of these cannot be read."""
    try:
        return len(data) * float(np.mean([data.read(index).nbytes for index in evenly(range(len(data)), 5)]))
    except DataError:
        return math.inf


@contextlib.contextmanager
def loaders(train_data: Dataset, val_data: Dataset, cfg: Config, ranks: Ranks,
            channels_last: bool = False) -> Iterator[tuple[Batches, Batches]]:
    """The training batches, and those of validation, of which each process takes every world-th pair.

    Pairs that are in memory already need no processes: what is left to do takes less time than handing them over.
    """
    workers = cfg.num_workers if train_data.cache is None else 0
    train_order = EpochSampler(len(train_data), cfg.seed, ranks.rank, ranks.world)
    val_order = [(0, index) for index in range(ranks.rank, len(val_data), ranks.world)]
    opened = partial(open_batches, workers=workers, device=ranks.device, channels_last=channels_last)
    with opened(train_data, train_order, cfg.batch_size) as train_batches, \
            opened(val_data, val_order, 8 if val_data.size else 1) as val_batches:
        yield train_batches, val_batches
