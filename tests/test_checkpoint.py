import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoint import load_tensors
from generator import Generator
from train import State, make_state, train


@pytest.fixture
def run(small):
    train(small(n_epochs=1))
    return small(n_epochs=1)


def test_gen_pth_tar_rebuilds_the_generator_from_tensors_and_plain_types(run):
    saved = torch.load(run.out_dir / "gen.pth.tar", weights_only=True)
    assert set(saved) == {"format", "state_dict", "config", "epoch", "held_out"} and saved["epoch"] == 1
    settings = saved["config"]
    assert settings["direction"] == "AtoB" and settings["load_size"] == 72
    gen = Generator(*(settings[name] for name in ("in_channels", "out_channels", "ngf", "crop_size", "dropout")))
    gen.load_state_dict(saved["state_dict"])
    trained = torch.load(run.out_dir / "checkpoint.pth.tar", weights_only=True)["state"]["gen"]
    assert all(torch.equal(gen.state_dict()[name], value) for name, value in trained.items())
    assert not any(name.startswith(("module.", "_orig_mod.")) for name in saved["state_dict"])
    assert str(run.data_root) not in str({k: v for k, v in saved.items() if k != "state_dict"})


def test_a_state_dict_holds_both_networks_both_optimisers_and_the_scaler(small):
    """A scaler that is switched on, as for fp16: its scale must come back."""
    def fresh():
        state = make_state(small(), torch.device("cpu"), torch.float32)
        state.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
        return state

    state = fresh()
    for optimiser, net in ((state.opt_g, state.gen), (state.opt_d, state.disc)):
        sum(p.sum() for p in net.parameters()).backward()
        optimiser.step()
    state.scaler.scale(torch.ones(()))
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 1024.0})
    other = fresh()
    other.load_state_dict(state.state_dict())
    assert set(state.state_dict()) == {"gen", "disc", "opt_g", "opt_d", "scaler"}
    assert other.scaler.state_dict() == state.scaler.state_dict() and other.scaler.state_dict()["scale"] == 1024
    for name in ("opt_g", "opt_d"):
        before, after = getattr(state, name).state_dict()["state"], getattr(other, name).state_dict()["state"]
        assert before.keys() == after.keys() and before
        assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in before[i])
    assert isinstance(state, State)


@pytest.mark.parametrize("change", [dict(ngf=8), dict(ndf=8), dict(n_layers=2), dict(in_channels=1),
                                    dict(crop_size=128, load_size=128), dict(direction="BtoA")])
def test_another_network_cannot_continue_a_run(run, change):
    with pytest.raises(ValueError, match=f"has {next(iter(change))} "):
        train(replace(run, resume=True, n_epochs=2, **change))


def test_a_finished_run_says_so(run):
    with pytest.raises(ValueError, match="finished: 1 of 1 epochs; a larger --n-epochs"):
        train(replace(run, resume=True))


def test_there_must_be_a_run_to_resume(small):
    with pytest.raises(ValueError, match="no run to resume"):
        train(small(resume=True))


def test_a_run_cut_before_its_first_checkpoint_starts_over_on_resume_only(run, end_of):
    for name in ("checkpoint.pth.tar", "gen.pth.tar", "log.csv"):
        (run.out_dir / name).unlink()
    with pytest.raises(ValueError, match="already holds a run"):
        train(run)
    assert train(replace(run, resume=True)) == 0 and end_of(run)["epoch"] == 1


def test_a_lost_checkpoint_never_costs_the_trained_generator(run):
    (run.out_dir / "checkpoint.pth.tar").unlink()
    before = (run.out_dir / "gen.pth.tar").read_bytes()
    with pytest.raises(ValueError, match="checkpoint.pth.tar is missing"):
        train(replace(run, resume=True, n_epochs=2))
    assert (run.out_dir / "gen.pth.tar").read_bytes() == before


def test_a_changed_setting_takes_effect_on_resume(run, end_of, capsys):
    train(replace(run, resume=True, n_epochs=2, beta1=0.9, lr=1e-3))
    saved = end_of(run)["state"]
    assert "beta1 from 0.5 to 0.9" in capsys.readouterr().out
    for name in ("opt_g", "opt_d"):
        group = saved[name]["param_groups"][0]
        assert (group["lr"], tuple(group["betas"])) == (1e-3, (0.9, 0.999))


def test_a_run_without_a_scaler_can_go_on_with_one(small):
    """bf16 or fp32 so far, fp16 from now on: there is no scale to restore."""
    saved = make_state(small(), torch.device("cpu"), torch.float32).state_dict()
    state = make_state(small(), torch.device("cpu"), torch.float32)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert saved["scaler"] == {}
    state.load_state_dict(saved)
    assert state.scaler.get_scale() == 8


def test_a_run_is_resumed_from_another_folder(small, data, tmp_path, monkeypatch, end_of):
    from cli import parse
    monkeypatch.chdir(data.parent)
    train(small(n_epochs=1, data_root=Path("data")))
    monkeypatch.chdir("/")
    train(parse(["--resume", "--out-dir", str(small().out_dir), "--n-epochs", "2"]))
    assert end_of(small())["epoch"] == 2


def test_damaged_files_get_a_sentence(run):
    path = run.out_dir / "checkpoint.pth.tar"
    whole = path.read_bytes()
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], b"x" * 1000, pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="checkpoint.pth.tar is"):
            train(replace(run, resume=True, n_epochs=2))
    (run.out_dir / "gen.pth.tar").replace(path)
    with pytest.raises(ValueError, match="not a pix2pix checkpoint"):
        train(replace(run, resume=True, n_epochs=2))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Harmless:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    torch.save({"format": "pix2pix checkpoint", "epoch": Harmless()}, tmp_path / "evil.pth.tar")
    with pytest.raises(ValueError, match="evil.pth.tar"):
        load_tensors(tmp_path / "evil.pth.tar", "pix2pix checkpoint")
    assert not (tmp_path / "executed").exists()


def test_a_folder_that_cannot_be_written_to_is_named(small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to out_dir '.*run': Not a directory"):
        train(small(out_dir=tmp_path / "file" / "run"))
