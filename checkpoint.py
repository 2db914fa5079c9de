"""A run's folder: what may be written there, what a checkpoint holds, and what may continue it."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from background import Background
from config import Config
from distributed import job, restarted
from utils import UserError, remove_leftovers, save_atomically, say

GENERATOR = ["in_channels", "out_channels", "ngf", "crop_size", "dropout"]  # Generator's arguments
FIXED = ["direction", "in_channels", "out_channels", "crop_size", "ngf", "ndf", "n_layers"]  # for a run's whole life
# Where a run stands: epochs completed, then steps, images, sums of the losses and seconds of the next epoch.
START = {"epoch": 0, "step": 0, "images": 0, "sums": [0.0] * 4, "seconds": 0.0}


def open_run(cfg: Config) -> dict | None:
    """The checkpoint that the run in out_dir goes on from; None where it starts from the beginning.

    Raises ValueError when the folder holds a run that must not be overwritten, or none that cfg could continue.
    """
    folder, path = cfg.out_dir, cfg.out_dir / "checkpoint.pth.tar"
    files = ("checkpoint.pth.tar", "gen.pth.tar", "log.csv", "config.json")
    held = [name for name in files if (folder / name).exists()]
    if held and not cfg.resume:
        raise UserError(f"{folder} already holds a run ({', '.join(held)}): continue it with --resume, or choose "
                         "another folder with --out-dir")
    if not cfg.resume:
        return None
    if not path.exists():
        if not restarted(folder) and ("config.json" not in held or "gen.pth.tar" in held):
            raise UserError(f"there is no run to resume in {folder}: checkpoint.pth.tar is missing")
        say(f"the run in {folder} had not saved a checkpoint yet: it starts from the beginning")
        return None
    stamp = path.stat().st_mtime_ns
    saved = {**load_tensors(path, "pix2pix checkpoint"), "stamp": stamp}
    new = cfg.plain()
    changed = {name: old for name, old in saved["config"].items()
               if name in new and new[name] != old and name not in ("resume", "out_dir")}
    for name in FIXED:
        if name in changed:
            raise UserError(f"the run in {folder} has {name} {changed[name]}, which cannot become {new[name]}: start "
                             "a new run with another --out-dir")
    if saved["epoch"] >= cfg.total_epochs:
        raise UserError(f"the run in {folder} is finished: {saved['epoch']} of {cfg.total_epochs} epochs; a larger "
                         "--n-epochs continues it")
    for name, old in changed.items():
        say(f"changed since the run began: {name} from {old} to {new[name]}")
    return saved


@contextlib.contextmanager
def start_run(cfg: Config, saved: dict | None = None, main: bool = True) -> Iterator[None]:
    """Makes the run's folder, locks it for the block, removes what was left half written, and writes config.json.

    Raises OSError, naming out_dir, when that cannot be done, and ValueError when another process is training there, or
    has trained there since open_run returned `saved`. Of several processes, only the main one does anything.
    """
    if not main:
        yield
        return
    lock = FileLock(cfg.out_dir / ".lock", timeout=0)
    try:
        _begin(cfg, saved, lock)
        yield
    finally:
        lock.release()


def _begin(cfg: Config, saved: dict | None, lock: FileLock) -> None:
    try:
        (cfg.out_dir / "examples").mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(NotImplementedError):  # file systems without locks
            lock.acquire()
        path = cfg.out_dir / "checkpoint.pth.tar"
        if (path.stat().st_mtime_ns if path.exists() else None) != (saved["stamp"] if saved else None):
            raise UserError(f"another process has just trained in {cfg.out_dir}: start again")
        for folder in (cfg.out_dir, cfg.out_dir / "examples"):
            remove_leftovers(folder)
        text = json.dumps(cfg.plain(), indent=2)
        save_atomically(cfg.out_dir / "config.json", lambda file: file.write(text.encode()))
        if job():
            save_atomically(cfg.out_dir / ".job", lambda file: file.write(job().encode()))
    except Timeout as error:
        raise UserError(f"another process is training in {cfg.out_dir}: wait for it, or choose another folder with "
                         "--out-dir") from error
    except OSError as error:
        raise OSError(f"cannot write to out_dir {str(cfg.out_dir)!r}: {error.strerror}") from error


def save_run(cfg: Config, state: dict, progress: dict, history: list[dict], rng: list[dict]) -> None:
    """Writes checkpoint.pth.tar, to continue from, and gen.pth.tar, for inference: tensors and plain types only.

    Raises ValueError, and leaves the files as they are, when a weight is not finite.
    """
    state = on_cpu(state)
    for net in ("gen", "disc"):
        for name, value in state[net].items():
            if not value.isfinite().all():
                raise UserError(f"{net}.{name} is no longer finite, {progress['step']} steps after epoch "
                                 f"{progress['epoch']}. Try a lower lr, or --precision fp32")
    checkpoint = {"format": "pix2pix checkpoint", "config": cfg.plain(), **progress, "state": state,
                  "history": history, "rng": rng}
    save_atomically(cfg.out_dir / "checkpoint.pth.tar", lambda file: torch.save(checkpoint, file))
    save_generator(cfg, state["gen"], progress["epoch"], cfg.out_dir / "gen.pth.tar")


def keep_epoch(cfg: Config, state, progress: dict, history: list[dict], rng: list[dict],
               background: Background) -> None:
    """Writes, in the background, the checkpoint of an epoch that is due for one, and best.pth.tar.

    While an earlier checkpoint is still being written, the next one is left out. The last one is the caller's.
    """
    epoch = progress["epoch"]
    scored = [row["val_l1"] for row in history if "val_ssim" in row]
    if "val_ssim" in history[-1] and history[-1]["val_l1"] <= min(scored):
        if background.busy(save_generator):
            background.check(wait=True)
        background.submit(save_generator, cfg, snapshot(state.gen.state_dict()), epoch, cfg.out_dir / "best.pth.tar")
    if epoch < cfg.total_epochs and epoch % cfg.save_every == 0 and not background.busy(save_run):
        background.submit(save_run, cfg, snapshot(state.state_dict()), progress, list(history), rng)


def save_generator(cfg: Config, weights: dict, epoch: int, path: Path) -> None:
    """Writes what inference needs: the weights, the settings that rebuild the network, the epoch."""
    settings = {name: cfg.plain()[name] for name in [*GENERATOR, "direction", "load_size", "label_side", "seed"]}
    generator = {"format": "pix2pix generator", "config": settings, "epoch": epoch, "state_dict": on_cpu(weights)}
    save_atomically(path, lambda file: torch.save(generator, file))


def on_cpu(value):
    """Nested dicts and lists with every tensor on the CPU, so that a file loads on any machine."""
    return for_tensors(torch.Tensor.cpu, value)


def snapshot(value):
    """Nested dicts and lists with a copy of every tensor, where it is, for writing while training goes on."""
    return for_tensors(torch.clone, value)


def for_tensors(act: Callable, value):
    if isinstance(value, dict):
        return {key: for_tensors(act, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [for_tensors(act, inner) for inner in value]
    return act(value) if isinstance(value, torch.Tensor) else value


def load_tensors(path: Path, kind: str = "") -> dict:
    """A dict saved by torch.save, of the format `kind` if given: tensors and plain types only, nothing is executed.

    Raises FileNotFoundError, or ValueError when the file is damaged or of another kind.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # damaged files make the unpickler raise nearly anything
        raise UserError(f"{path} is damaged, or not a file of tensors ({type(error).__name__})") from error
    if not isinstance(saved, dict) or kind and saved.get("format") != kind:
        raise UserError(f"{path} is not a {kind or 'file'} of this program")
    return saved
