"""A pair stays on its side, of training or of validation, whatever happens to its folder between two sessions."""

import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import edit, flat, make_data, save, settings, write_pair
from PIL import Image

from check import check
from config import Config, recipe
from dataset import load_data
from evaluate import Evaluate, load_pairs
from inference.load import load_generator
from pairs.find import find_pairs
from pairs.identity import Known, changes, marks
from runtime.checkpoint import load_tensors
from runtime.cli import parse
from train import train
from utils import UserError


def picture(path, seed, size=(48, 48)):
    save(path, np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def two_sided(folder, seeds):
    for seed in seeds:
        for n, side in enumerate("AB"):
            picture(folder / side / f"{seed:02d}.png", seed + 1000 * n)


def known_of(found):
    return Known().next(found.marks["train"], found.marks[found.validation])


def contents(found, split):
    return sorted(found.marks[split][:, 0].tolist())


def moved_into_train(root):
    (root / "train").mkdir()
    for path in [path for path in root.iterdir() if path.name != "train"]:
        path.rename(root / "train" / path.name)
    return root


def one_folder_down(root):
    return moved_into_train(root) / "train"


def renamed(root):
    for path in list(root.rglob("*.png")):
        path.rename(path.with_name(f"x{99 - int(path.stem)}.png"))
    return root


def elsewhere(root):
    return root.rename(root.with_name("elsewhere"))


def test_an_array_put_in_front_moves_no_pair_of_an_npz(tmp_path):
    arrays = np.random.default_rng(0).integers(0, 255, (31, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", arrays[1:], arrays[1:])
    before = find_pairs(tmp_path, 0)
    np.savez(tmp_path / "train.npz", arrays, arrays)
    after = find_pairs(tmp_path, 0, known_of(before))
    assert contents(after, "val") == contents(before, "val") and len(after.splits["train"]) == 31 - len(
        before.splits["val"])


def test_a_val_folder_that_appears_is_validated_on_and_the_tenth_stays_out_of_training(tmp_path):
    before = find_pairs(flat(tmp_path), 0)
    for i in range(3):
        write_pair(tmp_path / "val" / f"{i}.png", seed=i)
    (tmp_path / "train").mkdir()
    for path in list(tmp_path.glob("*.png")):
        path.rename(tmp_path / "train" / path.name)
    found = find_pairs(tmp_path, 0, known_of(before))
    assert contents(found, "train") == contents(before, "train") and len(found.splits["val"]) == 3
    n = len(before.splits["val"])
    told = f"{n} of the 20 pairs in train were held out for validation before, and stay out of training"
    assert told in found.notes
    known = known_of(before).next(found.marks["train"], found.marks["val"])
    shutil.rmtree(tmp_path / "val")  # and goes again: the tenth was never trained on
    again = find_pairs(tmp_path, 0, known)
    assert contents(again, "val") == contents(before, "val") and contents(again, "train") == contents(before, "train")


def test_without_its_val_folder_no_trained_pair_is_called_held_out(tmp_path):
    before = find_pairs(make_data(tmp_path))
    (tmp_path / "val").rename(tmp_path.parent / "gone")
    with pytest.raises(UserError, match="was trained on all 6 that are: put them back"):
        find_pairs(tmp_path, 0, known_of(before))
    write_pair(tmp_path / "train" / "new.png", seed=77)
    found = find_pairs(tmp_path, 0, known_of(before))
    assert found.held_out == ["train/new"]
    assert any("none of the pairs that were held out before is recognised here" in note for note in found.notes)


def test_trained_pairs_that_move_into_val_are_not_validated_on(tmp_path):
    before = find_pairs(make_data(tmp_path, 6, 3))
    for a, b in (("train", "val"), ("val", "train")):
        (tmp_path / a / "0.png").rename(tmp_path / b / f"of_{a}.png")
    found = find_pairs(tmp_path, 0, known_of(before))
    assert [pair.name for pair in found.splits["val"]] == ["val/1", "val/2"]
    assert [pair.name for pair in found.splits["train"]] == [f"train/{i}" for i in range(1, 6)]
    assert any("1 of the 3 pairs in val have been trained on" in note for note in found.notes)


def test_a_pair_that_lies_in_both_splits_from_the_first_stays_in_both(tmp_path):
    """Else a plain resume would train on other pairs than the run so far."""
    for i in range(4):
        write_pair(tmp_path / "train" / f"{i}.png", seed=i)
        write_pair(tmp_path / "val" / f"{i}.png", seed=i + 3)
    before = find_pairs(tmp_path)
    after = find_pairs(tmp_path, 0, known_of(before))
    assert after.splits == before.splits
    assert any(re.search("1 of the 4 pairs in val hold the same as one in train, such as .*0.png", note)
               for note in after.notes)


def test_equal_pictures_of_other_names_share_a_side(tmp_path):
    for i in range(60):
        write_pair(tmp_path / f"{i:02d}.png", seed=i % 20)
    found = find_pairs(tmp_path)
    assert len(found.splits["val"]) % 3 == 0 and not {*contents(found, "val")} & {*contents(found, "train")}


@pytest.mark.parametrize("size", [(48, 48), (64, 64)])
def test_replaced_added_and_missing_pairs_are_counted(tmp_path, size):
    two_sided(tmp_path, range(10))
    then = marks(find_pairs(tmp_path).splits["train"])
    n = len(then)
    assert changes(then, then) == changes(then[::-1], then) == ""
    for path in tmp_path.rglob("*.png"):  # of the same names and sizes in bytes, or nearly
        picture(path, int(path.stem) + 500 + 1000 * (path.parent.name == "B"), size)
    assert changes(marks(find_pairs(tmp_path).splits["train"]), then) == f"{n} replaced"
    assert changes(then[2:], then) == "2 gone" and changes(then, then[3:]) == "3 added"


@pytest.mark.parametrize("ending", ["npy", "bmp", "tif"])
def test_equal_is_what_is_equal_to_the_byte(tmp_path, ending, capsys):
    """One object each on black: the beginning, the middle, the end and the size are equal."""
    def write(path, place):
        array = np.zeros((200, 200), np.uint8)
        array[place : place + 6, 3:9] = 1 + 254 * (ending != "npy")
        save(path, array)

    for i in range(6):
        for side in "AB":
            write(tmp_path / ("train" if i < 3 else "val") / side / f"{i}.{ending}", 31 + 9 * i)
    before = find_pairs(tmp_path)
    assert len({*contents(before, "train"), *contents(before, "val")}) == 6
    assert not any("hold the same" in note for note in before.notes)
    write(tmp_path / "train" / "B" / f"0.{ending}", 150)
    assert changes(find_pairs(tmp_path).marks["train"], before.marks["train"]) == "1 replaced"


def test_large_files_count_by_pieces_and_are_called_equal_only_when_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pairs.identity.WHOLE", 64 * 20)
    for split in ("train", "val"):
        for side in "AB":
            array = np.zeros(100_000, np.uint8).reshape(100, 1000)
            array[0, 700] = split == "val"  # between two pieces
            save(tmp_path / split / side / "0.npy", array)
            array[50:53] = 1
            save(tmp_path / split / side / "1.npy", array)
    found = find_pairs(tmp_path)
    assert np.array_equal(found.marks["train"][:, 0], found.marks["val"][:, 0])
    assert len({*found.marks["val"][:, 0].tolist()}) == 2
    assert not any("hold the same" in note for note in found.notes)
    for side in "AB":
        shutil.copy(tmp_path / "train" / side / "1.npy", tmp_path / "val" / side / "1.npy")
    shutil.copytree(tmp_path / "val", tmp_path / "test")
    check(Config(data_root=tmp_path))
    said = capsys.readouterr().out
    for split, n, other in (("val", 1, "train"), ("test", 1, "train"), ("test", 2, "val")):
        assert said.count(f"{n} of the 2 pairs in {split} hold the same as one in {other}") == 1


def masked(root):
    (root / "M").mkdir()
    for path in list((root / "A").iterdir()):
        shutil.copy(path, root / "M" / path.name)
    return moved_into_train(root)


def as_jpeg(root):
    for path in list(root.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    return moved_into_train(root)


def second_input(root):
    shutil.copytree(root / "A", root / "A2")
    (root / "A").rename(root / "A1")
    return root


def joined(root, end=""):
    for path in sorted((root / "A").iterdir()):
        both = np.concatenate([np.asarray(Image.open(root / side / path.name)) for side in "AB"], axis=1)
        Image.fromarray(both).save(root / f"{path.stem}{end}.png")
    for side in "AB":
        shutil.rmtree(root / side)
    return root


def joined_and_named(root):
    return joined(root, "_AB")


def numbers(found, split):
    return sorted(re.search(r"\d\d", pair.name)[0] for pair in found.splits[split])


def in_two_folders(folder):
    two_sided(folder, range(20))
    return folder


@pytest.mark.parametrize(("make", "change", "kept"), [
    *((make, move, contents) for make in (flat, in_two_folders)
      for move in (moved_into_train, one_folder_down, renamed, elsewhere)),
    *((in_two_folders, change, numbers) for change in (masked, as_jpeg, second_input, joined, joined_and_named))])
def test_another_root_layout_name_or_format_moves_no_pair_to_the_other_side(tmp_path, make, change, kept):
    """It is known by what it holds, or else by its name without a place."""
    before = find_pairs(make(tmp_path / "data"), 1)
    after = find_pairs(change(tmp_path / "data"), 2, known_of(before))
    for split in ("train", "val"):
        assert kept(after, split) == kept(before, split)


@pytest.mark.parametrize("share", [1, 2])
def test_a_resumed_run_refuses_what_may_be_its_held_out_pairs(tmp_path, share):
    before = find_pairs(flat(tmp_path / "data"), 0)
    held = [tmp_path / "data" / f"{name}.png" for name in before.held_out]
    n = len(held)
    rest = sorted({*(tmp_path / "data").iterdir()} - {*held})
    for path in [*held[share - 1 :], *rest[::share]]:  # other names, and other bytes
        Image.open(path).save(path.with_name(f"new{path.stem}.png"), compress_level=1)
        path.unlink()
    which = f"{n + 1 - share} of the {n} pairs that this run held out cannot be recognised"
    with pytest.raises(UserError, match=f"{which} in .*data, .*move what was held out into val/, or begin"):
        find_pairs(tmp_path / "data", 0, known_of(before))
    find_pairs(tmp_path / "data", 0, known_of(before), resumed=False)
    (tmp_path / "val").mkdir()
    for path in held[share - 1 :]:
        path.with_name(f"new{path.name}").rename(tmp_path / "val" / path.name)
    root = moved_into_train(tmp_path / "data")
    (tmp_path / "val").rename(root / "val")
    found = find_pairs(root, 0, known_of(before))
    assert not {pair.name for pair in found.splits["train"]} & {f"train/{path.stem}" for path in held}


def test_halves_of_any_shape_are_told_and_not_refused_where_a_network_has_learnt_from_them(small, tmp_path, capsys):
    folder = tmp_path / "halves"
    for i in range(5):
        picture(folder / f"{i:02d}_AB.png", i, (96, 64))
    cfg = small(data_root=folder, n_epochs=1)
    train(cfg)
    held_out = {name.removesuffix("_AB") for name in find_pairs(folder, cfg.seed).held_out}
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("_AB", "")))
    capsys.readouterr()
    assert {pair.name for pair in evaluated(cfg, folder)} == held_out
    _, val, _ = load_data(cfg, 1, load_tensors(cfg.out_dir / "checkpoint.pth.tar"))
    assert {pair.name for pair in val.pairs} == held_out
    assert "have the shape of a single photo" in capsys.readouterr().out
    for i in range(4):
        picture(tmp_path / "others" / f"{i}.png", 50 + i, (96, 64))
    assert len(evaluated(cfg, tmp_path / "others")) == 4
    with pytest.raises(UserError, match="have the shape of a single photo"):
        load_data(cfg)


def evaluated(cfg, root, split="val"):
    opts = Evaluate(cfg.out_dir / "gen.pth.tar", root, split=split, device="cpu", num_workers=0)
    return load_pairs(opts, load_generator(opts.checkpoint))[0].pairs


def test_a_generator_is_not_scored_on_its_training_pairs_as_if_they_were_held_out(run, data, capsys):
    cfg = run
    with pytest.raises(UserError, match="was trained on 6 of its 6 pairs, none of which was held out: --split train"):
        evaluated(cfg, data / "train")
    assert len(evaluated(cfg, data / "train", "all")) == len(evaluated(cfg, data / "train", "train")) == 6
    assert "the network was trained on 6, and 0 were held out" in capsys.readouterr().out
    write_pair(data / "val" / "new.png", seed=999)
    assert len(evaluated(cfg, data / "val")) == 2  # held out, whatever folder they are in, and whatever has come since
    (data / "val" / "new.png").unlink()
    shutil.copy(data / "train" / "0.png", data / "val" / "again.png")
    assert len(evaluated(cfg, data)) == 2
    assert "1 of the 3 pairs in val were trained on, and are not scored" in capsys.readouterr().out
    two_sided(data.parent / "other", range(500, 506))
    assert len(evaluated(cfg, data.parent / "other")) == len(evaluated(cfg, data.parent / "other", "all")) == 6
    assert "knows none of the 6 pairs: all are scored" in capsys.readouterr().out
    shutil.rmtree(data / "train")
    (data / "val").rename(data / "test")
    (data / "test" / "again.png").unlink()
    assert len(evaluated(cfg, data, "test")) == 2  # no training pairs are needed
    with pytest.raises(UserError, match="no split val in .*, only test: --split test"):
        evaluated(cfg, data)


@pytest.mark.long
def test_data_that_changed_is_told_and_best_pth_tar_starts_over(small, data, capsys):
    cfg = small(n_epochs=1, best_by="val_l1")
    train(cfg)
    best = (cfg.out_dir / "best.pth.tar").read_bytes()
    for i in range(6):
        write_pair(data / "train" / f"{i}.png", seed=50 + i)
    for i in range(2):  # nothing can be learnt of them: no epoch would be the best
        Image.fromarray(np.random.default_rng(i).integers(0, 2, (48, 96, 3), dtype=np.uint8) * 255).save(
            data / "val" / f"{i}.png")
    capsys.readouterr()
    train(replace(cfg, resume=True, n_epochs=2))
    shown = capsys.readouterr().out
    assert "trained on: training pairs: 6 replaced; validation pairs: 2 replaced" in shown
    assert "validation scores other pairs than before" in shown and "best.pth.tar was scored on other" in shown
    assert "best_epoch: 2\n" in shown
    assert (cfg.out_dir / "best.pth.tar").read_bytes() != best
    assert load_generator(cfg.out_dir / "best.pth.tar").trained.epoch == 2
    train(replace(cfg, resume=True, n_epochs=3))
    shown = capsys.readouterr().out
    assert "than before" not in shown and "best.pth.tar was scored" not in shown and "best_epoch: 1\n" not in shown


@pytest.mark.long
def test_files_that_know_pairs_by_name_alone_are_refused_or_told(small, tmp_path, capsys):
    cfg = small(data_root=flat(tmp_path / "flat"), n_epochs=1)
    train(cfg)
    for name in ("checkpoint.pth.tar", "gen.pth.tar"):
        saved = load_tensors(cfg.out_dir / name)
        del saved["pairs"]
        torch.save(saved | {"held_out": ["1"]}, cfg.out_dir / name)
    assert len(evaluated(cfg, cfg.data_root)) == 20
    assert "does not tell what it was trained on" in capsys.readouterr().out
    with pytest.raises(UserError, match="an earlier version, which knew its pairs by name"):
        train(replace(cfg, resume=True, n_epochs=2))


@pytest.mark.long
def test_a_run_that_begins_with_weights_holds_out_what_they_never_saw(small, tmp_path, capsys):
    first = small("first", data_root=flat(tmp_path / "flat"), n_epochs=1)
    train(first)
    held_out = find_pairs(first.data_root, first.seed).held_out
    second = small("second", data_root=first.data_root, n_epochs=1, seed=9, init_from=first.out_dir / "gen.pth.tar")
    assert find_pairs(first.data_root, 9).held_out != held_out
    capsys.readouterr()
    train(second)
    assert "were held out by the network that this run begins with, and are again" in capsys.readouterr().out
    assert len(Known.of(load_tensors(second.out_dir / "gen.pth.tar")).val) == len(held_out)
    for name in held_out:
        (first.data_root / f"{name}.png").unlink()
    train(small("third", data_root=first.data_root, n_epochs=1, direction="BtoA",
                init_from=first.out_dir / "gen.pth.tar"))
    shown = capsys.readouterr().out
    assert "gen.pth.tar translates AtoB, and this run BtoA" in shown
    assert f"was trained on all {20 - len(held_out)} pairs" in shown


@pytest.mark.parametrize("alone", ["test/1.png", "test/A/1.png", "validation/A/1.png", "test/city/1.png"])
def test_inputs_without_targets_are_left_out_and_end_nothing(tmp_path, alone, capsys):
    for split, seeds in (("train", range(4)), ("val", range(4, 6))):
        two_sided(tmp_path / split, seeds)
    picture(tmp_path / alone, 9, (90, 60))
    found = find_pairs(tmp_path)
    assert {split: len(pairs) for split, pairs in found.splits.items()} == {"train": 4, "val": 2}
    note, = (note for note in found.notes if "not used: 1 image" in note)
    assert "inputs without targets" in note or "validation" in note
    cfg = settings(tmp_path, None)
    for look in (load_data, check):
        look(cfg)
        assert "not used: 1 image" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "val")  # a tenth is held out where nothing else is left
    assert len(find_pairs(tmp_path).splits["val"]) >= 1


def run_in(folder, root, age, **changes):
    """What a run leaves for --resume to find."""
    path = Path("runs") / folder
    path.mkdir(parents=True)
    cfg = replace(Config(), **{**changes, "data_root": Path(root).absolute(), "out_dir": path})
    (path / "config.json").write_text(json.dumps({**cfg.plain(), "defaults": Config().plain()}))
    (path / "checkpoint.pth.tar").write_bytes(b"x")
    os.utime(path / "checkpoint.pth.tar", (age, age))
    Path(root).mkdir(parents=True, exist_ok=True)


def resumed(*argv):
    cfg = parse([*argv, "--resume"])
    return cfg.out_dir and cfg.out_dir.as_posix()


def test_resume_finds_the_run_by_its_data(capsys):
    run_in("better", "data/mine", 1, ngf=7)
    run_in("better-2", "data/other", 2)
    assert resumed("maps") is None and "on data/maps, AtoB: a new one begins" in capsys.readouterr().out
    run_in("map", "data/maps", 3)
    assert resumed("maps_to_aerial") is None and "on data/maps, BtoA: a new one begins" in capsys.readouterr().out
    run_in("aerial", "data/maps", 4, direction="BtoA")
    assert resumed("--data-root", "data/mine") == resumed("better", "--data-root", "data/mine") == "runs/better"
    assert resumed("--data-root", "data/other") == "runs/better-2"
    for name in ("theirs", "other-2"):  # of another program; as a run on that data would be called
        Path("runs", name).mkdir()
        Path("runs", name, "config.json").write_text("[]")
        assert resumed("--data-root", "data/mine") == "runs/better"
    with pytest.raises(UserError, match="other-2.config.json holds no settings"):
        resumed("--data-root", "data/other")
    shutil.rmtree("runs/other-2")
    assert resumed("maps") == "runs/map" and resumed("maps_to_aerial") == "runs/aerial"  # a recipe has a direction
    assert resumed("maps", "--direction=BtoA") == "runs/aerial"  # and a flag another
    assert resumed("--data-root", "data/maps", "--direction", "AtoB") == "runs/map"
    assert parse(["--data-root", "data/mine", "--resume"]).ngf == 7
    capsys.readouterr()
    assert parse(["better", "--data-root", "data/mine", "--resume", "--ema=0.9"]).lambda_fm == 0  # which is told
    told = "runs/better keeps its ngf, spectral_norm, lambda_fm, n_epochs: better has others\n"
    assert capsys.readouterr().out == told
    assert resumed("--data-root", "data/third") is None and capsys.readouterr().out.endswith("a new one begins\n")
    Path("data/mine").rename("data/renamed")
    assert resumed("--data-root", "data/renamed") is None
    assert "the pairs of runs/better are gone: if these are the same, --out-dir runs/better" in capsys.readouterr().out


def test_an_edit_of_config_py_hides_no_run_and_changes_none_of_a_recipe(monkeypatch, capsys):
    """The recipe's run went on with the edited weight of L1; the others were passed over, and a new one began."""
    for n, name in enumerate(("facades", "maps")):
        run_in(name, f"data/{name}", n, **recipe(name).plain())
    run_in("deep", "data/mine", 3, n_layers=5)
    edit(monkeypatch, direction="BtoA", lambda_l1=10.0, crop_size=64, load_size=72)
    assert resumed("maps") == "runs/maps" and resumed("--data-root", "data/mine") == "runs/deep"
    told = "runs/facades keeps its load_size, crop_size, lambda_l1: config.py has others\n"
    capsys.readouterr()
    for words in (["facades"], ["--data-root", "data/facades"], ["--out-dir", "runs/facades"]):
        cfg = parse([*words, "--resume"])
        assert replace(cfg, out_dir=None, resume=False, data_root=Path("data/facades")) == recipe("facades")
        assert capsys.readouterr().out == told
    Path("runs/deep/config.json").write_text("{,")
    assert resumed("--data-root", "data/mine") is None
    assert "passed over: runs/deep/config.json holds no settings" in capsys.readouterr().out


def test_two_folders_of_one_name_are_two_runs_and_gaps_hide_none(capsys):
    run_in("pairs", "f1/pairs", 5)
    run_in("pairs-3", "f2/pairs", 1)
    run_in("pairs-7", "f1/pairs", 9)
    assert resumed("--data-root", "f1/pairs") == "runs/pairs-7" and resumed("--data-root", "f2/pairs") == "runs/pairs-3"
    assert resumed("--data-root", str(Path("f2/../f2/pairs").absolute())) == "runs/pairs-3"
    os.utime("runs/pairs/checkpoint.pth.tar", (20, 20))  # the newest, not the last number
    capsys.readouterr()
    assert resumed("--data-root", "f1/pairs") == "runs/pairs"
    told = "runs/pairs is the newest of the runs on that data; --out-dir takes another: runs/pairs-7\n"
    assert capsys.readouterr().out == told


def test_what_is_not_clear_is_asked_about():
    run_in("a", "data/x", 5)
    run_in("b", "data/x", 5)
    with pytest.raises(UserError, match="runs/a, runs/b were all trained on data/x: --out-dir"):
        resumed("--data-root", "data/x")
    Path("data/x").rmdir()
    with pytest.raises(UserError, match="no run in runs/ was trained on moved to/x.*gone: .*") as caught:
        resumed("--data-root", "moved to/x")
    words = shlex.split(re.search("--resume (--out-dir .*) goes on", str(caught.value))[1])
    assert resumed(*words) == "runs/a" and parse([*words, "--resume"]).data_root == Path("moved to/x")
