"""The command line: a recipe by name, then flags for the fields of the configuration."""

import json
import re
import sys
from argparse import SUPPRESS, ArgumentError, ArgumentParser, BooleanOptionalAction
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import tyro

from config import RECIPES, Config, recipe
from runtime.checkpoint import load_tensors, refuse_unknown
from runtime.console import say
from runtime.folder import age, run_files, run_name
from runtime.run import FIXED
from utils import UserError, command_line, flags, name_of

OF_THE_AUTHORS = {  # flags of their programs, and those here
    "which_direction": "direction", "continue_train": "resume", "niter": "n-epochs", "niter_decay": "n-epochs-decay",
    "fineSize": "crop-size", "loadSize": "load-size", "batchSize": "batch-size", "input_nc": "in-channels",
    "output_nc": "out-channels", "label_nc": "n-labels", "netG": "generator", "gpu_ids": "device",
    "checkpoints_dir": "out-dir", "dataroot": "data-root", "no_flip": "flip none", "lambda_L1": "lambda-l1",
}
SCORING = "--best-by val_l1, psnr, ms_ssim or a palette scores every epoch and keeps the best"
RELEASE = "--generator release resizes and drops out as the authors' PyTorch program"
SPEED = "--speed is auto, plain, compile or deterministic"
GONE = {
    "name": "--out-dir runs/NAME names the run's folder",
    "save_every": "every epoch may leave a checkpoint, at most one in 20 seconds",
    "n_examples": "grids show 4 pairs",
    "eval_every": SCORING,
    "palette": SCORING,
    "interpolation": RELEASE,
    "dropout_blocks": RELEASE,
    "color_jitter_side": "--color-jitter changes the input or, where --label-side names that, the output",
    "checkpointing": "pix2pixHD's generators save memory by themselves above a crop of 512",
    **dict.fromkeys(("fused_adam", "channels_last", "small_matmul", "compile", "cuda_graph", "deterministic"), SPEED),
}


def parse(argv: list[str] | None = None, description: str = "") -> Config:
    """The configuration that a command line asks for: [recipe] [--field value ...].

    With --resume, flags go on top of what `continued` makes of the run in out_dir, or in runs/ that of this data.
    Raises UserError on an unknown recipe or a bad value; a malformed flag ends in tyro with exit status 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for flag in (word.split("=")[0] for word in argv if word.startswith("--")):
        name = flag.removeprefix("--").replace("-", "_")
        if name in OF_THE_AUTHORS:
            raise UserError(f"{flag} is a flag of the authors' programs: here, it is --{OF_THE_AUTHORS[name]}")
        if told := GONE.get(name.removeprefix("no_")):
            raise UserError(f"{flag} is gone: {told}")
    word = argv.pop(0) if argv and not argv[0].startswith("-") else None
    try:
        base = recipe(word) if word else Config()
        given = which_run(argv)
        direction = given.pop("direction", RECIPES.get(word, {}).get("direction"))
        which = replace(base, **given)
    except ValueError as error:
        raise UserError(str(error)) from error
    if which.resume:
        folder = which.out_dir or find_run(which.data_root, direction)
        if folder and (run := load_settings(folder, argv, RECIPES.get(word, ()))):
            tell_kept(folder, [name for name in RECIPES.get(word, ()) if name not in {*flags(argv), "data_root"}
                               and getattr(run, name) != getattr(base, name)], word)
            base = replace(run, out_dir=folder, resume=True)
    description = (f"{description or ''}\n\nAn optional first word picks a recipe, of the paper or a later one: "
                   f"{', '.join(RECIPES)}.")  # python -OO leaves no docstring
    return tyro.cli(Config, default=base, args=argv, description=description)


def tell_kept(folder: Path, names: Iterable[str], asker: str | None) -> None:
    """Says which settings a resumed run does not take from `asker`, a recipe or config.py."""
    if names:
        say(f"{folder} keeps its {', '.join(names)}: {asker} has others")


def which_run(argv: list[str]) -> dict:
    """The flags that say which run is meant, read before the others: those are checked against its settings."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=SUPPRESS)
    for name in ("out_dir", "data_root"):
        parser.add_argument(*{f"--{name}", f"--{name.replace('_', '-')}"}, dest=name)
    parser.add_argument("--direction", choices=["AtoB", "BtoA"])
    parser.add_argument("--resume", action=BooleanOptionalAction)
    try:
        return vars(parser.parse_known_args(argv)[0])
    except ArgumentError:  # tyro says it better
        return {}


def find_run(data_root: Path, direction: str | None) -> Path | None:
    """The folder in runs/ of the last run on the data, and in that direction if one is given; None if there is none.

    A data set is known by its folder, whatever the runs are called. Raises UserError when it is not clear which is
    meant, or when the settings of a run are damaged that is called as this one would be.
    """
    name = run_name(data_root)
    found = []
    for folder in sorted(Path("runs").glob("*")):
        try:
            run = load_settings(folder)
        except UserError as error:
            if re.fullmatch(re.escape(name) + r"(-\d+)?", folder.name):
                raise
            if run_files(folder):
                say(f"passed over: {error}")
            continue
        if run:
            found.append((folder, run))
    runs = [(folder, run.data_root.resolve()) for folder, run in found if direction in (None, run.direction)]
    same = sorted((folder for folder, root in runs if root == data_root.resolve()), key=age)
    if same:
        *others, newest = same
        if others and age(others[-1]) == age(newest):
            raise UserError(f"{', '.join(map(name_of, same))} were all trained on {name_of(data_root)}: --out-dir "
                            "tells which one goes on")
        if others:
            say(f"{newest} is the newest of the runs on that data; --out-dir takes another: "
                f"{', '.join(map(name_of, others))}")
        return newest
    asked = name_of(data_root) + (f", {direction}" if direction else "")
    for folder, root in runs:
        if name in (root.name, re.sub(r"-\d+$", "", folder.name)) and not root.exists():
            words = command_line(["--resume", "--out-dir", str(folder), "--data-root", str(data_root)])
            raise UserError(f"no run in runs/ was trained on {asked}. The pairs of {folder} were at "
                            f"{name_of(root)} and are gone: if these are the same, {words} goes on with it; without "
                            "--resume, a new run begins")
    if found:
        lost = sorted((folder for folder, root in runs if not root.exists()), key=age)
        say(f"no run in runs/ was trained on {asked}: a new one begins" +
            "".join(f"; the pairs of {name_of(folder)} are gone: if these are the same, "
                    f"{command_line(['--out-dir', str(folder), '--data-root', str(data_root)])} goes on with it"
                    for folder in lost[-1:]))
    return None


def load_settings(folder: Path, argv: list[str] | None = None, of_recipe: Iterable[str] = ()) -> Config | None:
    """The settings of the run in `folder`, if there is one; with the command line that resumes it, and the names
    that its recipe sets, as `continued`.

    They are read from the checkpoint where config.json is missing, or empty, as a crash of the machine may leave it.
    What this version does not know is left out, or where the run is resumed, refused. Raises UserError when its files
    are damaged.
    """
    path, checkpoint = folder / "config.json", folder / "checkpoint.pth.tar"
    try:
        if path.is_file() and (text := path.read_text(encoding="utf-8").strip("\0 \r\n")):
            settings = json.loads(text)
            defaults = settings.pop("defaults", {})
        elif (path := checkpoint).is_file():
            saved = load_tensors(path, "pix2pix checkpoint")
            settings, defaults = saved["config"], saved.get("defaults", {})
        else:
            return None
        if argv is not None:
            refuse_unknown(settings, path)
        run = Config(**{name: value for name, value in settings.items() if name in Config().plain()})
        return run if argv is None else continued(folder, run, defaults, argv, of_recipe)
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} holds no settings of this program: {error}") from error


def continued(folder: Path, cfg: Config, defaults: dict, argv: list[str], of_recipe: Iterable[str]) -> Config:
    """A run's settings, with what was edited in config.py since it had those `defaults`, but for its data.

    Where one of these it had from a recipe or a flag, or may not change, they are meant for other runs: it takes none,
    and says so.
    """
    own = cfg.plain()
    others = {"data_root", "out_dir", "resume", "init_from", *flags(argv)}
    edited = {name: value for name, value in Config().plain().items()
              if name not in others and value not in (own[name], defaults.get(name, value))}
    stands = {*FIXED, *of_recipe}
    try:
        if all(own[name] == defaults[name] and name not in stands for name in edited):
            return replace(cfg, **edited)
    except ValueError:  # they do not fit to the others
        pass
    tell_kept(folder, edited, "config.py")
    return cfg
