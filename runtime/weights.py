"""The weights that a --checkpoint names: a file, a folder, a published network, hf:USER/REPO or an address."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from runtime.checkpoint import SETTINGS, load_tensors
from runtime.console import say
from runtime.files import atomic, remove_leftovers
from runtime.network import download
from runtime.state import result_of
from utils import UserError, first_line, name_of, need

# The pix2pix generators that the paper's authors publish for PyTorch: U-Nets of 256 pixels, colour to colour
PUBLISHED = ("edges2shoes", "facades_label2photo", "map2sat", "sat2map", "day2night")
URL = "http://efrosgans.eecs.berkeley.edu/pix2pix/models-pytorch/{name}.pth"
FOLDER = Path("weights")  # below the folder that the program was started in
ENDINGS = (".pth.tar", ".pth", ".safetensors")
FILE = "model.safetensors"  # in a folder for the Hub


def find_weights(checkpoint: Path | str, check: Callable[[Path], object]) -> Path:
    """The file or folder that `checkpoint` names. What lies on the network is fetched once, whole or not at all.

    A name of PUBLISHED becomes weights/NAME.pth, an address a file beside it, and hf:USER/REPO one in a folder there.
    `check` raises UserError where a file that was fetched is not what it should be.
    Raises UserError, saying what to put where, when the network or the check fails.
    """
    text = checkpoint if isinstance(checkpoint, str) else checkpoint.as_posix()
    if text.startswith("hf:"):
        return from_hub(text.removeprefix("hf:"))
    if found := re.fullmatch(r"(https?):/+(.+)", text):  # a Path has lost one of the two strokes
        url = f"{found[1]}://{found[2]}"
        name = PurePosixPath(re.split("[?#]", found[2])[0].partition("/")[2]).name
        ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
        if not ending:
            raise UserError(f"{url} is no address of weights: it must end in {', '.join(ENDINGS)}")
        mark = hashlib.sha256(url.encode()).hexdigest()[:8]  # many addresses end in gen.pth.tar
        return fetched(url, FOLDER / f"{name.removesuffix(ending)}-{mark}{ending}", check)
    if text in PUBLISHED and not Path(text).exists():
        return fetched(URL.format(name=text), FOLDER / f"{text}.pth", check)
    path = Path(checkpoint)
    if not path.suffix and not path.exists() and path.name == text:
        raise UserError(f"no file is called {text}, and none of the authors' generators, which are "
                        f"{', '.join(PUBLISHED)}")
    return path / FILE if (path / FILE).is_file() else path


def fetched(url: str, path: Path, check: Callable[[Path], object]) -> Path:
    """`path`, where what lies at `url` is put unless something is there already."""
    if path.exists():
        return path
    say(f"downloading {url} to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    try:
        with atomic(path) as file:
            download(url, file)
            file.flush()
            try:
                check(Path(file.name))
            except UserError as error:  # which names a file that nobody will find
                raise UserError(str(error).replace(file.name, "what came")) from error
    except UserError as error:
        raise UserError(f"could not fetch {url}: {error}. To go on without the network, download it elsewhere and put "
                        f"it at {path}") from error
    return path


def from_hub(name: str) -> Path:
    """model.safetensors of USER/REPO, or USER/REPO@REVISION, on the Hugging Face Hub, as it is there now.

    It lies in weights/USER--REPO, and serves as it is where the Hub does not answer.
    """
    huggingface_hub = need("huggingface_hub", "huggingface_hub", "hf: addresses")
    from huggingface_hub import errors

    repo, _, revision = name.partition("@")
    try:
        folder = FOLDER / name.replace("/", "--")
        return Path(huggingface_hub.hf_hub_download(repo, FILE, revision=revision or None, local_dir=folder))
    except errors.LocalEntryNotFoundError as error:
        reason = f"the Hub does not give it ({first_line(error.__cause__ or error)}), and there is no copy here"
        raise UserError(f"could not fetch hf:{name}: {reason}") from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"hf:{name} holds no {FILE}: python export.py --hub writes one") from error
    except errors.RepositoryNotFoundError as error:
        reason = "there is no such repository, or it is not open to you"
        raise UserError(f"could not fetch hf:{name}: {reason} (hf auth login)") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"could not fetch hf:{name}: {repo} has no revision {revision}") from error
    except Exception as error:  # those of the package beneath, httpx, are none of huggingface_hub's nor OSErrors
        raise UserError(f"could not fetch hf:{name}: {first_line(error)}") from error


def read_weights(path: Path) -> dict:
    """What a file of torch.save or safetensors, or a folder for the Hub, holds: tensors and plain types only.

    Raises FileNotFoundError, or UserError when it is damaged or no such file.
    """
    if path.is_dir():
        if not (path / FILE).is_file():
            held = [name for name in ("best.pth.tar", "gen.pth.tar") if (path / name).is_file()]
            advice = f": take {path / held[-1]}" if held else ""
            raise UserError(f"{name_of(path)} is a folder without {FILE}{advice}")
        path = path / FILE
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # behind the length of its head, where no file of torch.save has it
    if not is_safetensors:
        return load_tensors(path)
    safetensors = need("safetensors", "safetensors", f"files such as {name_of(path)}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = json.loads((file.metadata() or {}).get("pix2pix", "null"))
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{name_of(path)} is damaged, or not a file of tensors ({first_line(error)})") from error
    if told is None:  # of other programs
        return tensors
    if not isinstance(told, dict):
        raise UserError(f"{name_of(path)} is damaged: it tells nothing of its network")
    pairs = {name: tensors.pop(f"pairs.{name}") for name in ("train", "val") if f"pairs.{name}" in tensors}
    return {**told, **({"pairs": pairs} if pairs else {}), "state_dict": tensors}


def told_of(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a generator's file tells beside its tensors, as plain types; None for the authors', which tell nothing."""
    if "config" not in saved:
        return None
    left_out = ("state", "state_dict", "history", "defaults", "pairs")
    told = {name: value for name, value in saved.items() if name not in left_out}
    settings = {name: value for name, value in saved["config"].items() if name in SETTINGS}  # no paths of one's own
    return {**told, "format": "pix2pix generator", "config": settings}


def as_safetensors(saved: Mapping[str, Any]) -> bytes:
    """A file of the generator in `saved`, which `read_weights` reads to the bit. Raises UserError."""
    save = need("safetensors.torch", "safetensors", "files for the Hub").save
    told, metadata = told_of(saved), {"format": "pt"}
    if told is None:
        tensors = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
    else:
        metadata["pix2pix"] = json.dumps(told)
        tensors = dict(result_of(saved["state"]) if "state" in saved else saved["state_dict"])
        if saved["format"] == "pix2pix generator":  # what a checkpoint keeps of its pairs, nobody else needs
            tensors |= {f"pairs.{name}": value for name, value in (saved.get("pairs") or {}).items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    return save(tensors, metadata)
