"""Small data sets and small runs, on the CPU, without a network."""

import os
from dataclasses import replace

# Networks this small gain nothing from threads, which stall each other when the machine is busy.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image

import train as train_module
from config import Config
from dataset import Jitter, PairedImages
from runtime.checkpoint import load_tensors
from runtime.speed import choose_levers


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


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """No test minds where the suite is started, nor finds there what a run left."""
    monkeypatch.chdir(tmp_path_factory.mktemp("started"))


def paired(pairs, cfg, train=True):
    """The pairs as the settings would train on them, or validate."""
    return PairedImages(pairs, cfg.direction, cfg.in_channels, cfg.out_channels,
                        cfg.load_size if train else cfg.crop_size, cfg.label_side, Jitter(cfg) if train else None)


def fresh_state(cfg, dtype=torch.float32):
    """Networks and optimisers as a run on the CPU begins with them."""
    cpu = torch.device("cpu")
    return train_module.make_state(cfg, cpu, dtype, choose_levers(cfg, cpu, dtype))


@pytest.fixture
def data(tmp_path):
    """A folder with six training and two validation pairs."""
    for i in range(6):
        write_pair(tmp_path / "data" / "train" / f"{i}.png", seed=i)
    for i in range(2):
        write_pair(tmp_path / "data" / "val" / f"{i}.png", seed=100 + i)
    return tmp_path / "data"


@pytest.fixture
def small(data, tmp_path):
    """Makes configurations of runs that take a second."""

    def make(name="run", **changes):
        defaults = dict(data_root=data, out_dir=tmp_path / name, ngf=4, ndf=4, crop_size=64, load_size=72, n_epochs=2,
                        n_epochs_decay=0, num_workers=0, precision="fp32", device="cpu", n_examples=2)
        return replace(Config(), **{**defaults, **changes})

    return make


@pytest.fixture
def end_of():
    """The weights, optimisers, scaler, position and losses that a run left, without its times."""

    def read(cfg):
        saved = load_tensors(cfg.out_dir / "checkpoint.pth.tar", "pix2pix checkpoint")
        timed = ("seconds", "images_per_s")
        saved["history"] = [{k: v for k, v in row.items() if k not in timed} for row in saved["history"]]
        return {k: v for k, v in saved.items() if k not in ("config", "seconds")}

    return read


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
def at_step(monkeypatch):
    """Calls `act(losses)` after the n-th training step from now on; what it returns replaces the losses."""

    def install(n, act):
        step, count = train_module.train_step, iter(range(1, 10**6))

        def counted(*args, **options):
            losses = step(*args, **options)
            return act(losses) if next(count) == n else losses

        monkeypatch.setattr(train_module, "train_step", counted)

    return install


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("slow") and not item.config.getoption("--slow"):
        pytest.skip("slow: run with --slow")
