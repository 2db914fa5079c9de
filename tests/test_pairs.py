import os
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pair
from PIL import Image

from pairs import find_pairs, list_images, obtain, usable_splits
from utils import DataError


def image(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def names(pairs):
    return [[path.stem for path in pair] for pair in pairs]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in ("b", "a", "10", "9", "c"):
        image(tmp_path / f"{name}.png")
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((p, d, sorted(f, reverse=True)) for p, d, f in walk(top)))
    assert [path.stem for path in list_images(tmp_path)] == ["10", "9", "a", "b", "c"]


def test_only_images_are_taken_for_images(tmp_path):
    image(tmp_path / "a.PNG")
    for name in ("notes.txt", "Thumbs.db", "._a.png", ".DS_Store", "no_ending"):
        (tmp_path / name).write_bytes(b"x")
    image(tmp_path / "__MACOSX" / "a.png")
    image(tmp_path / "sub" / "b.jpeg")
    assert [path.name for path in list_images(tmp_path)] == ["a.PNG", "b.jpeg"]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_side_by_side_splits(tmp_path, val):
    write_pair(tmp_path / "train" / "1.png")
    write_pair(tmp_path / val / "2.png")
    found = find_pairs(tmp_path)
    assert names(found.splits["train"]) == [["1"]]
    assert names(found.splits["test" if val == "test" else "val"]) == [["2"]]


@pytest.mark.parametrize("layout", ["{split}/{side}", "{split}_{side}", "{split}{side}", "{side}/{split}"])
def test_folders_of_a_and_b_are_paired_by_name_not_by_position(tmp_path, layout):
    for split, stems in (("train", "12"), ("val", "3")):
        for stem in stems:
            image(tmp_path / layout.format(split=split, side="A") / f"{stem}.png")
            image(tmp_path / layout.format(split=split, side="B") / f"{stem}.jpg")
    found = find_pairs(tmp_path)
    assert names(found.splits["train"]) == [["1", "1"], ["2", "2"]] and names(found.splits["val"]) == [["3", "3"]]
    assert {path.suffix for path in found.splits["train"][0]} == {".png", ".jpg"} and not found.orphans


def test_the_test_split_is_never_added_to_training(tmp_path):
    for split in ("train", "val", "test"):
        write_pair(tmp_path / split / f"{split}.png")
    found = find_pairs(tmp_path)
    assert {split: names(pairs) for split, pairs in found.splits.items()} == {
        "train": [["train"]], "val": [["val"]], "test": [["test"]]}


@pytest.mark.parametrize("place", [".", "train", "A+B"])
def test_without_a_split_a_seeded_tenth_is_held_out_and_that_is_said(tmp_path, place):
    for i in range(30):
        if place == "A+B":
            image(tmp_path / "A" / f"{i:02d}.png")
            image(tmp_path / "B" / f"{i:02d}.png")
        else:
            image(tmp_path / place / f"{i:02d}.png")
    found, again, other = find_pairs(tmp_path, 0), find_pairs(tmp_path, 0), find_pairs(tmp_path, 1)
    assert len(found.splits["train"]) == 27 and len(found.splits["val"]) == 3
    assert not set(found.splits["train"]) & set(found.splits["val"])
    assert "3 of the 30" in found.notes[0]
    assert found.splits == again.splits and found.splits != other.splits


def test_orphans_are_found_on_both_sides(tmp_path):
    for path in ("A/1", "A/2", "B/2", "B/3"):
        image(tmp_path / "train" / f"{path}.png")
    found = find_pairs(tmp_path)
    assert sorted(path.relative_to(tmp_path / "train").as_posix() for path in found.orphans) == ["A/1.png", "B/3.png"]


def test_a_missing_side_is_all_orphans(tmp_path):
    image(tmp_path / "train_A" / "1.png")
    assert len(find_pairs(tmp_path).orphans) == 1


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("A/1.png", "A/1.jpg", "B/1.png"):
        image(tmp_path / "train" / name)
    with pytest.raises(ValueError, match="same name"):
        find_pairs(tmp_path)


def test_npz_holds_sources_and_targets(tmp_path):
    a, b = np.zeros((3, 8, 8, 3), np.uint8), np.ones((3, 8, 8), np.uint8)
    np.savez_compressed(tmp_path / "train.npz", a, b)
    np.savez_compressed(tmp_path / "val.npz", a[:1], b[:1])
    found = find_pairs(tmp_path)
    assert len(found.splits["train"]) == 3 and len(found.splits["val"]) == 1
    assert found.splits["train"][0][0].max() == 0 and found.splits["train"][0][1].min() == 1


@pytest.mark.parametrize("names", [("train/a", "train/b"), ("Train/A", "Train/B"), ("TRAIN_a", "train_b")])
def test_upper_and_lower_case_are_one(tmp_path, names):
    for name in names:
        for stem in "12":
            image(tmp_path / name / f"{stem}.png")
    found = find_pairs(tmp_path)
    assert all(len(pair) == 2 for pairs in found.splits.values() for pair in pairs)
    assert len(found.splits["train"]) + len(found.splits["val"]) == 2


def test_splits_in_upper_case_are_not_pooled(tmp_path):
    image(tmp_path / "Train" / "1.png")
    image(tmp_path / "Val" / "2.png")
    found = find_pairs(tmp_path)
    assert names(found.splits["train"]) == [["1"]] and names(found.splits["val"]) == [["2"]]


@pytest.mark.parametrize("place", ["train/", ""])
def test_single_images_in_folders_of_unknown_names_are_not_cut_in_half(tmp_path, place):
    for side in ("input", "target"):
        for stem in "12":
            image(tmp_path / f"{place}{side}" / f"{stem}.png")
    with pytest.raises(ValueError, match="sub-folders input, target; known names are"):
        find_pairs(tmp_path)


def test_one_pair_cannot_be_split(tmp_path):
    image(tmp_path / "train" / "1.png")
    with pytest.raises(ValueError, match="holds one pair only"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("arrays", [
    [np.zeros((2, 8, 8, 3), np.uint8)],
    [np.zeros((2, 8, 8, 3), np.float32)] * 2,
    [np.zeros((2, 8, 8, 2), np.uint8)] * 2,
    [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((3, 8, 8, 3), np.uint8)],
    [np.array([{}, {}], object)] * 2,
    [np.zeros((0, 8, 8, 3), np.uint8)] * 2,
])
def test_an_npz_of_anything_else_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "train.npz", *arrays)
    with pytest.raises(DataError, match="train.npz"):
        find_pairs(tmp_path)


def test_a_damaged_npz_is_refused(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="train.npz"):
        find_pairs(tmp_path)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    with pytest.raises(FileNotFoundError, match="which holds nothing"):
        find_pairs(tmp_path)
    (tmp_path / "a.gif").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="1 × .gif"):
        find_pairs(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_pairs(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["facades", "demo"])
def test_a_mistyped_folder_is_neither_downloaded_nor_drawn_into(tmp_path, monkeypatch, name):
    """Also the folder of a run that is resumed after its data has moved."""
    for module, act in (("download", "fetch"), ("demo", "draw")):
        monkeypatch.setattr(f"{module}.{act}", lambda *args: pytest.fail(f"made {args}"))
    for root in (tmp_path / name, tmp_path / "no" / name, tmp_path / "data" / name, Path(name), Path("../data") / name):
        with pytest.raises(FileNotFoundError, match=f"is no folder; {name} is made as data/{name} only.*--data-root"):
            usable_splits(root, 0)
    assert not list(tmp_path.iterdir()) and not list(Path().iterdir())


@pytest.mark.parametrize("form", [Path, Path.absolute])
def test_a_known_data_set_is_fetched_where_it_was_meant_to_be(monkeypatch, form):
    fetched = []
    monkeypatch.setattr("download.fetch", lambda name, root: fetched.append((name, root)))
    root = form(Path("data/facades"))
    obtain(root)
    assert fetched == [("facades", root)]


def test_a_rank_left_in_the_environment_waits_for_nobody(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    drawn = []
    monkeypatch.setattr("demo.draw", drawn.append)
    monkeypatch.setattr("pairs.wait_for", lambda root: pytest.fail("waits"))
    obtain(Path("data/demo"))
    assert drawn == [Path("data/demo")]
