import json
from functools import partial

import pytest
import torch
from conftest import LARGER, flags, fresh_state, write_generator
from test_distributed import finish, torchrun
from test_published import published as published  # a fixture

from discriminator import Discriminator
from generator import Generator
from hd.networks import release_dropout
from inference.load import head_start
from runtime.checkpoint import load_tensors
from runtime.cli import parse
from train import train


@pytest.fixture
def first(larger):
    """The folder of a finished run, whose weights lie far from those that a new run draws."""
    cfg = larger("first", n_epochs=1, seed=7, lr=0.01)
    train(cfg)
    return cfg.out_dir


def read(path):
    saved = load_tensors(path)
    return saved.get("state") or {"gen": saved["state_dict"]}


def close(a, b):
    return all(torch.allclose(a[key], b[key], atol=1e-6) for key in a if "running" not in key and "num_" not in key)


@pytest.mark.parametrize(("file", "d_too"), [("gen.pth.tar", False), ("checkpoint.pth.tar", True)])
def test_a_run_begins_with_the_weights_and_with_fresh_optimisers(larger, first, on_steps, capsys, file, d_too):
    """A head start that is lost when weights are drawn after it, or that drags the old run's moments along."""
    steps, begun = [], read(first / "checkpoint.pth.tar")
    on_steps(lambda losses, state, *_, **__: steps.append(
        next(iter(state.opt_g.state.values()))["step"].item()))
    train(larger(init_from=first / file, lr=1e-20, n_epochs=1))
    ended = read(larger().out_dir / "checkpoint.pth.tar")
    assert close(ended["gen"], begun["gen"]) and close(ended["disc"], begun["disc"]) == d_too
    assert steps[0] == 1
    said = capsys.readouterr().out
    n = sum(p.numel() for p in Generator(ngf=4, crop_size=64).parameters())
    assert f"{n:,} of {n:,} parameters of G; " in said and ("D begins anew" in said) != d_too


@pytest.mark.long
def test_a_resumed_run_neither_loads_the_file_again_nor_needs_it(larger, first, same, end_of, capsys):
    """Twice from the file, the second epoch would begin where the first did."""
    cfg = partial(larger, init_from=first / "gen.pth.tar")
    train(cfg("whole", n_epochs=2))
    train(cfg(n_epochs=1))
    kept = str(first / "gen.pth.tar")
    (first / "gen.pth.tar").unlink()
    train(parse(["--resume", "--out-dir", str(larger().out_dir), "--n-epochs", "2", "--init-from", "nowhere"]))
    assert same(end_of(larger("whole")), end_of(larger()))
    assert "init_from is ignored" in capsys.readouterr().out
    assert json.loads((larger().out_dir / "config.json").read_text())["init_from"] == kept


def test_with_other_channels_only_the_layers_that_see_them_begin_anew(larger, first, capsys):
    drawn = fresh_state(larger(in_channels=1, out_channels=1))
    before = {key: value.clone() for key, value in drawn.gen.state_dict().items()}
    head_start(drawn.gen, drawn.disc, first / "checkpoint.pth.tar")
    told = capsys.readouterr().out.strip()
    theirs, now = read(first / "checkpoint.pth.tar"), drawn.gen.state_dict()
    fresh = ["encoder.0.weight", "output.1.weight", "output.1.bias"]
    assert all(torch.equal(now[key], (before if key in fresh else theirs["gen"])[key]) for key in now)
    assert "G, not encoder.0.weight, output.1.weight, output.1.bias; " in told
    assert told.endswith("D, not layers.0.weight")


def test_of_another_depth_the_blocks_of_one_resolution_are_taken(tmp_path):
    """The decoder is numbered from the bottleneck: by their numbers alone, blocks would move to another resolution."""
    theirs, disc = Generator(3, 3, 4, 64), Discriminator(3, 3, 4)
    gen = Generator(3, 3, 4, 128)
    head_start(gen, disc, write_generator(tmp_path / "g", theirs))
    for level in range(1, 6):
        assert torch.equal(gen.encoder[level][1].weight, theirs.encoder[level][1].weight)
    for outside in range(1, 5):
        assert torch.equal(gen.decoder[-outside][1].weight, theirs.decoder[-outside][1].weight)
        assert torch.equal(gen.decoder[-outside][2].running_var, theirs.decoder[-outside][2].running_var)
    assert torch.equal(gen.output[1].weight, theirs.output[1].weight)


def test_the_authors_files_are_taken(published, tmp_path, capsys):
    """Their keys are others; our dropout stays where the settings have it, which the new run's file tells."""
    torch.save(published(7).state_dict(), tmp_path / "latest_net_G.pth")
    gen = Generator(3, 3, 4, 128)
    head_start(gen, Discriminator(3, 3, 4), tmp_path / "latest_net_G.pth")
    told = capsys.readouterr().out
    assert torch.equal(gen.output[1].weight, published(7).state_dict()["model.model.3.weight"])
    assert [block[3].p for block in gen.decoder] == [0.5, 0.5, 0.5, 0, 0, 0]
    assert "dropout stays" in told and "not" not in told
    head_start(release_dropout(gen, 0.5), Discriminator(3, 3, 4), tmp_path / "latest_net_G.pth")
    assert "dropout" not in capsys.readouterr().out  # as theirs


@pytest.mark.parametrize("mistake", ["absent", "other width", "damaged", "a folder"])
def test_a_file_that_is_of_no_use_is_a_sentence_and_leaves_nothing(larger, first, mistake):
    path = first / "gen.pth.tar"
    if mistake == "damaged":
        path.write_bytes(path.read_bytes()[:-1000])
    path = {"absent": first / "nowhere", "a folder": first}.get(mistake, path)
    cfg = larger(init_from=path, ngf=8 if mistake == "other width" else 4)
    with pytest.raises((OSError, ValueError), match="too few" if mistake == "other width" else str(path)):
        train(cfg)
    assert not cfg.out_dir.exists()


@pytest.mark.parametrize("disc", [{"layers.0.weight": 3}, [1], {}])
def test_a_checkpoint_without_a_discriminator_of_use_costs_only_that(first, capsys, disc):
    saved = load_tensors(first / "checkpoint.pth.tar")
    saved["state"]["disc"] = disc
    torch.save(saved, first / "odd.pth.tar")
    head_start(Generator(3, 3, 4, 64), Discriminator(3, 3, 4), first / "odd.pth.tar")
    assert "D begins anew" in capsys.readouterr().out


@pytest.mark.slow
def test_all_processes_begin_with_the_same_weights(larger, first, data):
    """The main one reads the file; with weights of its own, the other would validate its half otherwise."""
    changes = dict(LARGER, init_from=first / "checkpoint.pth.tar", n_epochs=1, lr=1e-20)
    one, two = larger("one", **changes), larger("two", **changes)
    train(one)
    status, out, err = finish(torchrun("train.py", *flags(data, two.out_dir, **changes)))
    assert status == 0 and out.count("weights from") == 1, err
    alone, together = (load_tensors(cfg.out_dir / "checkpoint.pth.tar")["history"][0] for cfg in (one, two))
    assert together["val_l1"] == pytest.approx(alone["val_l1"], rel=1e-4)
    changes["init_from"] = first / "nowhere"
    status, _, err = finish(torchrun("train.py", *flags(data, first.parent / "three", **changes)))
    assert status != 0 and err.count("error: ") == 1 and not (first.parent / "three").exists()
