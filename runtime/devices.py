"""Devices, precisions and random numbers. What is called use_… sets something for the whole process."""

import contextlib
import os
import random
import re
from collections.abc import Iterator

import numpy as np
import torch

from utils import UserError


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_device(name: str) -> torch.device:
    """The device called `name`, from now on torch's own; auto is CUDA, else MPS, else the CPU.

    Raises UserError when it is not there.
    Of several processes on a machine, each gets a CUDA device of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise UserError(f"with several processes, device must be cuda or auto, not {name}: each takes its own")
        name = f"cuda:{os.environ.get('LOCAL_RANK') or 0}"
    try:
        device = torch.device(name)
        if device.type == "cuda":  # with its index, as its tensors tell it; first, so that no other device is touched
            device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
            torch.cuda.set_device(device)
        torch.zeros(1, device=device).item()  # the device meta has no values
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def use_precision(name: str, device: torch.device) -> torch.dtype:
    """The same as `choose_precision`, from now on with products as exact on CUDA as `name` says.

    tf32 is float32 whose products keep 10 bits on CUDA; with any other name they keep all 23.
    """
    dtype = choose_precision(name, device)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    return dtype


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the forward passes. auto: bf16 where the hardware has it, else fp16 on CUDA, else fp32.

    Raises UserError for any other name, and for tf32 and fp16 anywhere but on CUDA: fp16 has its GradScaler only there.
    """
    dtypes = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in ("auto", *dtypes):
        raise UserError(f"precision must be auto, {', '.join(dtypes)}; it is {name!r}")
    if name in ("tf32", "fp16") and device.type != "cuda":
        raise UserError(f"precision {name} needs CUDA; on {device.type} take auto, bf16 or fp32")
    if name != "auto":
        return dtypes[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":  # without these instructions, bf16 on the CPU is slower than fp32
        found = [getattr(torch.cpu, f"_is_{name}_supported", bool) for name in ("avx512_bf16", "amx_tile")]
        return torch.bfloat16 if any(supported() for supported in found) else torch.float32
    return torch.float32


OUT_OF_MEMORY = re.compile("(out of|not enough|insufficient|can't allocate) memory|alloc_failed", re.IGNORECASE)


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turns want of memory inside the block, of torch, numpy or OpenCV, on any device, into a UserError."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise UserError(f"there is too little memory: {advice}") from error
        raise


def use_seed(seed: int, deterministic: bool = False) -> None:
    """Seeds all that draws; algorithms that repeat to the bit on CUDA too with `deterministic`, else the fastest."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 — libraries that draw from the global state
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic


@contextlib.contextmanager
def without_cudnn_benchmark() -> Iterator[None]:
    """Inside the block, cuDNN does not time its algorithms: what runs there once an epoch would not earn that back."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def seed_draws(seed: int, device: torch.device) -> None:
    """Seeds what draws on the CPU and on this device, whose turn it is (`use_device`).

    It is torch.manual_seed for places that are passed often: that one takes milliseconds, as it writes down the call
    stack for each kind of device that it has not met.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def seed_step(seed: int, rank: int, epoch: int, step: int, device: torch.device) -> None:
    """Seeds dropout by its position in the run: what resumes there draws the same, and nothing need be kept."""
    position = np.random.SeedSequence((seed, rank, epoch, step))
    seed_draws(int(position.generate_state(1)[0]), device)


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must be from 0 to 4294967295; it is {seed}")
