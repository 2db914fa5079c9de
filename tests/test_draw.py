"""draw.py by its requests, and draw.html in a browser (marked so), both on a network that has learnt nothing much."""

import contextlib
import io
import json
import socket
import sys
import threading
import webbrowser
import zlib
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from conftest import settings, wait_until
from PIL import Image, ImageDraw
from werkzeug.serving import BaseWSGIServer
from werkzeug.test import Client

import draw
import predict
import train
from inference.load import load_generator
from inference.metrics import FACADES
from pairs import demo
from pairs.plausible import flat_colours
from utils import UserError

SKY, WALL, WINDOW = (demo.PALETTE[name] for name in ("sky", "wall", "window"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on a few façades of the demo, with a network for 64×64."""
    folder = tmp_path_factory.mktemp("draw")
    demo.draw(folder / "demo", 6, 2)
    train.train(settings(folder / "demo", folder / "run", ngf=8, load_size=64, n_epochs=1))
    return folder / "run"


def app_of(run, **options):
    return draw.App(draw.Draw(run / "gen.pth.tar", device="cpu", **options))


@pytest.fixture(scope="module")
def app(run):
    return app_of(run, precision="fp32")


@contextlib.contextmanager
def served(app):
    server = draw.listen(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(app):
    with served(app) as server:
        yield server


@pytest.fixture
def client(app):
    return Client(app)


def encoded(array, kind="PNG"):
    if array.dtype == np.uint16:
        return cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


# Training keeps the colours of label maps


def as_jpeg(image, quality=90):
    return np.asarray(Image.open(io.BytesIO(cv2.imencode(".jpg", image[..., ::-1], [1, quality])[1].tobytes())))


def facades():
    """Label maps and photos, 512×512, as JPEG hands them over."""
    pairs = (demo.facade(np.random.default_rng(i)) for i in range(6))
    return [tuple(as_jpeg(side.repeat(2, axis=0).repeat(2, axis=1)) for side in pair) for pair in pairs]


def test_the_noise_of_jpeg_becomes_no_class_and_photos_have_none():
    found = flat_colours(facades(), lambda pair: pair, 0)
    assert len(found) == len(demo.PALETTE) and sum(share for *_, share in found) == pytest.approx(1)
    for colour in demo.PALETTE.values():
        assert min(np.abs(np.subtract(colour, c[:3])).max() for c in found) <= 8
    assert flat_colours(facades(), lambda pair: pair, 1) is None
    assert flat_colours([(np.full((64, 64, 3), 255, np.uint8),)], lambda pair: pair, 0) is None  # no class but one


def test_lines_on_white_are_two_colours_and_an_object_on_white_is_a_photo():
    paper = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(paper).ellipse((40, 60, 200, 180), outline="black")
    (*paper_colour, most), (*ink, _) = flat_colours([(as_jpeg(np.asarray(paper)),)], lambda pair: pair, 0)
    assert paper_colour == [255, 255, 255] and max(ink) < 60 and most > 0.9
    shoe = np.full((256, 256, 3), 255, np.uint8)
    shoe[100:180, 60:200] = facades()[0][1][60:140, 60:200]
    assert flat_colours([(as_jpeg(shoe),)], lambda pair: pair, 0) is None


def test_a_run_tells_its_colours_and_they_get_their_names(run, app):
    assert {c[:3] for c in load_generator(run / "gen.pth.tar").trained["colours"]} == {*demo.PALETTE.values()}
    assert {name: c[:3] for name, c in app.palette.items()} == demo.PALETTE
    assert next(iter(app.palette)) == "wall"  # the commonest first


def test_colours_are_named_after_a_palette_only_when_they_are_of_it():
    near = [(r, g, min(255, b + 2), 0.1) for r, g, b in FACADES.values()]
    assert [*draw.choose_palette("", near).items()][:1] == [("background", (0, 0, 223, 0.1))]
    assert [*draw.choose_palette("", [*near, (9, 200, 9, 0.1)])][0] == "#0000e1"
    assert [*draw.choose_palette("", [(0, 0, 0, 0.9), (255, 0, 0, 0.1)])] == ["#000000", "#ff0000"]  # of Cityscapes' 29
    assert [*draw.choose_palette("", [(254, 255, 255, 0.9), (3, 3, 3, 0.1)])] == ["eraser", "pencil"]
    assert draw.choose_palette("facades", near[:1])["background"] == (0, 0, 223, 0.1)
    assert draw.choose_palette("facades", [])["shop"] == (175, 0, 0, 0)


# Requests


@pytest.mark.parametrize("image, kind", [
    (noise(64, 64, 3), "PNG"), (noise(50, 83, 3), "JPEG"), (noise(64, 70, 3), "WEBP"), (noise(70, 64), "PNG"),
    (noise(64, 64, 4), "PNG"), (noise(64, 64, 3, dtype=np.uint16), "PNG"), (noise(64, 64, dtype=np.uint16), "PNG"),
], ids=lambda value: value if isinstance(value, str) else f"{value.dtype}{value.shape}")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_answer_is_what_predict_writes_to_the_pixel(run, tmp_path, monkeypatch, image, kind, precision):
    source, output = tmp_path / f"x.{kind.lower()}", tmp_path / "y.png"
    source.write_bytes(encoded(image, kind))
    monkeypatch.setattr(sys, "argv", ["predict.py", "--checkpoint", str(run / "gen.pth.tar"), "--input", str(source),
                                      "--output", str(output), "--device", "cpu", "--precision", precision])
    assert not predict.main()
    answer = Client(app_of(run, precision=precision)).post("/translate", data=source.read_bytes())
    assert answer.status_code == 200 and answer.mimetype == "image/png"
    expected = cv2.imread(str(output), cv2.IMREAD_UNCHANGED)
    assert decoded(answer.data).dtype == expected.dtype and np.array_equal(decoded(answer.data), expected)


def huge_png():
    """One that says it is 20000×20000."""
    data = bytearray(encoded(noise(4, 4)))
    data[16:24] = (20000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("method, url, data, status, sentence", [
    ("GET", "/translate", None, 405, "method"),
    ("POST", "/", b"", 405, "method"),
    ("POST", "/translate", b"", 415, "PNG, JPEG or WebP"),
    ("POST", "/translate", b"hello", 415, "PNG, JPEG or WebP"),
    ("POST", "/translate", encoded(noise(4, 4), "TIFF"), 415, "PNG, JPEG or WebP"),
    ("POST", "/translate", encoded(noise(64, 64))[:900], 400, "the image cannot be read"),
    ("POST", "/translate", huge_png(), 400, "too large: more than"),
    ("POST", "/translate", b"\x89PNG" + bytes(draw.BYTES), 413, "32 MiB"),
    ("GET", "/example/2", None, 404, "2 examples"),
    ("GET", "/example/-1", None, 404, "not found"),
    ("GET", "/../config.py", None, 404, "not found"),
    ("GET", "/example/..%2F..%2Fconfig.py", None, 404, "not found"),
    ("GET", "/draw.html", None, 404, "not found"),
], ids=lambda value: value[:24] if isinstance(value, str) else "")
def test_what_cannot_be_answered_gets_a_sentence(client, method, url, data, status, sentence):
    answer = client.open(url, method=method, data=data)
    assert answer.status_code == status and sentence in answer.text and answer.text.count("\n") == 1, answer.text
    assert answer.mimetype == "text/plain" and ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("url", ["/", "/settings", "/example/0", "/translate"])
def test_other_sites_learn_nothing_and_have_nothing_done(app, monkeypatch, url):
    """By a name of their own that they let lead to this machine, or by a request from a page of theirs."""
    monkeypatch.setattr(app, "translated", None)
    ask = partial(Client(app).open, url, method="POST" if url == "/translate" else "GET", data=encoded(noise(64, 64)))
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.7", ""):
        assert ask(headers={"Host": host}).status_code == 403, host
    if url != "/":  # a link to the page is no harm
        assert ask(headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    answer = ask(headers={"Origin": "http://evil.example"}) if url != "/translate" else ask(headers={"Host": "x"})
    assert not any(name.startswith("Access-Control") for name, _ in answer.headers)
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_its_own_names_are_let_in(run, app):
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", socket.gethostname()):
        assert Client(app).get("/settings", headers={"Host": host}).status_code == 200, host
    everywhere = Client(app_of(run, host="0.0.0.0"))
    assert everywhere.get("/settings", headers={"Host": "192.168.0.7:80"}).status_code == 200
    assert everywhere.get("/settings", headers={"Host": "evil.example"}).status_code == 403


def test_the_newest_request_of_a_client_wins(app):
    body, answers = encoded(noise(64, 64)), {}

    def post(name, headers):
        answers[name] = Client(app).post("/translate", data=body, headers=headers).status_code

    threads = []
    with app.lock:  # as if the network were at work
        for name, headers in [("old", {"X-Client": "a"}), ("older", {"X-Client": "a"}), ("new", {"X-Client": "a"}),
                              ("other", {"X-Client": "b"}), ("nameless", {}), ("too", {})]:
            before = dict(app.newest)
            threads.append(threading.Thread(target=post, args=(name, headers)))
            threads[-1].start()
            if headers:
                wait_until(lambda before=before: app.newest != before, threads[-1].is_alive)
    for thread in threads:
        thread.join()
    assert answers == {"old": 409, "older": 409, "new": 200, "other": 200, "nameless": 200, "too": 200}
    for i in range(draw.CLIENTS + 10):
        Client(app).post("/translate", data=body[:50], headers={"X-Client": f"c{i}"})
    assert len(app.newest) <= draw.CLIENTS + 1  # nobody fills the memory with names


def test_the_settings_tell_what_can_be_drawn(client, run):
    found = client.get("/settings").json
    assert found["kind"] == "labels" and found["size"] == 64 and found["epoch"] == 1 and found["direction"] == "AtoB"
    assert {c["name"]: tuple(c["colour"]) for c in found["palette"]} == demo.PALETTE
    assert found["examples"] == ["001", "002"]


def test_an_example_is_the_input_and_then_the_target(client, app, run, monkeypatch):
    pair = decoded((run.parent / "demo" / "val" / "002.png").read_bytes())
    assert np.array_equal(decoded(client.get("/example/1").data), pair)
    monkeypatch.setitem(app.gen.trained, "direction", "BtoA")
    assert np.array_equal(decoded(client.get("/example/1").data), np.roll(pair, 256, axis=1))


def test_without_data_or_a_run_there_are_no_examples_and_photos_come_in(run, tmp_path):
    saved = torch.load(run / "gen.pth.tar", weights_only=True)
    torch.save({**saved, "colours": None}, tmp_path / "gen.pth.tar")
    app = app_of(tmp_path)
    assert Client(app).get("/settings").json["kind"] == "photo" and not app.examples
    (tmp_path / "config.json").write_text(json.dumps({"data_root": str(tmp_path / "gone")}))
    assert not app_of(tmp_path).examples
    assert Client(app_of(tmp_path, palette="edges")).get("/settings").json["kind"] == "edges"


def start(monkeypatch, *flags):
    """draw.py with these flags, but for the serving: the server, which waits, and the addresses that were opened."""
    servers, opened = [], []
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", lambda server: servers.append(server))
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "argv", ["draw.py", "--device", "cpu", *map(str, flags)])
    draw.main()
    servers[0].server_close()
    return servers[0], opened


def test_it_listens_at_this_machine_alone_unless_told_and_warns(run, monkeypatch, capsys):
    server, opened = start(monkeypatch, "--checkpoint", run / "gen.pth.tar", "--port", 0)
    assert server.server_address[0] == "127.0.0.1" and opened == [f"http://127.0.0.1:{server.port}/"]
    assert opened[0] in (said := capsys.readouterr().out) and "warning" not in said
    server, opened = start(monkeypatch, "--checkpoint", run / "gen.pth.tar", "--port", 0, "--host", "0.0.0.0",
                           "--no-browser")
    assert server.server_address[0] == "0.0.0.0" and not opened
    assert "warning: whoever reaches 0.0.0.0" in capsys.readouterr().out


def test_a_port_that_is_taken_is_a_sentence(run, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="--port 0"):
        start(monkeypatch, "--checkpoint", run / "gen.pth.tar", "--port", taken.getsockname()[1])


def test_the_body_of_a_real_request_is_bounded_too(server):
    """In chunks, whose sum no header tells; the client is told, and not cut off."""
    chunk = b"10000\r\n" + b"\x89PNG" + bytes(65532) + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /translate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(draw.BYTES // 65536 + 2):
                connection.sendall(chunk)
            connection.sendall(b"0\r\n\r\n")
        assert b" 413 " in (answer := connection.recv(4096)), answer
