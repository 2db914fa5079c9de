"""draw.py by its requests, and draw.html in a browser (marked so), both on a network that has learnt nothing much."""

import base64
import contextlib
import io
import json
import shutil
import socket
import threading
import webbrowser
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from conftest import begin, pair_of, settings, translated, wait_until
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from werkzeug.serving import BaseWSGIServer
from werkzeug.test import Client

import draw
import train
from hd.networks import make_generator
from inference.load import load_generator
from inference.page import choose_palette
from pairs import demo
from pairs.palettes import FACADES, flat_colours, sample
from pairs.picture import picture_of
from utils import UserError

SKY, WALL, WINDOW = (demo.PALETTE[name] for name in ("sky", "wall", "window"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on a few façades of the demo, with a network for 64×64."""
    folder = tmp_path_factory.mktemp("draw")
    demo.draw(folder / "demo", 6, 2)
    train.train(settings(folder / "demo", folder / "run", ngf=8, load_size=64, n_epochs=1))
    assert Client(app_of(folder / "run")).get("/settings.json").json["size"] == [256, 256]  # of most training images
    told_otherwise(folder / "run", folder / "run", usual_size=(64, 64))  # for a small page
    return folder / "run"


def told_otherwise(run, folder, config=(), **told):
    """The run's gen.pth.tar in that folder, which tells this, of its configuration and beside it."""
    saved = torch.load(run / "gen.pth.tar", weights_only=True)
    torch.save({**saved, **told, "config": saved["config"] | dict(config)}, folder / "gen.pth.tar")


def app_of(run, **options):
    return draw.App(draw.Draw(run / "gen.pth.tar", device="cpu", **options))


@pytest.fixture(scope="module")
def app(run):
    return app_of(run, precision="fp32")


@contextlib.contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()


def served(app):
    return running(draw.listen(app, "127.0.0.1", 0))


@pytest.fixture(scope="module")
def server(app):
    with served(app) as server:
        yield server


@pytest.fixture
def client(app):
    return Client(app)


def encoded(array, kind="PNG", **options):
    if array.dtype == np.uint16:
        return cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def as_jpeg(image):
    return np.asarray(Image.open(io.BytesIO(cv2.imencode(".jpg", image[..., ::-1], [1, 90])[1].tobytes())))


def facades():
    """Label maps and photos, 512×512, as JPEG hands them over."""
    pairs = (demo.facade(np.random.default_rng(i)) for i in range(6))
    return [tuple(as_jpeg(side.repeat(2, axis=0).repeat(2, axis=1)) for side in pair) for pair in pairs]


def test_the_noise_of_jpeg_becomes_no_class_and_photos_have_none():
    found = flat_colours([sample(a) for a, _ in facades()])
    assert len(found) == len(demo.PALETTE) and sum(share for *_, share in found) == pytest.approx(1)
    for colour in demo.PALETTE.values():
        assert min(np.abs(np.subtract(colour, c[:3])).max() for c in found) <= 8
    assert flat_colours([sample(b) for _, b in facades()]) is None
    assert flat_colours([sample(np.full((64, 64, 3), 255, np.uint8))]) is None  # no class but one


def test_lines_on_white_are_two_colours_and_an_object_on_white_is_a_photo():
    paper = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(paper).ellipse((40, 60, 200, 180), outline="black")
    (*paper_colour, most), (*ink, _) = flat_colours([sample(as_jpeg(np.asarray(paper)))])
    assert paper_colour == [255, 255, 255] and max(ink) < 60 and most > 0.9
    shoe = np.full((256, 256, 3), 255, np.uint8)
    shoe[100:180, 60:200] = facades()[0][1][60:140, 60:200]
    assert flat_colours([sample(as_jpeg(shoe))]) is None


def test_colours_are_named_after_a_palette_only_when_they_are_of_it():
    near = [(r, g, min(255, b + 2), 0.1) for r, g, b in FACADES.values()]
    assert [*choose_palette("", near).items()][:1] == [("background", (0, 0, 223, 0.1))]
    assert [*choose_palette("", [*near, (9, 200, 9, 0.1)])][0] == "#0000e1"
    assert [*choose_palette("", [(0, 0, 0, 0.9), (255, 0, 0, 0.1)])] == ["#000000", "#ff0000"]  # of Cityscapes' 29
    assert [*choose_palette("", [(254, 255, 255, 0.9), (3, 3, 3, 0.1)])] == ["eraser", "pencil"]
    assert choose_palette("facades", near[:1])["background"] == (0, 0, 223, 0.1)
    assert choose_palette("facades", [])["shop"] == (175, 0, 0, 0)


SHALLOW, DEEP = noise(64, 70, 3), noise(64, 70, 3, dtype=np.uint16)


@pytest.mark.parametrize("image, kind, told, deep", [
    (SHALLOW, "PNG", {}, False), (noise(50, 83, 3), "JPEG", {}, False), (SHALLOW, "WEBP", {}, False),
    (noise(70, 64), "PNG", {}, False), (noise(64, 64, 4), "PNG", {}, False), (DEEP, "PNG", {}, True),
    (noise(64, 64, dtype=np.uint16), "PNG", {}, True),
    *((image, "PNG", dict(kind=kind, **ranges), kind == "uint16" or image is DEEP and "range_b" not in ranges)
      for image in (SHALLOW, DEEP) for kind in ("uint8", "uint16")
      for ranges in ({}, dict(range_a=[10.0, 200.0]), dict(range_b=[0.0, 90.0]))),
], ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else str(value))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_answer_is_what_predict_writes_to_the_pixel(run, tmp_path, image, kind, told, deep, precision):
    """For other targets and ranges too: one place decides whether bf16 is precise enough."""
    ranges = {name: value for name, value in told.items() if name != "kind"}
    told_otherwise(run, tmp_path, ranges, **{name: value for name, value in told.items() if name == "kind"})
    source, output = tmp_path / f"x.{kind.lower()}", tmp_path / "y.png"
    source.write_bytes(encoded(image, kind))
    assert translated(tmp_path / "gen.pth.tar", source, output, "--precision", precision)[0] == 0
    answer = Client(app_of(tmp_path, precision=precision)).post("/translate", data=source.read_bytes())
    assert answer.status_code == 200 and answer.mimetype == "image/png"
    made, written = decoded(answer.data), cv2.imread(str(output), cv2.IMREAD_UNCHANGED)
    assert made.dtype == written.dtype == (np.uint16 if deep else np.uint8) and np.array_equal(made, written)


@pytest.mark.parametrize("method, url, data, status, sentence", [
    ("GET", "/translate", None, 405, "method"),
    ("POST", "/", b"", 405, "method"),
    ("POST", "/translate", b"", 415, "PNG, JPEG or WebP"),
    ("POST", "/translate", b"hello", 415, "PNG, JPEG or WebP"),
    ("POST", "/translate", encoded(noise(4, 4), "TIFF"), 415, "PNG, JPEG or WebP"),
    ("POST", "/translate", encoded(noise(64, 64))[:900], 400, "the image cannot be read"),
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


@pytest.mark.parametrize("url", ["/", "/settings.json", "/example/0", "/translate"])
def test_other_sites_learn_nothing_and_have_nothing_done(app, monkeypatch, url):
    """By a name of their own that they let lead to this machine, or by a request from a page of theirs."""
    monkeypatch.setattr(app, "translator", None)
    ask = partial(Client(app).open, url, method="POST" if url == "/translate" else "GET", data=encoded(noise(64, 64)))
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.7", ""):
        assert ask(headers={"Host": host}).status_code == 403, host
    if url != "/":  # a link to the page is no harm
        assert ask(headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        for origin in ("http://evil.example", "http://localhost:9", "null", "http://evil.example://localhost:80"):
            assert ask(headers={"Host": "localhost:80", "Origin": origin}).status_code == 403, origin
    answer = ask(headers={"Host": "x"})
    assert not any(name.startswith("Access-Control") for name, _ in answer.headers)
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_its_own_names_are_let_in(run, app):
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", socket.gethostname()):
        assert Client(app).get("/settings.json", headers={"Host": host}).status_code == 200, host
    everywhere = Client(app_of(run, host="0.0.0.0"))
    assert everywhere.get("/settings.json", headers={"Host": "192.168.0.7:80"}).status_code == 200
    assert everywhere.get("/settings.json", headers={"Host": "evil.example"}).status_code == 403
    for asker, status in (("192.168.0.7:80", 200), ("192.168.0.8:80", 403), ("192.168.0.7:8", 403)):
        own = {"Host": "192.168.0.7:80", "Origin": f"http://{asker}"}
        assert everywhere.get("/settings.json", headers=own).status_code == status, asker


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
    found = client.get("/settings.json").json
    assert found["kind"] == "labels" and found["size"] == [64, 64]
    assert found["epoch"] == 1 and found["direction"] == "AtoB"
    assert {c["name"]: tuple(c["colour"]) for c in found["palette"]} == demo.PALETTE
    assert found["palette"][0]["name"] == "wall"  # the commonest first
    assert {c[:3] for c in load_generator(run / "gen.pth.tar").trained.colours} == {*demo.PALETTE.values()}
    assert found["examples"] == ["001", "002"]


def test_an_example_is_the_input_and_then_the_target(client, app, run, monkeypatch):
    pair = decoded((run.parent / "demo" / "val" / "002.png").read_bytes())
    assert np.array_equal(decoded(client.get("/example/1").data), pair)
    monkeypatch.setattr(app, "trained", replace(app.trained, direction="BtoA"))
    assert np.array_equal(decoded(client.get("/example/1").data), np.roll(pair, 256, axis=1))


def test_an_example_of_floats_is_shown_in_their_range_and_without_its_mask(run, tmp_path, monkeypatch):
    sides = noise(64, 64, 3), noise(64, 64, 3)[..., 0]
    told_otherwise(run, tmp_path, {"range_b": [0.0, 1.0]})
    Image.fromarray(sides[0]).save(tmp_path / "A.png")
    Image.fromarray(sides[0]).save(tmp_path / "M.png")
    np.save(tmp_path / "B.npy", np.repeat(sides[1][..., None], 3, axis=2) / np.float32(255))
    app = app_of(tmp_path)
    app.examples = [pair_of(*(tmp_path / name for name in ("A.png", "B.npy", "M.png")))]
    expected = np.concatenate([sides[0], np.repeat(sides[1][..., None], 3, axis=2)], axis=1)
    assert np.array_equal(decoded(Client(app).get("/example/0").data)[..., ::-1], expected)


@pytest.mark.parametrize("told, sentence", [
    (dict(inputs=2), "takes 2 inputs together"), (dict(kind="float32"), "float32 of 3 channels, which no page shows"),
    (dict(config=dict(n_labels=3)), "takes 3 classes"),
    (dict(config=dict(in_channels=4)), "takes 4 channels"), (dict(config=dict(out_channels=2)), "uint8 of 2 channels"),
], ids=str)
def test_a_network_without_pictures_is_refused_at_the_start(run, tmp_path, told, sentence):
    """Else the page opens, and every drawing is refused, shown black, or ends in a traceback."""
    config, others = told.get("config", {}), {name: value for name, value in told.items() if name != "config"}
    plain = torch.load(run / "gen.pth.tar", weights_only=True)["config"]
    told_otherwise(run, tmp_path, config, **others, state_dict=make_generator(plain | config).state_dict())
    with pytest.raises(UserError, match=sentence):
        app_of(tmp_path)


def test_without_data_a_run_or_black_and_white_there_are_no_examples_and_photos_come_in(run, tmp_path):
    """Examples are shown from black to white, of which a network with a range would take the range again."""
    told_otherwise(run, tmp_path, colours=None)
    app = app_of(tmp_path)
    assert Client(app).get("/settings.json").json["kind"] == "photo" and not app.examples
    (tmp_path / "config.json").write_text(json.dumps({"data_root": str(tmp_path / "gone")}))
    assert not app_of(tmp_path).examples
    assert Client(app_of(tmp_path, palette="edges")).get("/settings.json").json["kind"] == "edges"
    shutil.copy(run / "config.json", tmp_path)
    assert len(app_of(tmp_path).examples) == 2
    told_otherwise(run, tmp_path, {"range_a": [0.0, 4000.0]})
    assert not app_of(tmp_path).examples


def start(monkeypatch, *flags):
    """draw.py with these flags, but for the serving: the server, which waits, and the addresses that were opened."""
    servers, opened = [], []
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", lambda server: servers.append(server))
    monkeypatch.setattr(webbrowser, "open", opened.append)
    begin(draw, "--device", "cpu", *flags)
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


@pytest.mark.parametrize(("host", "told"), [
    ("127.0.0.1", "--port 0"), ("192.0.2.1", "--host must be an address of this machine"),  # for examples (RFC 5737)
    ("no such host", "--host must be an address of this machine")])
def test_a_port_that_is_taken_or_an_address_of_no_machine_is_a_sentence(run, monkeypatch, host, told):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=told):
        start(monkeypatch, "--checkpoint", run / "gen.pth.tar", "--host", host, "--port", taken.getsockname()[1])


@pytest.mark.parametrize("length", ["Content-Length: 1000000000000", "Transfer-Encoding: chunked"])
def test_a_body_without_end_is_not_read_to_its_end(server, length):
    """Nor where no header tells how long it is; the client is told, and not cut off."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST /translate HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        if "chunked" in length:
            with contextlib.suppress(ConnectionError):
                for _ in range(draw.BYTES // 65536 + 2):
                    connection.sendall(b"10000\r\n\x89PNG" + bytes(65532) + b"\r\n")
                connection.sendall(b"0\r\n\r\n")
        connection.settimeout(20)
        assert b" 413 " in (answer := connection.recv(4096)), answer


class Visit:
    """A page of the app, and what went over the wire."""

    def __init__(self, page, server):
        self.page, self.errors, self.hosts, self.sent, self.open = page, [], set(), 0, 0
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self.request)
        for end in ("requestfinished", "requestfailed"):
            page.on(end, lambda request: setattr(self, "open", self.open - request.url.endswith("/translate")))
        page.goto(f"http://127.0.0.1:{server.port}/")
        self.settle()

    def request(self, request):
        self.hosts.add(request.url.split("/")[2])
        if request.url.endswith("/translate"):
            self.sent, self.open = self.sent + 1, self.open + 1

    def settle(self):
        """Returns once nothing is left to translate."""
        wait_until(lambda: not self.page.evaluate("document.body.hidden || busy || wanted"), lambda: True, 30)

    def pixels(self, name):
        """A canvas as (H, W, 3), and its alpha as nothing but opaque."""
        width, height, data = self.page.evaluate("""name => {
            const canvas = document.getElementById(name), context = canvas.getContext("2d");
            const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
            let text = "";
            for (let i = 0; i < data.length; i += 4096) text += String.fromCharCode(...data.subarray(i, i + 4096));
            return [canvas.width, canvas.height, btoa(text)];
        }""", name)
        array = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
        assert (array[..., 3] == 255).all()
        return array[..., :3]

    def drag(self, *points):
        """With the mouse, from point to point in pixels of the drawing."""
        (x, y), *rest = (self.at(*point) for point in points)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for point in rest or [(x, y)]:
            self.page.mouse.move(*point, steps=3)
        self.page.mouse.up()

    def at(self, x, y):
        box = self.page.locator("#drawing").bounding_box()
        width, height = self.page.evaluate("[width, height]")
        return box["x"] + (x + 0.5) * box["width"] / width, box["y"] + (y + 0.5) * box["height"] / height

    def press(self, *keys):
        """Keys, and those of classes by name."""
        names = [name.rstrip("123456789") for name in self.page.locator("#classes button").all_text_contents()]
        for key in keys:
            self.page.keyboard.press(str(names.index(key) + 1) if key in names else key)

    def said(self):
        return self.page.locator("#message").inner_text()


@pytest.fixture
def opened(chromium):
    """Opens a page in a browser of its own; afterwards, nobody has complained and no other host was asked."""
    visits, contexts = [], []

    def open_page(server, context=None, **options):
        contexts.append(context or chromium.new_context(viewport={"width": 1000, "height": 700}, **options))
        visits.append(Visit(contexts[-1].new_page(), server))
        return visits[-1]

    yield open_page
    for context in contexts:
        context.close()
    for visit in visits:
        assert not visit.errors, visit.errors
        assert all(host.startswith("127.0.0.1:") or host == "" for host in visit.hosts), visit.hosts


@pytest.fixture
def visit(opened, server):
    return lambda server=server, **options: opened(server, **options)


@pytest.fixture
def page(visit):
    return visit()


browser = pytest.mark.browser


def colours(array):
    return {*map(tuple, array.reshape(-1, 3).tolist())}


@browser
def test_a_rectangle_is_drawn_and_translated(page, app):
    assert colours(page.pixels("drawing")) == {WALL}  # the commonest class
    before = page.pixels("result")
    page.press("window")
    page.drag((40, 50), (60, 60), (10, 20))  # to and fro: nothing is left of what was shown on the way
    page.settle()
    expected = np.full((64, 64, 3), WALL, np.uint8)
    expected[20:51, 10:41] = WINDOW
    assert np.array_equal(page.pixels("drawing"), expected)
    assert np.array_equal(page.pixels("result"), app.translator.numbers([picture_of(expected)]))
    assert not np.array_equal(page.pixels("result"), before)
    assert "output, 0." in page.page.locator("#time").inner_text()


@browser
def test_no_tool_leaves_a_colour_that_is_no_class(visit):
    page = visit(device_scale_factor=1.5)
    for tool, name in zip("rlbf", ("roof", "sky", "door", "shop"), strict=True):
        page.press(tool, name)
        page.drag((5, 8), (30.3, 21.7), (51.1, 60.6))
        page.drag((60, 2), (-20, 40), (80, 80))  # and outside
        page.settle()
    assert colours(page.pixels("drawing")) <= {*demo.PALETTE.values()} and len(colours(page.pixels("drawing"))) >= 4


@browser
def test_a_line_has_its_width_and_no_holes(page):
    page.press("l", "sky", *"[[[[[[")
    page.drag((3, 5), (60, 37))
    drawn = (page.pixels("drawing") == SKY).all(axis=2)
    assert drawn.sum() == 58 and (drawn.sum(axis=0)[3:61] == 1).all()  # one pixel a column
    page.press(*"]]]]]")
    page.drag((30, 20))
    assert (page.pixels("drawing")[15:26, 27:33] == SKY).all(axis=2).sum() > 25  # a dot of six


@browser
def test_fill_stops_at_the_borders(page):
    page.press("l", "sky")
    page.drag((0, 20), (40, 63))
    page.drag((63, 0), (20, 50))
    before = page.pixels("drawing")
    page.press("f", "window")
    page.drag((2, 2))
    expected = Image.fromarray(before)
    ImageDraw.floodfill(expected, (2, 2), WINDOW)
    assert np.array_equal(page.pixels("drawing"), np.asarray(expected)) and len(colours(before)) == 2


@browser
def test_undo_and_redo_bring_back_every_byte(page):
    states = []
    for tool, name, stroke in [("r", "window", ((1, 1), (20, 20))), ("b", "door", ((5, 30), (50, 40), (9, 60))),
                               ("l", "sky", ((0, 0), (63, 63))), ("f", "roof", ((63, 0),))]:
        states.append(page.pixels("drawing"))
        page.press(tool, name)
        page.drag(*stroke)
    states.append(page.pixels("drawing"))
    page.page.click("#clear")
    assert colours(page.pixels("drawing")) == {WALL}
    for state in states[::-1]:
        page.press("Control+z")
        assert np.array_equal(page.pixels("drawing"), state)
    assert page.page.locator("#undo").is_disabled()
    for state in states[1:]:
        page.press("Control+Shift+Z")
        assert np.array_equal(page.pixels("drawing"), state)
    page.drag((30, 30))  # a new stroke ends what could be done again
    assert page.page.locator("#redo").is_disabled()


@browser
def test_pick_takes_the_class_under_the_pointer(page):
    page.press("door")
    page.drag((10, 10), (20, 20))
    page.press("sky", "i")
    page.drag((15, 15))
    assert page.page.locator("#classes [aria-pressed=true]").inner_text().startswith("door")


def saved(page, button):
    with page.page.expect_download() as download:
        page.page.click(button)
    return np.asarray(Image.open(download.value.path()).convert("RGB"))


@browser
def test_a_stroke_is_one_request_and_the_newest_state_comes_last(page, app):
    sent = page.sent
    page.page.clock.install(time=0)
    page.page.clock.pause_at(1000)
    page.drag((5, 5), (50, 50))
    page.page.clock.run_for(40)
    page.drag((5, 5), (5, 50))
    page.page.clock.resume()
    page.settle()
    assert page.sent == sent + 1
    with app.lock:  # the network is at work on the first of many
        for i in range(5):
            page.drag((5 * i, 5), (5 * i + 3, 50))
            page.page.wait_for_timeout(80)
        assert page.sent == sent + 2 and page.open == 1
    page.settle()
    assert page.sent == sent + 3
    assert np.array_equal(page.pixels("result"), app.translator.numbers([picture_of(page.pixels("drawing"))]))


@browser
def test_without_live_nothing_is_sent_until_asked(page, app):
    page.page.uncheck("#live")
    sent, pair = page.sent, np.concatenate([page.pixels("drawing"), page.pixels("result")], axis=1)
    page.drag((5, 5), (50, 50))
    page.settle()
    assert page.sent == sent and np.array_equal(saved(page, "#save-both"), pair)  # the output, and what it is of
    page.page.click("#now")
    page.settle()
    assert page.sent == sent + 1
    assert np.array_equal(page.pixels("result"), app.translator.numbers([picture_of(page.pixels("drawing"))]))


def upload(page, data, name="image.jpg"):
    page.page.set_input_files("#upload", {"name": name, "mimeType": "image/jpeg", "buffer": data})
    page.page.get_by_text("is drawn at").or_(page.page.get_by_text("no image")).wait_for()
    page.settle()


@browser
def test_a_photo_of_another_shape_becomes_classes_and_keeps_its_shape(page, app):
    big = Image.fromarray(facades()[0][0]).resize((3000, 2000), Image.Resampling.BICUBIC)
    upload(page, encoded(np.asarray(big), "JPEG"))
    drawing = page.pixels("drawing")
    assert drawing.shape == (64, 96, 3) and colours(drawing) <= {*demo.PALETTE.values()} and len(colours(drawing)) > 5
    assert "3000×2000" in page.said()
    assert np.array_equal(page.pixels("result"), app.translator.numbers([picture_of(drawing)]))
    page.press("Control+z")
    assert page.pixels("drawing").shape == (64, 64, 3)
    upload(page, b"no image")
    assert "no image that this browser can read" in page.said() and page.pixels("drawing").shape == (64, 64, 3)


@browser
@pytest.mark.parametrize("kind, name", [("paste", "clipboardData"), ("drop", "dataTransfer")])
def test_images_come_in_by_paste_and_drop(page, kind, name):
    drawing = np.full((64, 64, 3), SKY, np.uint8)
    drawing[:20] = WINDOW
    page.page.evaluate("""([kind, name, data]) => {
        const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(data), c => c.charCodeAt());
        transfer.items.add(new File([bytes], "x.png", {type: "image/png"}));
        document.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, {clipboardData: transfer})
            : new DragEvent(kind, {dataTransfer: transfer}));
    }""", [kind, name, base64.b64encode(encoded(drawing)).decode()])
    page.page.get_by_text("is drawn at").wait_for()
    assert np.array_equal(page.pixels("drawing"), drawing)


@browser
def test_an_example_brings_its_target_and_files_are_what_is_shown(page, run, client):
    page.page.click("#example")
    page.page.get_by_text("example 1 of 2: 001").wait_for()
    page.settle()
    drawing, result = page.pixels("drawing"), page.pixels("result")
    assert len(colours(drawing)) >= 5 and colours(drawing) <= {*demo.PALETTE.values()}

    assert np.array_equal(saved(page, "#save-input"), drawing)
    assert np.array_equal(saved(page, "#save-output"), result)
    assert np.array_equal(saved(page, "#save-both"), np.concatenate([drawing, result], axis=1))
    page.page.click("#target")
    page.page.wait_for_timeout(100)
    target = decoded(client.get("/example/0").data)[:, 256:, ::-1].reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(page.pixels("result") - target).mean() < 6 < np.abs(result - target).mean()
    page.page.click("#target")
    page.page.wait_for_timeout(100)
    assert np.array_equal(page.pixels("result"), result)
    late = []
    page.page.route("**/example/1", lambda route: late.append(route))
    page.page.click("#example")
    upload(page, encoded(drawing[::-1]))
    late[0].continue_()
    page.page.wait_for_timeout(200)
    assert np.array_equal(page.pixels("drawing"), drawing[::-1])  # the last one that was asked for
    page.page.click("#example")
    page.page.click("#clear")
    late[1].continue_()
    page.page.wait_for_timeout(200)
    assert colours(page.pixels("drawing")) == {WALL}
    page.press("Control+z")
    page.page.unroute("**/example/1")
    page.page.click("#example")
    page.page.get_by_text("example 2 of 2: 002").wait_for()
    page.page.click("#target")
    page.page.uncheck("#live")
    page.press("Control+z")
    page.page.wait_for_timeout(100)
    assert page.page.locator("#target").is_disabled()  # it was that of the second
    assert page.page.locator("#result").get_attribute("aria-label") == "The output"
    page.press("Control+Shift+Z")
    assert page.page.locator("#target").is_enabled()  # it has come back, as has the first one's
    page.press("Control+z", "Control+z")
    assert page.page.locator("#target").is_enabled() and np.array_equal(page.pixels("drawing"), drawing)


@browser
def test_a_finger_draws_and_does_not_scroll(visit):
    page = visit(has_touch=True, is_mobile=True)
    page.page.set_viewport_size({"width": 360, "height": 500})
    assert page.page.evaluate("document.documentElement.scrollWidth") == 360
    page.page.get_by_role("button", name="window").tap()
    page.page.locator("#drawing").evaluate("canvas => canvas.scrollIntoView({block: 'center'})")
    session = page.page.context.new_cdp_session(page.page)
    top = page.page.evaluate("scrollY")
    for kind, *points in [("touchStart", (10, 50)), ("touchMove", (20, 30)), ("touchMove", (40, 10)), ("touchEnd",)]:
        points = [dict(zip("xy", page.at(*point), strict=True)) for point in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert page.page.evaluate("scrollY") == top
    drawn = (page.pixels("drawing") == WINDOW).all(axis=2)
    assert drawn[10:51, 10:41].all() and drawn.sum() == 41 * 31


@browser
def test_one_can_draw_by_keyboard_alone(page):
    page.press("sky")
    page.page.locator("#drawing").focus()
    page.press("Shift+ArrowLeft", "ArrowUp", " ", "ArrowRight", "ArrowDown", "Shift+ArrowDown", " ")
    drawn = (page.pixels("drawing") == SKY).all(axis=2)
    assert drawn[31:41, 24:26].all() and drawn.sum() == 20
    page.press(" ", "Shift+ArrowDown", "Escape")
    assert ((page.pixels("drawing") == SKY).all(axis=2) == drawn).all()
    page.press("]", "[", "]", "Control+Alt+]", "Alt+]", "Control+]")  # AltGr on Windows, then on a Mac
    assert page.page.locator("#pixels").inner_text() == "9"
    reached = set()
    for _ in range(40):
        page.press("Tab")
        reached |= {*page.page.evaluate("[document.activeElement].flatMap(e => [e.id, ...e.innerText.split('\\n')])")}
    assert {"Rectangle", "Fill", "Clear", "upload", "live", "save-output", *demo.PALETTE} <= reached


@browser
@pytest.mark.parametrize("of_one", [False, True], ids=["of two people", "of one"])
def test_two_pages_do_not_disturb_each_other(visit, app, of_one):
    first = visit()
    pages = first, visit(context=first.page.context if of_one else None)
    with app.lock:
        for page, name in zip(pages, ("sky", "door"), strict=True):
            page.press(name)
            page.drag((10, 10), (33, 44))
            page.page.wait_for_timeout(100)
    for page in pages:
        page.settle()
        page.page.reload()
        page.settle()
    for page, name in zip(pages, ("sky", "door"), strict=True):
        assert colours(page.pixels("drawing")) == {WALL, demo.PALETTE[name]}
        assert np.array_equal(page.pixels("result"), app.translator.numbers([picture_of(page.pixels("drawing"))]))


@browser
def test_a_server_that_is_gone_is_told_and_the_drawing_stays(visit, app):
    with served(app) as server:
        page = visit(server)
    page.press("door")
    page.drag((10, 10), (33, 44))
    page.page.get_by_text("draw.py does not answer").wait_for()
    page.settle()
    assert colours(page.pixels("drawing")) == {WALL, demo.PALETTE["door"]}
    assert any("ERR_CONNECTION_REFUSED" in error for error in page.errors)  # the browser's own line
    page.errors.clear()


@browser
def test_what_the_server_says_is_shown(page, app, monkeypatch):
    monkeypatch.setattr(draw, "read_picture", lambda body: exec('raise UserError("a sentence")', vars(draw)))
    page.drag((10, 10), (33, 44))
    page.page.get_by_text("a sentence (400)").wait_for()
    monkeypatch.undo()
    page.page.route("**/translate", lambda route: route.fulfill(body="log in", content_type="text/html; x=y"))
    page.drag((10, 10), (33, 40))
    page.page.get_by_text("a web page comes instead of translate (200)").wait_for()
    page.page.unroute("**/translate")
    for url, ask in (("translate", lambda: page.drag((10, 10), (33, 44))),
                     ("example/0", lambda: page.page.click("#example"))):
        page.page.route(f"**/{url}", lambda route: route.fulfill(body="cut", content_type="image/png"))
        ask()
        page.page.get_by_text("could not be decoded").wait_for()
        page.page.unroute(f"**/{url}")
        page.drag((10, 10), (33, 42))
        page.page.get_by_text("could not be decoded").wait_for(state="hidden")
    page.page.click("#example")
    page.page.get_by_text("example 1 of 2: 001").wait_for()
    page.settle()
    assert "example 1 of 2" in page.said()  # not lost as what had failed goes on
    page.page.route("**/example/*", lambda route: route.abort())
    page.page.click("#example")
    page.page.get_by_text("does not answer").wait_for()
    page.drag((10, 10), (43, 44))
    page.settle()
    assert page.said() == ""
    page.errors.clear()  # the browser's own line on the status


@browser
def test_photos_are_uploaded_and_lines_are_drawn_with_a_pencil(visit, run, tmp_path):
    told_otherwise(run, tmp_path, colours=None)
    photos, edges = app_of(tmp_path, precision="fp32"), app_of(tmp_path, precision="fp32", palette="edges")
    with served(photos) as server:
        page = visit(server)
        assert "Upload" in page.said() and not page.sent and page.page.locator("#tools").is_hidden()
        page.drag((10, 10), (33, 44))
        assert colours(page.pixels("drawing")) == {(255, 255, 255)}
        upload(page, encoded(facades()[0][1], "JPEG"))
        drawing = page.pixels("drawing")
        assert len(colours(drawing)) > 500
        assert np.array_equal(page.pixels("result"), photos.translator.numbers([picture_of(drawing)]))
        gamma = PngInfo()
        gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
        upload(page, encoded(drawing, pnginfo=gamma))  # as training reads it, which knows no colour spaces
        assert np.array_equal(page.pixels("drawing"), drawing)
        page.page.reload()
        page.settle()
        assert np.array_equal(page.pixels("drawing"), drawing)
        assert np.array_equal(page.pixels("result"), photos.translator.numbers([picture_of(drawing)]))
    with served(edges) as server:
        page = visit(server)
        assert colours(page.pixels("drawing")) == {(255, 255, 255)}
        page.drag((10, 10), (10, 25))  # a brush, at first, as wide as the lines of edges2shoes
        assert colours(page.pixels("drawing")) == {(255, 255, 255), (0, 0, 0)}
        assert (page.pixels("drawing")[11:25] == 0).all(axis=2).sum(axis=1).max() == 1
        page.drag((10, 10), (33, 44))
        page.press("1")
        page.page.locator("#size").fill("40")
        page.drag((20, 20), (35, 35))
        page.settle()
        assert colours(page.pixels("drawing")) == {(255, 255, 255)}
