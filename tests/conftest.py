"""Small data sets and small runs, on the CPU, without a network."""

import contextlib
import importlib.util
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

# Networks this small gain nothing from threads, which stall each other when the machine is busy.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import predict
import train as train_module
from config import Config
from dataset import PairedImages
from generator import Generator
from hd.networks import make_networks
from inference.load import load_generator
from pairs.geometry import Geometry
from pairs.identity import Pair
from pairs.jitter import Jitter
from pairs.values import Values, values_of
from runtime import logger as logger_module
from runtime import run as run_module
from runtime.checkpoint import GENERATOR, load_tensors
from runtime.console import run_main
from runtime.grids import DRAWN
from runtime.speed import choose_levers
from runtime.state import State


def write_pair(path, width=96, height=48, seed=0, left=None, right=None):
    """A side-by-side file of smooth random halves, or of the arrays given."""
    rng = np.random.default_rng(seed)
    halves = []
    for given in (left, right):
        coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        halves.append(np.asarray(coarse.resize((width // 2, height))) if given is None else given)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(halves, axis=1)).save(path)
    return path


def coordinates(width, height=None):
    """An image, square without a height, whose red grows to the right and whose green grows downwards."""
    image = np.zeros((height or width, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.linspace(0, 250, width), np.linspace(0, 250, len(image))[:, None]
    return image


def save(path, content):
    """An image, or an array as one or as .npy, in a folder that is made if need be; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, content)
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)
    return path


def write_raster(path, bands, palette=None, **told):
    """(C, H, W) as rasterio writes it, a GeoTIFF unless `driver` says otherwise; the path."""
    import rasterio  # which few tests need

    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    with rasterio.open(path, "w", width=width, height=height, count=count, dtype=bands.dtype.name,
                       **{"driver": "GTiff", **told}) as file:
        file.write(bands)
        if palette:
            file.write_colormap(1, palette)
    return path


def tree(root, *names):
    """A folder of small images of these names, PNGs unless they say otherwise, no two of one colour."""
    for name in names:
        image = Image.new("RGB", (8, 8), f"#{zlib.crc32(name.encode()) % 2**24:06x}")
        save(root / (name if "." in name else f"{name}.png"), image)
    return root


torch.ones(1, requires_grad=True).backward()  # begun among fake devices, autograd would fail in forks ever after
RGB, GRAY = Values(3), Values(1)
ROOT = Path(train_module.__file__).parent


def write_sides(root, sides, n=6, n_val=2):
    """Files for training and validation: of each side, written as "A.png", what its function makes of a number."""
    for split, count, first in (("train", n, 0), ("val", n_val, 100)):
        for side, content in sides.items():
            folder, ending = side.split(".")
            for i in range(count):
                save(root / split / folder / f"{i}.{ending}", content(first + i))
    return root


def trained_by(cfg):
    """The generator of a run with these settings."""
    train_module.train(cfg)
    return load_generator(cfg.out_dir / "gen.pth.tar")


def launch(*args, **options):
    """A process of Python with these words, a group of its own, whose output is read."""
    return subprocess.Popen([sys.executable, *map(str, args)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True, **options)


def printed_by(program, *words):
    """What these lines of Python print, as a process of their own with these words."""
    return subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, check=True, capture_output=True,
                          text=True).stdout


def begin(module, *flags):
    """Runs a command: what its main function returns, or raises."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__ + ".py", *map(str, flags)])
        return module.main()


def call(module, *flags):
    """Runs a command: its exit status, and what it printed to stdout and to stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as leaving:
        run_main(lambda: begin(module, *flags))
    return leaving.value.code or 0, out.getvalue(), err.getvalue()


def translated(checkpoint, source, output, *flags):
    """What call() gives of predict.py on the CPU."""
    return call(predict, "--checkpoint", checkpoint, "--device", "cpu", "--input", source, "--output", output, *flags)


def children_of(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(path.parent.name))
        except (OSError, IndexError):
            continue
    return found


def wait_until(condition, running, seconds=60):
    """Returns once `condition()` holds; fails when it does not in time, or the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        assert running() and time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """No test minds where the suite is started, nor finds there what a run left, nor a program's Ctrl-C."""
    monkeypatch.chdir(tmp_path_factory.mktemp("started"))
    interrupt = signal.getsignal(signal.SIGINT)
    yield
    if signal.getsignal(signal.SIGINT) is not interrupt:
        signal.signal(signal.SIGINT, interrupt)


@pytest.fixture(autouse=True)
def quick_curves(request, monkeypatch):
    """losses.png is one colour, but for tests marked `curves`: to draw it takes as long as a small run."""
    if not request.node.get_closest_marker("curves"):
        told = PngInfo()
        told.add_text("Software", DRAWN["Software"])
        monkeypatch.setattr(logger_module, "write_curves",
                            lambda path, history, cfg: Image.new("L", (9, 6)).save(path, pnginfo=told))


def pair_of(a, b=None, mask=None):
    """The pair of one input, or of a side-by-side file."""
    return Pair((a,), b, mask)


def geometry_of(cfg):
    return Geometry.of(cfg.plain())


def paired(pairs, cfg, train=True):
    """The pairs as the settings would train on them, or validate."""
    return PairedImages(pairs, cfg.direction, *values_of(cfg.plain()), geometry_of(cfg), cfg.label_side,
                        Jitter(cfg) if train else None)


def fresh_state(cfg, dtype=torch.float32):
    """Networks and optimisers as a run on the CPU begins with them."""
    cpu = torch.device("cpu")
    return State.begin(*make_networks(cfg), cfg, cpu, dtype, choose_levers(cfg.speed, cpu, dtype))


def stacked(losses):
    """The losses of a step as one tensor."""
    return torch.stack(list(losses.values()))


def make_data(folder, train=6, val=2):
    """A folder with so many training and validation pairs."""
    for split, n, seed in (("train", train, 0), ("val", val, 100)):
        for i in range(n):
            write_pair(folder / split / f"{i}.png", seed=seed + i)
    return folder


# Sizes at which D has its 70×70 pixels, and G layers of every kind; most runs of tests make do with half of that.
LARGER = dict(n_layers=3, crop_size=64, load_size=72)


def settings(data, out_dir, **changes):
    defaults = dict(data_root=data, out_dir=out_dir, ngf=4, ndf=4, n_layers=1, crop_size=32, load_size=36, n_epochs=2,
                    n_epochs_decay=0, num_workers=0, precision="fp32", device="cpu",
                    cache="none")  # what happens to files and workers happens to the run
    return replace(Config(), **{**defaults, **changes})


def flags(data, out_dir, **changes):
    """The same, for a command line."""
    plain = settings(data, out_dir, **changes).plain()
    return [f"--{name.replace('_', '-')}={value}" for name, value in plain.items()
            if type(value) is not bool and value not in (None, "", [])]


def edit(monkeypatch, **changes):
    """As a user does in config.py."""
    edited = {f.name: changes.get(f.name, f.default) for f in fields(Config)}
    monkeypatch.setattr(Config.__init__, "__defaults__", tuple(edited.values()))
    assert all(getattr(Config(), name) == value for name, value in changes.items())


def row(epoch=1, d_real=0.6, d_fake=0.6, g_gan=0.9, **changes):
    """Of log.csv."""
    values = dict(epoch=epoch, d_real=d_real, d_fake=d_fake, g_gan=g_gan, g_l1=0.3, val_l1=0.3, lr=2e-4, seconds=1.0,
                  images_per_s=2.0)
    return {**values, **changes}


def flat(folder, n=20, first=200):
    """A folder of side-by-side files without a split."""
    for i in range(n):
        write_pair(folder / f"{i:02d}.png", seed=first + i)
    return folder


def write_generator(path, gen, told=(), **saved):
    """A generator's file, of a U-Net for 64×64; told: more of its configuration."""
    config = dict(zip(GENERATOR, (3, 3, 4, 64, 0.5, 0), strict=True)) | dict(told)
    torch.save({"format": "pix2pix generator", "config": config, "epoch": 1, "state_dict": gen.state_dict(), **saved},
               path)
    return path


def lively_generator():
    """A small generator whose output follows its input, with running statistics of its own, in training mode."""
    torch.manual_seed(0)
    gen = Generator(ngf=4, crop_size=64)
    for parameter in gen.parameters():
        if parameter.dim() == 4:
            parameter.data *= 4
    with torch.no_grad():
        for _ in range(20):
            gen(torch.randn(2, 3, 64, 64))
    return gen


@pytest.fixture(scope="session")
def gen():
    return lively_generator().eval()


@pytest.fixture
def checkpoint(gen, tmp_path):
    return write_generator(tmp_path / "gen.pth.tar", gen)


class Runs:
    """Pickled, it would leave a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def equal(a, b):
    """Whether two networks have the same layers and weights."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="session")
def end_of():
    """The weights, optimisers, scaler, position and losses that a run left, without its times."""

    def read(cfg):
        saved = load_tensors(cfg.out_dir / "checkpoint.pth.tar", "pix2pix checkpoint")
        timed = ("seconds", "images_per_s")
        saved["history"] = [{k: v for k, v in row.items() if k not in timed} for row in saved["history"]]
        return {k: v for k, v in saved.items() if k not in ("config", "seconds")}

    return read


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.fixture
def small(data, tmp_path):
    """Makes configurations of runs that take a second."""
    return lambda name="run", **changes: replace(settings(data, tmp_path / name), **changes)


@pytest.fixture
def run(small):
    """The settings of a run of one epoch that is finished."""
    train_module.train(small(n_epochs=1))
    return small(n_epochs=1)


@pytest.fixture
def larger(small):
    """The same, for networks with layers of every kind."""
    return lambda name="run", **changes: small(name, **{**LARGER, **changes})


@pytest.fixture
def unspaced(monkeypatch):
    """Checkpoints, grids and curves come with every epoch, however short."""
    monkeypatch.setattr(run_module, "SPACING", 0)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, end_of):
    """The end of a run with the settings of `small`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    cfg = settings(make_data(folder / "data"), folder / "run")
    train_module.train(cfg)
    return end_of(cfg)


@pytest.fixture
def same():
    """Equality to the bit of nested dicts and lists of tensors and plain values."""

    def equal(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return equal


@pytest.fixture
def on_steps(monkeypatch):
    """Calls `look(losses, state, x, y, …)` after each training step from now on; a dict it returns replaces them."""

    def install(look):
        def looked_at(step, *args, **options):
            losses = step(*args, **options)
            found = look(losses, *args, **options)
            return found if isinstance(found, dict) else losses

        for name in ("train_step", "hd_step"):
            monkeypatch.setattr(train_module, name, partial(looked_at, getattr(train_module, name)))

    return install


@pytest.fixture
def at_step(on_steps):
    """Calls `act(losses)` after the n-th training step from now on; a dict from it replaces the losses."""

    def install(n, act):
        count = itertools.count(1)
        on_steps(lambda losses, *_, **__: act(losses) if next(count) == n else None)

    return install


@contextlib.contextmanager
def files_up_to(size):
    """No file can become larger: a write puts down what fits, as on a full disk, and the next one fails."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def disk(tmp_path):
    """Makes folders that are a disk of so many bytes each: a tmpfs, which only root may mount."""
    mounted = []

    def make(path, size):
        path.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
        if done.returncode:
            pytest.skip("no tmpfs can be mounted here")
        mounted.append(path)
        return path

    if not shutil.which("mount") or os.name != "posix" or os.geteuid():
        pytest.skip("only root can mount a tmpfs")
    yield make
    for path in mounted:
        subprocess.run(["umount", path], check=True)


# Chromium from the system: Debian's package is chromium-headless-shell
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser",
                                               "google-chrome", "chrome"))), None)
NO_BROWSER = "needs Chromium on the path and the package playwright"


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    flags = ["--disable-background-networking", "--use-fake-device-for-media-stream",
             "--use-fake-ui-for-media-stream"] + ["--no-sandbox"] * (getattr(os, "geteuid", bool)() == 0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


def pytest_terminal_summary(terminalreporter):
    if any(NO_BROWSER in str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(f"the tests of draw.html in a browser were skipped: {NO_BROWSER}")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked long, slow or browser")


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if any(map(item.get_closest_marker, ("long", "slow", "browser"))) and not item.config.getoption("--slow"):
        pytest.skip("slow: run with --slow")
    if item.get_closest_marker("browser") and not (BROWSER and importlib.util.find_spec("playwright")):
        pytest.skip(NO_BROWSER)
