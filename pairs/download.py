"""Makes the data sets of known names: draws the demo, downloads those that the paper's authors publish."""

import gzip
import itertools
import lzma
import os
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from pairs import demo
from pairs.images import ending, read_picture
from pairs.parquet import AT_ONCE, COLUMNS, bytes_in, opened, rows
from runtime.console import say
from runtime.distributed import torchrun_ranks, wait_for
from runtime.files import complete_folder
from runtime.network import download
from runtime.threads import ordered
from utils import DataError, UserError, name_of, need

URL = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/{name}.tar.gz"
HUB = "https://huggingface.co/datasets/huggan/{name}/resolve/main/data/train-{number:05d}-of-{files:05d}.parquet"

UNPACKED = 100 * 2**30  # bytes that an archive may unpack to; the largest of these holds a tenth


@dataclass(frozen=True)
class Published:
    """A data set that the paper's authors publish as side-by-side files, and others on the Hub as parquet files."""

    pairs: dict[str, int]  # in each split of the authors' archive; where they are not known, at least so many
    side: int = 256  # pixels of the shorter side of A and of B
    flat: str = ""  # the side, A or B, that holds lines or areas of one colour; empty where both are photos
    files: int = 0  # on the Hub, where all pairs are in one split; 0: it is not there


DATASETS = {
    "facades": Published({"train": 400, "val": 100, "test": 106}, flat="B", files=1),
    "maps": Published({"train": 1096, "val": 1098}, side=600, flat="B", files=4),
    "edges2shoes": Published({"train": 49_825, "val": 200}, flat="A", files=6),
    "edges2handbags": Published({"train": 136_000, "val": 100}),
    "night2day": Published({"train": 17_823, "val": 10, "test": 2287}, files=8),
}


def ensure_dataset(root: Path) -> None:
    """Draws or downloads data/NAME, below the folder that the program was started in, when absent and NAME is known.

    Of several processes on a machine, one does so and the others wait.
    Raises FileNotFoundError when an absent folder of a known name lies elsewhere: its path may be mistyped, or the data
    of a resumed run may have moved. The same for cityscapes, which its makers alone hand out.
    """
    name = root.name
    if root.exists() or name not in ("demo", "cityscapes", *DATASETS):
        return
    if name == "cityscapes":
        raise FileNotFoundError(f"data_root {name_of(root)!r} is no folder, and Cityscapes is not downloaded, because "
                                "its makers ask for a registration: with one, take leftImg8bit_trainvaltest.zip and "
                                "gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com, unpack them, then "
                                "python prepare.py cityscapes leftImg8bit gtFine data/cityscapes --size 256 256")
    if root.absolute() != Path("data", name).absolute():
        raise FileNotFoundError(f"data_root {name_of(root)!r} is no folder; {name} is made as data/{name} only: take "
                                f"--data-root data/{name}, or the folder that holds your own data")
    _, _, local_rank = torchrun_ranks()
    if local_rank > 0:
        wait_for(root)
    elif name == "demo":
        say(f"drawing the demo pairs into {root}")
        demo.draw(root)
    else:
        fetch(root)


def fetch(root: Path, url: str = URL, hub: str = HUB, timeout: float = 30.0) -> None:
    """Downloads the data set `root.name` from its authors, or else from the Hub, as the folder `root`.

    The folder appears only when it is complete. Raises UserError, saying what to put where, when neither has it, and
    OSError where it cannot be written.
    """
    name = root.name
    url = url.format(name=name)
    places = {url: partial(from_authors, url=url)}
    if DATASETS[name].files:
        places["the Hub"] = partial(from_hub, url=hub)
    failures = []
    for place, take in places.items():
        say(f"downloading {name} from {place} to {root}" + "".join(f", because {failure}" for failure in failures))
        try:
            with complete_folder(root) as folder:
                splits = take(folder, timeout=timeout)
                check(folder, splits, DATASETS[name].side)
        except UserError as error:
            failures.append(f"{place} fails: {error}")
        else:
            if {*splits} == {"train"}:
                say(f"on the Hub, {name} has one split: training holds out a tenth, and scores do not compare with "
                    "those of the authors' splits")
            return
    raise UserError(f"could not fetch {name}: {'; '.join(failures)}. To go on without the network, download {url} "
                    f"elsewhere and unpack it so that {root / 'train'} holds the training images")


def from_authors(folder: Path, url: str, timeout: float) -> dict[str, int]:
    """Returns the number of pairs that there must be in each split. Raises UserError where nothing whole comes."""
    archive = folder.with_name("archive.tar.gz")
    with archive.open("wb") as file:
        download(url, file, timeout)
    try:
        unpack(archive, folder.parent)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UserError(f"the archive is damaged ({error})") from error
    return DATASETS[folder.name].pairs


def from_hub(folder: Path, url: str, timeout: float) -> dict[str, int]:
    """The same for parquet files, whose pictures go into train/A and train/B as they are."""
    known = DATASETS[folder.name]
    need("pyarrow.parquet", "pyarrow", "parquet files")
    for side in "AB":
        (folder / "train" / side).mkdir(parents=True)
    sides, n = "", 0
    for number in range(known.files):
        path = folder.with_name("part.parquet")
        with path.open("wb") as file:
            download(url.format(name=folder.name, number=number, files=known.files), file, timeout)
        try:
            sides = sides or sides_of(path, known.flat)
            for cells in rows(opened(path), path):
                for side, cell, column in zip(sides, cells, COLUMNS, strict=True):
                    content = bytes_in(cell, f"pair {n}, {column}")
                    (folder / "train" / side / f"{n:06d}{ending(content)}").write_bytes(content)
                n += 1
        except UserError as error:  # which may name a file that nobody will find
            raise UserError(str(error).replace(str(path), f"file {number}")) from error
    return {"train": sum(known.pairs.values())}


def sides_of(path: Path, flat: str) -> str:
    """Which sides the two columns are: imageA is A, the left half of the authors' files, unless the pictures differ.

    Lines and areas of one colour take fewer bytes than a photo, once compressed.
    """
    taken = [0, 0]
    for cells in itertools.islice(rows(opened(path), path), AT_ONCE):
        for i, cell in enumerate(cells):
            taken[i] += len(zlib.compress(read_picture(bytes_in(cell, COLUMNS[i])).array.tobytes()))
    found = "A" if taken[0] < taken[1] else "B"
    return "AB" if flat in ("", found) else "BA"


def check(folder: Path, splits: dict[str, int], side: int) -> None:
    """Raises UserError where pairs are missing, or a picture cannot be read or is smaller than it must be."""
    for split, wanted in splits.items():
        halves = sorted((folder / split).glob("[AB]"))
        for place in halves or [folder / split]:
            files = [path for path in place.glob("*") if path.suffix.lower() in (".jpg", ".png")]
            if len(files) < wanted:
                raise UserError(f"there are {len(files)} images in {place.relative_to(folder.parent)} instead of "
                                f"{wanted}")
            size = (side, side) if halves else (2 * side, side)
            with ordered(partial(check_size, size), files, None, AT_ONCE) as checked:
                list(tqdm(checked, "checking", len(files), disable=None))


def check_size(wanted: tuple[int, int], path: Path) -> None:
    try:
        width, height = read_picture(path).size
    except DataError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error
    if width < wanted[0] or height < wanted[1]:
        raise UserError(f"{path.name} has {width}×{height} pixels instead of {wanted[0]}×{wanted[1]}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the files of a tar archive, and refuses it when it holds anything else but folders.

    Raises UserError on links, devices, paths that lead out of `folder`, and more than UNPACKED bytes.
    """
    size = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            size += member.size
            if size > UNPACKED:
                raise UserError(f"the archive holds more than {UNPACKED:,} bytes")
            target = Path(os.path.normpath(folder / member.name))
            if not (member.isreg() or member.isdir()) or not target.is_relative_to(folder):
                raise UserError(f"the archive holds {member.name!r}, which is no plain file inside it")
            if member.isreg():
                target.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
        while tar.fileobj.read(2**20):  # gzip compares its checksum when it has been read to the end
            pass
