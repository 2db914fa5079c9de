"""What a run says of itself: who is winning, whether it overfits, and what comes after it."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from config import Config
from utils import command_line

PATIENCE = 5  # epochs in a row before a winner is named
SMOOTH = 10  # epochs of which means are taken before the validation's L1 is said to rise: single ones wander


def verdict(history: list[dict]) -> str:
    """A sentence when D or G has won for exactly PATIENCE epochs, else an empty string.

    D has won when it tells real from generated nearly without error; G when D takes most generated pairs for real.
    """

    def won(condition) -> bool:
        """For the last PATIENCE epochs, and not already the epoch before: said once."""
        recent = [condition(row) for row in history[-PATIENCE - 1 :]]
        return recent in ([True] * PATIENCE, [False] + [True] * PATIENCE)

    if won(lambda row: max(row["d_real"], row["d_fake"]) < 0.05):
        return (f"D has won for {PATIENCE} epochs: it tells real from generated nearly without error, so that G learns "
                "little from it but still from L1. Try a smaller ndf, a larger lambda_l1 or more data; check in the "
                "grid that input and target belong together.")
    if won(lambda row: row["g_gan"] < 0.2 and row["d_fake"] > 1):
        return (f"G has won for {PATIENCE} epochs: D takes most generated pairs for real and teaches G nothing. "
                "Try a larger ndf or n_layers, or a smaller lr.")
    return ""


def overfits(history: list[dict]) -> str:
    """A sentence where the run overfits, else an empty string.

    It does where the validation's L1 was lower SMOOTH epochs ago or earlier, by more than 2 % and more than three times
    what it wanders from epoch to epoch, while training's has fallen since: both as means of SMOOTH epochs, without the
    two highest and the two lowest.
    """
    if len(history) < 2 * SMOOTH:
        return ""
    curves = np.array([[row[name] for row in history] for name in ("val_l1", "g_l1")])
    val, train = np.sort(sliding_window_view(curves, SMOOTH, axis=1))[..., 2:-2].mean(axis=2)
    if np.isnan(val[-1]):
        return ""
    best, wander = np.lexsort((train, val))[0], np.nanmedian(np.abs(np.diff(curves[0])))
    risen = val[-1] - val[best] > max(3 * wander, 0.02 * val[best]) and train[-1] < train[best]
    if not risen or best >= len(val) - SMOOTH:
        return ""
    return (f"the run overfits: since about epoch {history[best + SMOOTH // 2 - 1]['epoch']}, the validation's L1 has "
            f"risen from {val[best]:.3f} to {val[-1]:.3f}, and training's has fallen from {train[best]:.3f} to "
            f"{train[-1]:.3f}. G learns its pairs by heart. More pairs, --flip and --color-jitter help, or fewer "
            "epochs; --best-by val_l1 keeps the best G in best.pth.tar.")


def raised(history: list[dict], lr: float) -> str:
    """A sentence where the rate with which a resumed run goes on is above that of its last epoch, else an empty string.

    history: one dict an epoch; lr: the rate of the epoch behind it.
    """
    if not history or lr <= history[-1]["lr"] * 1.000001:
        return ""
    last = history[-1]
    return (f"the learning rate rises again, from {last['lr']:.2g} in epoch {last['epoch']} to {lr:.2g} in epoch "
            f"{last['epoch'] + 1}, because --n-epochs, --n-epochs-decay or --lr has changed")


def without_effect(cfg: Config) -> str:
    """A sentence where settings other than the defaults change nothing beside the others, else an empty string."""
    idle = {"generator": ["n_downs", "n_blocks"] if cfg.is_unet else ["dropout"],
            "resize": ["load_size"] if cfg.resize == "none" else [],
            "n_labels": [f"range_{cfg.direction[0].lower()}"] if cfg.n_labels else []}
    default = Config()
    told = [f"{name} with {cause} {getattr(cfg, cause)}" for cause, names in idle.items() for name in names
            if getattr(cfg, name) != getattr(default, name)]
    return f"without effect: {', '.join(told)}" if told else ""


def what_next(cfg: Config, pair: Any, split: str, kind: str) -> str:
    """The commands with which a finished run translates an image of `pair`, and scores itself.

    kind: the numbers of the outputs, which decide whether a PNG holds them.
    """

    def short(path: Path) -> str:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

    def command(script: str, *words) -> str:
        return command_line([python, short(Path(__file__).parents[1] / script), *map(str, words)])

    here = Path(sys.executable)
    python = "python" if Path(shutil.which("python") or "").parent == here.parent else short(here)
    gen = cfg.out_dir / "gen.pth.tar"
    inputs = pair.inputs if cfg.direction == "AtoB" or pair.side_by_side else (pair.target,)
    ending = ".png" if kind != "float32" and (cfg.space == "lab" or cfg.out_channels in (1, 3, 4)) else ".npy"
    x = short(Path(os.path.commonpath(inputs))) if isinstance(inputs[0], Path) else "FILE"  # of several, their folder
    half = ["--side-by-side", "left" if cfg.direction == "AtoB" else "right"] if pair.side_by_side else []
    return "\n".join([
        "translate: " + command("predict.py", "--checkpoint", gen, "--input", x, *half,
                                "--output", cfg.out_dir / "translated", "--ending", ending),
        "score: " + command("evaluate.py", "--checkpoint", gen, "--data-root", short(cfg.data_root),
                            "--split", split, "--seed", cfg.seed,  # validation's dropout
                            *(["--skip-unreadable"] if cfg.skip_unreadable else []))])
