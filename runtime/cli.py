"""The command line: a recipe by name, then flags for the fields of the configuration."""

import json
import sys
from argparse import SUPPRESS, ArgumentError, ArgumentParser, BooleanOptionalAction
from dataclasses import replace
from pathlib import Path

import tyro

from config import RECIPES, Config, recipe
from runtime.checkpoint import load_tensors, newest_run, run_name
from utils import UserError


def parse(argv: list[str] | None = None, description: str = "") -> Config:
    """The configuration that a command line asks for: [recipe] [--field value ...].

    With --resume, flags go on top of the settings of the run in out_dir, or of the last run of that name.
    Raises UserError on an unknown recipe or a bad value; a malformed flag ends in tyro with exit status 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        base = recipe(argv.pop(0)) if argv and not argv[0].startswith("-") else Config()
        which = replace(base, **which_run(argv))
    except ValueError as error:
        raise UserError(str(error)) from error
    folder = which.out_dir or newest_run(run_name(which))
    if which.resume and folder and (run := load(folder)):
        base = replace(run, out_dir=folder, resume=True)
    description = (f"{description or ''}\n\nAn optional first word picks a recipe, of the paper or a later one: "
                   f"{', '.join(RECIPES)}.")  # python -OO leaves no docstring
    return tyro.cli(Config, default=base, args=argv, description=description)


def which_run(argv: list[str]) -> dict:
    """The flags that say which run is meant, read before the others: those are checked against its settings."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=SUPPRESS)
    for name in ("out_dir", "data_root", "name"):
        parser.add_argument(*{f"--{name}", f"--{name.replace('_', '-')}"}, dest=name)
    parser.add_argument("--resume", action=BooleanOptionalAction)
    try:
        return vars(parser.parse_known_args(argv)[0])
    except ArgumentError:  # tyro says it better
        return {}


def load(folder: Path) -> Config | None:
    """The settings to go on with the run in `folder`, if there is one: its own, and what was edited in config.py since.

    The data stays the run's, whatever was edited. They are read from the checkpoint where config.json is missing, or
    empty, as a crash of the machine may leave it. Raises UserError when its files are damaged.
    """
    path, checkpoint = folder / "config.json", folder / "checkpoint.pth.tar"
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if path.is_file() and (text.strip("\0 \r\n") or not checkpoint.is_file()):
            settings = json.loads(text)
            defaults = settings.pop("defaults", {})
        elif (path := checkpoint).is_file():
            saved = load_tensors(path, "pix2pix checkpoint")
            settings, defaults = saved["config"], saved.get("defaults", {})
        else:
            return None
        settings.pop("sync_batchnorm", None)  # of earlier versions
        edited = {name: value for name, value in Config().plain().items()
                  if value != defaults.get(name, value) and name not in ("data_root", "name", "out_dir", "resume")}
        return Config(**{**settings, **edited})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} holds no settings of this program: {error}") from error
