import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pairs import download


def archive(path, members):
    """A tar.gz of (name, content) files, or of TarInfo members."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))


def facades(train=400, val=100, test=106):
    return [(f"facades/{split}/{i}.jpg", b"jpeg") for split, n in (("train", train), ("val", val), ("test", test))
            for i in range(n)]


@pytest.fixture
def server(tmp_path):
    """The folder tmp_path/served on a port of this machine; yields (folder, url)."""
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "served").mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "served"))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield tmp_path / "served", f"http://127.0.0.1:{httpd.server_port}/{{name}}.tar.gz"
    httpd.shutdown()
    httpd.server_close()


def test_a_whole_archive_becomes_the_folder(server, tmp_path):
    folder, url = server
    archive(folder / "facades.tar.gz", facades())
    download.fetch(tmp_path / "data" / "facades", url)
    assert len(list((tmp_path / "data" / "facades" / "train").iterdir())) == 400
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["facades"]  # no archive, no leftovers


def refused(server, tmp_path, message):
    with pytest.raises(OSError, match=message) as error:
        download.fetch(tmp_path / "data" / "facades", server[1], timeout=5)
    assert "facades/train" in str(error.value)  # says what to put where
    assert not list((tmp_path / "data").iterdir())


def test_missing_images_a_cut_archive_and_a_connection_that_ends_early_leave_nothing(server, tmp_path, monkeypatch):
    file = server[0] / "facades.tar.gz"
    archive(file, facades(train=399))
    refused(server, tmp_path, "399 images in facades/train instead of 400")
    archive(file, facades())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(server, tmp_path, "could not fetch facades")
    archive(file, facades())
    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", lambda self, source, out: out.write(source.read(100)))
    refused(server, tmp_path, "ended after 100 of")


def test_a_file_that_is_not_there_or_no_network_says_what_to_put_where(server, tmp_path):
    refused(server, tmp_path, "404")
    with pytest.raises(OSError, match="To go on without the network, download http://127.0.0.1:9/facades.tar.gz"):
        download.fetch(tmp_path / "data" / "facades", "http://127.0.0.1:9/{name}.tar.gz", timeout=5)


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
