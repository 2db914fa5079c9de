"""results/keep.py RUN [EVERY]: while a run trains, keeps its generator after each EVERY (10) epochs, in RUN/kept.

010.pth.tar is G itself, 010_average.pth.tar the moving average of a run with --ema. Checkpoints are 20 seconds apart,
so that a shorter epoch may be missing. After SIGTERM, or when whoever started it is gone, it looks once more and ends.
"""

import os
import signal
import sys
import time
from pathlib import Path

told = []
signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))  # before the imports, which take seconds
sys.path.insert(0, str(Path(__file__).parents[1]))

from config import Config  # noqa: E402
from runtime.checkpoint import load_tensors, save_generator  # noqa: E402


def keep(checkpoint: Path, every: int) -> None:
    """Keeps what the checkpoint holds, if it is the end of such an epoch."""
    saved = load_tensors(checkpoint)
    epoch = saved["epoch"]
    if epoch % every or saved["step"]:
        return
    kept = checkpoint.parent / "kept"
    kept.mkdir(exist_ok=True)
    cfg = Config(**saved["config"])
    state = saved["state"]
    save_generator(cfg, state["gen"], epoch, kept / f"{epoch:03}.pth.tar", {})
    if "ema" in state:
        save_generator(cfg, state["ema"]["net"], epoch, kept / f"{epoch:03}_average.pth.tar", {})


checkpoint = Path(sys.argv[1]) / "checkpoint.pth.tar"
every = int(sys.argv[2]) if len(sys.argv) > 2 else 10
parent = os.getppid()
seen = None
over = False
while not over:
    over = told or os.getppid() != parent
    written = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    if written != seen:
        seen = written
        keep(checkpoint, every)
    time.sleep(2)
