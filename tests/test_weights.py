"""Weights by name and by address, from a server on this machine: whole, or a sentence and nothing left."""

import json
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PureWindowsPath
from types import SimpleNamespace

import pytest
import torch
from conftest import begin, equal, flags, write_generator, write_pair
from test_published import Published

import evaluate
import predict
from generator import Generator
from inference.load import load_generator
from runtime import weights
from runtime.cli import parse
from runtime.files import temporary_name
from train import train
from utils import UserError

save = partial(write_generator, told={"direction": "AtoB"})


@pytest.fixture
def gen():
    torch.manual_seed(0)
    return Generator(ngf=4, crop_size=64).eval()


@pytest.fixture
def served():
    """What the server has, by path: bytes, or the address that it sends on to; and what it was asked for."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = served.files.get(self.path)
            served.asked.append(f"{self.command} {self.path}")
            if found is None:
                self.send_response(404)
                kind = next((kind for kind in ("Entry", "Revision") if kind.lower() in self.path), "Repo")
                self.send_header("X-Error-Code", f"{kind}NotFound")
                self.end_headers()
                return
            self.send_response(302 if isinstance(found, str) else 200)
            if isinstance(found, str):
                self.send_header("Location", found)
            else:
                self.send_header("X-Repo-Commit", "c0ffee" * 6 + "beef")
                self.send_header("ETag", '"0123456789"')
                self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            if self.command == "GET" and not isinstance(found, str):
                self.wfile.write(found[: len(found) // 2] if served.cut else found)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = SimpleNamespace(address=f"http://127.0.0.1:{httpd.server_port}", files={}, asked=[], cut=False)
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield served
    httpd.shutdown()
    httpd.server_close()


def refused(checkpoint, tmp_path, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        load_generator(checkpoint)
    assert not list((tmp_path / "weights").glob("*")) and ".tmp" not in str(error.value)
    return str(error.value)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("ending", weights.ENDINGS)
def test_an_address_is_fetched_once_and_gives_the_same_network(served, gen, tmp_path, ending):
    """Also through a redirect, where two addresses end in one name, and where a process was killed on the way.

    Of one address, a browser may show letters that are sent as numbers.
    """
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / temporary_name()).touch()
    path = save(tmp_path / "gen.pth.tar", gen)
    content = path.read_bytes()
    if ending == ".safetensors":
        content = weights.as_safetensors(torch.load(path, weights_only=True))
    served.files |= {f"/a/gen{ending}": content, f"/b/%C3%A9%20{ending}?raw=true": f"{served.address}/a/gen{ending}"}
    found = load_generator(f"{served.address}/a/gen{ending}")
    assert equal(found, gen) and found.trained.direction == "AtoB" and found.trained.epoch == 1
    assert equal(load_generator(f"{served.address}/b/é {ending}?raw=true"), gen)
    assert len(list((tmp_path / "weights").iterdir())) == 2
    asked = len(served.asked)
    load_generator(f"{served.address}/a/gen{ending}")
    assert len(served.asked) == asked == 3


def test_what_comes_and_is_no_generator_is_a_sentence_and_not_kept(served, gen, tmp_path):
    address = f"{served.address}/gen.pth.tar"
    said = refused(address, tmp_path, "HTTP Error 404")
    assert f"download it elsewhere and put it at {weights.FOLDER}" in said and address in said
    served.files["/gen.pth.tar"] = b"<html>log in</html>"
    refused(address, tmp_path, "what came is damaged, or not a file of tensors")
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    served.files["/gen.pth.tar"] = (tmp_path / "foreign.pth").read_bytes()
    refused(address, tmp_path, "what came holds no generator .* layer.weight")
    served.files["/gen.pth.tar"] = save(tmp_path / "gen.pth.tar", gen).read_bytes()
    served.cut = True
    refused(address, tmp_path, "the connection ended after .* of .* bytes")
    refused("http://127.0.0.1:9/gen.pth.tar", tmp_path, "refused")
    refused(f"{served.address}/page.html", tmp_path, "must end in .pth.tar")
    refused("http://[::1/gen.pth", tmp_path, "Invalid IPv6 URL")
    assert len(served.asked) == 4


def published(path, depth=8, ngf=64):
    """A file of the authors' in their size, but for its weights, which are all the same."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Published(depth, ngf).state_dict().items()}
    torch.save({name: torch.full([], 0.5).expand(shape) for name, shape in shapes.items()}, path)
    return path.read_bytes()


@pytest.mark.long
def test_a_published_name_is_fetched_and_is_the_network_it_should_be(served, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "URL", served.address + "/models/{name}.pth")
    refused("sat2map", tmp_path, "404")
    for wrong in (dict(depth=7, ngf=8), dict(ngf=8)):
        served.files["/models/sat2map.pth"] = published(tmp_path / "wrong.pth", **wrong)
        refused("sat2map", tmp_path, "no U-Net of 256 pixels")
    served.files["/models/sat2map.pth"] = published(tmp_path / "right.pth")
    gen = load_generator("sat2map")
    assert gen.crop_size == 256 and (tmp_path / "weights" / "sat2map.pth").is_file()
    asked = len(served.asked)
    load_generator("sat2map")
    assert len(served.asked) == asked
    for other, error in (("sat2maps, .* sat2map", UserError), ("weights/sat2map", FileNotFoundError)):
        with pytest.raises(error, match=other):  # a typing mistake asks nobody
            load_generator(other.split(",")[0])
    assert len(served.asked) == asked


def test_the_commands_take_an_address_and_write_nothing_elsewhere(served, gen, tmp_path):
    served.files["/gen.pth.tar"] = save(tmp_path / "here.pth.tar", gen).read_bytes()
    write_pair(tmp_path / "data" / "val" / "1.png", 128, 64)
    address = f"{served.address}/gen.pth.tar"

    def run(program, *flags):
        assert not begin(program, "--checkpoint", address, "--device", "cpu", *flags)

    run(predict, "--input", "data/val", "--output", "out", "--side-by-side", "left")
    run(evaluate, "--data-root", "data", "--num-workers", "0")
    assert (tmp_path / "out" / "1.png").is_file() and (tmp_path / "weights/evaluation_val/metrics.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"here.pth.tar", "data", "out", "weights"}
    assert len(served.asked) == 1


# The Hub


@pytest.fixture
def hub(served, monkeypatch):
    """The server in the Hub's place; `address` leads elsewhere. Nothing waits before it is tried again."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    fetch = huggingface_hub.hf_hub_download
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **b: fetch(*a, **b, endpoint=served.address))
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
    return served


def test_a_repository_is_fetched_and_serves_without_the_hub(hub, gen, tmp_path):
    saved = torch.load(save(tmp_path / "gen.pth.tar", gen), weights_only=True)
    hub.files["/me/facades/resolve/main/model.safetensors"] = weights.as_safetensors(saved)
    assert equal(load_generator("hf:me/facades"), gen)
    assert (tmp_path / "weights" / "me--facades" / "model.safetensors").is_file()
    hub.files.clear()
    hub.files["/me/facades/resolve/v2/model.safetensors"] = weights.as_safetensors(saved)
    assert equal(load_generator("hf:me/facades@v2"), gen)
    hub.address = "http://127.0.0.1:9"
    assert equal(load_generator("hf:me/facades"), gen)
    with pytest.raises(UserError, match="could not fetch hf:me/other: the Hub does not give it .*refused"):
        load_generator("hf:me/other")


def test_windows_paths_name_what_lies_on_the_network_too(monkeypatch):
    monkeypatch.setattr(weights, "from_hub", str.upper)
    monkeypatch.setattr(weights, "fetched", lambda url, path, check: url)
    assert weights.find_weights(PureWindowsPath("hf:me/facades"), None) == "ME/FACADES"
    assert weights.find_weights(PureWindowsPath("https://some.org/gen.pth"), None) == "https://some.org/gen.pth"


def test_what_the_hub_has_not_is_a_sentence(hub):
    with pytest.raises(UserError, match="could not fetch hf:me/none: there is no such"):
        load_generator("hf:me/none")
    with pytest.raises(UserError, match="hf:me/entry holds no model.safetensors"):
        load_generator("hf:me/entry")
    with pytest.raises(UserError, match="hf:me/facades@revision9: me/facades has no revision revision9"):
        load_generator("hf:me/facades@revision9")
    hub.files["/me/facades/resolve/main/model.safetensors"] = bytes(100)
    hub.cut = True
    with pytest.raises(UserError, match="could not fetch hf:me/facades: .*50 bytes"):
        load_generator("hf:me/facades")
    for name in ("hf:", "hf:a/b/c", "hf:me/what?"):
        with pytest.raises(UserError, match="could not fetch hf:"):
            load_generator(name)


def test_without_the_package_its_name_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        load_generator("hf:me/facades")


# Files of safetensors


def test_a_file_of_safetensors_tells_what_the_run_told(small, tmp_path):
    train(small(n_epochs=1))
    path = small().out_dir / "gen.pth.tar"
    for source in (path, small().out_dir / "checkpoint.pth.tar"):
        (tmp_path / "gen.safetensors").write_bytes(weights.as_safetensors(weights.read_weights(source)))
        made, wanted = load_generator(tmp_path / "gen.safetensors"), load_generator(path)
        assert equal(made, wanted) and equal(load_generator(source), wanted)
        told, expected = vars(made.trained), vars(wanted.trained)
        assert {**told, "known": 0} == {**expected, "known": 0}
        if source == path:
            assert all((getattr(told["known"], name) == value).all() for name, value in vars(expected["known"]).items())
        assert str(tmp_path).encode() not in (tmp_path / "gen.safetensors").read_bytes()  # no paths of one's own


@pytest.mark.parametrize("source", ["an address", "a name", "a folder for the Hub"])
def test_a_run_begins_with_what_checkpoint_would_name(served, gen, data, tmp_path, monkeypatch, capsys, source):
    content = save(tmp_path / "gen.pth.tar", gen).read_bytes()
    served.files |= {"/sat2map.pth": content, "/gen.pth.tar": content}
    monkeypatch.setattr(weights, "URL", f"{served.address}/{{name}}.pth")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / weights.FILE).write_bytes(weights.as_safetensors(torch.load(tmp_path / "gen.pth.tar")))
    init_from, n, kept_in = {"an address": (f"{served.address}/gen.pth.tar", 1, "weights"),
                             "a name": ("sat2map", 1, "weights"), "a folder for the Hub": ("hub", 0, "hub")}[source]
    run = tmp_path / "run"
    words = [*flags(data, run, ngf=4, crop_size=64, load_size=64), "--init-from", init_from, "--lr", "1e-20"]
    train(parse(words))
    begun = load_generator(run / "gen.pth.tar")
    assert all(torch.allclose(*both, atol=1e-6) for both in zip(begun.parameters(), gen.parameters(), strict=True))
    train(parse([*words, "--resume", "--n-epochs", "3"]))
    assert len(served.asked) == n
    said = capsys.readouterr().out
    assert "init_from is ignored" in said and kept_in in said
    with pytest.raises(UserError, match="is a folder without model.safetensors: take .*gen.pth.tar"):
        train(parse([*flags(data, tmp_path / "another"), "--init-from", str(run)]))


def test_damaged_files_of_safetensors_are_a_sentence(gen, tmp_path):
    path = tmp_path / "gen.safetensors"
    content = weights.as_safetensors(torch.load(save(tmp_path / "gen.pth.tar", gen), weights_only=True))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["pix2pix"])["config"]["ngf"] == 4
    for damaged in (content[: len(content) // 2], content[:9], content[:-1],
                    content.replace(b'{\\"format', b'[\\"format', 1), b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="gen.safetensors is damaged"):
            load_generator(path)
