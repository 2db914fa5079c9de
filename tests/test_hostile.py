"""Files that are damaged or made to harm: a sentence for each, nothing executed, nothing written elsewhere."""

import contextlib
import io
import json
import math
import pickle
import tarfile
import zipfile
from dataclasses import fields
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from conftest import GRAY, RGB, Runs, pair_of, paired, write_generator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from config import Config
from generator import Generator
from inference.load import load_generator
from pairs import download
from pairs.download import unpack
from pairs.find import find_pairs
from pairs.images import read_header, read_picture
from pairs.picture import to_array
from pairs.reading import read_pair
from runtime.cli import load_settings
from utils import DataError

FUZZ = settings(max_examples=1000, derandomize=True, deadline=None, database=None,
                suppress_health_check=list(HealthCheck))


def picture(suffix, mode="RGB", size=(32, 16)):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (*size[::-1], 4), dtype=np.uint8), "RGBA").convert(mode)
    file = io.BytesIO()
    frames = dict(save_all=True, append_images=[ImageOps.flip(image)]) if suffix == "gif" else {}
    image.save(file, Image.registered_extensions()[f".{suffix}"], **frames)
    return file.getvalue()


WHOLE = {(suffix, mode): picture(suffix, mode) for suffix, modes in (
    ("png", ("RGB", "RGBA", "L", "P", "1")), ("jpg", ("RGB", "L", "CMYK")), ("webp", ("RGB", "RGBA")),
    *((name, ("RGB", "L")) for name in ("bmp", "gif", "ppm")), ("tif", ("RGB", "L", "RGBA"))) for mode in modes}
cuts = st.tuples(st.just("cut"), st.floats(0, 1), st.integers(0, 0))
flips = st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7))
bytes_ = st.tuples(st.just("set"), st.floats(0, 1), st.integers(0, 255))
repeats = st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(1, 200))
mutations = st.lists(st.one_of(flips, bytes_, cuts, repeats), min_size=1, max_size=6)


def mutated(content, changes):
    content = bytearray(content)
    for what, where, value in changes:
        i = min(int(where * len(content)), max(0, len(content) - 1))
        if what == "cut":
            content = content[: max(i, 1)]
        elif what == "flip":
            content[i] ^= 1 << value
        elif what == "set":
            content[i] = value
        else:
            content[i:i] = content[i : i + value]
    return bytes(content)


def refused_or_read(act):
    """DataError and ValueError are sentences; anything else fails the test."""
    try:
        act()
    except ValueError as error:
        assert str(error)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "ppm", "tif"])
@FUZZ
@given(changes=mutations, data=st.data())
def test_damaged_images_are_read_or_refused(tmp_path_factory, suffix, changes, data):
    mode = data.draw(st.sampled_from([m for s, m in WHOLE if s == suffix]))
    path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
    path.write_bytes(mutated(WHOLE[suffix, mode], changes))
    refused_or_read(lambda: read_header(path).size)
    refused_or_read(lambda: read_pair(pair_of(path), RGB, RGB))
    refused_or_read(lambda: read_pair(pair_of(path), GRAY, RGB, lambda size: (2, 2)))
    refused_or_read(lambda: to_array(read_picture(path), 3))


def test_images_of_extreme_shapes_and_kinds_become_items_or_are_refused(tmp_path):
    cfg = Config(crop_size=64, load_size=72, n_layers=0)
    for size in ((2, 1), (2, 100_000), (100_000, 1)):
        Image.new("RGB", size, "red").save(tmp_path / "a.png")
        assert paired([pair_of(tmp_path / "a.png")], cfg)[0][0].shape == (3, 64, 64)
    frames = [Image.new("RGB", (8, 4), colour) for colour in ("red", "blue")]
    for suffix in ("png", "webp", "tif", "gif"):
        frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:])
        first = read_pair(pair_of(tmp_path / f"moving.{suffix}"), RGB, RGB)[0]
        assert first.shape == (4, 4, 3) and (first.argmax(axis=2) == 0).all()  # the red one
    frames[0].save(tmp_path / "still.jp2")
    (tmp_path / "still.jp2").rename(tmp_path / "false.png")
    with pytest.raises(DataError, match="is no image of a format that is read"):
        read_picture(tmp_path / "false.png")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A generator's file, small, as bytes."""
    path = tmp_path_factory.mktemp("whole") / "gen.pth.tar"
    load_generator(write_generator(path, Generator(ngf=1, crop_size=64), dict(ngf=1, direction="AtoB")))
    return path.read_bytes()


@pytest.mark.slow
@FUZZ
@given(changes=mutations)
def test_damaged_checkpoints_are_loaded_or_refused(tmp_path_factory, whole, changes):
    """Also where the archive is sound and its data.pkl is not: nearer to an attacker than a random byte of the file."""
    path = tmp_path_factory.getbasetemp() / "gen.pth.tar"
    path.write_bytes(mutated(whole, changes))
    refused_or_read(lambda: load_generator(path))
    refused_or_read(lambda: load_settings(path.parent))
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutated(content, changes) if name.endswith("data.pkl") else content)
    refused_or_read(lambda: load_generator(path))


def test_pickles_that_would_run_code_are_refused_and_run_nothing(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "gen.pth.tar"
    for value in (Runs(canary), {"format": "pix2pix generator", "state_dict": Runs(canary)}):
        for protocol in (2, 5):
            path.write_bytes(pickle.dumps(value, protocol))
            with pytest.raises(ValueError, match="gen.pth.tar"):
                load_generator(path)
        torch.save(value, path)
        with pytest.raises(ValueError, match="gen.pth.tar"):
            load_generator(path)
        (tmp_path / "checkpoint.pth.tar").write_bytes(path.read_bytes())
        with pytest.raises(ValueError, match="checkpoint.pth.tar"):
            load_settings(tmp_path)
    assert not canary.exists()


def test_checkpoints_with_other_keys_shapes_types_and_weights_are_refused(tmp_path, whole):
    path = tmp_path / "gen.pth.tar"
    saved = torch.load(io.BytesIO(whole), weights_only=True)
    weights, config = saved["state_dict"], saved["config"]
    first = next(iter(weights))
    bad = [
        [], 5, "text", {}, {"format": "pix2pix generator"}, {**saved, "state_dict": 5}, {**saved, "config": []},
        {"format": "pix2pix checkpoint"}, {"format": "pix2pix checkpoint", "state": [1]},
        {**saved, "state_dict": {**weights, first: torch.zeros(1)}}, {**saved, "state_dict": {}},
        {**saved, "state_dict": {**weights, "more": torch.zeros(1)}},
        {**saved, "state_dict": {**weights, first: weights[first] * math.nan}},
        {**saved, "state_dict": {**weights, first: "text"}},
        *({**saved, "config": {**config, **change}} for change in (
            {"ngf": 2}, {"ngf": 10**9}, {"ngf": -1}, {"ngf": "many"}, {"crop_size": 100}, {"crop_size": 2**40},
            {"in_channels": 4}, {"in_channels": 0}, {"dropout": 7.0}, {"crop_size": None}, {"out_channels": 10**9})),
    ]
    for value in bad:
        torch.save(value, path)
        with pytest.raises(ValueError, match="gen.pth.tar"):
            load_generator(path)


def npz(path, compress=True, **arrays):
    (np.savez_compressed if compress else np.savez)(path, **arrays)
    return path.read_bytes()


@pytest.mark.slow
@FUZZ
@given(changes=mutations)
def test_damaged_npz_files_are_read_or_refused(tmp_path_factory, changes):
    folder = tmp_path_factory.getbasetemp() / "npz"
    folder.mkdir(exist_ok=True)
    for compress in (True, False):
        good = npz(folder / "train.npz", compress, a=np.zeros((3, 4, 4, 3), np.uint8), b=np.ones((3, 4, 4), np.uint8))
        (folder / "train.npz").write_bytes(mutated(good, changes))
        refused_or_read(lambda: find_pairs(folder))


def test_an_npz_with_objects_or_a_bomb_is_refused_without_filling_memory(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    npz(tmp_path / "train.npz", a=np.array([Runs(canary)], object), b=np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(DataError, match="train.npz"):
        find_pairs(tmp_path)
    assert not canary.exists()
    monkeypatch.setattr("pairs.find.NPZ_BYTES", 10**6)
    size = npz(tmp_path / "train.npz", a=np.zeros((20, 256, 256), np.uint8), b=np.zeros((20, 256, 256), np.uint8))
    assert len(size) < 10**5
    with pytest.raises(DataError, match="unpacks to 2,6.* bytes, more than 1,000,000"):
        find_pairs(tmp_path)
    header = np.lib.format.magic(1, 0)
    text = repr({"descr": "|u1", "fortran_order": False, "shape": (2**40, 2**20)}).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as file:  # a header that promises more than there is
        for name in "ab":
            file.writestr(f"{name}.npy", header + len(text).to_bytes(2, "little") + text)
    with pytest.raises(DataError, match="train.npz"):
        find_pairs(tmp_path)


@pytest.mark.slow
@settings(FUZZ, max_examples=400)
@given(name=st.one_of(st.text(min_size=1, max_size=30), st.sampled_from(
    ["..", "../x", "/tmp/x", "a/../../x", "a/./b", "~/x", "C:\\x", "a\x00b", "a" * 300, "."])),
       kind=st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
                             tarfile.BLKTYPE, tarfile.FIFOTYPE, b"x"]), changes=st.one_of(st.just([]), mutations))
def test_no_archive_writes_outside_its_folder(tmp_path_factory, name, kind, changes):
    base = tmp_path_factory.mktemp("tar")
    (base / "keep").write_text("kept")
    archive, file = base / "a.tar", io.BytesIO()
    try:
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "../keep", 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"new"))
    except (ValueError, UnicodeError):
        return
    archive.write_bytes(mutated(file.getvalue(), changes))
    with contextlib.suppress(ValueError, OSError, EOFError, tarfile.TarError):  # which fetch() makes a sentence of
        unpack(archive, base / "in" / "folder")
    assert (base / "keep").read_text() == "kept"
    assert {path.name for path in base.iterdir()} <= {"keep", "a.tar", "in"}
    assert not (base / "in").exists() or [path.name for path in (base / "in").iterdir()] == ["folder"]
    assert not any(path.is_symlink() for path in base.rglob("*"))


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "UNPACKED", 10**6)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for i in range(3):
            member = tarfile.TarInfo(f"{i}")
            member.size = 500_000
            tar.addfile(member, io.BytesIO(bytes(500_000)))
    with pytest.raises(ValueError, match="more than 1,000,000 bytes"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


values = st.one_of(st.integers(-(10**12), 10**12), st.floats(), st.text(max_size=8), st.booleans(), st.none(),
                   st.sampled_from(["auto", "on", "off", "A", "B", "fp32", "cuda:0", 64, 256, 0.5, 1]))


@pytest.mark.slow
@settings(FUZZ, max_examples=2000)
@given(changes=st.dictionaries(st.sampled_from([f.name for f in fields(Config)]), values, min_size=1, max_size=4))
def test_any_configuration_is_valid_or_refused_by_name(changes):
    try:
        cfg = Config(**changes)
    except (ValueError, TypeError) as error:
        assert any(f.name in str(error) for f in fields(Config)) or "Path" in str(error) or "path" in str(error)
        return
    for f in fields(Config):
        if get_origin(f.type) is Literal:
            assert getattr(cfg, f.name) in get_args(f.type)
    assert Config(**json.loads(json.dumps(cfg.plain()))) == cfg
