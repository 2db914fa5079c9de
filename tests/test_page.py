"""The page of export.py: its folder, and what a browser makes of it beside predict.py (marked so).

The browser needs the files of onnxruntime-web: the folder that $ONNXRUNTIME_WEB names, or what export.py has kept.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, begin, wait_until, write_generator
from PIL import Image
from test_draw import WALL, WINDOW, Visit, colours, encoded, noise, running, saved, upload
from test_draw import opened as opened
from test_draw import run as run

import export
from generator import Generator
from inference import page as page_module
from inference.load import load_generator
from inference.page import RUNTIME, URL, WASM, runtime_files, write_page
from inference.translate import Translator
from runtime.checkpoint import GENERATOR
from utils import UserError, command_line

FILES = Path(os.environ.get("ONNXRUNTIME_WEB") or page_module.cache())


@pytest.fixture(autouse=True, scope="module")
def once():
    """A network is exported once, whatever its pages tell of it: that takes most of the time."""
    patch, write, known = pytest.MonkeyPatch(), page_module.export, {}

    def copied(gen, path, norm, half, int8=False):
        key = int8, *(value.double().sum().item() for value in gen.state_dict().values())
        if key not in known:
            write(gen, path, norm, half, int8=int8)
            known[key] = path.read_bytes()
        path.write_bytes(known[key])

    patch.setattr(page_module, "export", copied)
    yield write
    patch.undo()


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder in the place of onnxruntime-web's, for what needs no browser."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    marks = {}
    for name in WASM:
        (folder / name).write_bytes(name.encode())
        marks[name] = hashlib.sha256(name.encode()).hexdigest()
    monkeypatch.setattr(page_module, "WASM", marks)
    return tmp_path / "package"


def left_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
def test_the_folder_holds_all_that_the_page_asks_for(run, fake, tmp_path, capsys):
    page = tmp_path / "my page"
    begin(export, "--checkpoint", run / "gen.pth.tar", "--page", page, "--runtime", fake, "--examples", 1)
    told = json.loads((page / "settings.json").read_text())
    files = {told["model"]["file"], *(told["runtime"][name] for name in ("script", "module", "file"))}
    assert left_in(page) == files | {"index.html", "worker.js", "settings.json", "example/0.png"}
    assert (page / told["model"]["file"]).stat().st_size == told["model"]["bytes"]
    assert (page / "index.html").read_bytes() == (ROOT / "draw.html").read_bytes()
    assert told["kind"] == "labels" and told["size"] == [64, 64] and told["examples"] == ["001"]
    said = capsys.readouterr().out
    assert command_line(["--directory", str(page)]) in said and "--examples 0 leaves them out" in said
    assert str(tmp_path) not in (page / "settings.json").read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("file, content, options, told", [
    ("page/mine.txt", b"mine", {}, "page is there already"), ("page", b"mine", {}, "page is there already"),
    (f"package/dist/{[*WASM][0]}", None, {}, "--runtime must be the folder"),
    ("package/dist/ort-wasm-simd-threaded.wasm", b"another version", {}, "not the file of onnxruntime-web"),
    ("", None, dict(palette="nosuch"), "no palette|nosuch"), ("", None, dict(cdn=True), "give --runtime or --cdn"),
    ("", None, dict(examples=-1), "examples must be at least 0"), ("", None, dict(inputs=2), "takes 2 inputs together"),
    ("", None, dict(onnx=None), "pip install onnx"),
])
def test_a_mistake_is_a_sentence_and_no_folder(run, fake, once, tmp_path, monkeypatch, file, content, options, told):
    gen, options = load_generator(run / "gen.pth.tar"), dict(options)
    gen.trained = replace(gen.trained, inputs=options.pop("inputs", 1))
    if "onnx" in options:
        monkeypatch.setattr(page_module, "export", once)
        monkeypatch.setitem(sys.modules, "onnx", options.pop("onnx"))
    if content:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)
    elif file:
        (tmp_path / file).unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((UserError, OSError), match=told):
        write_page(gen, tmp_path / "page", run / "gen.pth.tar", **{"runtime": fake, **options})
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_to_write_is_a_sentence(run):
    with pytest.raises(UserError, match="--output FILE, --page FOLDER or"):
        begin(export, "--checkpoint", run / "gen.pth.tar")


def test_the_page_in_docs_is_one_that_the_present_export_writes(run, tmp_path, monkeypatch):
    """But for the network itself. After an edit, copies of two files do; `sh results/try.sh` makes all of it anew."""
    monkeypatch.setattr(page_module, "export", lambda gen, path, norm, **how: path.write_bytes(b"weights"))
    begin(export, "--checkpoint", run / "gen.pth.tar", "--page", tmp_path / "page", "--cdn", "--examples", 1)
    page, there = tmp_path / "page", ROOT / "docs" / "try"
    for name in ("index.html", "worker.js"):
        assert (there / name).read_bytes() == (page / name).read_bytes(), f"copy what became docs/try/{name} once more"
    told, new = (json.loads((folder / "settings.json").read_text(encoding="utf-8")) for folder in (there, page))
    assert told["runtime"] == new["runtime"] and told["runtime"]["script"].startswith("https://cdn.jsdelivr.net/npm/")
    assert told.keys() == new.keys() and told["network"].keys() == new["network"].keys()
    assert told["palette"][0].keys() == new["palette"][0].keys() and told["kind"] == "labels"
    examples = {f"example/{number}.png" for number, _ in enumerate(told["examples"])}
    assert left_in(there) == {"index.html", "worker.js", "settings.json", told["model"]["file"]} | examples
    model = (there / told["model"]["file"]).read_bytes()
    assert len(model) == told["model"]["bytes"] < 8e6
    assert told["model"]["file"] == f"model-{hashlib.sha256(model).hexdigest()[:8]}.onnx"
    known = {prop.key: json.loads(prop.value) for prop in onnx.load_from_string(model).metadata_props}
    assert known["direction"] == told["direction"] == "AtoB" and known["norm"] == told["network"]["norm"]


def test_two_runtimes_have_two_names_since_browsers_keep_the_first(run, fake, tmp_path, monkeypatch):
    """A site that was exported anew with --webgpu told its visitors for ever that the file was too short."""
    monkeypatch.setattr(page_module, "WEBGPU", page_module.WASM)
    monkeypatch.setattr(page_module, "export", lambda gen, path, norm, **how: path.write_bytes(b"weights"))
    for name in ("one", "two"):
        write_page(load_generator(run / "gen.pth.tar"), tmp_path / name, run / "gen.pth.tar", runtime=fake,
                   webgpu=name == "two")
    one, two = (json.loads((tmp_path / name / "settings.json").read_text())["runtime"] for name in ("one", "two"))
    assert not {one[part] for part in ("script", "module", "file")} & {two[part] for part in two if part != "webgpu"}
    assert {two[part] for part in ("script", "module", "file")} <= left_in(tmp_path / "two")


@contextlib.contextmanager
def served(folder, **headers):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def end_headers(self):
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            super().end_headers()

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    httpd.port, httpd.handle_error = httpd.server_port, lambda *_: None  # a browser that leaves in the middle
    with httpd, running(httpd):
        yield httpd


def test_the_runtime_is_fetched_once_and_what_is_another_file_is_not_kept(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    marks = page_module.WASM
    with served(fake / "dist") as server:
        monkeypatch.setattr(page_module, "URL", f"http://127.0.0.1:{server.port}/{{name}}")
        assert [content.decode() for content in runtime_files(marks, None)] == [*WASM]
        place = tmp_path / "cache" / "pix2pix" / f"onnxruntime-web-{RUNTIME}"
        assert left_in(place) == {*WASM}
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
            with pytest.raises(UserError, match="what came is not the file of onnxruntime-web.*put it at"):
                runtime_files({next(iter(WASM)): "0"}, None)
        assert not [*(tmp_path / "other").rglob("*.js")]
    assert len(runtime_files(marks, None)) == 3  # without the server
    (place / next(iter(WASM))).unlink()
    with pytest.raises(UserError, match="could not fetch http.*put it at .*onnxruntime-web"):
        runtime_files(marks, None)


# In a browser


@pytest.fixture(scope="module")
def runtime():
    with contextlib.suppress(UserError):
        runtime_files(WASM, FILES)
        return FILES
    pytest.skip(f"needs onnxruntime-web {RUNTIME}: npm pack it, unpack it, and let ONNXRUNTIME_WEB name its dist")


@pytest.fixture(scope="module")
def folder(run, runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "page"
    write_page(load_generator(run / "gen.pth.tar"), folder, run / "gen.pth.tar", runtime=runtime, examples=2)
    return folder


@pytest.fixture
def visit(opened, folder):
    """Opens the page from a server of its own."""
    with contextlib.ExitStack() as stack:
        yield lambda folder=folder, headers=(), **options: opened(
            stack.enter_context(served(folder, **dict(headers))), **options)


browser = pytest.mark.browser


def predicted(path, drawing):
    """As predict.py --precision fp32 --dropout off writes it."""
    return Translator(load_generator(path), dropout=False, precision="fp32").picture(drawing)


def difference(page, path):
    return np.abs(page.pixels("result").astype(int) - predicted(path, page.pixels("drawing"))).max()


@browser
def test_it_translates_what_the_mouse_draws_as_predict_does(visit, run):
    page = visit()
    assert colours(page.pixels("drawing")) == {WALL}
    before = page.pixels("result")
    page.press("window")
    page.drag((40, 50), (10, 20))
    page.settle()
    assert (page.pixels("drawing")[20:51, 10:41] == WINDOW).all()
    assert difference(page, run / "gen.pth.tar") <= 1 and not np.array_equal(page.pixels("result"), before)
    assert "s (wasm, 1 thread)" in page.page.locator("#time").inner_text()
    assert page.page.locator("#progress").is_hidden() and not page.sent
    page.page.click("#example")
    page.page.get_by_text("example 1 of 2: 001").wait_for()
    page.settle()
    assert difference(page, run / "gen.pth.tar") <= 1 and page.page.locator("#target").is_enabled()
    assert np.array_equal(saved(page, "#save-output"), page.pixels("result"))


@browser
def test_a_reload_keeps_drawing_and_network(visit, run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "page")
    shutil.copytree(folder, tmp_path / "page" / "other")
    page = visit(tmp_path / "page")
    page.press("window")
    page.drag((10, 50), (40, 10))
    page.settle()
    drawing = page.pixels("drawing")
    assert colours(drawing) == {WALL, WINDOW} and difference(page, run / "gen.pth.tar") <= 1
    kept = """async () => {
        const reader = new FileReader(), read = new Promise(done => reader.onload = done);
        reader.readAsDataURL(await png());
        await read;
        return reader.result === localStorage.getItem(placeKept());
    }"""
    wait_until(lambda: page.page.evaluate(kept), lambda: True, 20)
    asked = []
    page.page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
    page.page.reload()
    page.settle()
    assert np.array_equal(page.pixels("drawing"), drawing) and difference(page, run / "gen.pth.tar") <= 1
    assert not {name for name in asked if name.endswith((".onnx", ".wasm"))}, asked  # the browser has kept them
    page.page.goto(page.page.url + "other/")
    page.settle()
    assert colours(page.pixels("drawing")) == {WALL}


@pytest.fixture
def try_it(chromium, runtime, tmp_path):
    """Opens docs/try, where a server of another origin stands for the CDN, and may have a file that is forged."""
    stack = contextlib.ExitStack()

    def open_page(forged=None):
        files, copy = tmp_path / "cdn", tmp_path / "try"
        files.mkdir()
        for name in WASM:
            (files / name).write_bytes((runtime / name).read_bytes() + b"\n" * (name == forged))
        cdn = stack.enter_context(served(files, Access_Control_Allow_Origin="*"))
        shutil.copytree(ROOT / "docs" / "try", copy)
        text = (copy / "settings.json").read_text(encoding="utf-8")
        here = text.replace(URL.format(version=RUNTIME, name=""), f"http://127.0.0.1:{cdn.port}/")
        (copy / "settings.json").write_text(here, encoding="utf-8")
        page = chromium.new_context(viewport={"width": 1000, "height": 700}).new_page()
        stack.callback(page.context.close)
        return Visit(page, stack.enter_context(served(copy)))

    with stack:
        yield open_page


@browser
def test_the_page_in_docs_translates_as_its_network_does(try_it):
    """Its generator is in no checkpoint here: onnxruntime runs the same file."""
    import onnxruntime

    page = try_it()
    page.press("window")
    page.drag((40, 90), (80, 130))
    page.settle()
    drawing, made = page.pixels("drawing"), page.pixels("result")
    session = onnxruntime.InferenceSession(next((ROOT / "docs" / "try").glob("*.onnx")))
    x = drawing.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    wanted = (session.run(None, {"x": x})[0][0].transpose(1, 2, 0) + 1) * 127.5
    assert np.abs(made - wanted.round()).max() <= 1 and wanted.std() > 20 and not page.errors
    assert (drawing[90:131, 40:81] == WINDOW).all()


@browser
@pytest.mark.parametrize("forged", WASM)
def test_of_a_runtime_with_another_hash_nothing_runs(try_it, forged):
    page = try_it(forged)
    wait_until(lambda: "nothing of it was run" in page.said(), lambda: True, 20)
    worker, = page.page.workers
    assert forged in page.said() and worker.evaluate("typeof ort") == "undefined"


@browser
def test_weights_of_8_bits_are_half_of_half_and_close_to_predict(visit, run, runtime, folder, tmp_path):
    gen = load_generator(run / "gen.pth.tar")
    write_page(gen, tmp_path / "page", run / "gen.pth.tar", runtime=runtime, int8=True)
    large, small = (next(each.glob("*.onnx")).stat().st_size for each in (folder, tmp_path / "page"))
    assert small < 0.62 * large  # of so small a network, much is neither
    page = visit(tmp_path / "page")
    page.press("window")
    page.drag((10, 10), (40, 50))
    page.settle()
    assert difference(page, run / "gen.pth.tar") <= 4


@browser
def test_threads_run_where_the_headers_allow(visit, run):
    page = visit(headers={"Cross_Origin_Opener_Policy": "same-origin", "Cross_Origin_Embedder_Policy": "require-corp"})
    assert page.page.evaluate("crossOriginIsolated") and "threads)" in page.page.locator("#time").inner_text()
    assert difference(page, run / "gen.pth.tar") <= 1


def changed(folder, tmp_path, name, content=None):
    """A copy of the page in which one file is another, or gone."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    return copy


@browser
@pytest.mark.parametrize("file, content, sentence", [
    ("model", None, "does not come (404): is the whole folder there?"), ("model", b"cut", "has 3 bytes of"),
    ("wasm", None, "does not come (404)"), ("script", None, "does not come"), ("worker.js", None, "worker.js does not"),
    ("settings.json", None, "404"), ("settings.json", b"<html>", "settings.json does not come"),
])
def test_what_is_missing_is_named(visit, folder, tmp_path, file, content, sentence):
    told = json.loads((folder / "settings.json").read_text())
    name = {"model": told["model"]["file"], "wasm": told["runtime"]["file"], "script": told["runtime"]["script"]}
    page = visit(changed(folder, tmp_path, name.get(file, file), content))
    wait_until(lambda: sentence in page.said(), lambda: True, 20)
    if file != "settings.json":
        page.drag((10, 10), (20, 20))  # one can go on drawing, and save it
        page.settle()
        assert len(colours(page.pixels("drawing"))) == 2 and sentence in page.said()
    page.errors.clear()  # the browser's own line on the status


@browser
def test_a_file_of_another_length_under_the_same_name_is_fetched_anew(visit, run):
    page = visit()
    page.page.evaluate("""async () => {
        const store = await caches.open("pix2pix");
        for (const {url} of await store.keys()) await store.put(url, new Response("of an older page"));
    }""")
    page.page.reload()
    page.settle()
    assert page.said() == "" and difference(page, run / "gen.pth.tar") <= 1


@browser
def test_without_webassembly_or_a_server_there_is_a_sentence(chromium, folder):
    context = chromium.new_context()
    page = context.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    with served(folder) as server:
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.get_by_text("This browser has no WebAssembly").wait_for()
    page.goto(f"file://{folder}/index.html")
    page.get_by_text("from a server only").wait_for()
    context.close()


def random_weights(path, **told):
    """A generator's file of them."""
    torch.manual_seed(0)
    channels = told.pop("in_channels", 3), told.pop("out_channels", 3)
    gen = Generator(*channels, ngf=8, crop_size=64)
    for parameter in gen.parameters():
        if parameter.dim() == 4:
            parameter.data *= 2
    config = dict(zip(GENERATOR, (*channels, 8), strict=False)) | told.pop("config", {})
    path.mkdir(exist_ok=True)
    return write_generator(path / "gen.pth.tar", gen, config, **told)


SIZES = dict(usual_size=(96, 80), size_range=(60.0, 100.0, 1.0, 1.6))
RANGE = dict(config=dict(range_a=[10.0, 200.0]))


@browser
@pytest.mark.parametrize("told", [
    dict(), dict(in_channels=1), dict(out_channels=1), SIZES, RANGE, RANGE | dict(in_channels=1),
    dict(config=dict(range_b=[20.0, 90.0])), SIZES | dict(config=dict(resize="aspect", load_size=70)),
    SIZES | dict(config=dict(resize="none")), SIZES | dict(config=dict(interpolation="bicubic")),
    dict(usual_size=(40, 50)), SIZES | dict(config=dict(label_side="both")), dict(kind="uint16"),
], ids=str)
def test_photos_of_other_sizes_and_values_become_what_predict_makes(visit, runtime, tmp_path, told):
    path = random_weights(tmp_path / "run", **told)
    write_page(load_generator(path), tmp_path / "page", path, runtime=runtime)
    page = visit(tmp_path / "page")
    assert "Upload" in page.said()
    coarse = Image.fromarray(noise(6, 8, 3))
    photo = np.asarray(coarse.resize((300, 200), Image.Resampling.BICUBIC))
    if "interpolation" in told.get("config", {}):  # bicubic weights overshoot at lines
        photo = np.where(noise(300, 200, 3) > 40, np.uint8(255), np.uint8(0))
    upload(page, encoded(photo))
    drawing, made = page.pixels("drawing"), page.pixels("result")
    wanted = predicted(path, drawing)
    wanted = np.broadcast_to(np.atleast_3d(wanted), made.shape)
    if told.get("kind") == "uint16":
        wanted = wanted / 257
    off = np.abs(made - wanted.astype(float))
    assert off.max() <= 1 and wanted.std() > 3, (off.max(), off.mean(), wanted.std())


@browser
def test_the_camera_is_an_input_and_its_last_picture_stays(visit, runtime, tmp_path):
    path = random_weights(tmp_path / "run")
    write_page(load_generator(path), tmp_path / "page", path, runtime=runtime)
    page = visit(tmp_path / "page", permissions=["camera"])
    page.page.click("#camera")
    wait_until(lambda: "output," in page.page.locator("#time").inner_text(), lambda: True, 20)
    first = page.page.evaluate("version")
    wait_until(lambda: page.page.evaluate("version") > first + 2, lambda: True, 20)
    page.page.click("#camera")
    page.settle()
    assert page.page.evaluate("camera") is None and len(colours(page.pixels("drawing"))) > 3
    assert np.abs(page.pixels("result").astype(int) - predicted(path, page.pixels("drawing"))).max() <= 1
    page.press("Control+z")
    assert colours(page.pixels("drawing")) == {(255, 255, 255)}


@browser
@pytest.mark.parametrize("width", [360, 560, 768, 1020, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_at_any_width(visit, width, scheme):
    page = visit(color_scheme=scheme)
    page.page.set_viewport_size({"width": width, "height": 800})
    page.settle()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
