import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import config
from config import PAPER, RECIPES, Config, recipe
from inference.load import load_generator
from inference.page import find_examples
from runtime.checkpoint import load_tensors
from runtime.cli import GONE, load_settings, parse
from train import train
from utils import UserError


def test_the_recipes_are_those_of_the_paper():
    wanted = {  # direction, epochs, batch, load_size, flip
        "facades": ("BtoA", 200, 1, 286, "mirror"), "maps": ("AtoB", 200, 1, 286, "mirror"),
        "maps_to_aerial": ("BtoA", 200, 1, 286, "mirror"), "cityscapes": ("BtoA", 200, 1, 286, "mirror"),
        "cityscapes_to_labels": ("AtoB", 200, 1, 286, "mirror"), "edges2shoes": ("AtoB", 15, 4, 256, "none"),
        "edges2handbags": ("AtoB", 15, 4, 256, "none"), "night2day": ("AtoB", 17, 4, 286, "mirror"),
    }
    paper = {name: recipe(name) for name in RECIPES if name not in ("pix2pixhd", "better", "release")}
    assert {name: (c.direction, c.total_epochs, c.batch_size, c.load_size, c.flip)
            for name, c in paper.items()} == wanted
    assert all((c.lambda_l1, c.lr, c.beta1, c.crop_size) == (100, 2e-4, 0.5, 256) for c in paper.values())
    assert all(c.paper_step and c.generator == "unet" and not c.ema for c in paper.values())
    assert recipe("maps_to_aerial").data_root == Path("data/maps")


def test_flags_override_a_recipe():
    cfg = parse(["facades", "--n-epochs", "50", "--flip", "none"])
    assert (cfg.direction, cfg.n_epochs, cfg.flip) == ("BtoA", 50, "none")
    assert parse([]) == Config()


@pytest.mark.parametrize(("words", "told"), [(["--direction", "sideways"], "AtoB"), (["--out-dir"], "out-dir")])
def test_a_wrong_flag_ends_with_status_2(capsys, words, told):
    with pytest.raises(SystemExit) as leaving:
        parse(words)
    assert leaving.value.code == 2
    shown = "".join(capsys.readouterr())
    assert told in shown and "Traceback" not in shown


def test_help_shows_the_comment_of_every_field(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(f"--{f.name.replace('_', '-')}" in shown for f in fields(Config))
    assert "weight of L1 beside the GAN loss" in shown


def test_editing_the_defaults_changes_neither_the_recipes_nor_breaks_the_command_line(monkeypatch):
    """As a user does in config.py: larger networks, another batch."""
    before = recipe("edges2shoes")
    edited = replace(Config(), load_size=572, crop_size=512, batch_size=8, n_epochs_decay=100, label_side="A")
    monkeypatch.setattr(config, "Config", lambda: edited)
    assert recipe("edges2shoes") == before
    monkeypatch.undo()
    assert {*PAPER} >= {name for name in vars(Config()) if name.startswith("lambda_")}
    assert {*PAPER, "direction"} >= {"load_size", "crop_size", "batch_size", "n_epochs_decay", "lr", "ngf", "ndf"}


def test_settings_come_from_the_checkpoint_where_config_json_is_gone_or_empty(small, run):
    """As a crash of the machine may leave it. One with anything in it may be a user's edit: it is not passed over."""
    path = small().out_dir / "config.json"
    path.unlink()
    cfg = parse(["--resume", "--out-dir", str(small().out_dir), "--n-epochs", "3"])
    assert cfg == small(n_epochs=3, resume=True)
    for content in (b"", b"\0" * 4096, b"\n"):
        path.write_bytes(content)
        assert load_settings(small().out_dir) == small(n_epochs=1)
    path.write_text("{")
    with pytest.raises(UserError, match="config.json holds no settings"):
        load_settings(small().out_dir)


@pytest.mark.parametrize("content", [b"{", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"lr": "fast"}',
                                     b"[" * 100_000, b'{"a":' * 100_000])
def test_a_damaged_config_file_gets_a_sentence(tmp_path, content):
    (tmp_path / "config.json").touch()  # as a crash of the machine leaves it, and nothing else
    assert load_settings(tmp_path) is None
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json holds no settings"):
        load_settings(tmp_path)


def test_the_other_recipes_are_the_paper_s_but_for_what_the_study_and_the_authors_name():
    paper, release = recipe("maps").plain(), recipe("release")
    better, theirs = ({name for name in paper if other.plain()[name] != paper[name]} - {"data_root"}
                      for other in (recipe("better"), release))
    study = (Path(__file__).parents[1] / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert better == {"ema", "lambda_fm", "spectral_norm"}
    assert all(f"--{name.replace('_', '-')}" in study for name in better)
    assert theirs == {"generator", "n_epochs", "n_epochs_decay"}
    assert (release.n_epochs, release.n_epochs_decay, release.interpolation) == (100, 100, "bicubic")


def test_without_docstrings_the_flags_are_the_same():
    """python -OO takes them away."""
    assert parse(["--n-epochs", "3"], None).n_epochs == 3


# Files and flags of earlier versions

@pytest.mark.long
def test_a_run_with_settings_that_are_no_more_is_refused_and_left_alone(small, data):
    """It went on with another dropout, or without its scores: what a setting did that nobody reads any more.

    Its pairs still serve as examples, and today's run beside it goes on.
    """
    folder = Path("runs") / "first"
    train(small(n_epochs=1, out_dir=folder))
    settings = {**small(n_epochs=1, out_dir=folder).plain(), "dropout_blocks": "release", "eval_every": 1}
    (folder / "config.json").write_text(json.dumps(settings))
    saved = load_tensors(folder / "checkpoint.pth.tar")
    torch.save({**saved, "config": settings}, folder / "checkpoint.pth.tar")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    resume = ["--resume", "--data-root", str(data), "--n-epochs", "2"]
    with pytest.raises(UserError, match=r"config.json holds .* \(dropout_blocks, eval_every\): .*--init-from"):
        train(parse(resume))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert find_examples(folder / "gen.pth.tar", load_generator(folder / "gen.pth.tar").trained)
    train(small(n_epochs=1, out_dir=Path("runs") / "second", init_from=folder / "gen.pth.tar"))
    assert parse(resume).out_dir.name == "second"
    (folder / "config.json").write_text(json.dumps({**small(n_epochs=1, out_dir=folder).plain(), "lrr": 0.1}))
    with pytest.raises(UserError, match=r"config.json holds settings that this version does not know \(lrr\)"):
        parse(["--resume", "--out-dir", str(folder)])  # as after a slip of the pen


@pytest.mark.parametrize(("word", "told"), [
    *((flag, f"^{flag.split('=')[0]} is gone: .+") for flag in (
        "--eval-every=1", "--eval_every", "--no-fused-adam", "--palette", "--name", "--interpolation=bicubic",
        "--deterministic", "--color-jitter-side")),
    *((flag, f"a flag of the authors' programs: here, it is {ours}") for flag, ours in (
        ("--which_direction", "--direction"), ("--continue-train", "--resume"), ("--niter=5", "--n-e"))),
    ("--no-flip", "--flip none"), ("--no_flip", "--flip none"),
    ("facade", "facade'.*facades.*night2day")])
def test_a_word_that_is_gone_the_authors_or_misspelt_is_told_what_to_write(word, told):
    with pytest.raises(UserError, match=told):
        parse([*["facades"] * (word != "facade"), word, "1"])
    assert not {*GONE} & {f.name for f in fields(Config)}
