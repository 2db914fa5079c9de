import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tree

from evaluate import splits_for
from inference.trained import Trained
from pairs.download import ensure_dataset
from pairs.find import find_pairs, list_images, usable_pairs
from pairs.geometry import Geometry
from pairs.identity import Known
from pairs.patterns import list_files
from runtime.grids import save_grid
from utils import DataError, UserError


def names_of(pairs):
    """Of side-by-side files."""
    return [pair.files[0].stem for pair in pairs]


def names(pairs):
    return [[path.stem for path in pair.files] for pair in pairs]


def everything(found):
    return sorted(sum(found.splits.values(), []), key=lambda pair: pair.files)


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    tree(tmp_path, "b", "a", "10", "9", "c")
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top, **kw: ((p, d, sorted(f, reverse=True)) for p, d, f in walk(top, **kw)))
    assert [path.stem for path in list_images(tmp_path)] == ["10", "9", "a", "b", "c"]


def test_only_images_are_taken_for_images(tmp_path):
    tree(tmp_path, "a.PNG", "__MACOSX/a", "sub/b.jpeg", "@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg")
    for name in ("notes.txt", "Thumbs.db", "._a.png", ".DS_Store", "no_ending"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path)] == ["a.PNG", "b.jpeg"]


@pytest.mark.parametrize("folders", [
    {"train": "train", "val": "val"}, {"train": "train", "val": "valid"}, {"train": "train", "val": "validation"},
    {"train": "train", "test": "test"}, {"train": "training", "test": "testing"}, {"train": "Train", "val": "Val"},
    {"train": "train", "val": "val", "test": "test"}])  # a test split is never added to training
def test_side_by_side_splits(tmp_path, folders):
    tree(tmp_path, *(f"{folder}/{split}" for split, folder in folders.items()))
    found = find_pairs(tmp_path)
    assert {split: names(pairs) for split, pairs in found.splits.items()} == {split: [[split]] for split in folders}
    assert found.validation == ("val" if "val" in folders else "test")


@pytest.mark.parametrize(("a", "b"), [("{}/A", "{}/B"), ("{}_A", "{}_B"), ("{}A", "{}B"), ("A/{}", "B/{}"),
                                      ("{}/a", "{}/B"), ("{}_a", "{}_B")])
@pytest.mark.parametrize("write", [str, str.title, str.upper])
def test_folders_of_a_and_b_are_paired_by_name_not_by_position(tmp_path, a, b, write):
    for split, stem in (("train", "1"), ("train", "2"), ("val", "3")):
        tree(tmp_path, f"{a.format(write(split))}/{stem}.png", f"{b.format(split)}/{stem}.jpg")
    found = find_pairs(tmp_path)
    assert names(found.splits["train"]) == [["1", "1"], ["2", "2"]] and names(found.splits["val"]) == [["3", "3"]]
    assert {path.suffix for path in found.splits["train"][0].files} == {".png", ".jpg"} and not found.orphans


@pytest.mark.parametrize("place", [".", "train", "A+B"])
def test_without_a_split_a_seeded_tenth_is_held_out_and_that_is_said(tmp_path, place):
    for side in "AB" if place == "A+B" else [place]:
        tree(tmp_path / side, *(f"{i:02d}" for i in range(30)))
    found, again, other = find_pairs(tmp_path, 0), find_pairs(tmp_path, 0), find_pairs(tmp_path, 1)
    n = len(found.splits["val"])
    assert 1 <= n <= 8 and len(found.splits["train"]) == 30 - n
    assert not set(found.splits["train"]) & set(found.splits["val"])
    assert any(f"{n} of the 30" in note for note in found.notes)
    assert found.splits == again.splits and found.splits != other.splits


def test_one_file_more_or_less_moves_no_other_pair_into_or_out_of_validation(tmp_path):
    tree(tmp_path, *(f"{i:02d}" for i in range(40)))
    before = set(names_of(find_pairs(tmp_path, 3).splits["val"]))
    (tmp_path / "20.png").unlink()
    tree(tmp_path, "00a", "20a", "zz")
    splits = find_pairs(tmp_path, 3).splits
    assert set(names_of(splits["val"])) - {"00a", "20a", "zz"} == before - {"20"}
    assert 2 < len(before) < 8


def test_the_held_out_pairs_do_not_depend_on_the_folder_the_format_or_the_system(tmp_path):
    for name in (f"{i:02d}é" for i in range(40)):
        tree(tmp_path, f"here/{name}", "there/data/" + unicodedata.normalize("NFD", name) + ".jpg")
    roots = tmp_path / "here", tmp_path / "there" / "data"
    here, there = (names_of(find_pairs(root).splits["val"]) for root in roots)
    assert here == [unicodedata.normalize("NFC", name) for name in there]


def test_a_test_split_beside_val_is_not_needed_and_ends_nothing(tmp_path, capsys):
    """Alone it is validation, and then an image without a partner ends the start."""
    tree(tmp_path, *(f"{split}/{side}/{i}" for split in ("train", "val", "test") for side in "AB" for i in range(2)))
    tree(tmp_path, "test/A/alone")
    found = usable_pairs(tmp_path, 0)
    assert found.validation == "val" and len(found.splits["val"]) == 2
    assert "not used: test, which training does not need: 1 image without a partner" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(UserError, match="images without a partner .*test/A/alone"):
        usable_pairs(tmp_path, 0)
    shutil.rmtree(tmp_path / "train")
    for path in tmp_path.glob("test/A/[01].*"):
        path.unlink()
    with pytest.raises(UserError, match="images without a partner .*test/A/alone"):
        splits_for(Trained(3, 3, Geometry()), tmp_path, "val")


def test_what_a_run_held_out_stays_held_out(tmp_path):
    tree(tmp_path, *(f"{i:02d}" for i in range(20)))
    before = find_pairs(tmp_path, 0)
    kept = before.held_out
    known = Known().next(before.marks["train"], np.repeat(before.marks["val"], 2, axis=0))  # each lay there twice
    assert not any("gone" in note for note in find_pairs(tmp_path, 7, known).notes)
    (tmp_path / f"{kept[0]}.png").unlink()
    tree(tmp_path, "new", "also new")
    found = find_pairs(tmp_path, 7, known)
    assert names_of(found.splits["val"]) == found.held_out == kept[1:]
    assert any("1 that were held out are gone" in note for note in found.notes)
    tree(tmp_path, kept[0])  # one that comes back is not trained on either
    again = find_pairs(tmp_path, 7, known.next(found.marks["train"], found.marks["val"]))
    assert names_of(again.splits["val"]) == kept
    with pytest.raises(UserError, match="all 22 pairs .* none is left to train"):
        find_pairs(tmp_path, 0, Known().next(again.marks["train"][:0], np.concatenate([*again.marks.values()])))


@pytest.mark.parametrize(("a", "b"), [("_A", "_B"), ("-a", "-b"), ("_input", "_target"), ("_Label", "_Image"),
                                      ("_src", "_tar")])
@pytest.mark.parametrize("place", [".", "train"])
def test_files_of_a_and_b_in_one_folder_are_paired_not_cut_in_half(tmp_path, place, a, b):
    for stem in ("1", "2", "house_3"):
        tree(tmp_path / place, f"{stem}{a}.png", f"{stem}{b}.jpg")
    found = find_pairs(tmp_path)
    assert names(everything(found)) == [[f"{stem}{a}", f"{stem}{b}"] for stem in ("1", "2", "house_3")]
    assert any(f"names, _{a[1:].lower()} and _{b[1:].lower()}" in note for note in found.notes)


def test_two_of_many_views_are_no_pair_by_their_ends(tmp_path):
    tree(tmp_path, "1_a", "1_b", "1_c", "1_d", "2", "3")
    found = find_pairs(tmp_path)
    assert len(everything(found)) == 6 and "only 2 of the 6 names end in _a and _b" in found.notes[0]


def test_names_of_a_mac_match_those_of_other_systems(tmp_path):
    tree(tmp_path, "A/caf\u00e9", "B/cafe\u0301", "A/2", "B/2")
    found = find_pairs(tmp_path)
    assert not found.orphans and len(everything(found)) == 2


def test_pictures_that_the_program_drew_are_never_pairs(tmp_path):
    tiles = [[torch.zeros(3, 16, 16)] * 2]
    tree(tmp_path, "0", "1", "2", "3", "sheet")  # a sheet of one's own, by chance of that name
    for name in ("preview_mine", "losses", "examples/epoch_0001", "evaluation_val/sheet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_grid(tmp_path / f"{name}.png", tiles, ["input", "target"])
    found = find_pairs(tmp_path)
    assert names_of(everything(found)) == ["0", "1", "2", "3", "sheet"]
    note, = (note for note in found.notes if "not used" in note)
    assert "4 images that this program drew" in note and len(list_files(tmp_path)) == 5


def test_one_of_two_pairs_stays_in_training_whatever_the_seed(tmp_path):
    tree(tmp_path, "A/1", "B/1", "A/2", "B/2", "test/3")  # and the folder of inputs takes nothing from A and B
    for seed in range(200):
        splits = find_pairs(tmp_path, seed).splits
        assert len(splits["train"]) == len(splits["val"]) == 1


def test_training_wants_its_validation_pairs_whole(tmp_path):
    tree(tmp_path, *(f"{split}/{side}/1" for split in ("train", "val") for side in "AB"), "val/A/1.jpg")
    with pytest.raises(UserError, match="have the same name"):
        usable_pairs(tmp_path, 0)


def test_nothing_is_left_out_without_a_word(tmp_path, capsys):
    tree(tmp_path, *(f"{place}/{i}" for place in ("mine", "mine/more/deep", "elsewhere") for i in range(2)))
    for name in ("a.jp2", "b.HEIC", "c.jp2", "notes.txt", ".hidden.jp2", "metadata.csv"):
        (tmp_path / "mine" / name).write_bytes(b"x")
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "mine" / "one.png").symlink_to(tmp_path / "elsewhere" / "0.png")  # links to files are followed
    found = find_pairs(tmp_path / "mine")
    assert len(everything(found)) == 3
    notes = [note for note in found.notes if note.startswith("not used")]
    assert len(notes) == 4 and "metadata.csv; pairs are told by" in notes[3]
    assert "2 images in mine/more/deep" in notes[0] and str(tmp_path / "mine" / "link") in notes[1]
    assert "2 × .jp2, 1 × .heic" in notes[2]
    assert len(list_images(tmp_path / "mine")) == 7 and notes[2] in capsys.readouterr().out  # with links
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "train").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    tree(tmp_path / "split", "val/0", "loose")
    found = find_pairs(tmp_path / "split")  # a split may be a link
    assert len(found.splits["train"]) == 2 and len(found.notes) == 1 and "1 image in split (" in found.notes[0]


def test_links_that_lead_round_in_a_circle_are_walked_once(tmp_path, monkeypatch):
    tree(tmp_path, "mine/val/1", "mine/2", "mine/3")
    for link in ("mine/train", "mine/val/A"):
        (tmp_path / link).symlink_to(tmp_path / "mine", target_is_directory=True)
    (tmp_path / "mine" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(list_images(tmp_path / "mine")) == 3
    monkeypatch.chdir(tmp_path)
    assert len(list_images(Path("mine"))) == 3
    (tmp_path / "mine" / "up").unlink()
    assert any("inputs without targets" in note for note in usable_pairs(tmp_path / "mine", 0).notes)
    (tmp_path / "mine" / "val" / "A").unlink()
    found = find_pairs(tmp_path / "mine")
    assert names(found.splits["train"]) == [["2"], ["3"]] and names(found.splits["val"]) == [["1"]]


@pytest.mark.parametrize("stray", ["val/A/x", "val/x", "test/A/x"])
def test_of_two_names_of_a_split_the_one_that_holds_pairs_is_taken(tmp_path, stray):
    names = ("training", "validation" if stray.startswith("val") else "testing")
    tree(tmp_path, *(f"{name}/{side}/{i}" for name in names for side in "AB" for i in range(2)), "train/x", stray)
    found = find_pairs(tmp_path)
    assert [len(found.splits[name]) for name in ("train", found.validation)] == [2, 2]
    assert all(any(place in note for note in found.notes) for place in ("/train", f"/{stray[:-2]}"))


def test_of_two_names_of_a_split_the_first_is_taken_and_the_other_told(tmp_path):
    tree(tmp_path, *(f"{name}/{i}" for name in ("train", "training", "val", "valid") for i in range(2)))
    found = find_pairs(tmp_path)
    assert all(names(found.splits[split]) == [["0"], ["1"]] for split in ("train", "val"))
    assert any("4 images in" in note and "/training, " in note and "/valid " in note for note in found.notes)


def test_an_empty_folder_is_no_side(tmp_path):
    tree(tmp_path, "train/1", "train/2", "val/3")
    for name in ("train/A", "train_B", "B"):
        (tmp_path / name).mkdir()
    assert len(find_pairs(tmp_path).splits["train"]) == 2


def test_of_several_inputs_one_that_holds_nothing_is_missed(tmp_path):
    tree(tmp_path, "A2/1", "A2/2", "B/1", "B/2")
    (tmp_path / "A1").mkdir()
    assert len(find_pairs(tmp_path).orphans["train"]) == 4


def test_a_folder_that_cannot_be_read_is_named_where_pairs_are_looked_for(tmp_path, monkeypatch):
    tree(tmp_path, "train/1", "train/2", "val/3", "lost+found/1")
    scandir, closed = os.scandir, "lost+found"

    def refuse(path):
        if Path(path).name == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert len(find_pairs(tmp_path).splits["train"]) == 2
    closed = "train"
    with pytest.raises(PermissionError, match="train"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("files", "hint"), [
    (["x/train/1.png", "x/val/1.png"], "x"), (["x/train/A/1.png", "x/train/B/1.png"], "x"), (["x/1.png"], "x"),
    (["x/y/trainA/1.png", "x/y/trainB/1.png"], "x/y"), (["Training_set/1.png", "val/1.png"], ""),
    (["input/1.png", "target/1.png"], "")])
def test_a_data_set_one_folder_further_down_is_named(tmp_path, files, hint):
    tree(tmp_path, *files)
    with pytest.raises((ValueError, OSError), match=files[0].split("/")[0]) as error:
        find_pairs(tmp_path)
    wanted = f"Did you mean --data-root {tmp_path / hint}?" if hint else ""
    assert wanted in str(error.value) and ("Did you mean" in str(error.value)) == bool(hint)


@pytest.mark.parametrize(("paths", "alone", "note"), [
    ("train/A/1 train/A/2 train/B/2 train/B/3", ["train/A/1.png", "train/B/3.png"], ""),
    ("train_A/1", ["train_A/1.png"], ""),
    ("1_A 1_B 2_A 2_B 3_A 4_A 4_B cover sub/5_A", ["3_A.png"], "not used: 2 images")])
def test_orphans_are_found_on_both_sides(tmp_path, paths, alone, note):
    found = find_pairs(tree(tmp_path, *paths.split()))
    orphans = sum(found.orphans.values(), [])
    assert sorted(path.relative_to(tmp_path).as_posix() for path in orphans) == alone
    assert not note or any(note in each for each in found.notes)


@pytest.mark.parametrize(("a", "b"), ["AB", "xy", "XY", ("src", "tar"), "ab", ("arr_0", "arr_1"), ("images", "labels"),
                                      ("labels", "images"), ("photos", "maps")])
def test_an_npz_holds_sources_and_targets_by_name_or_in_order_and_says_so(tmp_path, a, b):
    known = len(a) == 1 or a == "src"
    arrays = {a: np.zeros((3, 8, 8, 3), np.uint8), b: np.ones((3, 8, 8), np.uint8)}
    for split, n in (("train", 3), ("val", 1)):  # the order of known names does not count
        names = sorted(arrays, reverse=True) if known else arrays
        np.savez_compressed(tmp_path / f"{split}.npz", **{name: arrays[name][:n] for name in names})
    found = find_pairs(tmp_path)
    assert [len(found.splits[split]) for split in ("train", "val")] == [3, 1]
    assert found.splits["train"][0].inputs[0].max() == 0 and found.splits["train"][0].target.min() == 1
    said = f"train.npz: A is {a} and B is {b}, in the order of the file" in found.notes
    assert said == (not known and a != "arr_0")


SINGLE = ["input/1", "input/2", "target/1", "target/2"]


@pytest.mark.parametrize(("files", "message"), [
    (SINGLE, "sub-folders input, target; known names are"),  # never cut in half
    ([f"train/{name}" for name in SINGLE], "sub-folders input, target; known names are"),
    (["train/1"], "holds one pair only"),
    (["train/A/1.png", "train/A/1.jpg", "train/B/1"], "have the same name, and it is not clear which one is meant"),
    (["1_A", "1_B", "2_A", "2_B", "1_a.jpg"], "have the same name, and it is not clear which one is meant")])
def test_what_is_not_clear_is_refused(tmp_path, files, message):
    tree(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        find_pairs(tmp_path)


@pytest.mark.parametrize("arrays", [
    [np.zeros((2, 8, 8, 3), np.uint8)],
    [np.zeros((2, 8, 8, 3), np.complex64)] * 2,
    [np.zeros((2, 8, 8, 65), np.uint8)] * 2,
    [np.full((2, 8, 8), "a")] * 2,
    [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8)],
    [np.array([{}, {}], object)] * 2,
    [np.zeros((0, 8, 8, 3), np.uint8)] * 2,
    b"PK\x03\x04 no archive",
])
def test_an_npz_of_anything_else_is_refused(tmp_path, arrays):
    if isinstance(arrays, bytes):
        (tmp_path / "train.npz").write_bytes(arrays)
    else:
        np.savez(tmp_path / "train.npz", *arrays)
    with pytest.raises(DataError, match="train.npz"):
        find_pairs(tmp_path)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    with pytest.raises(FileNotFoundError, match="which holds nothing"):
        find_pairs(tmp_path)
    (tmp_path / "a.jp2").write_bytes(b"x")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(FileNotFoundError, match="1 × .jp2, 1 × link to a folder, not followed"):
        find_pairs(tmp_path)
    (tmp_path / "maps_256.npz").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="1 × .npz.* Wanted: .* two arrays in train.npz"):
        find_pairs(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_pairs(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["facades", "demo"])
def test_a_mistyped_folder_is_neither_downloaded_nor_drawn_into(tmp_path, monkeypatch, name):
    """Also the folder of a run that is resumed after its data has moved."""
    for module, act in (("pairs.download", "fetch"), ("pairs.demo", "draw")):
        monkeypatch.setattr(f"{module}.{act}", lambda *args: pytest.fail(f"made {args}"))
    for root in (tmp_path / name, tmp_path / "no" / name, tmp_path / "data" / name, Path(name), Path("../data") / name):
        with pytest.raises(FileNotFoundError, match=f"is no folder; {name} is made as data/{name} only.*--data-root"):
            usable_pairs(root, 0)
    assert not list(tmp_path.iterdir()) and not list(Path().iterdir())


def test_a_known_data_set_is_fetched_where_it_was_meant_to_be(monkeypatch):
    fetched = []
    monkeypatch.setattr("pairs.download.fetch", fetched.append)
    for root in (Path("data/facades"), Path("data/facades").absolute()):
        ensure_dataset(root)
        assert fetched.pop() == root


def test_a_rank_left_in_the_environment_waits_for_nobody(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    drawn = []
    monkeypatch.setattr("pairs.demo.draw", drawn.append)
    monkeypatch.setattr("pairs.download.wait_for", lambda root: pytest.fail("waits"))
    ensure_dataset(Path("data/demo"))
    assert drawn == [Path("data/demo")]
