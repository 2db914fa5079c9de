"""The command line: a recipe of the paper by name, then flags for the fields of the configuration."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import tyro

from checkpoint import load_tensors
from config import Config
from distributed import restarted
from utils import UserError

# Training as in the paper (appendix 6.2), whatever the defaults in config.py have become.
PAPER = dict(in_channels=3, out_channels=3, load_size=286, crop_size=256, flip=True, label_side="none",
             color_jitter=0.0, ngf=64, ndf=64, n_layers=3, dropout=0.5, lambda_l1=100.0, lr=2e-4, beta1=0.5,
             n_epochs=200, n_epochs_decay=0, batch_size=1)
EDGES = dict(PAPER, n_epochs=15, batch_size=4, load_size=256, flip=False, direction="AtoB")
RECIPES = {
    "facades": dict(PAPER, direction="BtoA"),  # labels → photo
    "maps": dict(PAPER, direction="AtoB"),  # aerial → map
    "maps_to_aerial": dict(PAPER, direction="BtoA", data_root=Path("data/maps")),
    "cityscapes": dict(PAPER, direction="BtoA"),  # labels → photo
    "cityscapes_to_labels": dict(PAPER, direction="AtoB", data_root=Path("data/cityscapes")),
    "edges2shoes": EDGES,
    "edges2handbags": EDGES,
    "night2day": dict(PAPER, direction="AtoB", n_epochs=17, batch_size=4),
}


def recipe(name: str) -> Config:
    """The paper's settings for a data set. Raises ValueError when there is no recipe of that name."""
    if name not in RECIPES:
        raise UserError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return replace(Config(), **{"data_root": Path("data") / name, "out_dir": Path("runs") / name, **RECIPES[name]})


def parse(argv: list[str] | None = None, description: str = "") -> Config:
    """The configuration that a command line asks for: [recipe] [--field value ...].

    With --resume, or when torchrun starts its own run again, flags go on top of the settings that the run in out_dir
    was started with.
    Raises ValueError on an unknown recipe or a bad value; a malformed flag ends in tyro with exit status 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    base = recipe(argv.pop(0)) if argv and not argv[0].startswith("-") else Config()
    description += f"\n\nAn optional first word picks a recipe of the paper: {', '.join(RECIPES)}."
    cfg = tyro.cli(Config, default=base, args=argv, description=description)
    if restarted(cfg.out_dir):
        cfg = replace(cfg, resume=True)
    if cfg.resume and (saved := load(cfg.out_dir)):
        cfg = tyro.cli(Config, default=replace(saved, out_dir=cfg.out_dir, resume=True), args=argv,
                       description=description)
    return cfg


def load(folder: Path) -> Config | None:
    """The configuration of the run in `folder`, if there is one. Raises ValueError when its files are damaged.

    It is read from the checkpoint where config.json is missing, or empty, as a crash of the machine may leave it.
    """
    path, checkpoint = folder / "config.json", folder / "checkpoint.pth.tar"
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if path.is_file() and (text.strip("\0 \r\n") or not checkpoint.is_file()):
            return Config(**json.loads(text))
        path = checkpoint
        return Config(**load_tensors(path, "pix2pix checkpoint")["config"]) if path.is_file() else None
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} holds no settings of this program: {error}") from error
