"""README.md and the guides in docs/ are true as printed: every command, every snippet, every name.

Only .ci/run runs the two set-up commands; those of torchrun are parsed here, and run in test_distributed.py.
"""

import importlib
import re
import shlex
import shutil
import sys
import webbrowser
from pathlib import Path

import numpy as np
import pytest
import tyro
from conftest import ROOT, save, write_pair, write_sides
from PIL import Image
from test_prepare import cityscapes, raster
from test_video import clip
from torch.distributed.run import get_args_parser as torchrun
from werkzeug.serving import BaseWSGIServer

import draw
from config import RECIPES
from inference import page
from inference.export import export
from inference.load import load_generator
from inference.translate import translate
from train import train

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = [README, *((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
                    for name in ("training", "inference", "draw", "pix2pixhd", "data"))]
TINY = ["--ngf=4", "--ndf=4", "--crop-size=64", "--load-size=64", "--num-workers=0", "--device=cpu",
        "--n-epochs-decay=0"]


def blocks(language):
    return [block for text in GUIDES for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


def commands():
    """The lines of the sh blocks, in their order, each as the words of one of our programs, or of torchrun."""
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line, comments=True)
        if "ffmpeg" in words or "http.server" in words:  # of others
            continue
        if "venv" in words:  # the set-up, then a program or the tests
            words = shlex.split(line.split("&&")[-1])
            assert words[0] == ".venv/bin/python", line
            if words[1:3] == ["-m", "pytest"]:
                continue
        if words:
            yield words


COMMANDS = [*commands()]
PROGRAMS = [words[1:] for words in COMMANDS if words[0] != "torchrun"]


class Parsed(BaseException):
    """Raised in a program's place once it has understood its command line."""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_understood(words, monkeypatch):
    """A flag that went, or a recipe that got another name, and a command that tells people to use it."""
    program, *flags = words
    assert program in ("python", "torchrun", ".venv/bin/python")
    if program == "torchrun":
        started = torchrun().parse_args(flags)
        flags = [started.training_script, *started.training_script_args]
    assert (ROOT / flags[0]).is_file()
    understand = tyro.cli

    def only_understand(*args, **kwargs):
        raise Parsed(understand(*args, **kwargs))

    monkeypatch.setattr(tyro, "cli", only_understand)
    monkeypatch.setattr(sys, "argv", flags)
    with pytest.raises(Parsed):
        importlib.import_module(Path(flags[0]).stem).main()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to be in, with the data and the images that the guides name."""
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "mine", "facades", "maps", "cityscapes", "edges2shoes", "night2day"):
        for i in range(1, 5):
            write_pair(Path("data", name, "train", f"{i:03d}.png"), seed=i)
        write_pair(Path("data", name, "val", "001.png"), width=512, height=256)
    photo, classes = (lambda i, most=most, bands=bands: np.random.default_rng(i).integers(
        0, most, (48, 96, *bands), dtype=np.uint8) for most, bands in ((256, (3,)), (19, ())))
    depth = np.linspace(500, 4000, 96 * 48).reshape(48, 96)  # in millimetres
    write_sides(Path("data/depth"), {"A.png": photo, "B.npy": lambda i: depth}, n=4, n_val=1)
    write_sides(Path("data/labels"), {"A.png": classes, "B.png": photo}, n=4, n_val=1)
    for i in range(12):  # what prepare.py begins with, fields of a microscope, slices of CT
        write_pair(Path("pictures", f"{i}.jpg"), seed=i)
        for name, channels in (("cells", (2, 1)), ("scans", (1, 1))):
            for side, n in zip("AB", channels, strict=True):
                array = np.float32(np.random.default_rng(i).random((96, 96, n)))
                save(Path("data", name, side, f"p{i // 2}_{i}.npy"), array)
    cityscapes(tmp_path)
    raster(Path("coarse.tif"), (300, 300), 20)
    raster(Path("fine.tif"), (600, 600), 10)
    write_pair(Path("labels.png"), 300, 200)
    write_pair(Path("labels", "1.png"))
    write_pair(Path("old", "1.png"))
    write_pair(Path("frames", "000001.png"))
    return tmp_path


@pytest.fixture
def demo(place, small, capsys):
    """The run that the set-up command leaves, but smaller, beside the data that the guides name; what it printed."""
    train(small(data_root=Path("data/demo"), out_dir=Path("runs/demo"), n_epochs=1, precision="bf16"))
    return capsys.readouterr().out


@pytest.mark.long
def test_every_snippet_runs(demo):
    gen = load_generator("runs/demo/gen.pth.tar")
    export(gen, Path("gen.onnx"))
    for snippet in blocks("python"):
        names = {}
        exec(snippet, names)
        assert "photo" not in names or names["photo"].shape == (256, 256, 3)
    assert Path("photo.png").exists() and Path("output.png").exists()
    options = dict(scale="crop", dropout=False, precision="fp32")
    wanted = translate(gen, np.asarray(Image.open("labels.png")), **options)
    np.testing.assert_allclose(np.asarray(Image.open("from_onnx.png"), float), wanted, rtol=0, atol=1)


@pytest.mark.slow
def test_every_command_runs(demo, monkeypatch):
    """In the order of the guides, in one folder; trainings with small networks, each an epoch longer than the last."""
    Path("runs", "facades").mkdir()
    shutil.copy("runs/demo/gen.pth.tar", "runs/facades")
    clip(Path("in.mp4"), times=range(2))
    for split, n in (("train", 4), ("val", 2)):  # as the patterns of docs/data.md find them
        for i in range(n):
            for side, ending in (("input", ".png"), ("target", ".jpg")):
                write_pair(Path("data", "pairs", split, side, f"{split}{i}{ending}"), seed=i)
    listen = draw.listen  # at any port, and not for long
    monkeypatch.setattr(draw, "listen", lambda app, host, port: listen(app, host, 0))
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", BaseWSGIServer.server_close)
    monkeypatch.setattr(webbrowser, "open", lambda address: None)
    monkeypatch.setattr(page, "runtime_files", lambda wanted, given: [b""] * len(wanted))  # without the network
    for number, (script, *flags) in enumerate(PROGRAMS, 2):
        if script == "train.py":
            flags += [*TINY, f"--n-epochs={number}"]
        monkeypatch.setattr(sys, "argv", [script, *flags])
        assert importlib.import_module(Path(script).stem).main() in (None, 0), (script, flags)
    for name in ("photo.png", "photos/1.png", "photos/001.png", "sheets/001.png", "preview_mine.png", "gen.onnx",
                 "runs/facades/evaluation_val/metrics.json", "runs/cityscapes_to_labels/evaluation_val/sheet.png"):
        assert Path(name).exists(), name


def test_training_prints_the_lines_that_are_shown(demo):
    """Numbers, and what dots stand for, apart."""
    for line in blocks("text")[0].splitlines():
        assert re.search(".*".join(map(re.escape, re.split(r"VAL_\w+|…|\d[\d.,]*", line))), demo), (line, demo)


def test_every_recipe_is_named():
    assert {*RECIPES} <= {*re.findall(r"\w+", README)}


def test_the_set_up_is_near_the_top():
    assert sum("-m venv" in line for line in README.splitlines()[:20]) == 2


def test_every_file_named_is_there():
    for path in [ROOT / "README.md", ROOT / "benchmarks" / "LOG.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"\]\(([\w./]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / name).exists(), (path.name, name)


def test_what_stands_for_a_line_of_keras_is_there():
    text = (ROOT / "docs" / "from_keras.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)
    assert len(named) > 10
    for name, file in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *(def|class) {name}\b", source, re.MULTILINE), (file, name)


def test_the_file_tree_is_complete():
    listed = re.findall(r"^(\w+(?:\.py|/)) ", README[README.index("## Read the code") :], re.MULTILINE)
    modules = [path.name for path in ROOT.glob("*.py")]
    folders = [path.parent.name + "/" for path in ROOT.glob("*/__init__.py")]
    assert {*listed} == {*modules, *folders, "tests/", "benchmarks/", "results/"}


def test_the_minutes_of_reading_are_honest():
    """At 225 words of code and comments a minute, give or take a third: a plan that a careful reader can keep."""
    for name, minutes in re.findall(r"^(\w+(?:\.py|/)) .* (\d+) min$", README, re.MULTILINE):
        files = [ROOT / name] if name.endswith(".py") else (ROOT / name).glob("*.py")
        counted = sum(len(path.read_text(encoding="utf-8").split()) for path in files) / 225
        assert counted / 1.33 - 1 < int(minutes) < counted * 1.33 + 1, f"{name} takes {counted:.0f} minutes to read"
    paper = [ROOT / f"{name}.py" for name in ("config", "generator", "discriminator", "dataset", "train")]
    source = [path.read_text(encoding="utf-8") for path in paper]
    called = {ROOT / "pairs" / f"{name}.py" for name in re.findall(r"^from pairs\.(\w+)", "\n".join(source), re.M)}
    counted = len(" ".join(source).split()) / 225
    more = sum(len(path.read_text(encoding="utf-8").split()) for path in called) / 225
    assert f"{counted:.0f} min so far, {counted + more:.0f} with the files of pairs/" in README


def test_every_test_that_holds_a_promise_is_there():
    """`test_x.py::test_name`, with … for the rest of a name, or for the file that was named last."""
    text, file = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"), ""
    for new_file, name, more in re.findall(r"`(?:(test_\w+\.py)|…)?(?:::)?(test_\w+(?!\.py))?(…)?`", text):
        file = new_file or file
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        if name:
            assert re.search(rf"^def {name}{'' if more else '[(]'}", source, re.MULTILINE), (file, name)
