"""Data sets of known names: from the authors' archive, else from the Hub, whole or not at all."""

import io
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairs import download
from pairs.find import find_pairs, usable_pairs
from utils import UserError

COUNTS = {"train": 4, "val": 2, "test": 3}
SIDE = 16


LIES = {  # the length that the server tells of a file, and what it sends
    "slow": lambda file: (len(file), file[:100]), "ends": lambda file: (len(file), file[:100]),
    "longer": lambda file: (len(file) + 7, file), "shorter": lambda file: (len(file) - 7, file),
    "nonsense": lambda file: ("many", file), "page": lambda file: (6, b"<html>")}


class Server(SimpleHTTPRequestHandler):
    """Files of a folder, as /good/..., and whatever may go wrong: /slow/..., /loop/... and so on."""

    def do_GET(self):  # noqa: N802
        what, _, rest = self.path.strip("/").partition("/")
        if what in ("redirect", "loop"):
            self.answer(302, Location=f"/{what.replace('redirect', 'good')}/{rest}")
        elif what in LIES:
            length, sent = LIES[what]((Path(self.directory) / rest).read_bytes())
            self.answer(200, sent, Content_Length=length)
        elif what != "mute":
            self.path = self.path.removeprefix("/good")
            super().do_GET()
        if what in ("mute", "slow"):
            time.sleep(1)

    def answer(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """tmp_path/served on a port of this machine; (folder, address). facades is a small data set here."""
    small = download.Published(COUNTS, SIDE, flat="B", files=2)
    monkeypatch.setitem(download.DATASETS, "facades", small)
    (tmp_path / "served").mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=tmp_path / "served"))
    threading.Thread(target=httpd.serve_forever, args=[0.01], daemon=True).start()
    yield tmp_path / "served", f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def picture(number, kind, size=(SIDE, SIDE), flat=False):
    """The bytes of a picture: noise, or areas of one colour."""
    rng = np.random.default_rng(number)
    array = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
    if flat:
        array[:] = array[0, 0]
        array[: size[1] // 2] = 255
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def archive(path, members):
    """A tar.gz of (name, content) files, or of TarInfo members."""
    folder = tarfile.TarInfo("facades")
    folder.type = tarfile.DIRTYPE
    with tarfile.open(path, "w:gz") as tar:
        for member in (folder, *members):
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))


def facades(size=(2 * SIDE, SIDE), **counts):
    return [(f"facades/{split}/{i}.jpg", picture(i, "JPEG", size)) for split, n in {**COUNTS, **counts}.items()
            for i in range(n)]


def hub(folder, n=9, flat="B", size=(SIDE, SIDE)):
    """The parquet files of the Hub; the bytes of both columns."""
    cells = {f"image{side}": [picture(2 * i + (side == "B"), "PNG", size, flat=side == flat) for i in range(n)]
             for side in "AB"}
    half = n // 2
    for i, part in enumerate((slice(half), slice(half, n))):
        table = {name: [{"bytes": content, "path": None} for content in column[part]] for name, column in cells.items()}
        pq.write_table(pa.table(table), folder / f"train-{i:05d}-of-00002.parquet")
    return cells


def fetch(server, tmp_path, authors="good", hub="none"):
    file = "train-{number:05d}-of-{files:05d}.parquet"
    download.fetch(tmp_path / "data" / "facades", f"{server[1]}/{authors}/{{name}}.tar.gz",
                   f"{server[1]}/{hub}/{file}", timeout=0.3)


def refused(server, tmp_path, message, authors="good", hub="none"):
    """Returns what is said, a sentence with what to put where."""
    with pytest.raises(UserError, match=message) as error:
        fetch(server, tmp_path, authors, hub)
    told = f"To go on without the network, download {server[1]}/{authors}/facades.tar.gz elsewhere"
    assert told in str(error.value) and "facades/train" in str(error.value) and ".pix2pix" not in str(error.value)
    assert not list((tmp_path / "data").iterdir())
    return str(error.value)


@pytest.mark.parametrize("way", ["good", "redirect", "nonsense"])
def test_a_whole_archive_becomes_the_folder(server, tmp_path, way):
    archive(server[0] / "facades.tar.gz", facades())
    fetch(server, tmp_path, way)
    assert len(find_pairs(tmp_path / "data" / "facades").splits["train"]) == 4
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["facades"]  # no archive, no leftovers


WRONG = {"mute": "timed out", "slow": "timed out", "ends": "ended after 100 of", "longer": "ended after",
         "gone": "404", "loop": "redirect", "page": None}


@pytest.mark.parametrize("way", [*WRONG, "shorter"])
def test_what_does_not_come_whole_leaves_nothing_and_comes_from_the_hub(server, tmp_path, way, capsys):
    archive(server[0] / "facades.tar.gz", facades())
    cells = hub(server[0])
    authors = refused(server, tmp_path, WRONG.get(way) or "the archive is damaged", way)
    assert "the Hub fails: HTTP Error 404" in authors
    refused(server, tmp_path, WRONG.get(way) or "file 0 cannot be read as parquet", "gone", way)
    fetch(server, tmp_path, way, "redirect")
    root = tmp_path / "data" / "facades"
    assert [path.name for path in root.parent.iterdir()] == ["facades"]
    pairs = find_pairs(root).splits
    assert len(pairs["train"]) + len(pairs["val"]) == 9
    for side in "AB":
        files = sorted((root / "train" / side).iterdir())
        assert [path.name for path in files] == [f"{i:06d}.png" for i in range(9)]
        assert [path.read_bytes() for path in files] == cells[f"image{side}"]
    assert "do not compare" in capsys.readouterr().out


def test_columns_the_other_way_round_are_put_right(server, tmp_path):
    """The recipe facades learns B to A, labels to photo."""
    cells = hub(server[0], flat="A")
    fetch(server, tmp_path, "gone", "good")
    assert (tmp_path / "data/facades/train/B/000000.png").read_bytes() == cells["imageA"][0]
    assert (tmp_path / "data/facades/train/A/000008.png").read_bytes() == cells["imageB"][8]


def test_what_comes_is_counted_read_and_measured(server, tmp_path):
    file = server[0] / "facades.tar.gz"
    archive(file, facades(val=1))
    refused(server, tmp_path, "there are 1 images in facades/val instead of 2")
    archive(file, facades(size=(SIDE, SIDE)))
    refused(server, tmp_path, r"\d.jpg has 16×16 pixels instead of 32×16")
    archive(file, [*facades(), ("facades/test/1.jpg", b"jpeg")])
    refused(server, tmp_path, "1.jpg is no image of")
    archive(file, facades())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(server, tmp_path, "the archive is damaged")
    for changes, message in ((dict(n=8), "there are 8 images in facades/train/A instead of 9"),
                             (dict(size=(8, 8)), "has 8×8 pixels instead of 16×16")):
        hub(server[0], **changes)
        refused(server, tmp_path, message, "gone", "good")
    hub(server[0])
    table = pq.read_table(server[0] / "train-00001-of-00002.parquet").to_pydict()
    for content, message in ((b"\x89PNG broken", "000008.png is no image"), (None, "pair 8, imageB is empty"),
                             (b"%PDF-1.7", "its bytes are no PNG")):
        table["imageB"][-1]["bytes"] = content
        pq.write_table(pa.table(table), server[0] / "train-00001-of-00002.parquet")
        refused(server, tmp_path, message, "gone", "good")


def test_without_pyarrow_nothing_is_downloaded_from_the_hub(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(server, tmp_path, "the Hub fails: parquet files need pyarrow.*pip install pyarrow", "gone", "gone")


def test_cityscapes_is_had_from_its_makers():
    with pytest.raises(FileNotFoundError, match=r"registration.*python prepare.py cityscapes leftImg8bit gtFine"):
        usable_pairs(Path("data/cityscapes"), 0)
    assert not list(Path().iterdir())


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("member", [
    ("../outside.jpg", b"x"), ("facades/../../outside.jpg", b"x"), ("/tmp/outside.jpg", b"x"),
    link("facades/link", "/etc/passwd", tarfile.SYMTYPE), link("facades/link", "../../outside", tarfile.LNKTYPE),
    link("facades/device", "", tarfile.CHRTYPE), link("facades/pipe", "", tarfile.FIFOTYPE),
], ids=lambda member: member[0] if isinstance(member, tuple) else member.name)
def test_an_archive_that_reaches_out_of_its_folder_is_refused(server, tmp_path, member):
    archive(server[0] / "facades.tar.gz", [*facades(), member])
    refused(server, tmp_path, "no plain file inside it")
    assert not list(tmp_path.rglob("outside*"))
