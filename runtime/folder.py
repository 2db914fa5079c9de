"""The folders of runs: their names, and whose files are in them."""

import json
import re
from pathlib import Path

from runtime.checkpoint import load_tensors
from runtime.grids import is_marked
from utils import UserError


def refuse_foreign(folder: Path) -> None:
    """Raises UserError where a run that begins in `folder` would overwrite what none has written."""
    ours = {"config.json": holds_settings, "log.csv": holds_log, "losses.png": is_marked,
            "best.pth.tar": holds_generator}
    found = [folder / name for name, is_ours in ours.items() if (folder / name).exists() and not is_ours(folder / name)]
    examples = folder / "examples"
    grids = [path for path in examples.glob("epoch_*.png") if re.fullmatch(r"epoch_\d{4,}", path.stem)]
    found += [path for path in sorted(grids) if not is_marked(path)][:3]
    if examples.exists() and not examples.is_dir():
        found.append(examples)
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise UserError(f"{folder} holds files that no run has left and this one would overwrite: {names}. Choose "
                        "another folder with --out-dir")


def holds_settings(path: Path) -> bool:
    """Whether a config.json is a run's; one that a crash of the machine has emptied is nobody's loss."""
    try:
        text = path.read_text(encoding="utf-8").strip("\0 \r\n")
        settings = json.loads(text or "{}")
    except (ValueError, OSError, RecursionError):
        return False
    return not text or isinstance(settings, dict) and {"data_root", "ngf", "crop_size"} <= settings.keys()


def holds_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(12) in (b"", b"epoch,d_real")


def holds_generator(path: Path) -> bool:
    try:
        return bool(load_tensors(path, "pix2pix generator"))
    except (UserError, OSError):
        return False


def run_files(folder: Path) -> list[str]:
    """What a run has learnt and left in `folder`; its logs and pictures alone are of no use to anybody."""
    return [name for name in ("checkpoint.pth.tar", "gen.pth.tar", "best.pth.tar") if (folder / name).exists()]


def run_name(data_root: Path) -> str:
    return data_root.absolute().name or "run"


def age(folder: Path) -> float:
    """When its last checkpoint was written, or the run begun, in seconds."""
    path = folder / "checkpoint.pth.tar"
    return (path if path.exists() else folder / "config.json").stat().st_mtime
