"""The last block of a run: lines `name: value` that grep finds, in the same words for every run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from config import Config

ROOT = Path(__file__).parents[1]
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def summary(cfg: Config, history: list[dict], device: torch.device, dtype: torch.dtype, commit: str,
            compared_from: int = 0) -> str:
    """What a finished run came to, one line a value: scores, time, memory, and what it was made with.

    history: one row an epoch, of all sessions; seconds and images_per_s are those of its training steps, without
    validation. The best epoch is one from row `compared_from` on. Memory is that of this process in this session.
    """
    best = min(history[compared_from:], key=lambda row: row["val_l1"])
    seconds = sum(row["seconds"] for row in history)
    images = sum(row["images_per_s"] * row["seconds"] for row in history)
    values = {"val_l1": f"{history[-1]['val_l1']:.4f}",
              "best_val_l1": f"{best['val_l1']:.4f}",
              "best_epoch": best["epoch"],
              "epochs": history[-1]["epoch"],
              "seconds": f"{seconds:.1f}",
              "images_per_s": f"{images / seconds:.2f}",
              "peak_memory_gb": gigabytes(peak_memory())}
    if device.type == "cuda":
        values["peak_cuda_memory_gb"] = gigabytes(torch.cuda.max_memory_allocated(device))
    values |= {"device": device.type,
               "precision": "tf32" if cfg.precision == "tf32" else PRECISIONS[dtype],
               "seed": cfg.seed,
               "commit": commit,
               "grid": cfg.out_dir / "examples" / f"epoch_{history[-1]['epoch']:04d}.png",
               "generator": cfg.out_dir / "gen.pth.tar"}
    return "\n".join(f"{name}: {value}" for name, value in values.items())


def gigabytes(n: int | None) -> str:
    return "unknown" if n is None else f"{n / 1e9:.2f}"


def peak_memory() -> int | None:
    """The most bytes of memory that this process has held at once; None where the system does not tell.

    On Linux by /proc: what `resource` tells there begins with the memory of the program that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def commit_of(folder: Path = ROOT) -> str:
    """The commit that `folder` is a checkout of, with "+changes" where tracked files differ; never fails.

    "unknown" where it is none, even inside another checkout, and where git is not there or does not answer.
    """
    if not (folder / ".git").exists():
        return "unknown"
    git = ["git", "--git-dir", folder / ".git", "--work-tree", folder, "--no-optional-locks"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as set inside hooks
    try:
        answer = subprocess.run([*git, "describe", "--always", "--exclude=*", "--dirty=+changes"], env=plain,
                                stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True)
        return answer.stdout.decode().strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return "unknown"
