"""Batches of pairs: their order, the processes that load them, their way to the device."""

import contextlib
import math
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from config import Config
from dataset import PairedImages, normalise
from runtime.devices import usable_cores
from runtime.signals import SIGNALS, leave_children
from utils import DataError


class EpochSampler(Sampler):
    """Indices (epoch, index) in an order that depends on (seed, epoch) alone, from position `start` on.

    Set `epoch` and `start` before each pass. Carrying the epoch in the index keeps persistent workers up to date.
    Of `world` processes, each takes every world-th index; the last ones are filled up with the first of the order, so
    that all have equally many.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world: int = 1):
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.epoch, self.start = 1, 0

    def __len__(self) -> int:
        return math.ceil((self.length - self.start) / self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        rest = order[self.start :]
        rest = np.concatenate([rest, np.resize(order, -len(rest) % self.world)])
        return iter([(self.epoch, int(index)) for index in rest[self.rank :: self.world]])


def init_worker(_: int) -> None:
    """Leaves signals to the main process, which ends the workers, and the other cores to the other workers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)


class Pixels(Dataset):
    """(x, y, problem) for loaders: a PairedImages' items before `normalise`, and "".

    With `skip`, the next pair that can be read takes the place of one that cannot, which `problem` then names.
    """

    def __init__(self, data: PairedImages, skip: bool):
        self.data, self.skip = data, skip

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        problem = ""
        for i in range(len(self)):
            try:
                return *self.data.pixels((epoch, (index + i) % len(self))), problem
            except DataError as error:
                if not self.skip:
                    raise
                problem = problem or str(error)
        raise DataError(f"none of the {len(self)} pairs could be read: {problem}")


def collate(items: list[tuple[Tensor, Tensor, str]]) -> tuple[Tensor, Tensor, list[str]]:
    """Batches of x and of y, normalised here only where 8-bit and 16-bit images meet, and the problems."""
    *sides, problems = zip(*items, strict=True)
    batches = []
    for images in sides:
        mixed = len({image.dtype for image in images}) > 1
        batches.append(torch.stack([normalise(image) for image in images] if mixed else images))
    return *batches, [problem for problem in problems if problem]


@contextlib.contextmanager
def open_loader(data: Dataset, workers: int, device: torch.device, **options) -> Iterator[DataLoader]:
    """A loader of `data` in at most `workers` processes: batches for `on_device`.

    Its processes end with the block, even when an exception would keep the loader alive.
    """
    workers = min(workers, usable_cores())
    # A generator of its own for the seeds it draws: the networks' dropout must not notice the loader.
    loader = DataLoader(data, num_workers=workers, persistent_workers=workers > 0, worker_init_fn=init_worker,
                        pin_memory=device.type == "cuda", generator=torch.Generator(), collate_fn=collate, **options)
    try:
        yield loader
    finally:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()


@contextlib.contextmanager
def loaders(train_data: PairedImages, val_data: PairedImages, cfg: Config, device: torch.device, rank: int = 0,
            world: int = 1) -> Iterator[tuple]:
    """The training loader, the sampler that orders it, and the validation loader, as `open_loader` makes them.

    Of `world` processes, each validates on every world-th pair. Pairs that are in memory already need no processes:
    what is left to do takes less time than handing them over.
    """
    workers = 0 if train_data.cache else cfg.num_workers
    sampler = EpochSampler(len(train_data), cfg.seed, rank, world)
    train, val = (Pixels(data, cfg.skip_unreadable) for data in (train_data, val_data))
    with open_loader(train, workers, device, batch_size=cfg.batch_size, sampler=sampler) as train_loader, \
            open_loader(val, workers, device, batch_size=8, sampler=range(rank, len(val_data), world)) as val_loader:
        yield train_loader, sampler, val_loader


def on_device(loader: DataLoader, device: torch.device, problems: set[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches, normalised, on the device; on CUDA they travel while the steps before are computed.

    Adds the problems of pairs that were skipped to `problems`. Raises DataError when a pair cannot be read, or when a
    process that loads images dies.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    batches = iter(loader)
    leave_children()  # torch would raise an error at the death of a loader process, in the middle of a training step
    while True:
        try:
            *batch, skipped = next(batches, (None, []))
        except (RuntimeError, ConnectionError, EOFError) as error:  # the last two: it died while handing over a batch
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise DataError("a process that loads images was killed or crashed, perhaps for want of memory: try a "
                            "smaller --num-workers") from error
        if batch == [None]:
            return
        problems.update(skipped)
        with torch.cuda.stream(stream):  # None: does nothing
            x, y = (normalise(images.to(device, non_blocking=True)) for images in batch)
        if stream:
            torch.cuda.current_stream(device).wait_stream(stream)
            for images in (x, y):
                images.record_stream(torch.cuda.current_stream(device))
        yield x, y
