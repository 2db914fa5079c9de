"""prepare.py makes pairs that are aligned to the pixel, goes on where it was stopped, and touches nobody's files."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, launch, wait_until
from PIL import Image

import prepare
from making.edges import LEAST, edges
from making.folder import Blocks
from pairs.find import find_pairs
from pairs.images import read_picture
from runtime.console import run_main


def run(*words):
    """The status that the program ends with, and what it said."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            run_main(prepare.main)
    return leaving.value.code or 0, said.getvalue()


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
        _, _, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
        assert stats[1:, cv2.CC_STAT_AREA].min() >= LEAST


@pytest.mark.parametrize("turns", range(4))
def test_edges_are_one_pixel_wide_and_not_shifted(turns):
    """On each side of a square, the edge is one of the two pixels where the colours meet."""
    image = np.full((64, 64, 1), 50, np.uint8)
    image[20:44, 20:44] = 150
    found = np.rot90(edges(np.rot90(image, turns)), -turns)
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
    assert run("photos", photos(tmp_path / "photos", 20), out, "--input", kind)[0] == 0
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


def test_photos_of_all_kinds_become_pairs_and_the_unreadable_are_counted(tmp_path):
    folder = tmp_path / "photos"
    photo(folder / "gray.png", 1, mode="L")
    photo(folder / "clear.png", 2, mode="RGBA")
    photo(folder / "deep" / "per.2026" / "colour.v1.png", 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(folder / "turned.jpg", 4, size=(50, 30), exif=exif)
    deep = np.random.default_rng(5).integers(0, 65535, (30, 40, 3), dtype=np.uint16)
    cv2.imwrite(str(folder / "sixteen.png"), deep)
    (folder / "broken.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:200])
    (folder / "notes.txt").write_text("mine")
    before = state(folder)
    status, said = run("photos", folder, tmp_path / "out", "--input", "gray", "--val", "0")
    assert status == 1 and "5 in train" in said and "not used: 1" in said and "broken.jpg" in said
    assert "holds out a tenth" in said
    files = made(tmp_path / "out")
    assert "train/A/deep/per.2026/colour.v1" in files and len(files) == 10
    assert read_picture(files["train/A/turned"]).size == read_picture(files["train/B/turned"]).size == (30, 50)
    a = read_picture(files["train/A/sixteen"])
    luminance = deep[..., ::-1] @ [0.299, 0.587, 0.114]
    assert a.kind == "uint16" and np.abs(a.array[..., 0] - luminance).max() <= 2
    assert {p: s[1:] for p, s in state(folder).items()} == {p: s[1:] for p, s in before.items()}


def test_copies_of_a_photo_stay_in_one_split(tmp_path):
    folder = photos(tmp_path / "photos", 12)
    for path in [*folder.iterdir()]:
        shutil.copy(path, folder / f"copy_{path.name}")
    assert run("photos", folder, tmp_path / "out", "--input", "gray", "--val", "0.4")[0] == 0
    names = {name.split("/", 2)[2]: name.split("/")[0] for name in made(tmp_path / "out")}
    assert {*names.values()} == {"train", "val"}
    assert all(names[name] == names[f"copy_{name}"] for name in names if not name.startswith("copy_"))


def test_splits_that_are_there_stay_and_large_photos_are_told_of(tmp_path):
    photo(tmp_path / "photos" / "train" / "1.jpg", 1, (700, 600))
    photo(tmp_path / "photos" / "validation" / "1.jpg", 2, (700, 600))
    status, said = run("photos", tmp_path / "photos", tmp_path / "out", "--input", "edges", "--preview")
    assert status == 0 and "--size 286" in said and not (tmp_path / "out").exists()
    status, said = run("photos", tmp_path / "photos", tmp_path / "out", "--input", "edges", "--size", "60")
    files = made(tmp_path / "out")
    assert {*files} == {"train/A/1", "train/B/1", "val/A/1", "val/B/1"}
    assert all(read_picture(path).size == (70, 60) for path in files.values())


def test_holes_from_masks(tmp_path):
    """White is the hole, in a mask of any size; the mask of a photo's name is taken before one that is drawn."""
    folder, masks = photos(tmp_path / "photos", 4), tmp_path / "masks"
    masks.mkdir()
    for name, half in (("any", np.s_[:, :10]), ("02", np.s_[:15])):
        mask = np.zeros((30, 20), np.uint8)
        mask[half] = 1 if name == "any" else 255
        Image.fromarray(mask).save(masks / f"{name}.png")
    assert run("photos", folder, tmp_path / "out", "--input", "hole", "--masks", masks, "--val", "0")[0] == 0
    files = made(tmp_path / "out")
    a, b = (read_picture(files[f"train/{side}/02"]).array for side in "AB")
    assert (a[:15] == 255).all() and (a[15:] == b[15:]).all()


def test_a_second_call_goes_on_and_redoes_nothing(tmp_path):
    folder, out = photos(tmp_path / "photos"), tmp_path / "out"
    words = ["photos", folder, out, "--input", "blur"]
    assert run(*words)[0] == 0
    before = state(out)
    files = made(out)
    lost, empty = (next(files[name] for name in files if name.endswith(f"A/{number}")) for number in ("01", "02"))
    lost.unlink()
    empty.write_bytes(b"")  # as a crash of the machine may leave it
    half = lost.with_name(".pix2pix-0123456789abcdef.tmp")
    half.write_bytes(b"half")
    photo(folder / "new.jpg", 99)
    status, said = run(*words)
    after = state(out)
    assert status == 0 and "18 of them were there already" in said and not half.exists()
    assert all(after[path][2] == kept[2] for path, kept in before.items())
    assert sum(before.get(path) != kept for path, kept in after.items()) == 4  # two made again, and a new pair
    assert len(after) == len(before) + 2


def test_a_kill_costs_what_was_not_finished_only(tmp_path):
    folder, out, whole = photos(tmp_path / "photos", 300), tmp_path / "out", tmp_path / "whole"
    process = launch(ROOT / "prepare.py", "photos", folder, out, "--input", "edges")
    wait_until(lambda: len([*out.glob("*/A/*.png")]) > 5, lambda: process.poll() is None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len([*out.glob("*/A/*.png")]) < 300
    status, said = run("photos", folder, out, "--input", "edges")
    assert status == 0 and "of them were there already" in said
    assert run("photos", folder, whole, "--input", "edges")[0] == 0
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
        status, said = run("photos", folder, target, "--input", "gray")
        assert status == 2 and message in said, said
        assert state(tmp_path) == before
    assert run("photos", folder, tmp_path / "new", "--input", "gray")[0] == 0
    status, said = run("photos", folder, tmp_path / "new", "--input", "blur")
    assert status == 2 and "begun with input gray, which is now blur" in said


@pytest.mark.parametrize("words, message", [
    (["nowhere", "out", "--input", "gray"], "nowhere is no folder"),
    (["empty", "out", "--input", "gray"], "0 images in empty"),
    (["broken", "out", "--input", "gray"], "no pair could be made; 1 could not be read, such as: broken/1.png"),
    (["two", "out", "--input", "gray"], "two/1.jpg and two/1.png would become one pair, 1"),
    (["two", "out", "--input", "gray", "--val", "1"], "from 0 to below 1; it is 1.0"),
    (["two", "out", "--input", "blur", "--sigma", "0"], "sigma must be at least 0.1; it is 0.0"),
    (["two", "out", "--input", "blur", "--masks", "two"], "masks are for --input hole"),
])
def test_what_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/1.png").write_bytes(b"no picture")
    photo(Path("two/1.png"), 1)
    photo(Path("two/1.jpg"), 1)
    status, said = run("photos", *words)
    assert status == 2 and message in said and said.count("\n") == 1, said
    assert not Path("out").exists()


def cityscapes(root, size=(64, 32)):
    """An official tree: three photos of each split, in which red is the column and green the row."""
    columns, rows = np.meshgrid(*map(np.arange, size))
    coded = np.dstack([columns, rows, columns * 0]).astype(np.uint8)
    for split, city in (("train", "aachen"), ("val", "munster"), ("test", "berlin")):
        for i in range(3):
            name = f"{city}_00000{i}_000019"
            places = [root / tree / split / city / name for tree in ("leftImg8bit", "gtFine")]
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coded).save(f"{places[0]}_leftImg8bit.png")
            opaque = np.dstack([coded, np.full(size[::-1], 255, np.uint8)])
            Image.fromarray(opaque).save(f"{places[1]}_gtFine_color.png")
            Image.fromarray((columns // 2).astype(np.uint8)).save(f"{places[1]}_gtFine_labelIds.png")
            Path(f"{places[1]}_gtFine_polygons.json").write_text("{}")
    (root / "gtFine/train/aachen/aachen_000002_000019_gtFine_color.png").unlink()
    return root / "leftImg8bit", root / "gtFine"


def test_cityscapes(tmp_path):
    trees = cityscapes(tmp_path)
    status, said = run("cityscapes", *trees, tmp_path / "out")
    assert status == 0 and "2 in train, 3 in val" in said
    assert "not used: 3 photos of test: its labels are not published" in said
    assert "not used: 1 photos of train: they have no *_color.png" in said
    found = find_pairs(tmp_path / "out")
    assert [len(found.splits[split]) for split in ("train", "val")] == [2, 3]
    pair = found.splits["train"][0]
    assert pair.inputs[0].samefile(trees[0] / "train/aachen/aachen_000000_000019_leftImg8bit.png")
    assert run("cityscapes", *trees, tmp_path / "half", "--size", 32, 16, "--labels", "ids")[0] == 0
    files = made(tmp_path / "half")
    ids = np.asarray(Image.open(files["val/B/munster_000001_000019"]))
    red = np.asarray(Image.open(files["val/A/munster_000001_000019"]))[..., 0]
    assert ids.shape == (16, 32) and (ids == np.arange(32)).all()  # no id between two others
    assert np.abs(red - (np.arange(32) * 2 + 0.5)).max() <= 0.5
    status, said = run("cityscapes", *trees[::-1], tmp_path / "swapped")
    assert status == 2 and "it must be the folder leftImg8bit of the official archive" in said


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
    status, said = run("parquet", *tmp_path.glob("*.parquet"), tmp_path / "out")
    assert status == 0 and "2 in test, 6 in train" in said
    files = made(tmp_path / "out")
    for i in range(6):
        name = f"train-00000-of-00001-{i:06d}"
        assert files[f"train/A/{name}"].read_bytes() == a[i] and files[f"train/A/{name}"].suffix == ".png"
        assert files[f"train/B/{name}"].read_bytes() == b[i] and files[f"train/B/{name}"].suffix == ".jpg"
    assert len(find_pairs(tmp_path / "out").splits["train"]) == 6
    before = state(tmp_path / "out")
    assert "8 of them were there already" in run("parquet", *tmp_path.glob("*.parquet"), tmp_path / "out")[1]
    assert state(tmp_path / "out") == before
    assert run("parquet", tmp_path / "test.parquet", tmp_path / "sheet", "--preview")[0] == 0
    assert Image.open("preview_sheet.png").width > 80 and not (tmp_path / "sheet").exists()


def test_a_parquet_without_pictures_is_told(tmp_path):
    images = [photo(tmp_path / f"{i}.png", i).read_bytes() for i in range(4)]
    paths = [{"bytes": None, "path": f"/home/a/{i}.png"} for i in range(4)]
    broken = [None, *({"bytes": image, "path": None} for image in (b"\x89PNG broken", *images[:2]))]
    pq.write_table(pa.table({"imageA": images, "imageB": paths}), tmp_path / "paths.parquet")
    pq.write_table(pa.table({"imageA": images, "imageB": ["x"] * 4}), tmp_path / "text.parquet")
    pq.write_table(pa.table({"image": images, "caption": ["x"] * 4, "edit": images}), tmp_path / "names.parquet")
    pq.write_table(pa.table({"imageA": images, "imageB": broken}), tmp_path / "broken.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "broken.parquet").read_bytes()[:-20])
    for name, message in (("paths", "holds a path, /home/a/0.png, and no picture"),
                          ("text", "the column imageB holds text"), ("gone", "gone.parquet is no file"),
                          ("names", "has no column imageA; it has image, caption, edit: --columns image edit names"),
                          ("cut", "cannot be read as parquet")):
        status, said = run("parquet", tmp_path / f"{name}.parquet", tmp_path / "out")
        assert status == 2 and message in said and said.count("\n") == 1, said
        assert not (tmp_path / "out").exists()
    status, said = run("parquet", tmp_path / "broken.parquet", tmp_path / "out", "--val", 0)
    assert status == 1 and "2 in train" in said and "not used: 2, such as" in said and "row 0, imageB" in said
    assert run("parquet", tmp_path / "names.parquet", tmp_path / "new", "--columns", "edit", "image")[0] == 0


def test_blocks_are_held_out_evenly():
    blocks = Blocks(0.1)
    splits = [blocks.split(i) for i in range(100)]
    assert splits.count("val") == 10 and "val" in splits[:10]
    again = Blocks(0.1, {i: splits[i] for i in range(37)})
    assert [again.split(i) for i in range(100)] == splits


def test_what_a_package_is_for_is_told_where_it_is_missing(tmp_path):
    """pyarrow, scikit-image and PyAV serve one kind of data each: whoever has none of it need not have them."""
    photos(tmp_path / "photos", 1)
    for module, package, words in (("skimage", "scikit-image", ["photos", "photos", "out", "--input", "edges"]),
                                   ("pyarrow", "pyarrow", ["parquet", "a.parquet", "out"])):
        blocked = f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = {words}; " \
                  f"sys.path.insert(0, {str(ROOT)!r}); import prepare; prepare.run_main(prepare.main)"
        done = subprocess.run([sys.executable, "-c", blocked], cwd=tmp_path, text=True, capture_output=True)
        assert done.returncode == 2 and f"pip install {package}" in done.stderr, done.stderr


def test_the_settings_that_pairs_were_made_with_are_kept(tmp_path):
    assert run("photos", photos(tmp_path / "photos", 1), tmp_path / "out", "--input", "gray")[0] == 0
    note = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert note["command"] == "photos" and note["inputs"] == [str(tmp_path / "photos")] and note["input"] == "gray"
    (tmp_path / "out" / "prepare.json").write_text("[")
    status, said = run("photos", tmp_path / "photos", tmp_path / "out", "--input", "gray")
    assert status == 2 and "prepare.json is damaged" in said
