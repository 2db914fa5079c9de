import errno
import json
import os
import pickle
import re
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import edit, flags, fresh_state, save
from filelock import FileLock, Timeout
from PIL import Image

from generator import Generator
from runtime import run as run_module
from runtime.checkpoint import Progress, load_tensors
from runtime.cli import parse
from runtime.distributed import Ranks
from runtime.files import temporary_name
from runtime.run import Run
from runtime.writer import Writer
from train import train
from utils import DataError, UserError


class Killed(BaseException):
    pass


def no_memory(losses):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_gen_pth_tar_rebuilds_the_generator_from_tensors_and_plain_types(run):
    saved = torch.load(run.out_dir / "gen.pth.tar", weights_only=True)
    assert set(saved) == {"format", "state_dict", "config", "epoch", "pairs", "usual_size", "kind", "inputs", "counts",
                          "ranged_inputs", "colours", "size_range", "enlarge", "version", "validated_on", "masked_by"}
    assert saved["epoch"] == 1
    settings = saved["config"]
    assert settings["direction"] == "AtoB" and settings["load_size"] == 36
    assert {"bands_a", "bands_b", "files_a", "files_b", "files_m"} <= settings.keys()  # by which others read files
    names = ("in_channels", "out_channels", "ngf", "crop_size", "dropout", "crop_width")
    gen = Generator(*(settings[name] for name in names))
    gen.load_state_dict(saved["state_dict"])
    trained = torch.load(run.out_dir / "checkpoint.pth.tar", weights_only=True)["state"]["gen"]
    assert all(torch.equal(gen.state_dict()[name], value) for name, value in trained.items())
    assert not any(name.startswith(("module.", "_orig_mod.")) for name in saved["state_dict"])
    assert str(run.data_root) not in str({k: v for k, v in saved.items() if k != "state_dict"})


def test_a_run_in_fp16_goes_on_from_one_without_a_scale(small):
    state = fresh_state(small())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    state.load_state_dict(fresh_state(small()).state_dict())
    assert state.scaler.get_scale() == 8


@pytest.mark.parametrize("change", [dict(ngf=8), dict(ndf=8), dict(n_layers=2), dict(in_channels=1),
                                    dict(crop_size=128, load_size=128), dict(direction="BtoA"),
                                    dict(generator="global", n_downs=2), dict(n_downs=3), dict(n_blocks=2),
                                    dict(n_scales=2), dict(spectral_norm=True)])
def test_another_network_cannot_continue_a_run(run, change):
    with pytest.raises(ValueError, match=f"has {next(iter(change))} "):
        train(replace(run, resume=True, n_epochs=2, **change))


def test_a_start_that_fails_leaves_nothing(small, at_step, monkeypatch):
    """No weights of VGG, no memory: nothing was learnt."""
    monkeypatch.setattr("train.load_vgg", Mock(side_effect=UserError("no weights")))
    with pytest.raises(UserError, match="no weights"):
        train(small(lambda_vgg=1.0))
    at_step(1, no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        train(small())
    assert not small().out_dir.exists()


def test_a_resume_that_learns_nothing_leaves_the_run_as_it_was(small, run, data, capsys):
    """A checkpoint and a generator with the flags of a mistake would be of no use to anybody."""
    before = {path: path.read_bytes() for path in small().out_dir.glob("*.tar")}
    whole = {path: path.read_bytes() for path in data.glob("train/*.png")}
    for path, content in whole.items():
        path.write_bytes(content[:100])
    with pytest.raises(DataError, match="cannot be read"):
        train(small(resume=True, n_epochs=2, lr=0.1))
    assert before == {path: path.read_bytes() for path in before} and "saved in" not in capsys.readouterr().out
    for path, content in whole.items():
        path.write_bytes(content)
    cfg = parse(["--resume", "--out-dir", str(small().out_dir), "--n-epochs", "2"])
    assert cfg.lr == small().lr


def test_a_run_that_died_before_its_first_checkpoint_begins_over_in_its_folder(small, data, at_step, monkeypatch,
                                                                             end_of, capsys):
    """Its log.csv took the folder for ever: --resume went to runs/data-2, and with --out-dir the start was refused."""
    at_step(15, no_memory)
    monkeypatch.setattr(Writer, "busy", lambda self, kind: True)
    with pytest.raises(torch.OutOfMemoryError):
        train(small(out_dir=None, n_epochs=9))
    left = {path.name for path in Path("runs/data").rglob("*")}
    assert {"log.csv", "losses.png", "epoch_0001.png", "epoch_0002.png"} <= left and "config.json" not in left
    train(parse(["--resume", *flags(data, None, n_epochs=1, ngf=5)]))  # the settings of its own command line
    assert [path.name for path in Path("runs").iterdir()] == ["data"] and "is taken" not in capsys.readouterr().out
    saved = end_of(small(out_dir=Path("runs/data")))
    assert (saved["epoch"], len(saved["history"])) == (1, 1)
    assert Path("runs/data/log.csv").read_text().count("\n") == 2


@pytest.mark.parametrize("old", [True, False])
def test_a_kill_just_after_the_first_checkpoint_leaves_its_own_settings(small, monkeypatch, old):
    """An old config.json won over the settings of the command line that began the run again."""
    def killed(*args):
        assert path.exists() == old and (not old or json.loads(path.read_text())["ngf"] == 7)
        save_run(*args)
        raise Killed

    path = small().out_dir / "config.json"
    if old:
        path.parent.mkdir()
        path.write_text(json.dumps(small(ngf=7).plain()))
    save_run = run_module.save_run
    monkeypatch.setattr(run_module, "save_run", killed)
    with pytest.raises(Killed):
        train(small(n_epochs=1))
    assert parse(["--resume", "--out-dir", str(small().out_dir)]).ngf == small().ngf


def test_a_kill_between_the_last_two_files_leaves_no_old_generator(small, monkeypatch):
    """The checkpoint came first, and --resume said that the run was finished."""
    def killed(*args):
        written.append(args)
        if len(written) == 4:  # of two epochs
            raise Killed
        save(*args)

    save, written = torch.save, []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch, "save", killed)
        train(small(n_epochs=2))
    train(small(n_epochs=2, resume=True))
    assert load_tensors(small().out_dir / "gen.pth.tar")["epoch"] == 2


def left_by_a_kill(cfg, *more):
    """Takes from a run's folder what a start has not written yet."""
    for name in ("checkpoint.pth.tar", "gen.pth.tar", *more):
        (cfg.out_dir / name).unlink(missing_ok=True)


def test_what_a_killed_start_left_blocks_nobody_and_keeps_its_settings(run, end_of):
    """A config.json, as earlier versions wrote it before the first checkpoint, the log, best.pth.tar and pictures."""
    (run.out_dir / "gen.pth.tar").rename(run.out_dir / "best.pth.tar")
    half, mine = ([run.out_dir / name, run.out_dir / "examples" / name] for name in (temporary_name(), "epoch_ab.png"))
    for path in (*half, *mine):
        path.write_bytes(b"half")
    left_by_a_kill(run)
    with pytest.raises(UserError, match=r"already holds a run \(best.pth.tar\)"):  # which can translate
        train(run)
    again = parse(["--resume", "--out-dir", str(run.out_dir)])
    assert (again.ngf, again.data_root, again.n_epochs) == (run.ngf, run.data_root, 1)
    train(again)
    assert end_of(run)["epoch"] == 1 and not any(path.exists() for path in half)
    left_by_a_kill(run, "best.pth.tar", "config.json")
    train(replace(run, ngf=8))
    left_by_a_kill(run)
    (run.out_dir / "config.json").write_bytes(bytes(100))  # as a crash of the machine may leave it
    train(run)
    assert all(path.read_bytes() == b"half" for path in mine)


def test_the_folder_stays_locked_until_the_last_file_is_written(small, monkeypatch):
    """What is still being written when the block is left must not meet another process."""
    seen = []

    def slow(*args):
        time.sleep(0.2)
        with pytest.raises(Timeout):
            FileLock(small().out_dir / ".lock", timeout=0).acquire()
        seen.append("locked")

    monkeypatch.setattr(run_module, "save_run", slow)
    with pytest.raises(RuntimeError, match="in the loop"), Run(small(), Ranks()) as run:
        run.save_epoch(fresh_state(small()), Progress(1), [{}])
        raise RuntimeError("in the loop")
    assert seen == ["locked"]
    FileLock(small().out_dir / ".lock", timeout=0).acquire()


@pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "ENOTSUP", "EINVAL"])
@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX")
def test_a_file_system_without_locks_costs_the_protection_alone(small, monkeypatch, capsys, name):
    """Also where a run of another host has left its lock: whether that host still trains is more than can be known."""
    number = getattr(errno, name)
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(number, os.strerror(number))))
    lock = small().out_dir / ".lock"
    lock.parent.mkdir()
    lock.write_text("1\nelsewhere\n")
    for _ in range(2):
        with Run(small(), Ranks()):
            told = capsys.readouterr().out
    assert told.count(f"{lock.parent} lies on a file system without locks (") == 1 and told.count("\n") == 1
    writing = [lock.with_name(name) for name in ("gen.pth.tar", temporary_name())]  # by a run that trains there
    for path in writing:
        path.touch()
    with pytest.raises(UserError, match="already holds a run"), Run(small(), Ranks()):
        pass
    assert all(path.exists() for path in writing)


def test_a_start_without_a_folder_takes_the_next_free_one(small, capsys):
    """The second `python train.py` after an edit."""
    for _ in range(2):
        train(small(out_dir=None, n_epochs=1))
    assert "runs/data is taken: this run goes to runs/data-2" in capsys.readouterr().out
    assert sorted(path.name for path in Path("runs").iterdir()) == ["data", "data-2"]
    cfg = parse(["--resume", "--data-root", str(small().data_root), "--n-epochs", "2"])
    assert cfg.out_dir == Path("runs/data-2") and cfg.ngf == 4
    train(cfg)
    saved = [load_tensors(Path("runs", name, "checkpoint.pth.tar"))["epoch"] for name in ("data", "data-2")]
    assert saved == [1, 2]
    with pytest.raises(ValueError, match="already holds a run.*--resume.*--out-dir"):
        train(small(out_dir=Path("runs/data")))


def test_what_changes_on_resume_is_told_and_takes_effect_also_in_a_run_of_an_earlier_version(run, end_of, capsys):
    """It tells neither the defaults, nor its pairs, nor a setting that is newer."""
    settings = json.loads((run.out_dir / "config.json").read_text())
    saved = load_tensors(run.out_dir / "checkpoint.pth.tar")
    del settings["defaults"], settings["lambda_fm"], saved["config"]["lambda_fm"]
    for name in ("defaults", "pairs", "skipped", "skipped_steps"):
        del saved[name]
    (run.out_dir / "config.json").write_text(json.dumps(settings))
    torch.save(saved, run.out_dir / "checkpoint.pth.tar")
    train(parse(["--resume", "--out-dir", str(run.out_dir), "--n-epochs=2", "--lambda-fm=10", "--beta1=0.9"]))
    assert "changed since the run began: lambda_fm from 0.0 to 10.0" in capsys.readouterr().out
    optimisers = [end_of(run)["state"][name]["param_groups"][0] for name in ("opt_g", "opt_d")]
    assert [tuple(each["betas"]) for each in optimisers] == [(0.9, 0.999)] * 2 and end_of(run)["epoch"] == 2


def test_an_edit_of_config_py_takes_effect_on_resume(small, monkeypatch, capsys, end_of):
    """The file is how this program is used; a flag of the first start stays, whatever the file says."""
    edit(monkeypatch, n_epochs=1)
    train(small(n_epochs=1))
    edit(monkeypatch, n_epochs=3, lr=1e-3, data_root=Path("data/other"))
    resume = ["--resume", "--out-dir", str(small().out_dir)]
    cfg = parse([*resume, "--lr", "1e-4"])
    assert (cfg.n_epochs, cfg.lr, cfg.ngf, cfg.data_root) == (3, 1e-4, 4, small().data_root)
    train(cfg)
    assert end_of(small())["epoch"] == 3
    assert "changed since the run began: n_epochs from 1 to 3" in capsys.readouterr().out
    cfg = parse(resume)
    assert cfg.n_epochs == 3 and cfg.lr == 1e-4 and not capsys.readouterr().out  # kept, and no longer an edit
    for other in (dict(lr=1e-5), dict(n_layers=2), dict(best_by="ms_ssim")):  # a flag's, fixed, no fit: all or none
        edit(monkeypatch, **{"lr": 1e-3, "n_val": 7, **other})
        names = ", ".join(name for name in cfg.plain() if name in {"n_val", "n_epochs", *other})
        assert parse(resume) == cfg
        assert capsys.readouterr().out == f"{cfg.out_dir} keeps its {names}: config.py has others\n"
    seen = dict(n_epochs=3, lr=1e-3)
    edit(monkeypatch, **seen, n_val=7, n_layers=2)
    train(parse([*resume, "--n-epochs=4"]))
    edit(monkeypatch, **seen, n_val=7)  # now they fit: a start that took none had them forgotten
    assert parse(resume).n_val == 7
    monkeypatch.setattr(sys, "argv", ["train.py", *resume, "--n-val", str(cfg.n_val), "--n-epochs=5"])
    train(parse())
    assert parse(resume).n_val == cfg.n_val  # which a flag has kept


def test_the_weights_that_were_restored_are_not_held_twice(run, on_steps, monkeypatch):
    load, read, held = run_module.load_tensors, [], []

    def watched(*args):
        saved = load(*args)
        read.append(weakref.ref(saved["state"]["gen"]["output.1.bias"]))
        return saved

    monkeypatch.setattr(run_module, "load_tensors", watched)
    on_steps(lambda *_, **__: held.append(read[0]()))
    train(replace(run, resume=True, n_epochs=2))
    assert {*held} == {None}


def test_a_run_whose_data_moved_says_what_to_do_and_downloads_nothing(run, data, tmp_path):
    data.rename(tmp_path / "demo")
    with pytest.raises(ValueError, match="no longer at .*--data-root"):
        train(replace(run, resume=True, n_epochs=2))
    with pytest.raises(ValueError, match="no longer at .*--data-root"):
        train(replace(run, resume=True, n_epochs=2, data_root=tmp_path / "elsewhere" / "facades"))
    assert not data.exists() and not (tmp_path / "elsewhere").exists()
    train(replace(run, resume=True, n_epochs=2, data_root=tmp_path / "demo"))


def test_torchrun_starting_again_without_resume_is_refused(small, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match="with --resume it goes on"):
        train(small())


def test_a_run_is_resumed_from_another_folder(small, run, data, monkeypatch, same, end_of):
    """Also one that was killed before its first checkpoint, and begins with another's weights again."""
    monkeypatch.chdir(data.parent)
    begun = end_of(run)["state"]["gen"]
    cfg = small("second", n_epochs=1, data_root=Path("data"), init_from=Path("run/gen.pth.tar"), lr=1e-20)
    edit(monkeypatch, init_from=cfg.init_from)
    train(cfg)
    left_by_a_kill(cfg, "log.csv")
    monkeypatch.chdir("/")
    train(parse(["--resume", "--out-dir", str(cfg.out_dir)]))
    assert same(*({key: net[key] for key in net if "running" not in key and "num_" not in key}
                  for net in (begun, end_of(cfg)["state"]["gen"])))
    cfg = parse(["--resume", "--out-dir", str(cfg.out_dir), "--n-epochs", "2", "--load-size", "96"])
    assert cfg.load_size == 96 and cfg.crop_size == 32  # a flag is checked beside the settings of the run
    train(cfg)
    assert end_of(cfg)["epoch"] == 2
    edit(monkeypatch, n_val=7)  # nor init_from any more, which is no reason to refuse the others
    assert parse(["--resume", "--out-dir", str(cfg.out_dir)]).n_val == 7


def test_a_run_that_cannot_go_on_says_why_and_never_costs_the_trained_generator(run):
    path, gen = run.out_dir / "checkpoint.pth.tar", run.out_dir / "gen.pth.tar"
    whole, trained = path.read_bytes(), gen.read_bytes()

    def refused(message, n_epochs=2):
        with pytest.raises(ValueError, match=message):
            train(replace(run, resume=True, n_epochs=n_epochs))
        assert gen.read_bytes() == trained

    killed = run.out_dir / temporary_name()  # a process that was, in its last drawing
    killed.touch()
    gen.unlink()  # as after a kill between the two files
    refused("finished: 1 of 1 epochs; a larger --n-epochs", n_epochs=1)
    assert not killed.exists()
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], b"x" * 1000, pickle.dumps([1, 2])):
        path.write_bytes(content)
        refused("checkpoint.pth.tar is")
    path.write_bytes(trained)
    refused("not a pix2pix checkpoint")
    path.unlink()
    refused("checkpoint.pth.tar is missing")


def test_a_folder_that_cannot_be_written_to_is_named(small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot use out_dir '.*run': Not a directory"):
        train(small(out_dir=tmp_path / "file" / "run"))


def test_of_each_kind_only_the_newest_waits():
    """Behind a slow disk, 104 stale copies of log.csv were written one after the other."""
    seen, held, writer = [], threading.Event(), Writer(torch.device("cpu"))
    writer.submit("first", held.wait, 10)
    while writer.running != "first":
        time.sleep(0.001)
    for i in range(1000):
        writer.submit("log", seen.append, f"log {i}")
        writer.submit("best", seen.append, f"best {i}")
    assert writer.busy("first") and writer.busy("log") and not writer.busy("checkpoint")
    assert len(writer.jobs) == 3
    held.set()
    writer.check(wait=True)
    assert seen == ["log 999", "best 999"] and not writer.busy("log")
    writer.submit("log", seen.append, "once more")
    writer.check(wait=True)
    assert seen[2:] == ["once more"]


def test_an_error_is_raised_at_the_end_unless_another_is_on_its_way(small):
    fail = Mock(side_effect=OSError("no space left"))
    with pytest.raises(OSError, match="no space left"), Run(small("a"), Ranks()) as run:
        run.writer.submit("", fail)
    with pytest.raises(ValueError, match="the loss"), Run(small("b"), Ranks()) as run:
        run.writer.submit("", fail)
        raise ValueError("the loss")


def picture(path):
    save(path, Image.new("RGB", (8, 8)))


def text(content):
    return lambda path: path.write_text(content)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("name", "write"), [
    ("config.json", text('{"epochs": 3}')), ("config.json", text("[1, 2]")), ("config.json", text("# notes")),
    ("losses.png", picture), ("losses.png", text("no picture")), ("examples/epoch_0001.png", picture),
    ("log.csv", text("date,weight\n")), ("best.pth.tar", lambda path: torch.save({"mine": 1}, path)),
    ("examples", text("a file"))])
def test_nothing_of_the_user_s_own_is_overwritten(small, name, write, resume):
    folder = small().out_dir
    folder.mkdir()
    write(folder / name)
    before = (folder / name).read_bytes()
    with pytest.raises(UserError, match=f"run holds files that no run has left and this one would overwrite: {name}"):
        train(small(resume=resume))
    assert (folder / name).read_bytes() == before and not (folder / "checkpoint.pth.tar").exists()


def test_a_folder_that_is_removed_while_training_is_named_by_its_checkpoint(small, tmp_path, at_step, unspaced, capfd):
    """The sentence named a file of TensorBoard, as bytes."""
    path = small().out_dir / "checkpoint.pth.tar"

    def remove(losses):
        while not (small().out_dir / "gen.pth.tar").exists():  # it comes last of the first checkpoint
            time.sleep(0.01)
        small().out_dir.rename(tmp_path / "elsewhere")

    at_step(9, remove)
    with pytest.raises(OSError, match=re.escape(f"No such file or directory: '{path}'")):
        train(small(n_epochs=50))
    assert not small().out_dir.exists() and "Traceback" not in capfd.readouterr().err
