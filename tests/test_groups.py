"""A patient, slide or video is in one split only, also when a run goes on with more of its images."""

import json
import re
import shutil

import pytest
from conftest import tree

from check import check
from config import Config
from pairs.find import find_pairs, usable_pairs
from pairs.identity import Known
from utils import UserError

PATIENTS = [f"p{i:02}" for i in range(12)]


def scans(root, *names):
    return tree(root, *(name.format(side) for name in names for side in "AB"))


def patients(pairs):
    return {pair.files[0].stem[:3] for pair in pairs}


@pytest.mark.parametrize("group", ["^p[0-9]+", "(p[0-9]+)_"])
def test_a_group_is_held_out_whole(tmp_path, group):
    scans(tmp_path, *(f"{{}}/{p}_s{i}.png" for p in PATIENTS for i in range(5)))
    scattered = find_pairs(tmp_path).splits
    assert patients(scattered["train"]) & patients(scattered["val"])  # what --group is there for
    found = find_pairs(tmp_path, group=group)
    held = patients(found.splits["val"])
    assert held and not held & patients(found.splits["train"])
    assert len(found.splits["val"]) == 5 * len(held) and len(held) < 6
    assert any(f"{len(held)} of 12 groups" in note for note in found.notes)


def test_pairs_of_one_content_keep_their_groups_together(tmp_path):
    scans(tmp_path, *(f"{{}}/{p}_s{i}.png" for p in PATIENTS for i in range(2)))
    for p in PATIENTS[1:]:  # one slice that all share but for the last four
        if p < "p08":
            for side in "AB":
                (tmp_path / side / f"{p}_s0.png").write_bytes((tmp_path / side / "p00_s0.png").read_bytes())
    for seed in range(5):
        found = find_pairs(tmp_path, seed, group="^p[0-9]+")
        sides = [patients(found.splits[split]) for split in ("train", "val")]
        assert not sides[0] & sides[1]
        assert any({*PATIENTS[:8]} <= side for side in sides)


def test_new_images_of_a_group_follow_it_to_its_side(tmp_path):
    scans(tmp_path, *(f"{{}}/{p}_s{i}.png" for p in PATIENTS for i in range(3)))
    first = find_pairs(tmp_path, group="^p[0-9]+")
    known = Known().next(first.marks["train"], first.marks["val"])
    scans(tmp_path, *(f"{{}}/{p}_s{i}.png" for p in PATIENTS for i in range(3, 9)))
    found = find_pairs(tmp_path, known=known, group="^p[0-9]+")
    assert patients(found.splits["val"]) == patients(first.splits["val"])
    assert not patients(found.splits["val"]) & patients(found.splits["train"])
    assert len(found.splits["val"]) == 3 * len(first.splits["val"])
    assert any("are new and of the same groups" in note for note in found.notes)


def test_a_group_on_both_sides_of_a_run_that_began_without_groups_is_told(tmp_path):
    scans(tmp_path, *(f"{{}}/{p}_s{i}.png" for p in PATIENTS for i in range(3)))
    first = find_pairs(tmp_path)
    known = Known().next(first.marks["train"], first.marks["val"])
    notes = find_pairs(tmp_path, known=known, group="^p[0-9]+").notes
    assert any(re.search("of the . groups in val are in train too, such as 'p.*say nothing of new groups", note)
               for note in notes)


def test_a_new_run_on_a_trained_network_holds_out_groups_that_it_has_not_seen(tmp_path):
    scans(tmp_path, *(f"{{}}/{p}_s0.png" for p in PATIENTS[:10]))
    before = find_pairs(tmp_path).splits
    known = Known().next(*[find_pairs(tmp_path).marks[split] for split in ("train", "val")])
    known = Known(train=known.trained, val=known.val[:0])
    for pair in before["val"]:
        for path in pair.files:
            path.unlink()
    scans(tmp_path, *(f"{{}}/{p}_s1.png" for p in PATIENTS))
    seen = patients(before["train"])
    found = find_pairs(tmp_path, known=known, resumed=False, group="^p[0-9]+")
    assert not patients(found.splits["val"]) & seen


@pytest.mark.parametrize(("names", "group", "words"), [
    (["{}/p1_0.png", "{}/p2_0.png", "{}/x.png"], "^p[0-9]", ["finds nothing in 1 of 3 names", "'x'"]),
    (["{}/p1_0.png", "{}/p1_1.png"], "^p[0-9]", ["one group of all 2 pairs", "'p1'"]),
    (["train/{}/p1_0.png", "train/{}/p2_0.png", "val/{}/p2_1.png"], "^p[0-9]",
     ["1 of the 1 groups in val are in train too", "'p2'"]),
])
def test_groups_that_cannot_be_kept_apart_are_a_sentence(tmp_path, names, group, words):
    with pytest.raises(UserError) as error:
        usable_pairs(scans(tmp_path, *names), 0, group=group)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(("names", "told", "command"), [
    ([f"{{}}/{p}_s{i}.png" for p in PATIENTS for i in range(5)], True, ""),
    ([f"{split}/{{}}/{p}/{i}.png" for p in PATIENTS for i in range(2) for split in ("train", "val")], True, ""),
    ([f"{split}/{{}}/{p}_{i}.png" for split, some in (("train", PATIENTS[:9]), ("val", PATIENTS[9:]))
      for p in some for i in range(4)], False, ""),
    ([f"{{}}/facade_{i:03}.png" for i in range(60)], False, ""),
    ([f"{{}}/{i:03}.png" for i in range(60)], False, ""),
    *(([f"{'val' if column == 3 else 'train'}/{{}}/{row:06}_{column:06}.png" for row in range(4)
        for column in range(4)], command == "photos", command) for command in ("tiles", "parquet", "photos")),
])
def test_check_says_when_names_begin_alike_across_splits(tmp_path, capsys, names, told, command):
    """Names after places and rows, as prepare.py gives, tell of no patient."""
    cfg = Config(data_root=scans(tmp_path, *names), load_size=16, crop_size=16, n_layers=1)
    (tmp_path / "prepare.json").write_text(json.dumps({"command": command}))
    check(cfg)
    said = capsys.readouterr().out
    assert ("--group" in said) == ("begin as names" in said) == told
    if told and names[0].startswith("{}"):
        check(Config(data_root=tmp_path, load_size=16, crop_size=16, n_layers=1, group="(.+)[-_/ ]"))
        assert "begin as names" not in capsys.readouterr().out


@pytest.mark.parametrize("names", [
    [f"{{}}/{p}_s{i}.png" for p in PATIENTS for i in range(5)],
    [f"{{}}/{p}_s{i}.png" for p in PATIENTS for i in range(5)] + ["{}/atlas.png"],
    [f"{split}/{{}}/{p}_{i}.png" for p in PATIENTS for i, split in enumerate(("train", "val"))],
    [f"{split}/{{}}/{p}_{i}.png" for p in PATIENTS for i, split in enumerate(("train", "train", "val", "test"))],
])
def test_what_check_advises_for_groups_is_what_training_takes(tmp_path, capsys, names):
    root = scans(tmp_path / "data", *names)
    cfg = Config(data_root=root, load_size=16, crop_size=16, n_layers=1)
    check(cfg)
    said = capsys.readouterr().out
    if not (root / "val").is_dir():
        assert "one split" not in said
    elif (root / "test").is_dir():
        assert "move all of each into one split\n" in said and "--group" not in said
        return
    else:
        assert "move all of each into one split, or everything into train and hold out whole ones, here by" in said
        shutil.copytree(root / "val", root / "train", dirs_exist_ok=True)
        shutil.rmtree(root / "val")
    splits = usable_pairs(root, 0, group=re.search("--group '(.*)'", said)[1]).splits
    assert not patients(splits["train"]) & patients(splits["val"])
