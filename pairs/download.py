"""Makes the data sets of known names: draws the demo, downloads those that the paper's authors publish."""

import os
import shutil
import tarfile
from pathlib import Path

from pairs import demo
from runtime.console import say
from runtime.distributed import started, wait_for
from runtime.files import complete_folder
from runtime.network import download
from utils import UserError, name_of

URL = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/{name}.tar.gz"

UNPACKED = 100 * 2**30  # bytes that an archive may unpack to; the largest of these holds a tenth

# Images a split; for the large sets the paper gives rounded numbers, so these are lower bounds.
DATASETS = {
    "facades": {"train": 400, "val": 100, "test": 106},
    "maps": {"train": 1096, "val": 1098},
    "cityscapes": {"train": 2975, "val": 500},
    "edges2shoes": {"train": 49_000, "val": 100},
    "edges2handbags": {"train": 136_000, "val": 100},
    "night2day": {"train": 17_000},
}


def ensure_dataset(root: Path) -> None:
    """Draws or downloads data/NAME, below the folder that the program was started in, when absent and NAME is known.

    Of several processes on a machine, one does so and the others wait.
    Raises FileNotFoundError when an absent folder of a known name lies elsewhere: its path may be mistyped, or the data
    of a resumed run may have moved.
    """
    name = root.name
    if root.exists() or name not in ("demo", *DATASETS):
        return
    if root.absolute() != Path("data", name).absolute():
        raise FileNotFoundError(f"data_root {name_of(root)!r} is no folder; {name} is made as data/{name} only: take "
                                f"--data-root data/{name}, or the folder that holds your own data")
    _, world, local_rank = started()
    if world > 1 and local_rank > 0:
        wait_for(root)
    elif name == "demo":
        say(f"drawing the demo pairs into {root}")
        demo.draw(root)
    else:
        fetch(root)


def fetch(root: Path, url: str = URL, timeout: float = 30.0) -> None:
    """Downloads and unpacks the data set `root.name` as the folder `root`, which appears only when it is complete.

    Raises OSError, saying what to put where, when the network, the archive or the image counts fail.
    """
    name = root.name
    url = url.format(name=name)
    say(f"downloading {url} to {root}")
    try:
        with complete_folder(root) as folder:
            archive = folder.with_name("archive.tar.gz")
            with archive.open("wb") as file:
                download(url, file, timeout)
            unpack(archive, folder.parent)
            for split, wanted in DATASETS[name].items():
                held = sum(path.suffix.lower() in (".jpg", ".png") for path in (folder / split).glob("*"))
                if held < wanted:
                    raise OSError(f"the archive holds {held} images in {name}/{split} instead of {wanted}")
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise OSError(f"could not fetch {name}: {error}. To go on without the network, download {url} elsewhere and "
                      f"unpack it so that {root / 'train'} holds the training images") from error


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
