"""Pairs in folders with names of their own: what the patterns match, and the flags that are proposed."""

import re
import shlex
import shutil

import pytest
from conftest import tree

from check import check
from config import Config
from dataset import load_data
from inference.trained import Trained
from pairs.checks import check_headers
from pairs.find import find_pairs, usable_pairs
from pairs.geometry import Geometry
from pairs.patterns import Patterns, suggested
from predict import jobs_in_folder
from utils import UserError

NUMBERS = [f"{i:03}" for i in range(4)]


def both(a, b, numbers=NUMBERS):
    return [name.format(number) for number in numbers for name in (a, b)]


def shown(root, patterns=None):
    """{split: [files of each pair, as seen from root]}, without holding any out."""
    found = find_pairs(root, patterns=patterns)
    return {split: [[path.relative_to(root).as_posix() for path in pair.files] for pair in pairs]
            for split, pairs in found.splits.items()}


@pytest.mark.parametrize(("patterns", "files", "keys"), [
    (Patterns(("{split}/in put/{name}.png",), "{split}/[t]/{name}.jpg"), ("{s}/in put/{n}.png", "{s}/[t]/{n}.jpg"),
     "{s}/{n}"),
    (Patterns(("A_{split}/{name}-x*.png",), "B_{split}/{name}.*"), ("A_{s}/{n}-x77.png", "B_{s}/{n}.tif"), "{s}/{n}"),
    (Patterns(("x/{split}/{name}_x.png",), "y/{split}/{name}_y.png"), ("x/{s}/ulm/{n}_x.png", "y/{s}/ulm/{n}_y.png"),
     "{s}/ulm/{n}"),
    (Patterns(("{split}/*/s1_*/{name}_s1_{name}.png",), "{split}/*/s2_*/{name}_s2_{name}.png"),
     ("{s}/r/s1_9/r_s1_9_{n}.png", "{s}/r/s2_9/r_s2_9_{n}.png"), "{s}/r/9_{n}"),
])
def test_patterns_pair_by_what_name_stands_for(tmp_path, patterns, files, keys):
    words = {"train": "Train", "val": "validation", "test": "testing"}
    for word in words.values():
        tree(tmp_path, *(file.format(s=word, n=n) for n in NUMBERS for file in files))
    found = find_pairs(tmp_path, patterns=patterns)
    assert [*found.splits] == [*words]
    for split, word in words.items():
        assert [[path.relative_to(tmp_path).as_posix() for path in pair.files] for pair in found.splits[split]] == [
            [file.format(s=word, n=n) for file in files] for n in NUMBERS]
        assert [pair.name for pair in found.splits[split]] == [keys.format(s=split, n=n) for n in NUMBERS]
    assert not found.notes


def test_several_inputs_and_masks_have_patterns_too(tmp_path):
    patterns = Patterns(("rgb/{name}.png", "depth/{name}.png"), "out/{name}.png", "valid/{name}_m.png")
    for n in NUMBERS:
        tree(tmp_path, f"rgb/{n}.png", f"depth/{n}.png", f"out/{n}.png", f"valid/{n}_m.png")
    pair = find_pairs(tmp_path, patterns=patterns).splits["train"][0]
    assert [path.parent.name for path in pair.files] == ["rgb", "depth", "out", "valid"]
    assert pair.mask.parent.name == "valid" and len(pair.inputs) == 2
    assert str(patterns) == ("--files-a 'rgb/{name}.png' 'depth/{name}.png' --files-b 'out/{name}.png' "
                             "--files-m 'valid/{name}_m.png'")
    shutil.rmtree(tmp_path / "out")
    trained = Trained(6, 3, Geometry(), "AtoB", patterns=patterns, inputs=2)
    jobs = jobs_in_folder(tmp_path, tmp_path / "made", trained)
    assert [[path.parent.name for path in job.inputs] for job in jobs] == [["rgb", "depth"]] * 4


@pytest.mark.parametrize(("files", "patterns", "words"), [
    (both("in/{}.png", "out/{}.png"), Patterns(("inn/{name}.png",), "out/{name}.png"),
     ["matches none of the 8 images", "in/000.png"]),
    (both("in/{}.png", "in/{}.jpg"), Patterns(("in/{name}.*",), "in/{name}.jpg"),
     ["gives 4 pairs more than one file", "in/000.jpg and in/000.png"]),
    ([*both("train_label/{}.png", "train_img/{}.png"), "train_img/000.jpg"], None,
     ["gives 1 pairs more than one file", "let it name the ending"]),
    (both("in/{}_x.png", "out/{}.png"), Patterns(("in/{name}.png",), "out/{name}.png"),
     ["match 4 and 4 images", "no name is met on all sides", "000_x against 000"]),
    ([*both("in/{}.png", "out/{}.png"), "in/z.png"], Patterns(("in/{name}.png",), "out/{name}.png"),
     ["without a partner of the same name on the other side: 1: ", "z.png"]),
    (both("in/{}.png", "out/{}.png"), Patterns(("in/{name}.png",), "in/{name}.PNG"),
     ["4 images on two sides", "in/000.png"]),
    (both("in/{}.png", "out/{}.png"), Patterns(("in/{name}.png", "out/{name}.png"), "in/{name}.png"), ["two sides"]),
])
def test_what_the_patterns_leave_open_is_a_sentence_with_numbers_and_examples(tmp_path, files, patterns, words):
    tree(tmp_path, *files)
    with pytest.raises(UserError) as error:
        usable_pairs(tmp_path, 0, patterns=patterns)
    assert all(word in str(error.value) for word in words), error.value


def test_what_no_pattern_matches_and_inputs_alone_are_named(tmp_path):
    tree(tmp_path, *both("{}/a.png", "{}/b.png", ["train", "val"]), "test/a.png", "extra/a.png")
    found = find_pairs(tmp_path, patterns=Patterns(("{split}/a{name}g",), "{split}/b{name}g"))
    assert {*found.splits} == {"train", "val"}
    assert any("1 image of test" in note for note in found.notes)
    assert any("1 image that no pattern matches, such as extra/a.png" in note for note in found.notes)


@pytest.mark.parametrize(("files", "a", "b"), [
    ("train/input/{}.png train/target/{}.jpg", "{split}/input/{name}.*", "{split}/target/{name}.*"),
    ("images/{}.png conditioning_images/{}.png", "conditioning_images/{name}.*", "images/{name}.*"),
    ("s1/{}.tif s2/{}.tif", "s1/{name}.*", "s2/{name}.*"),
    ("R_fall/s1_9/R_fall_s1_9_p{}.png R_fall/s2_9/R_fall_s2_9_p{}.png",
     "*/s1_*/{name}_s1_{name}.*", "*/s2_*/{name}_s2_{name}.*"),
    ("leftImg8bit/train/ulm/u_{}_leftImg8bit.png gtFine/train/ulm/u_{}_gtFine_labelIds.png",
     "leftImg8bit/{split}/{name}_leftImg8bit.png", "gtFine/{split}/{name}_gtFine_labelIds.png"),
    ("cad/line_{}.tif views/view_{}.png", "cad/line_{name}.*", "views/view_{name}.*"),
    ("train/sketches/{}.png train/photos/{}_p.png", "{split}/sketches/{name}.*", "{split}/photos/{name}_p.*"),
    ("rain/rain-{}.png norain/norain-{}.png", "rain/rain-{name}.*", "norain/norain-{name}.*"),
    ("after/{}.png before/{}.png", "before/{name}.*", "after/{name}.*"),
    (both("p1/ct/{}.png", "p1/mr/{}.png", NUMBERS[:2]) + both("p2/ct/{}.png", "p2/mr/{}.png", NUMBERS[2:]),
     "{name}/ct/{name}.*", "{name}/mr/{name}.*"),
    (both("p1/{}_ct.png", "p1/{}_mr.png", NUMBERS[:2]) + both("p2/{}_ct.png", "p2/{}_mr.png", NUMBERS[:2]),
     "{name}/{name}_ct.*", "{name}/{name}_mr.*"),
    (both("p1/input/{}.png", "p1/target/{}.png", NUMBERS[:3]) + both("p2/input/{}.png", "p2/target/{}.png", ["9"]),
     "{name}/input/{name}.*", "{name}/target/{name}.*"),
    ("train/scene_{}/day.png train/scene_{}/night.png", "{split}/{name}/day.*", "{split}/{name}/night.*"),
    ("clear/{}.png hazy/{}.png", "hazy/{name}.*", "clear/{name}.*"),
    ("traingt/{}.png trainim/{}.png", "{split}gt/{name}.*", "{split}im/{name}.*"),
    (both("p1/x{}.png", "p1/x{}_mask.png", NUMBERS[:2]) + both("p2/x{}.png", "p2/x{}_mask.png", NUMBERS[:2]),
     "{name}_mask.png", "{name}.png"),
    (both("train/{}.png", "train/{}_mask.png", NUMBERS[:2]) + both("val/{}.png", "val/{}_mask.png", NUMBERS[2:]),
     "{split}/{name}_mask.png", "{split}/{name}.png"),
    (both("train/train_A/{}.png", "train/train_B/{}.png", NUMBERS[:2])
     + both("test/test_A/{}.png", "test/test_B/{}.png", NUMBERS[2:]),
     "{split}/{split}_A/{name}.*", "{split}/{split}_B/{name}.*"),
    (both("images/train2017/{}.jpg", "labels/train2017/{}.png", NUMBERS[:2])
     + both("images/val2017/{}.jpg", "labels/val2017/{}.png", NUMBERS[2:]),
     "labels/{split}2017/{name}.*", "images/{split}2017/{name}.*"),
    ("train2017/{}.jpg stuffthingmaps/train2017/{}.png",
     "stuffthingmaps*/{split}2017/{name}.*", "{split}2017/{name}.*"),
    ("DIV2K_train_LR_bicubic/X3/{}x3.png DIV2K_train_HR/{}.png",
     "DIV2K_{split}_LR_bicubic/X3/{name}x3.*", "DIV2K_{split}_HR/{name}.*"),
    (both("S/trainannot/{}.png", "S/train/{}.png", NUMBERS[:2])
     + both("S/valannot/{}.png", "S/val/{}.png", NUMBERS[2:]), "S/{split}/{name}.*", "S/{split}annot/{name}.*"),
    (both("V/SegmentationClass/{}.png", "V/JPEGImages/{}.jpg") + ["V/SegmentationObject/5.png", "V/X/5.jpg"],
     "V/SegmentationClass/{name}.*", "V/JPEGImages/{name}.*"),
    (both("DRIVE/training/1st_manual/{}_manual1.gif", "DRIVE/training/images/{}_training.tif")
     + [f"DRIVE/training/mask/{n}_training_mask.gif" for n in NUMBERS],
     "DRIVE/{split}/1st_manual/{name}_manual1.*", "DRIVE/{split}/images/{name}_{split}.*"),
    (both("test_a/data/{}_rain.png", "test_a/gt/{}_clean.png")
     + both("train/data/{}_rain.png", "train/gt/{}_clean.png"),
     "{split}/data/{name}_rain.*", "{split}/gt/{name}_clean.*"),
    ("it's/{}.png so/{}.png", "it's/{name}.*", "so/{name}.*"),
    (both("lines/{}.tif", "scans/{}.jpg", NUMBERS[:2]) + both("lines/{}.tif", "scans/{}.JPG", NUMBERS[2:]),
     "lines/{name}.*", "scans/{name}.*"),
    ([file for city in ("bonn", "ulm") for file in both(f"{city}/sat/{{}}.png", f"{city}/map/{{}}.png", NUMBERS[:2])],
     "{name}/map/{name}.*", "{name}/sat/{name}.*"),
    ([file for year in (1, 2) for file in both(f"opt/photo_{year}/{{}}.png", f"sar/photo_{year}/{{}}.png", ["1", "2"])],
     "opt/{name}/{name}.*", "sar/{name}/{name}.*"),
    (both("train/masks/train_{}_mask.gif", "train/images/train_{}.png") + [f"test/images/test_{i}.png" for i in "12"],
     "{split}/masks/{name}_mask.*", "{split}/images/{name}.*"),
    (both("back/x/{}.png", "back/y/{}.png", NUMBERS[:2]) + both("front/x/{}.png", "front/y/{}.png", NUMBERS[:2]),
     "{name}/x/{name}.*", "{name}/y/{name}.*"),
    ("TestArea/masks/{}.png TestArea/images/{}.png", "TestArea/masks/{name}.*", "TestArea/images/{name}.*"),
    ([file for i in "12" for file in both(f"TrainSite{i}/ir/{{}}.png", f"TrainSite{i}/rgb/{{}}.png", NUMBERS[:2])],
     "{name}/ir/{name}.*", "{name}/rgb/{name}.*"),
])
def test_folders_are_answered_with_flags_that_work(tmp_path, files, a, b):
    tree(tmp_path, *(both(*files.split()) if isinstance(files, str) else files))
    with pytest.raises(UserError) as error:
        find_pairs(tmp_path)
    assert str(error.value).endswith(shlex.join(["--files-a", a, "--files-b", b]))
    assert sum(map(len, shown(tmp_path, Patterns((a,), b)).values())) == 4


@pytest.mark.parametrize(("word", "end"), [("_masks", "_mask"), ("_cleaned", ""), ("Masks", "")])
def test_photos_in_train_beside_others_of_their_names_are_not_cut_in_two(tmp_path, word, end):
    """Results of a network that lie there change nothing, nor do masks of other photos, nor inputs alone in test."""
    tree(tmp_path, *both("train/{}.png", "results/{}.png"), *both("train_out/{}.png", f"train{word}/1{{}}.png"))
    assert all(pair.side_by_side for pair in find_pairs(tmp_path).splits["train"])
    shutil.rmtree(tmp_path / f"train{word}")
    tree(tmp_path, *both("test/{}.png", f"train{word}/{{}}{end}.gif"))
    with pytest.raises(UserError, match="have partners of their names in another folder") as error:
        find_pairs(tmp_path)
    _, a, _, b = shlex.split(str(error.value).partition("with A as the input: ")[2])
    assert (a, b) == ("{split}/{name}.*", f"{{split}}{word}/{{name}}{end}.*")
    assert sum(map(len, shown(tmp_path, Patterns((a,), b)).values())) == 4
    for path in [*(tmp_path / "train").iterdir()]:
        path.rename(path.with_stem(f"{path.stem}_AB"))
    assert len(find_pairs(tmp_path).splits["train"]) == 4


@pytest.mark.parametrize(("a", "b"), [("A/{name}", "B/{name}_mask"), ("a/IMG_{name}", "B/img_{name}")])
def test_sides_whose_names_differ_at_their_ends_are_answered_with_flags(tmp_path, capsys, a, b):
    """A small a comes before a large B."""
    tree(tmp_path, *both(*(f"train/{side.replace('{name}', '{}')}.png" for side in (a, b))))
    told = "train.py and check.py read them, with A as the input"
    flags = f"{told}: --files-a '{{split}}/{a}.*' --files-b '{{split}}/{b}.*'"
    cfg = Config(data_root=tmp_path)
    with pytest.raises(UserError, match=f"{re.escape(flags)}$"):
        load_data(cfg)
    assert check(cfg) == 2 and f"If these are pairs, {flags}\n" in capsys.readouterr().out


def test_three_files_of_one_name_are_not_cut_in_two(tmp_path):
    tree(tmp_path, *(f"{n}_{word}.png" for n in NUMBERS for word in ("rgb", "depth", "seg")))
    with pytest.raises(UserError, match="called like two sides of one pair"):
        find_pairs(tmp_path)


def test_a_folder_of_which_hardly_any_has_a_partner_is_no_side():
    assert suggested([*(f"a/{i}.png" for i in range(9)), "b/0.png", "b/x.png"]) is None


def test_two_of_many_scenes_are_no_sides(tmp_path):
    tree(tmp_path, *(f"scene_{i}/{n}.png" for i in range(5) for n in NUMBERS))
    with pytest.raises(UserError, match=r"known names are train, val and test, and A and B$"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("a", "b"), [("{name}_ct", "{name}_mr"), ("ct_{name}", "mr_{name}")])
def test_ends_and_beginnings_of_names_are_answered_with_flags_too(tmp_path, a, b):
    flags = f"--files-a '{{split}}/{a}.*' --files-b '{{split}}/{b}.*'"
    files = both(*(f"train/{side.replace('{name}', '{}')}.png" for side in (a, b)), range(20))
    with pytest.raises(UserError, match=f"or let train.py and check.py take {re.escape(flags)}"):
        check_headers(find_pairs(tree(tmp_path, *files)).splits["train"])


@pytest.mark.parametrize(("a", "b"), [("{name}.png", "{name}.jpg"), ("{name}_mask.png", "{name}.png"),
                                      ("{name}_mask.*", "{name}_sat.*"), ("{name}.input.*", "{name}.target.*"),
                                      ("{name}.seg.png", "{name}.jpg"), ("input_{name}.*", "target_{name}.*"),
                                      ("{name}_anno.png", "{name}.png"), ("in.{name}.*", "gt.{name}.*")])
@pytest.mark.parametrize("begin", ["", "img-"])
def test_files_called_as_two_sides_are_not_cut_in_two(tmp_path, begin, a, b):
    files = both(*(side.replace("{name}", begin + "{}").replace("*", "png") for side in (a, b)))
    flags = f"--files-a '{a}' --files-b '{b}'"
    with pytest.raises(UserError, match=f"called like two sides of one pair.*as the input: {re.escape(flags)}"):
        find_pairs(tree(tmp_path, *files))
    assert sum(map(len, shown(tmp_path, Patterns((a,), b)).values())) == 4
    inputs = tree(tmp_path / "more", *both("train/A/{}.png", "train/B/{}.png"), *(f"test/{file}" for file in files))
    assert any("inputs without targets" in note for note in usable_pairs(inputs, 0).notes)


@pytest.mark.parametrize("files", [
    ("{s}_label/{n}.png", "{s}_img/{n}.jpg"),
    ("{s}_label/u_{n}_gtFine_labelIds.png", "{s}_img/u_{n}_leftImg8bit.png"),
    ("leftImg8bit/{s}/ulm/u_{n}_leftImg8bit.png", "gtFine/{s}/ulm/u_{n}_gtFine_color.png"),
])
def test_layouts_without_ambiguity_are_just_read(tmp_path, files):
    for split in ("train", "val"):
        tree(tmp_path, *(file.format(s=split, n=n) for n in NUMBERS for file in files))
    tree(tmp_path, "train_inst/000.png")
    assert shown(tmp_path) == {split: [[file.format(s=split, n=n) for file in files] for n in NUMBERS]
                               for split in ("train", "val")}


def test_folders_that_are_links_are_followed_once(tmp_path):
    root = tree(tmp_path / "root", *(f"scans/target/{n}.png" for n in NUMBERS))
    tree(tmp_path / "elsewhere", *(f"{n}.png" for n in NUMBERS))
    for link, there in (("scans/input", tmp_path / "elsewhere"), ("scans/loop", root), ("latest", "scans")):
        (root / link).symlink_to(there)
    patterns = Patterns(("*/input/{name}.png",), "*/target/{name}.png")
    assert sum(map(len, shown(root, patterns).values())) == 4
    with pytest.raises(UserError, match="--files-a 'scans/input/{name}.*' --files-b 'scans/target/{name}"):
        find_pairs(root)


@pytest.mark.parametrize("source", ["", "val", "val/in", "flat"])
@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_predict_takes_the_inputs_where_the_folder_lies_as_in_training(tmp_path, source, direction):
    tree(tmp_path, *both("val/in/{}.png", "val/out/{}.jpg"), *(f"flat/{n}.png" for n in NUMBERS))
    patterns = Patterns(("{split}/in/{name}.png",), "{split}/out/{name}.*")
    trained = Trained(3, 3, Geometry(), direction, patterns=patterns)
    jobs = jobs_in_folder(tmp_path / source, tmp_path.parent / "out", trained)
    where = {"val/in": "in", "flat": "flat"}.get(source, "in" if direction == "AtoB" else "out")
    assert {job.inputs[0].parent.name for job in jobs} == {where} and len(jobs) == 4
    targets = {job.target and job.target.parent.name for job in jobs}
    assert targets == ({None} if source in ("flat", "val/in") else {"out" if where == "in" else "in"})


@pytest.mark.parametrize(("pattern", "own", "beside"), [
    ("val/{name}_color.png", "0_color.png 1_COLOR.png my.png", "0_ids.png 1_ids.png 1.png"),
    ("val/{name}.png", "0.png 0_ids.png 0.jpg", ""),
    ("val/*_{name}_*.png", "x_0_c.png my.png", "x_0.jpg"),
])
def test_what_lies_beside_the_inputs_is_not_translated(tmp_path, capsys, pattern, own, beside):
    tree(tmp_path / "in", *own.split(), *beside.split())
    trained = Trained(3, 3, Geometry(), "BtoA", patterns=Patterns(("photos/{name}.tif",), pattern))
    jobs = jobs_in_folder(tmp_path / "in", tmp_path / "out", trained)
    assert {job.inputs[0].relative_to(tmp_path / "in").as_posix() for job in jobs} == {*own.split()}
    assert ("other images are not" in capsys.readouterr().out) == bool(beside)


@pytest.mark.parametrize("change", [
    dict(files_a=("x.png",), files_b="y.png"), dict(files_a=("{name}.png",)), dict(files_m="{name}.png"),
    dict(files_a=("{split}/{name}",), files_b="{name}"), dict(files_a=("/x/{name}",), files_b="{name}"),
    dict(files_a=("../{name}",), files_b="{name}"), dict(files_a=("{naem}",), files_b="{name}"),
])
def test_patterns_that_cannot_work_are_refused(change):
    with pytest.raises(ValueError, match="files_"):
        Config(**change)


def test_photos_that_are_labelled_in_part_are_used_as_far_as_they_are(tmp_path):
    """PASCAL VOC has six photos for each mask; one photo of many without its mask is a mistake."""
    files = both("photos/{}.jpg", "masks/{}.png") + both("photos/more_{}.jpg", "photos/even_more_{}.jpg")
    patterns = Patterns(("photos/{name}.jpg",), "masks/{name}.png")
    found = find_pairs(tree(tmp_path, *files), patterns=patterns)
    assert sum(map(len, found.splits.values())) == 4 and not found.orphans
    assert any("not used: 8 images of train without a partner" in note for note in found.notes)
