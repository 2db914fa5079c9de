"""The files of a run: checkpoint.pth.tar, to continue from, and gen.pth.tar, for inference."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import torch

from config import Config
from runtime.files import atomic
from runtime.state import on_cpu, result_of
from utils import UserError

GENERATOR = ["in_channels", "out_channels", "ngf", "crop_size", "dropout", "crop_width"]  # Generator's arguments
OTHER_GENERATORS = ["generator", "n_downs", "n_blocks"]  # which generator, and the arguments of pix2pixHD's
# That a generator's file tells
SETTINGS = [*GENERATOR, *OTHER_GENERATORS, "direction", "resize", "load_size", "label_side", "space", "range_a",
            "range_b", "bands_a", "bands_b", "files_a", "files_b", "files_m", "n_labels", "seed"]
VERSION = 1  # of generators' files: a larger one where readers of today would make other pictures of them


@dataclass(frozen=True)
class Progress:
    """Where a run stands: epochs completed, then what is done of the next one."""

    epoch: int = 0
    step: int = 0
    images: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of each loss, over these images
    seconds: float = 0.0
    skipped: int = 0  # pairs that could not be read
    skipped_steps: int = 0  # whose gradients overflowed in fp16


def save_run(cfg: Config, state: dict, progress: Progress, history: list[dict], record: dict, defaults: dict,
             at_last: Callable[[], None]) -> None:
    """Writes checkpoint.pth.tar, to continue from, and gen.pth.tar, for inference: tensors and plain types only.

    defaults: those of config.py, as far as the run has met them. Calls `at_last` when the checkpoint is written and
    about to take its place.
    Raises UserError, and leaves the files as they are, when a weight is not finite.
    """
    state = on_cpu(state)
    check_finite(state, progress)
    checkpoint = {"format": "pix2pix checkpoint", "config": cfg.plain(), "defaults": defaults,
                  **asdict(progress), "state": state, "history": history, **record}
    path = cfg.out_dir / "checkpoint.pth.tar"
    generator = partial(save_generator, cfg, result_of(state), progress.epoch, cfg.out_dir / "gen.pth.tar", record)
    again = path.exists()
    if again:  # after a kill in between, --resume goes on from the older checkpoint and writes both
        generator()
    with atomic(path) as file:
        torch.save(checkpoint, file)
        at_last()
    if not again:  # a generator alone would be that of a run whose checkpoint is lost
        generator()


def check_finite(state: dict, progress: Progress) -> None:
    for net in ("gen", "disc"):
        for name, value in state[net].items():
            if not value.isfinite().all():
                raise UserError(f"{net}.{name} is no longer finite, {progress.step} steps after epoch "
                                f"{progress.epoch}. Try a lower lr, or --precision fp32")


def save_generator(cfg: Config, weights: dict, epoch: int, path: Path, record: dict) -> None:
    """Writes what inference needs: the weights, settings that rebuild the network, the epoch, what the data told."""
    settings = {name: cfg.plain()[name] for name in SETTINGS} | {"interpolation": cfg.interpolation}
    told = {name: value for name, value in record.items() if name != "pairs"}
    if pairs := record.get("pairs"):  # of what was trained on, what it holds is enough: 8 bytes a pair
        told["pairs"] = {"train": torch.cat([pairs["train"], pairs["trained_before"]])[:, 0].clone(),
                         "val": torch.cat([pairs["val"], pairs["held_before"]])}
    generator = {"format": "pix2pix generator", "version": VERSION, "config": settings, "epoch": epoch, **told,
                 "state_dict": on_cpu(weights)}
    with atomic(path) as file:
        torch.save(generator, file)


def save_generator_of(checkpoint: dict, folder: Path) -> None:
    """Writes gen.pth.tar from what `load_tensors` read of the checkpoint beside it."""
    own = {"format", "config", "defaults", "state", "history", *(f.name for f in fields(Progress))}
    record = {name: value for name, value in checkpoint.items() if name not in own}
    save_generator(Config(**checkpoint["config"]), result_of(checkpoint["state"]), checkpoint["epoch"],
                   folder / "gen.pth.tar", record)


def refuse_unknown(settings: dict, path: Path) -> None:
    """Raises UserError where there are settings, read from `path`, that are none of today's."""
    if unknown := settings.keys() - {f.name for f in fields(Config)}:
        names = ", ".join(sorted(map(str, unknown)))
        raise UserError(f"{path} holds settings that this version does not know ({names}): the version that wrote "
                        "them goes on with the run, --init-from takes its weights into a new one; --out-dir takes "
                        "another run")


def load_tensors(path: Path, kind: str = "") -> dict:
    """A dict saved by torch.save, of the format `kind` if given: tensors and plain types only, nothing is executed.

    Raises FileNotFoundError, or UserError when the file is damaged or of another kind.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it then refuses
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # damaged files make the unpickler raise nearly anything
        raise UserError(f"{path} is damaged, or not a file of tensors ({type(error).__name__})") from error
    if not isinstance(saved, dict) or kind and saved.get("format") != kind:
        raise UserError(f"{path} is not a {kind or 'file'} of this program")
    return saved
