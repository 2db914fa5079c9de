"""prepare.py makes pairs that are aligned to the pixel, goes on where it was stopped, and touches nobody's files."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from conftest import ROOT, call, launch, save, wait_until, write_raster
from PIL import Image
from rasterio import warp
from rasterio.shutil import copy
from rasterio.transform import from_origin

import prepare
from making.edges import LEAST, edges, gradient, is_ridge
from making.folder import Blocks, Folder, Made, shown
from making.photos import Photos
from pairs.find import find_pairs
from pairs.images import MAGIC, read_picture
from runtime.files import atomic
from utils import UserError


def run(*words, status=0, lines=1):
    """What the program said that ended with this status; a refusal is one sentence, unless more was said before."""
    ended, *said = call(prepare, *words)
    said = "".join(said)
    assert ended == status and (status != 2 or said.count("\n") == lines), said
    return said


def photo(path, seed=0, size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size).convert(mode).save(path, **options)
    return path


def photos(folder, n=20):
    for i in range(n):
        photo(folder / f"{i:02d}.jpg", i)
    return folder


def made(out):
    """The files in OUT by split, side and name, without the ending."""
    files = {path.relative_to(out).with_suffix("").as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert files.pop("prepare") == out / "prepare.json"
    return files


def pairs_in(out):
    splits = find_pairs(out, 0).splits
    return [*splits["train"], *splits["val"]]


def state(folder):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(folder.rglob("*")) if path.is_file()}


def drawing(rng):
    """Shapes of flat colour on a ground, (128, 128, 3), and where one colour meets another: (128, 128) bool."""
    image = np.full((128, 128, 3), 200, np.uint8)
    colours = [(20, 40, 90), (90, 20, 20), (20, 90, 30), (120, 120, 20)]
    centres = [(32, 32), (92, 36), (36, 92), (90, 92)]
    for colour, (x, y) in zip(rng.permutation(colours).tolist(), centres, strict=True):
        side = int(rng.integers(14, 24))
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), side, colour, -1)
        else:
            corners = cv2.boxPoints(((x, y), (2 * side, 1.5 * side), float(rng.uniform(0, 90))))
            cv2.fillPoly(image, [corners.round().astype(np.int32)], colour)
    grown = cv2.dilate(image, np.ones((3, 3), np.uint8))
    return image, (grown != image).any(axis=2)


def near(points, others, pixels=2):
    """The share of the True pixels of `points` that have one of `others` within so many pixels."""
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (distance[points] <= pixels).mean()


def test_edges_are_where_shapes_end():
    """Edges that lie beside the photo's, as the authors' scripts shift theirs, or gaps, or texture."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        image, outline = drawing(rng)
        noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255)
        found = edges(noisy)
        assert near(found, outline) >= 0.95 and near(outline, found) >= 0.95, seed


def test_no_crumbs_are_left():
    """Noise makes them, and nobody draws them."""
    noise = np.random.default_rng(0).normal(128, 30, (256, 256, 3)).clip(0, 255)
    _, _, stats, _ = cv2.connectedComponentsWithStats(edges(noise).astype(np.uint8), connectivity=8)
    assert len(stats) > 3 and stats[1:, cv2.CC_STAT_AREA].min() == LEAST


@pytest.mark.parametrize("turns", range(4))
def test_edges_are_one_pixel_wide_and_not_shifted(turns):
    """On each side of a square, the edge is one of the two pixels where the colours meet."""
    image = np.full((64, 64, 1), 50, np.uint8)
    image[20:44, 20:44] = 150
    found = np.rot90(edges(np.rot90(image, turns)), -turns)
    strength, *direction = gradient(np.rot90(image, turns), 2)
    crest = (strength > 25) & is_ridge(strength, *direction)
    assert crest[32].sum() <= 4 and crest[:, 32].sum() <= 4  # two pixels that are equally strong, on either side
    for line, border in ((found[32], 20), (found[:, 32], 20), (found[32, ::-1], 20), (found[::-1, 32], 20)):
        assert np.flatnonzero(line[:32]).tolist() in ([border - 1], [border])


def test_a_step_counts_from_the_threshold_on_whatever_the_smoothing():
    """A threshold on the slope, which would have to be tuned anew for each sigma."""
    for sigma in (1.5, 2, 4):
        for step, there in ((21, False), (31, True)):
            image = np.full((60, 60, 3), 100, np.uint8)
            image[:, 30:, 1] += step
            assert edges(image, sigma).any() == there, (sigma, step)


@pytest.mark.parametrize("kind", ["edges", "gray", "hole", "small", "blur"])
def test_every_input_has_the_size_of_its_photo(tmp_path, kind):
    out = tmp_path / "out"
    run("photos", photos(tmp_path / "photos", 20), out, "--input", kind)
    files = made(out)
    assert len(files) == 40 and {name.split("/")[0] for name in files} == {"train", "val"}
    for name, path in files.items():
        if "/B/" in name:
            assert path.samefile(tmp_path / "photos" / path.name)
            a, b = read_picture(files[name.replace("/B/", "/A/")]), read_picture(path)
            assert a.size == b.size and (a.array != b.array).any()
            if kind == "hole":
                kept = (a.array == b.array).all(axis=2)
                assert 0.05 < (~kept).mean() < 0.8 and (a.array[~kept] == 255).all()
    assert len(find_pairs(out).splits["train"]) == sum("train/A" in name for name in files)


@pytest.mark.parametrize(("kind", "flags"), [("small", ["--factor", 2]), ("blur", ["--sigma", 0.5]),
                                             ("edges", ["--sigma", 1]), ("edges", ["--threshold", 5])])
def test_flags_say_how_much_of_the_photo_is_left(tmp_path, kind, flags):
    """With these, more than by default."""
    noise = np.random.default_rng(0).normal(128, 30, (99, 99, 3)).clip(0, 255).astype(np.uint8)
    save(tmp_path / "photos" / "1.png", noise)
    lost = []
    for number, more in enumerate(([], flags)):
        run("photos", tmp_path / "photos", tmp_path / f"{number}", "--input", kind, "--val", 0, *more)
        a = read_picture(made(tmp_path / f"{number}")["train/A/1"]).array.astype(int)
        lost.append(a.mean() if kind == "edges" else np.abs(a - noise).mean())  # lines are black
    assert lost[1] < 0.95 * lost[0]


def test_photos_of_all_kinds_become_pairs_and_the_unreadable_are_counted(tmp_path):
    folder = tmp_path / "photos"
    photo(folder / "gray.png", 1, mode="L")
    clear = Image.open(photo(folder / "clear.png", 2))
    clear.putalpha(0)
    clear.save(folder / "clear.png")
    photo(folder / "deep" / "per.2026" / "colour.v1.png", 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(folder / "turned.jpg", 4, size=(50, 30), exif=exif)
    deep = np.random.default_rng(5).integers(0, 65535, (30, 40, 3), dtype=np.uint16)
    cv2.imwrite(str(folder / "sixteen.png"), deep)
    (folder / "broken.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:200])
    (folder / "notes.txt").write_text("mine")
    before = state(folder)
    said = run("photos", folder, tmp_path / "out", "--input", "gray", "--val", "0", status=1)
    assert "5 in train" in said and "not used: 1" in said and "broken.jpg" in said
    assert "holds out a tenth" in said
    files = made(tmp_path / "out")
    assert "train/A/deep/per.2026/colour.v1" in files and len(files) == 10
    assert read_picture(files["train/A/turned"]).size == read_picture(files["train/B/turned"]).size == (30, 50)
    assert (shown(read_picture(files["train/B/clear"])) == 1).all()  # white in a preview, as in training
    a = read_picture(files["train/A/sixteen"])
    luminance = deep[..., ::-1] @ [0.299, 0.587, 0.114]
    assert a.kind == "uint16" and np.abs(a.array[..., 0] - luminance).max() <= 2
    assert {p: s[1:] for p, s in state(folder).items()} == {p: s[1:] for p, s in before.items()}


def test_copies_of_a_photo_stay_in_one_split(tmp_path):
    folder = photos(tmp_path / "photos", 12)
    for path in [*folder.iterdir()]:
        shutil.copy(path, folder / f"copy_{path.name}")
    run("photos", folder, tmp_path / "out", "--input", "gray", "--val", "0.4")
    names = {name.split("/", 2)[2]: name.split("/")[0] for name in made(tmp_path / "out")}
    assert {*names.values()} == {"train", "val"}
    assert all(names[name] == names[f"copy_{name}"] for name in names if not name.startswith("copy_"))


def test_splits_that_are_there_stay_and_large_photos_are_told_of(tmp_path):
    photo(tmp_path / "photos" / "train" / "1.jpg", 1, (700, 600))
    photo(tmp_path / "photos" / "validation" / "1.jpg", 2, (700, 600))
    for i in range(2):  # as in YOLO's data sets, whose test photos were trained on
        photo(tmp_path / "photos" / "images" / "Test" / f"{i}.jpg", 3 + i, (700, 600))
    said = run("photos", tmp_path / "photos", tmp_path / "out", "--input", "edges", "--preview")
    assert "--size 286" in said and not (tmp_path / "out").exists()
    run("photos", tmp_path / "photos", tmp_path / "out", "--input", "edges", "--size", "60")
    files = made(tmp_path / "out")
    names = {"train": ["1"], "val": ["1"], "test": ["images/Test/0", "images/Test/1"]}
    assert {*files} == {f"{split}/{side}/{name}" for split in names for side in "AB" for name in names[split]}
    assert all(read_picture(path).size == (70, 60) for path in files.values())
    photo(tmp_path / "photos" / "images" / "0.jpg", 5)  # beside Test/0.jpg
    assert "2 in test" in run("photos", tmp_path / "photos", tmp_path / "out", "--input", "edges", "--size", "60")


def test_holes_from_masks(tmp_path):
    """White is the hole, in a mask of any size; the mask of a photo's name is taken before one that is drawn."""
    folder, masks = photos(tmp_path / "photos", 4), tmp_path / "masks"
    some = np.zeros((30, 20), np.uint8)
    some[:, :10] = 1  # white is 1, too
    save(masks / "any.png", some)
    layer = np.full((30, 20, 4), 255, np.uint8)  # white paint, whose hidden colour is white as well
    layer[15:, :, 3] = 0
    save(masks / "02.png", layer)
    said = run("photos", folder, tmp_path / "out", "--input", "hole", "--masks", masks, "--val", "0")
    assert "for which one is drawn: 3 of 4" in said
    files = made(tmp_path / "out")
    for i in range(4):
        a, b = (read_picture(files[f"train/{side}/{i:02d}"]).array for side in "AB")
        assert 0.3 < (a != b).any(axis=2).mean() < 0.7
        assert i != 2 or ((a[:15] == 255).all() and (a[15:] == b[15:]).all())


def test_of_masks_of_one_name_that_of_the_photo_s_folder_is_taken(tmp_path):
    places = ["train/a", "train/b", "val/b"]
    for i, place in enumerate(places):
        photos(tmp_path / "photos" / place, 1)
        mask = np.zeros((30, 40), np.uint8)
        mask[10 * i : 10 * i + 10] = 255
        save(tmp_path / "masks" / place / "00.png", mask)
    run("photos", tmp_path / "photos", tmp_path / "out", "--input", "hole", "--masks", tmp_path / "masks")
    files = made(tmp_path / "out")
    for i, (split, city) in enumerate(place.split("/") for place in places):
        white = (read_picture(files[f"{split}/A/{city}/00"]).array == 255).all(axis=(1, 2))
        assert [*white.nonzero()[0]] == [*range(10 * i, 10 * i + 10)]


def test_a_second_call_goes_on_and_redoes_nothing(tmp_path):
    folder, out = photos(tmp_path / "photos"), tmp_path / "out"
    words = ["photos", folder, out, "--input", "blur"]
    run(*words)
    (out / "notes.txt").write_text("no pair")
    before = state(out)
    files = made(out)
    lost, empty = (next(files[name] for name in files if name.endswith(end)) for end in ("B/01", "A/02"))
    lost.unlink()
    empty.write_bytes(b"")  # as a crash of the machine may leave it
    half = lost.with_name(".pix2pix-0123456789abcdef.tmp")
    half.write_bytes(b"half")
    photo(folder / "new.jpg", 99)
    said = run(*words)
    after = state(out)
    assert "18 of them were there already" in said and not half.exists()
    assert all(after[path][2] == kept[2] for path, kept in before.items())
    assert sum(before.get(path) != kept for path, kept in after.items()) == 4  # two of A, and a new pair
    assert len(after) == len(before) + 2


@pytest.mark.long
def test_a_kill_costs_what_was_not_finished_only(tmp_path):
    folder, out, whole = photos(tmp_path / "photos", 300), tmp_path / "out", tmp_path / "whole"
    process = launch(ROOT / "prepare.py", "photos", folder, out, "--input", "edges")
    wait_until(lambda: len([*out.glob("*/A/*.png")]) > 5, lambda: process.poll() is None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len([*out.glob("*/A/*.png")]) < 300
    assert "of them were there already" in run("photos", folder, out, "--input", "edges")
    run("photos", folder, whole, "--input", "edges")
    contents = [{path.relative_to(place): kept[2] for path, kept in state(place).items()} for place in (out, whole)]
    assert contents[0] == contents[1] and len(contents[0]) == 601


def test_nothing_is_written_over_what_is_not_ours(tmp_path):
    folder = photos(tmp_path / "photos", 3)
    out = tmp_path / "out"
    photo(out / "mine.png")
    for target, message in ((out, "has not made, such as mine.png"), (folder, "lie in one another"),
                            (folder / "out", "lie in one another"), (tmp_path, "lie in one another"),
                            (out / "mine.png", "is a file")):
        before = state(tmp_path)
        assert message in run("photos", folder, target, "--input", "gray", status=2)
        assert state(tmp_path) == before
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.pix2pix-0123456789abcdef.tmp").write_bytes(b"{")  # of a call that was killed at once
    run("photos", folder, tmp_path / "new", "--input", "gray")
    note = json.loads((tmp_path / "new" / "prepare.json").read_text())
    assert note["command"] == "photos" and note["inputs"] == [str(folder)] and note["input"] == "gray"
    for damage, message in ((None, "begun with input gray, which is now blur"), ("[", "prepare.json is damaged")):
        if damage:
            (tmp_path / "new" / "prepare.json").write_text(damage)
        assert message in run("photos", folder, tmp_path / "new", "--input", "blur", status=2)
    first, second = (Folder(Photos(folder, tmp_path / "both", kind)) for kind in ("gray", "blur"))  # at once
    pair = Made("train", None, (folder / "00.jpg").read_bytes())
    (tmp_path / "both").mkdir()
    with atomic(tmp_path / "both/at work"):
        first.write("00", pair)
    with pytest.raises(UserError, match="begun with input gray, which is now blur"):
        second.write("00", pair)


@pytest.mark.parametrize("words, message", [
    (["nowhere", "out", "--input", "gray"], "nowhere is no folder"),
    (["empty", "out", "--input", "gray"], "0 images in empty"),
    (["broken", "out", "--input", "gray"], "no pair could be made; 1 could not be read, such as: broken/1.png"),
    (["two", "out", "--input", "gray"], "two/1.jpg and two/1.png would become one pair, 1"),
    (["two", "out", "--input", "gray", "--val", "1"], "from 0 to below 1; it is 1.0"),
    (["two", "out", "--input", "blur", "--sigma", "0"], "sigma must be from 0.1 to 100; it is 0.0"),
    (["two", "out", "--input", "edges", "--sigma", "101"], "sigma must be from 0.1 to 100; it is 101.0"),
    (["two", "out", "--input", "blur", "--masks", "two"], "masks are for --input hole"),
])
def test_what_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/1.png").write_bytes(b"no picture")
    photo(Path("two/1.png"), 1)
    photo(Path("two/1.jpg"), 1)
    assert message in run("photos", *words, status=2)
    assert not Path("out").exists()


def cityscapes(root, size=(64, 32)):
    """An official tree: three photos of each split, in which red is the column and green the row."""
    columns, rows = np.meshgrid(*map(np.arange, size))
    coded = np.dstack([columns, rows, columns * 0]).astype(np.uint8)
    for split, city in (("train", "aachen"), ("val", "munster"), ("test", "berlin")):
        for i in range(3):
            name = f"{split}/{city}/{city}_00000{i}_000019"
            save(root / f"leftImg8bit/{name}_leftImg8bit.png", coded)
            save(root / f"gtFine/{name}_gtFine_color.png", Image.fromarray(coded).convert("RGBA"))
            save(root / f"gtFine/{name}_gtFine_labelIds.png", (columns % 2 * 30).astype(np.uint8))
            (root / f"gtFine/{name}_gtFine_polygons.json").write_text("{}")
    (root / "gtFine/train/aachen/aachen_000002_000019_gtFine_color.png").unlink()
    return root / "leftImg8bit", root / "gtFine"


def test_cityscapes(tmp_path):
    trees = cityscapes(tmp_path)
    said = run("cityscapes", *trees, tmp_path / "out")
    assert "2 in train, 3 in val" in said
    assert "not used: 3 photos of test: its labels are not published" in said
    assert "not used: 1 photos of train: they have no *_gt*_color.png" in said
    assert "older than" not in run("cityscapes", *trees, tmp_path / "out")
    found = find_pairs(tmp_path / "out")
    assert [len(found.splits[split]) for split in ("train", "val")] == [2, 3]
    pair = found.splits["train"][0]
    assert pair.inputs[0].samefile(trees[0] / "train/aachen/aachen_000000_000019_leftImg8bit.png")
    run("cityscapes", *trees, tmp_path / "half", "--size", 32, 16, "--labels", "ids")
    files = made(tmp_path / "half")
    ids = np.asarray(Image.open(files["val/B/munster_000001_000019"]))
    red = np.asarray(Image.open(files["val/A/munster_000001_000019"]))[..., 0]
    assert ids.shape == (16, 32) and np.isin(ids, [0, 30]).all()  # no id between two others
    assert np.abs(red - (np.arange(32) * 2 + 0.5)).max() <= 0.5
    said = run("cityscapes", *trees[::-1], tmp_path / "swapped", status=2)
    assert "it must be the folder leftImg8bit of the official archive" in said
    for file in [*tmp_path.glob("*/train/aachen/aachen_000000_*")]:  # a tree of one's own, numbered anew in each city
        other = tmp_path / file.relative_to(tmp_path).parts[0] / "train/ulm" / file.name
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(file.read_bytes())
    assert "would become one pair" in run("cityscapes", *trees, tmp_path / "cities", status=2)


def hub(path, n=6, **columns):
    """A parquet as the Hub has them, with pictures of several formats; the bytes of imageA and imageB."""
    cells = {"imageA": [], "imageB": []}
    for i in range(n):
        for side, name in enumerate(cells):
            file = photo(path.parent / "files" / f"{i}{name}{('.png', '.jpg')[side]}", 2 * i + side)
            cells[name].append({"bytes": file.read_bytes(), "path": file.name})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({**cells, **columns}), path)
    return [[cell["bytes"] for cell in cells[name]] for name in cells]


def test_parquet_keeps_the_bytes(tmp_path):
    a, b = hub(tmp_path / "train-00000-of-00001.parquet")
    hub(tmp_path / "test.parquet", 2)
    assert "2 in test, 6 in train" in run("parquet", *tmp_path.glob("*.parquet"), tmp_path / "out")
    files = made(tmp_path / "out")
    for i in range(6):
        name = f"train-00000-of-00001-{i:06d}"
        assert files[f"train/A/{name}"].read_bytes() == a[i] and files[f"train/A/{name}"].suffix == ".png"
        assert files[f"train/B/{name}"].read_bytes() == b[i] and files[f"train/B/{name}"].suffix == ".jpg"
    assert len(find_pairs(tmp_path / "out").splits["train"]) == 6
    before = state(tmp_path / "out")
    assert "8 of them were there already" in run("parquet", *tmp_path.glob("*.parquet"), tmp_path / "out")
    assert state(tmp_path / "out") == before
    run("parquet", tmp_path / "test.parquet", tmp_path / "sheet", "--preview")
    assert Image.open("preview_sheet.png").width > 80 and not (tmp_path / "sheet").exists()


@pytest.mark.parametrize(("names", "split"), [
    ("maps-train maps-test", "2 in test, 2 in train"), ("a/Test2017_x a/b.train", "2 in test, 2 in train"),
    ("data/validation-00000-of-00001-9f0 data/training_1", "2 in train, 2 in val"),
    ("train/part/0 test/part/1", "2 in test, 2 in train"), ("partial-train/0 valid/0", "2 in train, 2 in val"),
    ("default/train/0000 default/validation/0000", "2 in train, 2 in val"),  # as the Hub makes of other formats
    ("train/0 test/maps_val", "2 in train, 2 in val"), ("contest trainval", "4 in train"),
    ("test/data", "2 in train"),  # in a folder that somebody works in
    ("maps maps-test", "2 in test, 2 in train")])
def test_a_split_may_stand_anywhere_in_a_parquet_s_name_or_in_those_of_its_folders(tmp_path, names, split):
    """maps-test.parquet was divided at random: most of its pairs were trained on."""
    files = [tmp_path / "in" / f"{name}.parquet" for name in names.split()]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        hub(file, 2)
    for number, words in enumerate((files, [tmp_path / "in"])):
        said = run("parquet", *words, tmp_path / f"out{number}", "--val", 0)
        assert split in said and ("tell no split, as others' do: 1" in said) == (names == "maps maps-test")
    assert f"{2 * len(files)} of them were there already" in run("parquet", *files, tmp_path / "out0", "--val", 0)
    shutil.copytree(tmp_path / "out0/train", tmp_path / "out0/test", dirs_exist_ok=True)  # as by another rule
    assert "begun by another version" in run("parquet", *files, tmp_path / "out0", "--val", 0, status=2)
    hub(tmp_path / "in/train-test.parquet", 2)
    said = run("parquet", tmp_path / "in", tmp_path / "new", status=2)
    assert "train-test.parquet tells of test and train: rename it" in said


def test_a_parquet_without_pictures_is_told(tmp_path):
    images = [photo(tmp_path / f"{i}.png", i).read_bytes() for i in range(4)]
    paths = [{"bytes": None, "path": f"/home/a/{i}.png"} for i in range(4)]
    broken = [None, *({"bytes": image, "path": None} for image in (b"\x89PNG broken", *images[:2]))]
    pq.write_table(pa.table({"imageA": images, "imageB": paths}), tmp_path / "paths.parquet")
    pq.write_table(pa.table({"imageA": images, "imageB": ["x"] * 4}), tmp_path / "text.parquet")
    pq.write_table(pa.table({"image": images, "caption": ["x"] * 4, "edit": images}), tmp_path / "names.parquet")
    pq.write_table(pa.table({"imageA": images, "imageB": broken}), tmp_path / "broken.parquet")
    pq.write_table(pa.table({f"{i}": ["x"] for i in range(99)}), tmp_path / "wide.parquet")
    pq.write_table(pa.table({"imageA": images[:0], "imageB": images[:0]}, pa.schema(
        [("imageA", pa.binary()), ("imageB", pa.binary())])), tmp_path / "none.parquet")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "broken.parquet").read_bytes()[:-20])
    (tmp_path / "lfs.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for name, message in (("paths", "holds a path, /home/a/0.png, and no picture"),
                          ("text", "no pictures in imageB; its columns are imageA (pictures), imageB (string): A and"),
                          ("gone", "gone.parquet is no file"), ("folder", "folder.parquet ends in .parquet"),
                          ("names", "no pictures in imageA and imageB, but in image, edit: name those that become A "
                                    "and B, as in --columns image edit"), ("wide", "(string), …: A and B need"),
                          ("none", "none.parquet holds 0 rows"), ("lfs", "git lfs pull"),
                          ("cut", "cannot be read as parquet")):
        assert message in run("parquet", tmp_path / f"{name}.parquet", tmp_path / "out", status=2)
        assert not (tmp_path / "out").exists()
    said = run("parquet", tmp_path / "broken.parquet", tmp_path / "out", "--val", 0, status=1)
    assert "2 in train" in said and "not used: 2, such as" in said and "row 0, imageB" in said
    run("parquet", tmp_path / "names.parquet", tmp_path / "new", "--columns", "edit", "image")


def test_a_parquet_s_pictures_may_be_of_any_binary_type(tmp_path):
    """As polars and categories of pandas have them."""
    images = pa.array([photo(tmp_path / f"{i}.png", i).read_bytes() for i in range(3)])
    types = {"imageA": images.cast(pa.binary_view()), "imageB": images.dictionary_encode()}
    pq.write_table(pa.table(types), tmp_path / "types.parquet")
    assert "3 in train" in run("parquet", tmp_path / "types.parquet", tmp_path / "out", "--val", 0)
    pq.write_table(pa.table({name: ["text"] for name in types}), tmp_path / "types.parquet")
    assert "holds no pictures" in run("parquet", tmp_path / "types.parquet", tmp_path / "new", status=2)


def test_a_parquet_may_hold_all_that_is_read_and_one_bad_cell_costs_one_pair(tmp_path, monkeypatch):
    kinds = {"gif": "RGB", "ppm": "RGB", "pgm": "L", "pbm": "1", "bmp": "RGB", "tif": "RGB", "webp": "RGB"}
    images = [photo(tmp_path / f"1.{kind}", mode=mode).read_bytes() for kind, mode in kinds.items()]
    pq.write_table(pa.table({"imageA": images, "imageB": images}), tmp_path / "d.parquet")
    run("parquet", tmp_path / "d.parquet", tmp_path / "out", "--val", 0)
    for side in "AB":
        assert [path.suffix[1:] for path in sorted((tmp_path / "out/train" / side).iterdir())] == [*kinds]
    monkeypatch.delitem(MAGIC, b"GIF8")
    assert "not used: 1, such as: " in run("parquet", tmp_path / "d.parquet", tmp_path / "new", "--val", 0, status=1)
    assert "no two columns" in run("parquet", tmp_path / "d.parquet", "o", "--columns", "imageA", "imageA", status=2)


CORNER = 500_000, 5_000_000  # metres, in UTM 33 N


def raster(path, size, metres, corner=CORNER, kind="float32", crs="EPSG:32633", void=None, **profile):
    """Two bands that hold, in metres from CORNER, how far east and how far south each pixel's centre lies.

    void: (rows, columns) that hold no value.
    """
    width, height = size
    east = corner[0] - CORNER[0] + metres * (np.arange(width) + 0.5)
    south = CORNER[1] - corner[1] + metres * (np.arange(height) + 0.5)
    bands = np.stack(np.broadcast_arrays(east, south[:, None])).astype(kind)
    if void:
        bands[:, void[0], void[1]] = profile["nodata"]
    write_raster(path, bands, crs=crs, transform=from_origin(*corner, metres, metres), **profile)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("east", "south")
    return path


def off(path, rim=0):
    """How far, in metres, the values of a tile are from where its header puts its pixels; where it has no value, 0.

    rim: metres from the borders of the map of 4,000 by 3,200 m that are not looked at: a mean there is of one side.
    """
    with rasterio.open(path) as file:
        bands, valid = file.read().astype(float), file.dataset_mask() > 0
        x, y = file.transform @ np.array(np.meshgrid(np.arange(file.width) + 0.5, np.arange(file.height) + 0.5))
        x, y = warp.transform(file.crs, "EPSG:32633", x.ravel(), y.ravel())
    x, y = (np.reshape(each, valid.shape) for each in (x, y))
    east, south = x - CORNER[0], CORNER[1] - y
    valid &= (east > rim) & (east < 4000 - rim) & (south > rim) & (south < 3200 - rim)
    return np.where(valid, np.hypot(bands[0] - east, bands[1] - south), 0).max()


@pytest.mark.parametrize("b, within", [
    (dict(size=(400, 320), metres=10), 0),  # the same grid
    (dict(size=(300, 300), metres=10, corner=(CORNER[0] + 400, CORNER[1] - 250)), 0),  # shifted by whole pixels
    (dict(size=(300, 300), metres=10, corner=(CORNER[0] + 403, CORNER[1] - 251)), 0.01),  # and by parts of one
    (dict(size=(800, 640), metres=5, corner=(CORNER[0] - 100, CORNER[1] + 100)), 0.01),  # finer
    (dict(size=(134, 107), metres=30), 0.01),  # coarser
])
@pytest.mark.long
def test_tiles_are_aligned_to_the_pixel(tmp_path, b, within):
    """A tile read at the wrong resolution, or half a pixel beside its partner, as PixelIsPoint and rounding have it."""
    first, second = raster(tmp_path / "a.tif", (400, 320), 10), raster(tmp_path / "b.tif", **b)
    run("tiles", first, second, tmp_path / "out", "--size", 64, "--overlap", 16)
    assert len(made(tmp_path / "out")) > 30
    for pair in pairs_in(tmp_path / "out"):
        with rasterio.open(pair.inputs[0]) as a, rasterio.open(pair.target) as b:
            assert a.transform == b.transform and a.crs == b.crs and a.shape == b.shape == (64, 64)
            assert a.descriptions == ("east", "south")
        assert max(off(path, 45) for path in (pair.inputs[0], pair.target)) <= within, pair


@pytest.mark.long
def test_tiles_of_another_projection(tmp_path):
    first = raster(tmp_path / "a.tif", (400, 320), 10)
    transform, width, height = warp.calculate_default_transform("EPSG:32633", "EPSG:4326", 400, 320, CORNER[0],
                                                                CORNER[1] - 3200, CORNER[0] + 4000, CORNER[1])
    x, y = transform @ np.array(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5))
    x, y = warp.transform("EPSG:4326", "EPSG:32633", x.ravel(), y.ravel())
    bands = np.stack([np.array(x) - CORNER[0], CORNER[1] - np.array(y)]).reshape(2, height, width)
    write_raster(tmp_path / "b.tif", bands, crs="EPSG:4326", transform=transform)
    run("tiles", first, tmp_path / "b.tif", tmp_path / "out", "--size", 256)
    files = made(tmp_path / "out")
    assert files and max(off(path, 20) for path in files.values()) < 0.01


@pytest.mark.parametrize("palette, flags", [(True, []), (True, ["--label-side", "B"]), (False, ["--label-side", "B"])])
def test_tiles_of_classes(tmp_path, palette, flags):
    """Between the numbers of two classes lies that of a third."""
    first = raster(tmp_path / "a.tif", (400, 320), 10)
    classes = np.random.default_rng(0).integers(0, 5, (110, 140), np.uint8)
    colours = {k: (40 * k, 0, 0, 255) for k in range(5)} if palette else None
    write_raster(tmp_path / "c.tif", classes[None], colours, crs="EPSG:32633", transform=from_origin(*CORNER, 30, 30))
    said = run("tiles", first, tmp_path / "c.tif", tmp_path / "classes", "--size", 256, *flags)
    assert ("--label-side B" in said) == (not flags)
    for name, path in made(tmp_path / "classes").items():
        if "/B/" in name:
            row, column = (int(number) + np.arange(256) for number in path.stem.split("_"))
            picture = read_picture(path)
            assert (picture.indices == classes[row[:, None] // 3, column // 3]).all()
            assert picture.channels == (3 if palette else 1)


@pytest.mark.long
def test_no_pixel_of_the_map_is_trained_on_and_validated_on(tmp_path):
    """Tiles that overlap share pixels, and neighbours nearly do."""
    first, second = (raster(tmp_path / f"{name}.tif", (600, 500), 10) for name in "ab")
    run("tiles", first, second, tmp_path / "out", "--size", 48, "--overlap", 24, "--val", 0.2)
    covered = {split: np.zeros((500, 600), bool) for split in ("train", "val")}
    for name, path in made(tmp_path / "out").items():
        row, column = map(int, path.stem.split("_"))
        covered[name.split("/")[0]][row : row + 48, column : column + 48] = True
    assert not (covered["train"] & covered["val"]).any() and (covered["train"] | covered["val"]).all()
    assert 0.1 < covered["val"].mean() < 0.3


def test_of_few_blocks_one_is_held_out(tmp_path):
    """Else training draws tiles whose neighbours cover them."""
    first, second = (raster(tmp_path / f"{name}.tif", (130, 70), 10) for name in "ab")
    words = ["tiles", first, second]
    assert "2 in train, 4 in val" in run(*words, tmp_path / "out", "--size", 64, "--overlap", 40)
    said = run(*words, tmp_path / "one", "--size", 70)
    assert "2 in train" in said and "say nothing of new places" in said and "a smaller --size" in said


@pytest.mark.parametrize("kind, nodata", [("float32", np.nan), ("float32", -9999), ("uint16", 65535)])
def test_what_holds_no_value_is_left_out_or_marked(tmp_path, kind, nodata):
    """At the border of what has none, neither 65535 nor NaN runs into what has one."""
    void = np.s_[:150], np.s_[:]
    first = raster(tmp_path / "a.tif", (100, 80), 40, kind=kind, nodata=nodata, void=(np.s_[:40], np.s_[:]))
    second = raster(tmp_path / "b.tif", (400, 320), 10, kind=kind, nodata=nodata, void=void)
    run("tiles", first, second, tmp_path / "out", "--size", 64, "--val", 0)
    files = made(tmp_path / "out")
    rows = {int(Path(name).name.split("_")[0]) for name in files}
    assert min(rows) > 64 and len(files) == 2 * 7 * len(rows)
    for name, path in files.items():
        picture = read_picture(path)
        row = int(path.stem.split("_")[0])
        first_valid = max(0, (160 if "/A/" in name else 150) - row)
        valid = np.ones((64, 64), bool) if picture.valid is None else picture.valid
        assert not valid[:first_valid].any() and valid[first_valid:].all(), (name, first_valid)
        assert off(path) <= 22  # at the rim, the mean is of one side
        values = shown(picture)[:, valid]  # in a preview, where the number for no data would leave one gray
        assert values.min() == -1 and values.max() > 0.99


@pytest.mark.parametrize("metres", [10, 40])
@pytest.mark.parametrize(("numbers", "kind", "of_tiles"), [
    ([-9999, -9999], "float32", -9999), ([-9999, -1], "float32", -9999), ([-1, 300], "int16", -1),
    (["", 65535], "uint16", 65535), ([-9999, 250], "uint8", 250)])
def test_no_band_s_number_for_no_data_is_averaged(tmp_path, metres, numbers, kind, of_tiles):
    """Where another band had values, -9999 beside 100 became -7476. In tiles, all bands have one such number."""
    bands = np.full((2, 64, 64), 100, kind)
    bands[1, 30:] = numbers[1]
    if has_hole := numbers[0] == of_tiles:
        bands[0, :, :20] = numbers[0]
    whole = write_raster(tmp_path / "a.tif", bands, crs="EPSG:32633", transform=from_origin(*CORNER, 40, 40))
    a = tmp_path / "a.vrt"
    copy(whole, a, driver="VRT")
    first, second, end = a.read_text().split("</VRTRasterBand>")
    told = [f"<NoDataValue>{number}</NoDataValue></VRTRasterBand>" for number in numbers]
    a.write_text(first + told[0].replace("<NoDataValue></NoDataValue>", "") + second + told[1] + end)
    b = raster(tmp_path / "b.tif", (2560 // metres, 2560 // metres), metres)
    run("tiles", a, b, tmp_path / "out", "--size", 64, "--val", 0)
    assert json.loads((tmp_path / "out/prepare.json").read_text())["rules"] == 2
    for name, path in made(tmp_path / "out").items():
        if "/A/" in name:
            top, left = (int(number) for number in path.stem.split("_"))
            rows, columns = np.mgrid[top : top + 64, left : left + 64] * metres // 40
            with rasterio.open(path) as file:
                assert file.nodata == of_tiles
                assert (file.read(1) == np.where((columns < 20) & has_hole, of_tiles, 100)).all()
                assert (file.read(2) == np.where(rows >= 30, of_tiles, 100)).all()


def test_a_shade_of_a_colour_is_averaged_though_it_is_the_number_for_no_data(tmp_path):
    """Pure red has 0 in two bands."""
    bands = np.full((3, 64, 64), 100, np.uint8)
    bands[:, :, 32:] = np.array([255, 0, 0])[:, None, None]
    a = write_raster(tmp_path / "a.tif", bands, crs="EPSG:32633", transform=from_origin(*CORNER, 40, 40), nodata=0)
    run("tiles", a, raster(tmp_path / "b.tif", (256, 256), 10), tmp_path / "out", "--size", 64, "--val", 0)
    tiles = [read_picture(path) for name, path in made(tmp_path / "out").items() if "/A/" in name]
    assert all(tile.valid is None for tile in tiles)
    assert {*np.unique(np.stack([tile.array[..., 1] for tile in tiles]))} == {0, 12, 38, 62, 88, 100}


def test_rasters_of_holes_alone_are_told(tmp_path):
    """With --preview, by a traceback."""
    rasters = [write_raster(tmp_path / f"{number}.tif", np.full((1, 80, 80), number, float)) for number in (1, np.nan)]
    for flags in [], ["--preview"]:
        said = run("tiles", *rasters, tmp_path / "out", "--size", 64, *flags, status=2, lines=2)
        assert "no pair could be made: there is nothing that holds values on both sides" in said


def test_another_raster_under_the_same_name_does_not_go_on_with_its_tiles(tmp_path):
    first, second = tmp_path / "a.tif", tmp_path / "b.tif"
    words = ["tiles", first, second, tmp_path / "out", "--size", 64]
    for path in (first, second):
        raster(path, (300, 300), 20)
    run(*words)
    raster(first, (320, 300), 20, nodata=-1)  # of other rules too
    said = run(*words, status=2)
    assert "out was begun with bytes [" in said and "take a new folder" in said
    assert "out was begun with inputs [" in run("tiles", second, first, *words[3:], status=2)  # of other bytes too
    raster(first, (300, 300), 20)  # as large as before
    said = run(*words)
    assert "a.tif has changed since" in said and "of them were there already" in said
    note = tmp_path / "out/prepare.json"
    for gone, status, message in ("modified", 0, "were there already"), ("rules", 2, "begun by another version"):
        told = json.loads(note.read_text())
        assert told["rules"] == 1  # older versions made the same of bands that have no number of their own
        del told[gone]
        note.write_text(json.dumps(told))  # as older versions did
        said = run(*words, status=status)
        assert message in said and "has changed" not in said


def test_pairs_older_than_what_they_were_made_from_are_told(tmp_path):
    folder, out = photos(tmp_path / "photos", 4), tmp_path / "out"
    words = ["photos", folder, out, "--input", "gray", "--val", 0]
    run(*words)
    assert "older than" not in run(*words)
    early, late = time.time_ns() - 10**11, time.time_ns() + 10**13
    for side in out.glob("*/*/*"):
        os.utime(side, ns=(early, early))
    os.utime(folder / "01.jpg", ns=(late, late))  # a clock that is ahead tells nothing
    photo(tmp_path / "new.jpg", 9).replace(folder / "03.jpg")
    said = run(*words)
    assert "pairs that are older than what they were made from: 1, such as " in said and "delete both" in said
    a, *_ = out.glob("*/A/03.*")
    before = a.read_bytes()
    for side in out.glob("*/B/03.*"):  # as a kill between its sides leaves a pair
        side.unlink()
    run(*words)
    assert any(path.samefile(folder / "03.jpg") for path in out.glob("*/B/03.jpg")) and a.read_bytes() != before


def test_pairs_whose_sources_are_gone_or_in_another_split_are_told(tmp_path):
    """A photo that was moved from test to train was in both, and one that was taken out for good reasons stayed."""
    test, train = (photos(tmp_path / "photos" / split, 4) for split in ("test", "train"))  # of the same names
    words = ["photos", tmp_path / "photos", tmp_path / "out", "--input", "gray"]
    (train / "02.jpg").unlink()
    run(*words)
    assert "gone" not in run(*words)
    (train / "00.jpg").unlink()
    before = state(tmp_path / "out")
    assert "gone or have other names: 1, such as train/00: they stay" in run(*words)
    (test / "02.jpg").rename(train / "02.jpg")
    for name in ("02.jpg", "renamed.jpg"):
        (train / "02.jpg").replace(train / name)
        said = run(*words, status=2)
        assert "gone or moved, while another split has new ones, which may be the same: 1, such as test/02" in said
        assert state(tmp_path / "out") == before
    (train / "renamed.jpg").rename(tmp_path / "photos/02.jpg")  # in no split, which may become any
    assert "other names: 1, such as train/00" in run(*words) and state(tmp_path / "out") == before


@pytest.mark.long
def test_rasters_without_a_place_and_near_infrared(tmp_path):
    """Scans of microscopes say nothing of where they lie; four bands of 8 bits are no transparency."""
    rng = np.random.default_rng(0)
    scan = rng.integers(1, 255, (4, 200, 300), np.uint8)
    scan[3] = 0  # dark in the near infrared
    scan[:, :70, :70] = 0  # outside of the picture
    for name, array in (("a", scan), ("b", scan.repeat(2, axis=1).repeat(2, axis=2)), ("c", scan[:, :, :200])):
        write_raster(tmp_path / f"{name}.tif", array, photometric="RGB", alpha="YES")
    words = ["tiles", tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "out", "--size", 64, "--label-side", "A"]
    assert run(*words).count("gdal_translate -b 1 -b 2 -b 3 -mask 4 IN OUT") == 2
    files = made(tmp_path / "out")
    assert len(files) == 2 * (10 * 7 - 4)
    for name, path in files.items():
        if "/A/" in name:
            a, b = read_picture(path), read_picture(files[name.replace("/A/", "/B/")])
            assert (a.array == b.array).all() and a.channels == 4 and a.valid is None and b.valid is None
    words[2:4] = [tmp_path / "c.tif", tmp_path / "new"]
    assert "have two shapes: 300×200 and 200×200" in run(*words, status=2)
    words[2] = raster(tmp_path / "d.tif", (300, 200), 10)
    assert "a.tif does not say where on the map it lies" in run(*words, status=2)


@pytest.mark.parametrize("told", [
    dict(photometric="MINISWHITE"), dict(photometric="MINISWHITE", nbits=2, nodata=0), dict(nbits=2, nodata=0),
    dict(nbits=4, nodata=255), dict(nbits=1), dict(driver="PNG", nbits=1)])
def test_tiles_look_as_the_raster_does(tmp_path, told):
    """What is white where the numbers are 0, or at 1 of 1, would be black in a tile."""
    numbers = np.random.default_rng(0).integers(0, 2 ** told.get("nbits", 8), (1, 90, 90), np.uint8)
    scan = write_raster(tmp_path / "a.tif", numbers, **told)
    whole = read_picture(scan)
    run("tiles", scan, scan, tmp_path / "out", "--size", 64)
    for path in made(tmp_path / "out").values():
        row, column = map(int, path.stem.split("_"))
        here = np.s_[row : row + 64, column : column + 64]
        tile = read_picture(path)
        assert (tile.array[..., :1] == whole.array[here]).all() and (tile.indices == whole.indices[here]).all()
        assert np.array_equal(tile.valid, None if whole.valid is None else whole.valid[here])


def test_rasters_that_lie_otherwise_than_pixel_by_pixel_are_told(tmp_path):
    """What neither a grid nor the pixels' order says would be lost, and two places laid over each other."""
    scan = photo(tmp_path / "a.png", size=(90, 90))
    one, x, y = np.eye(20)[:3].tolist()
    rpcs = rasterio.rpc.RPC(0, 100, 45, 0.1, one, y, 45, 45, 15, 0.1, one, x, 45, 45)
    write_raster(tmp_path / "rpc.tif", np.ones((3, 90, 90), np.uint8), rpcs=rpcs)
    write_raster(tmp_path / "gcp.tif", np.ones((3, 90, 90), np.uint8), crs="EPSG:4326",
                 gcps=[rasterio.control.GroundControlPoint(row, column, 15 + column, 45 - row)
                       for row, column in ((0, 0), (0, 90), (90, 0))])
    exif = Image.Exif()
    exif[0x0112] = 3
    for name in ("turned.jpg", "turned.tif"):
        photo(tmp_path / name, size=(90, 90), exif=exif)
    for name, message in (("rpc.tif", "is placed by RPCs"), ("gcp.tif", "is placed by ground control points"),
                          ("turned.jpg", "shown turned"), ("turned.tif", "shown turned")):
        said = run("tiles", scan, tmp_path / name, tmp_path / "out", "--size", 64, status=2)
        assert message in said and name in said


@pytest.mark.parametrize("turned", [False, True])
def test_a_raster_of_the_whole_earth_covers_a_small_one(tmp_path, turned):
    """Most of it, and its middle, lies where no projection of a region reaches."""
    degrees = np.linspace(0, 360, 360, endpoint=False, dtype=np.float32)
    earth = write_raster(tmp_path / "earth.tif", np.broadcast_to(degrees, (1, 180, 360)), crs="EPSG:4326",
                         transform=from_origin(-180, 90, 1, 1))
    region = raster(tmp_path / "region.tif", (130, 130), 1000, crs="EPSG:32645")  # around 87° E
    run("tiles", *([earth, region] if turned else [region, earth]), tmp_path / "out", "--size", 128)
    files = made(tmp_path / "out")
    values = [read_picture(path).array for name, path in files.items() if ("/A/" in name) == turned]
    assert len(files) == 8 and all(abs(value - 267.5).max() < 1 for value in values)


@pytest.mark.parametrize("b, flags, message", [
    (dict(size=(90, 90), metres=10, crs='LOCAL_CS["local",UNIT["metre",1]]'), [], "none leads from one"),
    (dict(size=(50, 50), metres=10), [], "share 50×50 pixels, less than a tile of --size 64"),
    (dict(size=(90, 90), metres=10, corner=(700_000, 5_000_000)), [], "share 0×"),
    (dict(size=(90, 90), metres=10, crs=None), [], "b.tif does not say where on the map it lies"),
    (dict(size=(90, 90), metres=10), ["--overlap", 64], "overlap from 0 to below size"),
    (None, [], "b.tif cannot be read as a raster"),
])
def test_rasters_that_make_no_tiles_are_told(tmp_path, b, flags, message):
    first, second = raster(tmp_path / "a.tif", (400, 320), 10), tmp_path / "b.tif"
    second.write_bytes(b"no raster")
    if b:
        raster(second, **b)
    assert message in run("tiles", first, second, tmp_path / "out", "--size", 64, *flags, status=2)
    assert not (tmp_path / "out").exists()


def write_video(path, frames, codec="libx264rgb", pix_fmt="rgb24", rate=10, times=None, form="rgb24", ratio=1,
                **options):
    """Frames (H, W, C); times: when each is shown, in milliseconds."""
    milliseconds = {"time_base": Fraction(1, 1000)} if times else {}
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, **milliseconds)
        stream.height, stream.width, _ = frames[0].shape
        stream.pix_fmt = pix_fmt
        stream.options = {"crf": "0", "g": "12", **options}
        stream.codec_context.sample_aspect_ratio = Fraction(ratio)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format=form)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def damaged(path, whole):
    """A copy of the video, of which a part in the middle is overwritten."""
    content = bytearray(whole.read_bytes())
    middle = content.index(b"mdat") + len(content) // 3
    content[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("pix_fmt", "bits"), [("gray16le", 16), ("yuv420p10le", 10), ("bgr0", 0), ("gray", 0)])
def test_bits_that_frames_do_not_keep_are_told(tmp_path, pix_fmt, bits):
    """Depth, for one, comes as gray of 16 bits."""
    frames = [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(5)]
    said = run("frames", write_video(tmp_path / "deep.mkv", frames, "ffv1", pix_fmt), tmp_path / "out")
    told = f"deep.mkv has {bits} bits a value, of which its frames keep 8"
    assert (told if bits else "5 in train") in said and ("keep 8" in said) == (bits > 0)


TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0), "mirrored": (-1, 0, 0, 1),
         "upside down": (1, 0, 0, -1), "transposed": (0, 1, 1, 0),
         "on the other diagonal": (0, -1, -1, 0)}  # where a step to the right leads, (x, y), then one down


def video(path, seconds=4, rate=10, size=(64, 48), turn=0, codec="libx264rgb", tint=0, ratio=1):
    """Frames of one colour, whose red is four times their number from the beginning of the scene at 10 a second."""
    frames = []
    for i in range(seconds * rate):
        image = np.zeros((*size[::-1], 3), np.uint8)
        image[..., 0] = 4 * (i * 10 / rate)
        image[: size[1] // 2, : size[0] // 2, 1] = 255  # the upper left corner is green
        image[..., 2] = tint
        frames.append(image)
    write_video(path, frames, codec, "rgb24" if codec == "libx264rgb" else "yuv420p", rate, ratio=ratio)
    if turn:  # as a phone does: by the matrix in the track's header
        content = path.read_bytes()
        matrix = content.index(b"tkhd") + 4 + 40
        a, b, c, d = (number << 16 for number in TURNS[turn])
        turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(content[:matrix] + turned + content[matrix + 36 :])
    return path


def moment(path):
    """The number of the frame, by its red."""
    return np.asarray(Image.open(path))[-4, -4, 0] / 4


def test_frames_of_a_video_are_held_out_by_stretches_of_time(tmp_path):
    """Every tenth frame in val is what the network was trained on a twenty-fifth of a second before."""
    clip = video(tmp_path / "clip.mkv", seconds=6)
    said = run("frames", clip, tmp_path / "out", "--val", 0.3)
    files = made(tmp_path / "out")
    assert {name.split("/")[0] for name in files} == {"train", "val"}
    for name, path in files.items():
        assert round(moment(path)) == int(name[-6:]) and Image.open(path).size == (64, 48)
    numbers = {split: {int(name[-6:]) for name in files if name.startswith(split)} for split in ("train", "val")}
    assert min(abs(a - b) for a in numbers["train"] for b in numbers["val"]) > 1
    assert len(numbers["val"]) >= 8 and "since those beside them are trained on" in said
    run("photos", tmp_path / "out", tmp_path / "pairs", "--input", "edges")
    splits = find_pairs(tmp_path / "pairs").splits
    assert [len(splits[split]) for split in ("train", "val")] == [len(numbers[split]) for split in ("train", "val")]
    before = state(tmp_path / "out")
    assert "already" in run("frames", clip, tmp_path / "out", "--val", 0.3) and state(tmp_path / "out") == before
    for place, flags in (("rare", ["--every", 4]), ("little", ["--val", 0.01])):
        assert "in train, " in run("frames", clip, tmp_path / place, *flags)
    assert "say nothing of new scenes" in run("frames", clip, tmp_path / "one", "--every", 12)


def test_a_folder_without_val_goes_on_as_it_was_begun(tmp_path):
    """Of few stretches, an older version held out none."""
    words = ["frames", video(tmp_path / "clip.mkv"), tmp_path / "out", "--every", 4]
    run(*words, "--val", 0)
    note = tmp_path / "out/prepare.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"val": 0.1}))
    run(*words)
    assert {name.split("/")[0] for name in made(tmp_path / "out")} == {"train"}


@pytest.mark.parametrize("rate", [10, 20, 5])
def test_two_videos_are_paired_by_time(tmp_path, rate):
    """By their numbers, frames of another rate would drift apart."""
    a, b = video(tmp_path / "a.mp4"), video(tmp_path / "b.mkv", seconds=3, rate=rate, size=(128, 96), tint=255)
    assert "lasts 4.0 s" in run("frames", a, b, tmp_path / "out", "--every", 2, "--val", 0)
    pairs = pairs_in(tmp_path / "out")
    assert 14 <= len(pairs) <= 16
    for pair in pairs:
        assert abs(moment(pair.inputs[0]) - moment(pair.target)) <= (1 if rate == 5 else 0)
        assert Image.open(pair.inputs[0]).size == Image.open(pair.target).size == (128, 96)
        assert np.asarray(Image.open(pair.target))[0, 0, 2] == 255


def test_the_shorter_video_tells_how_long_stretches_are(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    videos = [write_video(tmp_path / f"{n}.mkv", [frame] * n, rate=10) for n in (400, 40)]
    for i, pair in enumerate((videos, videos[::-1])):
        assert "in train, " in run("frames", *pair, tmp_path / f"{i}")  # and some in val


def test_a_frame_that_stands_is_paired_until_the_next_comes(tmp_path):
    """As a player shows it: of a recording that writes what changes, the nearest frame may show what is yet to come."""
    times = 0, 1000, 3000, 3900
    b = write_video(tmp_path / "b.mkv", [np.full((48, 64, 3), time // 25, np.uint8) for time in times], times=times)
    run("frames", video(tmp_path / "a.mkv"), b, tmp_path / "out", "--val", 0)
    files = made(tmp_path / "out")
    shown = [round(moment(files[f"train/B/a_{number:06d}"])) for number in range(39)]
    assert shown == [0] * 10 + [10] * 20 + [30] * 9


@pytest.mark.parametrize("times", [range(0, 4000, 600), (*range(0, 2000, 100), 3900)])
def test_no_frame_of_the_slower_video_is_trained_on_and_validated_on(tmp_path, times):
    """It has several partners, on both sides of where a stretch ends."""
    b = write_video(tmp_path / "b.mkv", [np.full((48, 64, 3), time // 20, np.uint8) for time in times], times=times)
    run("frames", video(tmp_path / "a.mkv"), b, tmp_path / "out", "--val", 0.4)
    shown = {split: {moment(path) for name, path in made(tmp_path / "out").items() if name.startswith(f"{split}/B")}
             for split in ("train", "val")}
    assert all(shown.values()) and not shown["train"] & shown["val"], shown


@pytest.mark.long
def test_a_frame_in_several_pairs_is_converted_once_at_a_time(tmp_path):
    """PyAV keeps a converter with each frame: two threads at it mix up colours, or wait for each other for ever."""
    words = [video(tmp_path / "a.mp4", rate=30, codec="libx264"), video(tmp_path / "b.mp4", rate=3, codec="libx264")]
    subprocess.run([sys.executable, ROOT / "prepare.py", "frames", *words, tmp_path / "out", "--val", "0"], check=True,
                   timeout=120, capture_output=True)
    pairs = pairs_in(tmp_path / "out")
    assert len(pairs) > 110
    assert all(abs(moment(pair.inputs[0]) - moment(pair.target)) < 4 for pair in pairs)


@pytest.mark.parametrize(("turn", "ratio", "size"), [(0, "4/3", (85, 48)), (90, "4/3", (48, 85)), (0, "3/4", (64, 64)),
                                                     (0, "401/400", (64, 48))])
def test_frames_have_the_shape_that_a_player_shows(tmp_path, turn, ratio, size):
    """Of DVD and DV, pixels are wider than high, or narrower."""
    a = video(tmp_path / "a.mp4", 1, turn=turn, codec="libx264", ratio=ratio)
    b = video(tmp_path / "b.mkv", 1, size=size)
    said = run("frames", a, b, tmp_path / "out", "--val", 0)
    assert ("made square" in said) == (size != (64, 48))
    for path in made(tmp_path / "out").values():
        image = Image.open(path)
        assert image.size == size
        corners = (4, 4), (size[0] - 4, 4), (4, size[1] - 4), (size[0] - 4, size[1] - 4)
        assert sum(image.getpixel(corner)[1] > 128 for corner in corners) == 1


def test_interlaced_videos_are_told(tmp_path):
    clip = video(tmp_path / "clip.mkv", 1)
    assert "is interlaced" not in run("frames", clip, tmp_path / "out")
    frames = [np.zeros((48, 64, 3), np.uint8)] * 9
    write_video(tmp_path / "dv.mp4", frames, "libx264", "yuv420p", **{"x264-params": "tff=1"})
    said = run("frames", tmp_path / "dv.mp4", tmp_path / "new", "--val", 0)
    assert "dv.mp4 is interlaced" in said and "bwdif" in said


def test_videos_that_cannot_be_used_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.mp4").write_text("no video")
    Path("folder").mkdir()
    video("clip.mkv")
    video("high.mkv", size=(48, 64))
    for message, *words in (("text.mp4 cannot be read as a video", "text.mp4"), ("gone.mp4 is no file", "gone.mp4"),
                            ("frames takes videos, photos a folder of pictures", "folder"),
                            ("one or two videos", "clip.mkv", "high.mkv", "text.mp4"),
                            ("have two shapes, 64×48 and 48×64", "clip.mkv", "high.mkv")):
        assert message in run("frames", *words, "out", status=2) and not Path("out").exists()
    Path("again.mkv").symlink_to("clip.mkv")
    for command in ("frames", "parquet"):
        assert "again.mkv are one file: name it once" in run(command, "clip.mkv", "again.mkv", "out", status=2)
        for words in ([], ["out"]):
            assert f"{command} needs what to read and, last, the folder" in run(command, *words, status=2)
    assert "every must be at least 1" in run("frames", "clip.mkv", "out", "--every", 0, status=2)
    damaged(Path("cut.mp4"), video(Path("whole.mp4"), codec="libx264"))
    said = run("frames", "cut.mp4", "cut", "--val", 0, status=1)
    assert "not used: 1" in said and "cut.mp4 is damaged after" in said
    assert all(abs(moment(path) - int(path.stem[-6:])) < 1 for path in made(Path("cut")).values())


def test_blocks_are_held_out_evenly():
    blocks = Blocks(0.1, 100)
    splits = [blocks.split(i) for i in range(100)]
    assert splits.count("val") == 10 and "val" in splits[:10]
    for count in range(2, 50):
        few = Blocks(0.01, count)
        assert [few.split(i) for i in range(count)].count("val") == 1
    again = Blocks(0.1, 100)
    again.splits = dict(enumerate(splits[37:], 37))
    assert [again.split(i) for i in range(37, 100)] == splits[37:]


@pytest.mark.parametrize(("module", "package", "words"), [
    ("skimage.morphology", "scikit-image", ["photos", "photos", "out", "--input", "edges"]),
    ("pyarrow.parquet", "pyarrow", ["parquet", "a.parquet", "out"]), ("av", "av", ["frames", "a.mp4", "out"])])
def test_what_a_package_is_for_is_told_where_it_is_missing(tmp_path, monkeypatch, module, package, words):
    """pyarrow, scikit-image and PyAV serve one kind of data each: whoever has none of it need not have them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    photos(tmp_path / "photos", 1)
    assert f"pip install {package}" in run(*words, status=2)
