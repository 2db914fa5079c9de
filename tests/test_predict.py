import errno
import math
import os
import re
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import call, save, translated
from PIL import Image

import predict as predict_module
from generator import Generator
from inference import translate as translate_module
from inference.trained import Trained
from inference.translate import Translator, translate
from pairs.geometry import Geometry, Sizes
from pairs.images import read_header, read_picture, write_picture
from pairs.picture import TURNED, picture_of
from predict import Job, Predict, find_jobs, predict, tell_pairs
from runtime import files
from utils import DataError, UserError


def image(width, height, channels=3, dtype=np.uint8, seed=0):
    """A smooth random image."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, channels), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return smooth.astype(dtype) * (257 if dtype == np.uint16 else 1)


def test_padding_mirrors_the_image_and_is_cropped_off_again(gen):
    for width, height in ((1, 1), (5, 70), (64, 64), (65, 100)):
        x, seen = torch.rand(1, 3, height, width), []
        assert torch.equal(translate_module.at_any_size(
            gen, x, network_for=lambda: lambda padded: seen.append(padded) or padded), x)  # noqa: B023
        assert seen[0].shape[-2] % 64 == 0 == seen[0].shape[-1] % 64
        assert set(seen[0].unique().tolist()) == set(x.unique().tolist())  # nothing but pixels of the image
    left = (128 - 65) // 2
    assert torch.equal(seen[0][..., left - 3 : left].flip(-1)[:, :, 14:114], x[..., 1:4])


@pytest.mark.parametrize("kind", ["RGB", "L", "1", "P", "RGBA", "I;16"])
def test_pillow_s_kinds_come_back_as_they_went_in(gen, kind):
    picture = Image.fromarray(image(70, 50, 1, np.uint16)[..., 0] if kind == "I;16" else image(70, 50))
    result = translate(gen, picture if kind == "I;16" else picture.convert(kind))
    assert isinstance(result, Image.Image) and result.size == (70, 50)
    assert result.mode == ("RGBA" if kind == "RGBA" else "RGB")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_arrays_come_back_as_they_went_in(gen, channels, dtype):
    array = image(70, 50, channels or 1, np.uint16 if dtype == ">u2" else dtype)
    result = translate(gen, (array if channels else array[..., 0]).astype(dtype))
    assert result.dtype == array.dtype and result.shape == (50, 70, 4 if channels == 4 else 3)
    assert (result == translate(gen, array)).all()


@pytest.mark.parametrize(("bad", "told"), [
    *((bad, "must be an array of numbers") for bad in (np.zeros((0, 4), np.uint8), np.zeros((4, 4, 65), np.uint8),
                                                       np.zeros(4, bool), [1, 2], np.zeros((4, 4), "U"))),
    (np.zeros((4, 4, 5), np.uint8), "the image has 5 channels, not the 3"), (np.zeros((4, 4)), "range: make them 8"),
    (Image.fromarray(np.zeros((4, 4), np.int32)), "unknown range")])
def test_what_is_no_picture_is_refused(gen, bad, told):
    with pytest.raises(ValueError, match=told):
        translate(gen, bad)


def test_dropout_and_norm_take_the_words_of_the_command_line_and_no_others(gen):
    picture = image(64, 64)
    for word, truth in (("on", True), ("off", False)):
        assert (translate(gen, picture, dropout=word) == translate(gen, picture, dropout=truth)).all()
        with gen.test_time(dropout=word):
            assert gen.decoder[0][3].training == truth
    for wrong in (dict(dropout="Off"), dict(dropout="no"), dict(dropout=None), dict(dropout=0.0), dict(dropout=[]),
                  dict(norm="off"), dict(norm=True), dict(norm=None), dict(scale="off"), dict(tile=-64), dict(tile=100),
                  dict(scale=0), dict(scale=True), dict(scale=None), dict(scale=math.nan), dict(seed=-1),
                  dict(seed=2**70)):
        with pytest.raises(UserError, match=f"^{next(iter(wrong))} must be "):
            translate(gen, picture, **wrong)


@pytest.mark.parametrize("tile", [64, 128, 256])
def test_tiles_that_disagree_fade_into_one_another_without_a_seam(gen, tile):
    """The worst case, one tile black and the next one white: no step between neighbouring pixels stands out."""
    calls = []
    tiled = translate_module.at_any_size(gen, torch.zeros(1, 3, 64, 704), tile, lambda samples: lambda part: (
        calls.append(1) or torch.full_like(part, len(calls) % 2)))
    steps = (tiled[..., 1:] - tiled[..., :-1]).abs()
    assert tiled.min() == 0 and tiled.max() == 1 and steps.max() < 2.5 / (tile / 4)


def test_a_large_image_is_tiled_by_itself_and_the_budget_counts_padding_and_batches(gen, monkeypatch):
    seen = []
    monkeypatch.setattr(Generator, "forward", lambda self, x: seen.append(x.shape) or x)
    assert translate(gen, np.zeros((2100, 2100, 3), np.uint8), scale="native").shape == (2100, 2100, 3)
    assert max(shape[-1] * shape[-2] for shape in seen) <= 1024 * 1024
    assert translate(gen, np.zeros((2, 100_000, 3), np.uint8), scale="native").shape == (2, 100_000, 3)
    assert Translator(gen).tensor(torch.zeros(3, 3, 1500, 1500)).shape == (3, 3, 1500, 1500)
    assert max(n * h * w for n, _, h, w in seen) <= 2048 * 2048


# Files and folders


@pytest.fixture
def run(gen, checkpoint):
    def call(source, output, **changes):
        opts = replace(Predict(checkpoint, source, output, precision="fp32"), **changes)
        translator = Translator(gen, precision=opts.precision)
        return predict(translator, find_jobs(opts, translator.trained), opts)

    return call


def test_where_nothing_can_be_written_nothing_is_translated(checkpoint, tmp_path, disk, monkeypatch):
    save(tmp_path / "in" / "a.png", image(64, 64))
    folder = disk(tmp_path / "closed", 65536)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    monkeypatch.setattr(predict_module, "predict", None)
    status, out, err = call(predict_module, "--checkpoint", checkpoint, "--input", tmp_path / "in", "--output",
                            folder / "deep" / "out", "--device", "cpu")
    assert status == 2 and err == f"error: nothing can be written to {folder}: Read-only file system\n"


def test_a_folder_keeps_names_and_sub_folders_whatever_the_batch_size(run, tmp_path):
    for i in range(7):
        save(tmp_path / "in" / ("sub" if i % 2 else ".") / f"bild {i} ü.png", image(64 + i // 3, 50, seed=i))
    for size in (1, 4):
        assert run(tmp_path / "in", tmp_path / f"out{size}", batch_size=size) == []
    names = [sorted(p.relative_to(tmp_path / d) for p in (tmp_path / d).rglob("*.png")) for d in ("in", "out1", "out4")]
    assert names[0] == names[1] == names[2] and len(names[0]) == 7
    for name in names[0]:
        one, four = (np.asarray(Image.open(tmp_path / d / name)).astype(int) for d in ("out1", "out4"))
        assert one.shape == np.asarray(Image.open(tmp_path / "in" / name)).shape and np.abs(one - four).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_the_ending_gives_the_format(run, tmp_path, suffix):
    source = save(tmp_path / "in.png", np.dstack([image(64, 64), image(64, 64, 1)]))  # with transparency
    assert run(source, tmp_path / f"out.{suffix}") == []
    with Image.open(tmp_path / f"out.{suffix}") as result:
        assert result.format == dict(png="PNG", jpg="JPEG", webp="WEBP", bmp="BMP", tiff="TIFF")[suffix]
        assert result.mode == ("RGB" if suffix in ("jpg", "bmp") else "RGBA")


@pytest.mark.parametrize(("direction", "width", "half"), [("AtoB", 128, "left"), ("BtoA", 128, "right"),
                                                          ("AtoB", 192, "")])
def test_an_image_that_may_hold_both_sides_is_told(tmp_path, capsys, direction, width, half):
    save(tmp_path / "pair.png", image(width, 64))
    trained = Trained(3, 3, Geometry(), direction, sizes=Sizes.of_file((64, 64)))
    opts = Predict(tmp_path, tmp_path / "pair.png", tmp_path / "out.png")
    for side in ("no", "left"):
        tell_pairs([Job((opts.input,), opts.output)], replace(opts, side_by_side=side), trained)
        said = capsys.readouterr().out
        assert said.endswith(f"add --side-by-side {half}\n") if half and side == "no" else not said


@pytest.mark.parametrize("suffix", ["gif", "ppm", "jfif"])
def test_of_formats_that_are_only_read_png_is_written(run, tmp_path, capsys, suffix):
    save(tmp_path / "in" / f"a.{suffix}", image(64, 64))
    for source in (tmp_path / "in", tmp_path / "in" / f"a.{suffix}"):
        folder = tmp_path / f"out of {source.name[:2]}"
        run(source, folder)
        assert [path.name for path in folder.iterdir()] == ["a.png"]
    with pytest.raises(UserError, match="must end in .*, or be a folder"):
        run(source, tmp_path / f"a.{suffix}")
    save(tmp_path / "in" / "a.png", image(64, 64))
    run(tmp_path / "in", tmp_path / "both")
    assert [path.name for path in (tmp_path / "both").iterdir()] == ["a.png"]
    assert f"not used: {tmp_path / 'in' / f'a.{suffix}'}, beside which" in capsys.readouterr().out


def test_one_image_is_never_split_but_by_request(run, gen, tmp_path):
    pair = np.concatenate([image(64, 64), 255 - image(64, 64)], axis=1)
    source = save(tmp_path / "pair.png", pair)
    run(source, tmp_path / "whole.png")
    assert Image.open(tmp_path / "whole.png").size == (128, 64)
    for side, half in (("left", pair[:, :64]), ("right", pair[:, 64:])):
        run(source, tmp_path / f"{side}.png", side_by_side=side)
        assert (np.asarray(Image.open(tmp_path / f"{side}.png")) == translate(
            gen, half, precision="fp32")).all()
    run(source, tmp_path / "compare.png", side_by_side="right", compare=True)
    sheet = np.asarray(Image.open(tmp_path / "compare.png"))
    assert (sheet[:, :64] == pair[:, 64:]).all() and (sheet[:, 128:] == pair[:, :64]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_the_same_at_8_and_16_bits(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = TURNED.get(orientation, np.asarray)(image(7, 5))
    for suffix in ("jpg", "png"):
        Image.fromarray(image(7, 5)).save(tmp_path / f"8.{suffix}", exif=exif)
        found = read_picture(tmp_path / f"8.{suffix}")
        assert found.size == read_header(tmp_path / f"8.{suffix}").size == upright.shape[1::-1]
    assert (found.array == upright).all()
    deep = cv2.imencode(".png", image(7, 5, dtype=np.uint16)[..., ::-1])[1].tobytes()
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    told = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "16.png").write_bytes(deep[:33] + told + deep[33:])  # behind the header
    assert (read_picture(tmp_path / "16.png").array == upright.astype(np.uint16) * 257).all()


def test_in_a_sheet_transparency_is_laid_over_white(run, tmp_path, capsys):
    picture = np.dstack([image(64, 64), np.full((64, 64), 255, np.uint8)])
    picture[32:, :, 3] = 0
    run(save(tmp_path / "in.png", picture), tmp_path / "out.png", compare=True)
    sheet = np.asarray(Image.open(tmp_path / "out.png"))
    assert sheet.shape == (64, 128, 3) and (sheet[32:] == 255).all() and sheet[:32, 64:].mean() < 250
    assert "inputs are transparent: 1, such as " in capsys.readouterr().out
    picture[32:, :, 3] = 255
    run(save(tmp_path / "in.png", picture), tmp_path / "out.png")
    assert "transparent" not in capsys.readouterr().out


def test_a_file_that_cannot_be_written_costs_only_itself(run, tmp_path):
    for name, width in (("a", 64), ("b", 17_000), ("c", 64)):
        save(tmp_path / "in" / f"{name}.png", image(width, 2))
    failures = run(tmp_path / "in", tmp_path / "out", ending=".webp")
    assert len(failures) == 1 and "b.webp cannot be written" in failures[0]  # wider than WebP can be
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.webp", "c.webp"]


def picture_at(path):
    return save(path, image(8, 8))


def link(path, to, how="symlink_to"):
    path.parent.mkdir(parents=True, exist_ok=True)
    getattr(path, how)(to)
    return path


# How an input and an output of predict.py meet: a function of a folder, and of n/labels in it with the picture x.png,
# that returns the output, or an input and the output
MEETINGS = {
    "the output folder holds the input folder": lambda place, n: picture_at(n / "labels/x.png").parents[2],
    "a new file inside the input folder": lambda place, n: picture_at(n / "labels/new.png").parents[2],
    "a way round": lambda place, n: place / "new/../n/labels",
    "a linked file": lambda place, n: link(place / "out/x.png", n / "x.png").parent,
    "a hard link": lambda place, n: link(place / "out/x.png", n / "x.png", "hardlink_to").parent,
    "a linked folder": lambda place, n: link(place / "out/sub", picture_at(n / "sub/x.png").parent).parent,
    "an input that is a link": lambda place, n: link(n / "y.png", picture_at(place / "out/y.png")) and place / "out",
    "a folder into a file": lambda place, n: picture_at(place / "out.png"),
    "a file into a folder": lambda place, n: (n / "x.png", n),
    "a file to a link of it": lambda place, n: (n / "x.png", link(place / "out/y.png", n / "x.png")),
    "two outputs in one file": lambda place, n: picture_at(n / "sub/x.png") and link(place / "out/sub", ".").parent,
    "two outputs of one name": lambda place, n: picture_at(n / "x.jpg") and place / "out",
}


@pytest.mark.parametrize("kind", MEETINGS)
def test_where_outputs_and_inputs_meet_nothing_is_written(checkpoint, tmp_path, kind):
    labels = picture_at(tmp_path / "n/labels/x.png").parent
    found = MEETINGS[kind](tmp_path, labels)
    source, output = found if isinstance(found, tuple) else (labels, found)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, _, err = translated(checkpoint, source, output, "--ending", ".png")
    told = "another folder than|is an input, and would be overwritten|would both be written to"
    if kind == "a folder into a file":
        told = "is a file; for a folder of images, it must be a folder"
    assert status == 2 and re.search(f"^error: .*({told})", err) and err.count("\n") == 1, err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_outputs_beside_the_inputs_and_outputs_of_before_are_no_mistake(tmp_path):
    save(tmp_path / "n" / "labels" / "x.png", image(8, 8))
    save(tmp_path / "n" / "labels" / "X.png", image(8, 8))
    save(tmp_path / "n" / "x.png", image(8, 8))  # from the last time
    (tmp_path / "n" / "labels" / "again.png").symlink_to("x.png")
    (tmp_path / "results.v2").mkdir()  # a folder that is there, and no format
    names = ["X.png", "again.png", "x.png"]
    for source, place, wanted in (("", "n", names), ("", "elsewhere", names), ("X.png", "results.v2", ["X.png"])):
        opts = Predict(Path("unused"), tmp_path / "n" / "labels" / source, tmp_path / place)
        found = find_jobs(opts, Trained(3, 3, Geometry()))
        assert [job.output for job in found] == [tmp_path / place / name for name in wanted]


def test_the_command_translates_a_folder_and_tells_failures_by_its_status(checkpoint, tmp_path):
    for i in range(3):
        save(tmp_path / "in" / f"{i}.png", image(70, 60, seed=i))
    (tmp_path / "in" / "broken.png").write_bytes(b"x")
    status, out, err = translated(checkpoint, tmp_path / "in", tmp_path / "out", "--batch-size", 2)
    assert status == 1 and "3 images" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "2.png"]
    assert err.startswith("not translated: ") and "broken.png" in err and err.count("\n") == 1


@pytest.mark.parametrize(("flag", "value", "said"), [
    ("--checkpoint", "nowhere", "nowhere"), ("--checkpoint", "damaged", "gen.pth.tar"),
    ("--input", "nowhere", "nowhere"), ("--input", "empty", "0 images"),
    ("--output", "out.pgm", "must end in .* or be a folder that is there"),
    ("--output", "results.v2", "must end in .* or be a folder that is there"), ("--tile", 65, "tile must be"),
    ("--scale", 0, "scale must be"), ("--batch-size", 0, "batch_size must be"), ("--seed", 2**70, "seed must be"),
    ("--seed", -1, "seed must be"), ("--device", "meta", "device")])
def test_a_mistake_is_one_sentence_and_status_2(checkpoint, tmp_path, monkeypatch, flag, value, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    source = save(tmp_path / "in" / "a.png", image(64, 64))
    flags = {"--checkpoint": checkpoint, "--input": source, "--output": "out.png", flag: value}
    if value == "damaged":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
        flags[flag] = checkpoint
    status, _, err = call(predict_module, *[word for pair in flags.items() for word in pair])
    assert status == 2 and re.search(f"^error: .*{said}", err) and err.count("\n") == 1, err


@pytest.mark.parametrize(("flags", "instead"), [
    (["--export", "gen.onnx"], "export.py"), (["--export=gen.pt2"], "export.py"), (["--half"], "export.py --half"),
    (["--resize"], "--scale crop"), (["--no-resize"], "--scale trained")])
def test_a_flag_that_has_gone_is_told_with_what_to_write_instead(checkpoint, flags, instead):
    status, _, err = call(predict_module, "--checkpoint", checkpoint, *flags)
    assert status == 2 and instead in err and err.startswith("error: --") and err.count("\n") == 1, err


@pytest.mark.parametrize(("label_side", "ending", "said"), [("B", "jpg", True), ("both", "webp", True),
                                                            ("A", "jpg", False), ("B", "png", False)])
def test_label_maps_that_are_written_as_jpeg_are_warned_of(checkpoint, tmp_path, label_side, ending, said):
    saved = torch.load(checkpoint, weights_only=True)
    saved["config"] |= dict(direction="AtoB", label_side=label_side)
    torch.save(saved, checkpoint)
    source = save(tmp_path / "in.png", image(64, 64))
    status, out, _ = translated(checkpoint, source, tmp_path / f"out.{ending}")
    assert status == 0 and ("--ending .png keeps them" in out) == said


@pytest.mark.parametrize("error", [
    lambda: torch.empty(2**50, dtype=torch.uint8), lambda: np.empty(2**60, np.uint8),
    lambda: cv2.resize(np.zeros((2, 2), np.uint8), (2**22, 2**22)),
    lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))],
    ids=["torch", "numpy", "opencv", "cuda"])
def test_want_of_memory_is_a_sentence(checkpoint, tmp_path, monkeypatch, error):
    source = save(tmp_path / "a.png", image(64, 64))
    monkeypatch.setattr(Generator, "forward", lambda self, x: error())
    status, _, err = translated(checkpoint, source, tmp_path / "b.png")
    assert status == 2 and "too little memory" in err and err.count("\n") == 1, err


def test_an_output_that_is_not_finite_is_a_failure_and_no_black_picture(run, tmp_path, monkeypatch):
    forward = Generator.forward
    monkeypatch.setattr(Generator, "forward", lambda self, x: forward(self, x) * (torch.nan if x.max() < 0 else 1))
    save(tmp_path / "in" / "a.png", image(64, 64))
    save(tmp_path / "in" / "b.png", image(64, 64) // 4)
    failures = run(tmp_path / "in", tmp_path / "out")
    assert len(failures) == 1 and "b.png" in failures[0] and "not finite" in failures[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_a_folder_at_the_first_output(run, tmp_path, monkeypatch, number, large):
    """And not after all others were translated for nothing."""
    for i in range(20):
        write_picture(tmp_path / "in" / f"{i:02d}.tif", picture_of(image(64, 64, seed=i)))
    if large:
        monkeypatch.setattr(predict_module, "is_large", lambda *_: (64, 64))
    seen, forward = [], Generator.forward
    monkeypatch.setattr(Generator, "forward", lambda self, x: seen.append(x) or forward(self, x))

    def full(file, **_):
        raise OSError(number, os.strerror(number))

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(DataError, match=f"0[0-9].tif.*{os.strerror(number)}"):
        run(tmp_path / "in", tmp_path / "out")
    assert len(seen) < 10
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_file()]


@pytest.mark.parametrize("large", [False, True])
def test_what_another_program_writes_meanwhile_stays_and_is_told(run, tmp_path, monkeypatch, large):
    for name in "ab":
        write_picture(tmp_path / "in" / f"{name}.tif", picture_of(image(64, 64)))
        write_picture(tmp_path / "out" / f"{name}.tif", picture_of(image(64, 64, seed=1)))
    before = (tmp_path / "out" / "a.tif").read_bytes()
    if large:
        monkeypatch.setattr(predict_module, "is_large", lambda *_: (64, 64))
    forward = Generator.forward

    def meanwhile(self, x):
        (tmp_path / "out" / "b.tif").write_bytes(b"another's")
        return forward(self, x)

    monkeypatch.setattr(Generator, "forward", meanwhile)
    failures = run(tmp_path / "in", tmp_path / "out")
    assert len(failures) == 1 and "b.tif was written by another program meanwhile, and stays" in failures[0]
    assert (tmp_path / "out" / "b.tif").read_bytes() == b"another's"
    assert (tmp_path / "out" / "a.tif").read_bytes() != before
