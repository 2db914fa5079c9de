"""The folder that export.py writes for the Hugging Face Hub: it loads to the bit, and its card is one of the Hub's."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import begin, equal, pair_of
from PIL import Image
from test_published import Published

import evaluate
import export
from inference.hub import pictures
from inference.load import load_generator
from inference.translate import Translator
from train import train
from utils import UserError

LICENCES = ["--licence", "mit", "--data-licence", "drawn by a program"]


def call(module, *flags):
    assert not begin(module, *flags)


def test_the_folder_loads_to_the_bit_and_its_card_tells_the_scores(run, data, tmp_path, capsys):
    hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "streets").symlink_to(data)
    call(evaluate, "--checkpoint", run.out_dir / "gen.pth.tar", "--data-root", tmp_path / "streets",
         "--num-workers", 0, "--device", "cpu")
    call(export, "--checkpoint", run.out_dir / "gen.pth.tar", "--hub", tmp_path / "demo", *LICENCES)
    folder = tmp_path / "demo"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md", "strip.png"}
    assert equal(load_generator(folder), load_generator(run.out_dir / "gen.pth.tar"))
    assert f"hf upload USER/demo {folder}" in capsys.readouterr().out
    told = json.loads((folder / "config.json").read_text())
    assert told["config"]["ngf"] == 4 and told["config"]["direction"] == "AtoB"

    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.license == "mit" and card.data.pipeline_tag == "image-to-image"
    score = json.loads((run.out_dir / "evaluation_val" / "metrics.json").read_text())["scores"]["output"]["l1"]["mean"]
    assert "drawn by a program" in card.text
    text = (folder / "README.md").read_text()
    assert f"{score:.3f}" in card.text and str(tmp_path) not in text
    assert "pairs of streets, val," in text

    call(export, "--checkpoint", folder, "--hub", tmp_path / "again", *LICENCES, "--examples", 0)
    assert equal(load_generator(tmp_path / "again"), load_generator(folder))
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == told
    assert not (tmp_path / "again" / "strip.png").exists()


def test_scores_of_other_weights_or_the_other_direction_are_not_those_of_the_card(run, data, small, tmp_path, capsys):
    score = ["--checkpoint", run.out_dir / "gen.pth.tar", "--data-root", data, "--num-workers", 0, "--device", "cpu"]
    card = ["--checkpoint", run.out_dir / "gen.pth.tar", *LICENCES, "--examples", 0, "--hub"]
    call(evaluate, *score, "--direction", "BtoA")
    call(export, *card, tmp_path / "other_way")
    assert "holds no scores of these weights" in capsys.readouterr().out
    call(evaluate, *score)
    call(export, *card, tmp_path / "scored")
    assert "holds no scores" not in capsys.readouterr().out
    train(small(n_epochs=2, resume=True))
    call(export, *card, tmp_path / "older")
    assert "holds no scores of these weights" in capsys.readouterr().out
    cards = [(tmp_path / name / "README.md").read_text() for name in ("other_way", "scored", "older")]
    assert ["## Scores" in card for card in cards] == [False, True, False]


def test_the_authors_weights_go_there_as_they_are(tmp_path):
    torch.manual_seed(0)
    torch.save(Published(7, 4).state_dict(), tmp_path / "latest_net_G.pth")
    call(export, "--checkpoint", tmp_path / "latest_net_G.pth", "--hub", tmp_path / "demo", *LICENCES)
    assert equal(load_generator(tmp_path / "demo"), load_generator(tmp_path / "latest_net_G.pth"))


@pytest.mark.parametrize("folder, flags, sentence", [
    ("demo", [], "--hub needs --licence"), ("demo", ["--licence", "mit"], "--hub needs --data-licence"),
    ("demo", ["--licence", "mit\nevil: yes", "--data-licence", "x"], "--hub needs --licence"),
    ("demo", ["--licence", "mit", "--data-licence", "a\nb"], "--hub needs --data-licence"),
    ("demo", [*LICENCES, "--examples", "-1"], "examples must be at least 0"),
    ("theirs", LICENCES, "theirs is there already"), ("missing", LICENCES, "pip install safetensors"),
    (".", LICENCES, "the folder that you are in: let --hub be a new one"),
])
def test_a_mistake_is_a_sentence_and_leaves_what_is_there(run, tmp_path, monkeypatch, folder, flags, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "mine.txt").write_text("mine")
    if folder == "missing":
        monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=sentence):
        call(export, "--checkpoint", run.out_dir / "gen.pth.tar", "--hub", folder, *flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_leads_to_its_own_folder(run, tmp_path, capsys):
    (tmp_path / "my net").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "my net")
    call(export, "--checkpoint", run.out_dir / "gen.pth.tar", *LICENCES, "--hub", tmp_path / "link")
    assert (tmp_path / "my net" / "model.safetensors").exists() and (tmp_path / "link").is_symlink()
    assert f"hf upload USER/my-net '{tmp_path / 'my net'}'" in capsys.readouterr().out


def test_names_are_those_that_the_hub_takes_and_the_card_offers_what_works(run, tmp_path, capsys):
    hub = pytest.importorskip("huggingface_hub.utils")
    saved = torch.load(run.out_dir / "gen.pth.tar", weights_only=True)
    saved["config"]["n_labels"] = 3  # which no page can draw
    torch.save(saved, tmp_path / "gen.pth.tar")
    for name in ("Modell (ü)", "a..b", "x--", ".hidden", "ü", "my.git", "x" * 100):
        call(export, "--checkpoint", tmp_path / "gen.pth.tar", "--hub", tmp_path / name, *LICENCES, "--examples", 0)
        repo, = re.findall(r"hf upload '?(USER/[^ ']+)", capsys.readouterr().out)
        hub.validate_repo_id(repo)
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert "predict.py" in card and "draw.py" not in card


@pytest.mark.parametrize("told", [dict(bands_a=(3, 2, 1)), dict(range_a=(40.0, 200.0)), dict(range_b=(9.0, 50.0))])
def test_the_strip_shows_what_predict_writes(run, tmp_path, told):
    gen = load_generator(run.out_dir / "gen.pth.tar")
    gen.trained = replace(gen.trained, **told)
    a, b = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    for name, image in (("a.png", a), ("b.png", b)):
        Image.fromarray(image).save(tmp_path / name)
    (_, output, _), = pictures(gen, [pair_of(tmp_path / "a.png", tmp_path / "b.png")])
    wanted = Translator(gen, replace(gen.trained, range_b=None)).picture(a)  # as the target is shown
    gap = (output.permute(1, 2, 0).numpy() + 1) * 127.5 - wanted
    assert np.abs(gap).mean() < 1 and np.ptp(wanted) > 20  # the strip's numbers are those of 8 bits
