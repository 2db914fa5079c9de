"""Fetches the data sets that the paper's authors publish."""

import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from utils import UserError, complete_folder, say

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


def fetch(name: str, root: Path, url: str = URL, timeout: float = 30.0) -> None:
    """Downloads and unpacks the data set `name` as the folder `root`, which appears only when it is complete.

    Raises OSError, saying what to put where, when the network, the archive or the image counts fail.
    """
    url = url.format(name=name)
    say(f"downloading {url} to {root}")
    try:
        with complete_folder(root) as folder:
            archive = folder.parent / "archive.tar.gz"
            _download(url, archive, timeout)
            unpack(archive, folder.parent / "unpacked")
            source = folder.parent / "unpacked" / name
            for split, wanted in DATASETS[name].items():
                held = sum(path.suffix.lower() in (".jpg", ".png") for path in (source / split).glob("*"))
                if held < wanted:
                    raise OSError(f"the archive holds {held} images in {name}/{split} instead of {wanted}")
            folder.rmdir()
            source.rename(folder)
    except (OSError, EOFError, ValueError, tarfile.TarError, http.client.HTTPException) as error:
        raise OSError(f"could not fetch {name}: {error}. To go on without the network, download {url} elsewhere and "
                      f"unpack it so that {root / 'train'} holds the training images") from error


def _download(url: str, path: Path, timeout: float) -> None:
    with urllib.request.urlopen(url, timeout=timeout) as response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc="downloading", disable=None) as bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
        if size and file.tell() != size:
            raise OSError(f"the connection ended after {file.tell()} of {size} bytes")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the files and folders of a tar archive, and refuses it whole when it holds anything else.

    Raises ValueError on links, devices, paths that lead out of `folder`, and more than UNPACKED bytes.
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
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
