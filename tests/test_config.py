import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cli import load, parse, recipes
from config import Config


@pytest.mark.parametrize("change", [
    dict(direction="sideways"), dict(direction="atob"), dict(in_channels=2), dict(crop_size=200),
    dict(crop_size=2048), dict(load_size=255), dict(ngf=0), dict(n_layers=7), dict(n_layers=-1),
    dict(crop_size=64, load_size=64, n_layers=5), dict(dropout=1.0), dict(lambda_l1=-1.0),
    dict(lambda_l1=math.nan), dict(lr=0.0), dict(lr=math.nan), dict(beta1=1.0), dict(n_epochs=-1),
    dict(n_epochs=0, n_epochs_decay=0), dict(batch_size=0), dict(save_every=0), dict(precision="half"),
    dict(device="tpu"), dict(seed=-1), dict(color_jitter=2.0), dict(color_jitter=0.1, label_side="A"),
    dict(flip="yes"), dict(n_epochs=1.5), dict(batch_size=True),
])
def test_a_bad_value_is_refused_with_its_field_and_value(change):
    with pytest.raises(ValueError) as error:
        replace(Config(), **change)
    message = str(error.value)
    assert any(message.startswith(name) and repr(value) in message for name, value in change.items()) or (
        message.startswith("color_jitter_side")), message


def test_every_field_is_read_by_some_script():
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].glob("*.py")
                      if path.name != "config.py")
    assert [f.name for f in fields(Config) if not re.search(rf"cfg\.{f.name}\b", sources)] == []


def test_the_recipes_are_those_of_the_paper():
    wanted = {  # direction, epochs, batch, load_size, flip
        "facades": ("BtoA", 200, 1, 286, True), "maps": ("AtoB", 200, 1, 286, True),
        "maps_to_aerial": ("BtoA", 200, 1, 286, True), "cityscapes": ("BtoA", 200, 1, 286, True),
        "cityscapes_to_labels": ("AtoB", 200, 1, 286, True), "edges2shoes": ("AtoB", 15, 4, 256, False),
        "edges2handbags": ("AtoB", 15, 4, 256, False), "night2day": ("AtoB", 17, 4, 286, True),
    }
    assert {name: (c.direction, c.total_epochs, c.batch_size, c.load_size, c.flip)
            for name, c in recipes().items()} == wanted
    assert all((c.lambda_l1, c.lr, c.beta1, c.crop_size) == (100, 2e-4, 0.5, 256) for c in recipes().values())
    assert recipes()["maps_to_aerial"].data_root == Path("data/maps")


def test_flags_override_a_recipe():
    cfg = parse(["facades", "--n-epochs", "50", "--no-flip"])
    assert (cfg.direction, cfg.n_epochs, cfg.flip, cfg.out_dir) == ("BtoA", 50, False, Path("runs/facades"))
    assert parse([]) == Config()


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match="facade'.*facades.*night2day"):
        parse(["facade"])


def test_a_wrong_flag_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(["--direction", "sideways"])
    assert leaving.value.code == 2
    shown = "".join(capsys.readouterr())
    assert "AtoB" in shown and "Traceback" not in shown


def test_help_shows_the_comment_of_every_field(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(f"--{f.name.replace('_', '-')}" in shown for f in fields(Config))
    assert "weight of L1 beside the GAN loss" in shown


def test_resume_starts_from_the_settings_of_the_run(tmp_path):
    saved = replace(Config(), ngf=8, direction="BtoA", data_root=Path("elsewhere"))
    (tmp_path / "config.json").write_text(json.dumps(saved.plain()))
    cfg = parse(["--resume", "--out-dir", str(tmp_path), "--n-epochs", "9"])
    assert (cfg.ngf, cfg.direction, cfg.data_root, cfg.n_epochs) == (8, "BtoA", Path("elsewhere"), 9)


@pytest.mark.parametrize("text", ["{", "[]", '{"no_such_field": 1}', '{"lr": "fast"}'])
def test_a_damaged_config_file_gets_a_sentence(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError):
        load(tmp_path / "config.json")
