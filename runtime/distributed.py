"""Many processes, one training: those that torchrun started, and what they tell one another."""

import contextlib
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from runtime.devices import use_device
from runtime.files import abandoned, unfinished
from runtime.state import State
from utils import UserError

TIMEOUT = timedelta(seconds=60)  # to wait for another process; one that dies is noticed at once


@dataclass(frozen=True)
class Ranks:
    """This process among all. With one process, nothing is waited for, and what comes in goes out."""

    device: torch.device = torch.device("cpu")
    rank: int = 0
    world: int = 1
    group: Any = None  # for words from CPU to CPU
    patient: Any = None  # the same, for waiting while files are read and written
    parent: int = 0  # torchrun's process

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    @property
    def orphaned(self) -> bool:
        """Whether torchrun was killed."""
        return self.world > 1 and os.getppid() != self.parent

    def barrier(self) -> None:
        """Waits for all processes, however long their disks take; the death of one is noticed at once."""
        if self.world > 1:
            dist.barrier(self.patient)

    def all_reduce(self, values: list[float], op: str = "sum") -> list[float]:
        """The sums, or with "max" the largest, over all processes, one by one."""
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM, group=self.group)
        return total.tolist()

    def all_gather(self, value) -> list:
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

    def replicate(self, state: State) -> State:
        """The state with networks whose gradients are averaged over the processes; itself when there is one."""
        if self.world == 1:
            return state
        devices = [self.device] if self.device.type == "cuda" else None
        return replace(state, gen=Replica(state.gen, devices), disc=Replica(state.disc, devices))


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


def torchrun_ranks() -> tuple[int, int, int]:
    """Rank, number of processes and rank on this machine, as torchrun tells them.

    Raises UserError where the environment tells of other processes, but not how to meet them.
    """
    world = env_number("WORLD_SIZE", 1)
    if world == 1:  # a RANK that was left in the environment means nothing
        return 0, 1, 0
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(f"WORLD_SIZE is {world}, but {', '.join(missing)} is not set: start several processes with "
                        "torchrun, or one without WORLD_SIZE")
    return env_number("RANK"), world, env_number("LOCAL_RANK")


def env_number(name: str, default: int = 0) -> int:
    """A number that a launcher has left in the environment; an empty one counts as none. Raises UserError."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"{name} is {text!r} in the environment, and must be a number: torchrun sets it")
    return int(text)


@contextlib.contextmanager
def processes(device: str) -> Iterator[Ranks]:
    """Joins the processes that torchrun started, each on a device of its own.

    Raises ConnectionError when one of them dies on the way, and UserError on a device that cannot be used.
    """
    rank, world, _ = torchrun_ranks()
    device = use_device(device)
    if world == 1:
        yield Ranks(device)
        return
    if device.type == "mps":
        raise UserError("several processes need CUDA or the CPU, not MPS")
    cuda = device.type == "cuda"
    try:
        store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
        # After a restart, torchrun's store still holds the addresses of the processes before.
        store = dist.PrefixStore(f"restart {env_number('TORCHELASTIC_RESTART_COUNT')}", store)
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=world, timeout=TIMEOUT)
        group = dist.new_group(backend="gloo", timeout=TIMEOUT) if cuda else None
        patient = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        yield Ranks(device, rank, world, group, patient, os.getppid())
    except RuntimeError as error:
        if re.search("connection|timed out|timeout|peer|nccl|gloo", str(error), re.IGNORECASE):
            raise ConnectionError(f"process {rank} of {world} lost the others: {str(error).splitlines()[0]}") from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def wait_for(path: Path, again: float = 0.5) -> None:
    """Waits until the first process on this machine has made `path`, by `complete_folder`.

    Raises ConnectionError when for TIMEOUT nobody has been making it.
    """
    made = time.monotonic()
    while not path.exists():
        if not all(map(abandoned, unfinished(path.parent))):
            made = time.monotonic()
        if time.monotonic() - made > TIMEOUT.total_seconds():
            raise ConnectionError(f"{path} is not there: the process that was to make it has ended")
        time.sleep(again)
