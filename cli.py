"""The command line: a recipe of the paper by name, then flags for the fields of the configuration."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import tyro

from config import Config


def _recipe(name: str, direction: str, n_epochs: int = 200, data: str | None = None, **changes) -> Config:
    return replace(Config(), data_root=Path("data") / (data or name), out_dir=Path("runs") / name, direction=direction,
                   n_epochs=n_epochs, **changes)


def recipes() -> dict[str, Config]:
    """The paper's training settings by data set (appendix 6.2), each on top of the defaults above."""
    edges = dict(n_epochs=15, batch_size=4, load_size=256, flip=False)
    return {
        "facades": _recipe("facades", "BtoA"),  # labels → photo
        "maps": _recipe("maps", "AtoB"),  # aerial → map
        "maps_to_aerial": _recipe("maps_to_aerial", "BtoA", data="maps"),
        "cityscapes": _recipe("cityscapes", "BtoA"),  # labels → photo
        "cityscapes_to_labels": _recipe("cityscapes_to_labels", "AtoB", data="cityscapes"),
        "edges2shoes": _recipe("edges2shoes", "AtoB", **edges),
        "edges2handbags": _recipe("edges2handbags", "AtoB", **edges),
        "night2day": _recipe("night2day", "AtoB", n_epochs=17, batch_size=4),
    }


def parse(argv: list[str] | None = None, description: str = "") -> Config:
    """The configuration that a command line asks for: [recipe] [--field value ...].

    With --resume, flags go on top of the settings that the run in out_dir was started with.
    Raises ValueError on an unknown recipe or a bad value; a malformed flag ends in tyro with exit status 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    base = Config()
    if argv and not argv[0].startswith("-"):
        word = argv.pop(0)
        if word not in recipes():
            raise ValueError(f"no recipe is called {word!r}; there are {', '.join(recipes())}")
        base = recipes()[word]
    description += f"\n\nAn optional first word picks a recipe of the paper: {', '.join(recipes())}."
    cfg = tyro.cli(Config, default=base, args=argv, description=description)
    if cfg.resume and (cfg.out_dir / "config.json").is_file():
        cfg = tyro.cli(Config, default=replace(load(cfg.out_dir / "config.json"), out_dir=cfg.out_dir, resume=True),
                       args=argv, description=description)
    return cfg


def load(path: Path) -> Config:
    """The configuration written to a run's config.json. Raises ValueError when the file is no such thing."""
    try:
        return Config(**json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is no configuration of this program: {error}") from error
