"""A run's folder: what may be written there, what a checkpoint holds, and what may continue it."""

import json
import pickle
from pathlib import Path

import torch

from config import Config
from utils import save_atomically

GENERATOR = ["in_channels", "out_channels", "ngf", "crop_size", "dropout"]  # Generator's arguments
FIXED = ["direction", "in_channels", "out_channels", "crop_size", "ngf", "ndf", "n_layers"]  # for a run's whole life
# Where a run stands: epochs completed, then steps, images, sums of the losses and seconds of the next epoch.
START = {"epoch": 0, "step": 0, "images": 0, "sums": [0.0] * 4, "seconds": 0.0}


def open_run(cfg: Config) -> dict | None:
    """Makes the run's folder, or returns the checkpoint that a resumed run goes on from, None before the first one.

    Raises ValueError when the folder must not be written to, or holds nothing that cfg could continue.
    """
    checkpoint, config = cfg.out_dir / "checkpoint.pth.tar", cfg.out_dir / "config.json"
    held = [name for name in ("checkpoint.pth.tar", "gen.pth.tar", "log.csv") if (cfg.out_dir / name).exists()]
    if held and not cfg.resume:
        raise ValueError(f"{cfg.out_dir} already holds a run ({', '.join(held)}): continue it with --resume, "
                         "or choose another folder with --out-dir")
    if cfg.resume and not checkpoint.exists() and not config.exists():
        raise ValueError(f"there is no run to resume in {cfg.out_dir}")
    saved = None
    if checkpoint.exists():
        saved = load_tensors(checkpoint, "pix2pix checkpoint")
        changed = {name: (old, cfg.plain()[name]) for name, old in saved["config"].items()
                   if name in cfg.plain() and cfg.plain()[name] != old and name not in ("resume", "out_dir")}
        for name in FIXED:
            if name in changed:
                raise ValueError(f"the run in {cfg.out_dir} has {name} {changed[name][0]}, which cannot become "
                                 f"{changed[name][1]}: start a new run with another --out-dir")
        if saved["epoch"] >= cfg.total_epochs:
            raise ValueError(f"the run in {cfg.out_dir} is finished: {saved['epoch']} of {cfg.total_epochs} epochs; "
                             "a larger --n-epochs continues it")
        for name, (old, new) in changed.items():
            print(f"changed since the run began: {name} from {old} to {new}")
    try:
        (cfg.out_dir / "examples").mkdir(parents=True, exist_ok=True)
        save_atomically(config, lambda file: file.write(json.dumps(cfg.plain(), indent=2).encode()))
    except OSError as error:
        raise OSError(f"cannot write to out_dir {str(cfg.out_dir)!r}: {error.strerror}") from error
    return saved


def save_run(cfg: Config, state: dict, progress: dict, history: list[dict], rng: dict) -> None:
    """Writes checkpoint.pth.tar, to continue from, and gen.pth.tar, for inference: tensors and plain types only.

    Raises ValueError, and leaves the files as they are, when a weight is not finite.
    """
    for net in ("gen", "disc"):
        for name, value in state[net].items():
            if not value.isfinite().all():
                raise ValueError(f"{net}.{name} is no longer finite, {progress['step']} steps after epoch "
                                 f"{progress['epoch']}. Try a lower lr, or --precision fp32")
    checkpoint = {"format": "pix2pix checkpoint", "config": cfg.plain(), **progress, "state": state, "history": history,
                  "rng": rng}
    settings = {name: cfg.plain()[name] for name in [*GENERATOR, "direction", "load_size"]}
    generator = {"format": "pix2pix generator", "config": settings, "epoch": progress["epoch"],
                 "state_dict": state["gen"]}
    save_atomically(cfg.out_dir / "checkpoint.pth.tar", lambda file: torch.save(checkpoint, file))
    save_atomically(cfg.out_dir / "gen.pth.tar", lambda file: torch.save(generator, file))


def load_tensors(path: Path, kind: str = "") -> dict:
    """A dict saved by torch.save, of the format `kind` if given: tensors and plain types only, nothing is executed.

    Raises FileNotFoundError, or ValueError when the file is damaged or of another kind.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError, TypeError,
            AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged, or not a file of tensors ({type(error).__name__})") from error
    if not isinstance(saved, dict) or kind and saved.get("format") != kind:
        raise ValueError(f"{path} is not a {kind or 'file'} of this program")
    return saved
