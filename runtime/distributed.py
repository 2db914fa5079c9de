"""Many processes, one training: those that torchrun started, and what they tell one another."""

import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from generator import BatchNorm
from runtime.signals import Stop
from utils import DataError, UserError

PATIENCE = timedelta(seconds=60)  # to wait for another process; one that dies is noticed at once
FAILED = 10_000  # told to the others like a signal's number


@dataclass(frozen=True)
class Ranks:
    """This process among all. With one process, every method is the identity."""

    rank: int = 0
    world: int = 1
    group: Any = None  # for words from CPU to CPU
    patient: Any = None  # the same, for waiting while files are read and written
    parent: int = 0  # torchrun's process

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all processes, however long their disks take; the death of one is noticed at once."""
        if self.world > 1:
            dist.barrier(self.patient)

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all processes."""
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return total.tolist()

    def max(self, *values: int) -> list[int]:
        """The largest over all processes, one by one."""
        if self.world == 1:
            return list(values)
        largest = torch.tensor(values)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return largest.tolist()

    def gather(self, value) -> list:
        """What every process gave, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, act: Callable[[], Any]) -> Any:
        """What act() returns in the main process. When it raises there, the others leave in silence."""
        if self.world == 1:
            return act()
        box = [None, True]
        try:
            if self.main:
                box = [act(), False]
        finally:
            self.barrier()
            dist.broadcast_object_list(box, src=0, group=self.group)
        value, failed = box
        if failed and not self.main:
            sys.exit(2)
        return value

    def in_step(self, batches: Iterable, stop: Stop) -> Iterator:
        """The batches of this process, until no process has one left, or until one is told to stop.

        stop.agreed is then the signal, in all of them. Raises DataError in all of them when one raises it.
        """
        batches, failure = iter(batches), None
        while True:
            try:
                batch = next(batches, None)
            except DataError as error:
                batch, failure = None, error
            orphaned = self.world > 1 and os.getppid() != self.parent  # torchrun was killed
            code = FAILED if failure else stop.signal or orphaned and signal.SIGTERM
            code, more = self.max(int(code), batch is not None)
            if failure:
                raise failure
            if code == FAILED:
                raise DataError("another process could not read its data")
            stop.agreed = code
            if code or not more:
                return
            if batch is not None:
                yield batch

    def replicate(self, net: nn.Module, sync_batchnorm: bool) -> Any:
        """The network with its gradients averaged over the processes; itself when there is one.

        Raises ValueError for sync_batchnorm anywhere but on CUDA.
        """
        if self.world == 1:
            return net
        device = next(net.parameters()).device
        if sync_batchnorm:
            if device.type != "cuda":
                raise UserError(f"sync_batchnorm needs CUDA; this is {device.type}")
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.__class__ = SyncedBatchNorm
        return Replica(net, [device] if device.type == "cuda" else None)


ALONE = Ranks()


class SyncedBatchNorm(BatchNorm, nn.SyncBatchNorm):
    """BatchNorm over the images of all processes in training, and of one image at test time."""

    process_group = None


class Replica:
    """A network whose gradients are averaged over all processes; while it is frozen, the network alone."""

    def __init__(self, net: nn.Module, devices: list | None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers gets a new name in newer versions
            # BatchNorm's running statistics are each process's own: those of the main process are saved.
            self.net, self.parallel = net, DistributedDataParallel(net, device_ids=devices, broadcast_buffers=False)

    def __call__(self, *inputs: Tensor) -> Tensor:
        frozen = not next(self.net.parameters()).requires_grad
        return (self.net if frozen else self.parallel)(*inputs)

    def requires_grad_(self, on: bool) -> None:
        self.net.requires_grad_(on)


def started() -> tuple[int, int, int]:
    """Rank, number of processes and rank on this machine, as torchrun tells them."""
    return tuple(int(os.environ.get(name, default)) for name, default in
                 (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[Ranks]:
    """Joins the processes that torchrun started. Raises ConnectionError when one of them dies on the way."""
    rank, world, _ = started()
    if world == 1:
        yield Ranks()
        return
    if device.type == "mps":
        raise UserError("several processes need CUDA or the CPU, not MPS")
    cuda = device.type == "cuda"
    try:
        store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
        # After a restart, torchrun's store still holds the addresses of the processes before.
        store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE)
        group = dist.new_group(backend="gloo", timeout=PATIENCE) if cuda else None
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        yield Ranks(rank, world, group, patient, os.getppid())
    except RuntimeError as error:
        words = ("connection", "timed out", "timeout", "peer", "nccl", "gloo")
        if any(word in str(error).lower() for word in words):
            raise ConnectionError(f"process {rank} of {world} lost the others: {str(error).splitlines()[0]}") from error
        raise
    dist.destroy_process_group()


def wait_for(path: os.PathLike, again: float = 0.5) -> None:
    """Waits until the first process on this machine has made `path`."""
    while not os.path.exists(path):  # noqa: PTH110
        time.sleep(again)
