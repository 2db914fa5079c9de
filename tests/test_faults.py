"""What happens to a run when the machine, the disk or a user's hand fails. Most of it is slow: --slow."""

import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import call, children_of, wait_until, write_pair

import evaluate
import predict
from dataset import load_data
from runtime import files
from runtime.checkpoint import load_tensors
from runtime.console import run_main
from runtime.run import Run
from runtime.state import State
from train import train
from utils import DataError, Stopped, UserError

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, limits and fork")


def fork(act, *args):
    """act(*args) in a forked process: importing torch anew would take most of the time.

    To be joined without a limit of time, which would wait for its loader processes too.
    """
    process = multiprocessing.get_context("fork").Process(target=act, args=args)
    process.start()
    return process


@pytest.mark.long
@posix
def test_kills_at_any_moment_cost_nothing(small, end_of, same, monkeypatch, unspaced):
    """SIGKILL at random moments, many of them in the middle of writing a checkpoint, which every epoch ends with.

    What is on disk always loads, --resume continues at once, though loader processes outlive their parent, and the end
    is that of a run that nobody disturbed.
    """
    settings = dict(n_epochs=40, ngf=16, ndf=16)
    train(small("straight", **settings))
    sync = os.fsync
    run, draw, kills, cut, loads = small("killed").out_dir, random.Random(0), 0, 0, 0

    def saved():
        return [path.stat().st_mtime_ns for path in run.glob("checkpoint.pth.tar")]

    with monkeypatch.context() as slow_disk:
        slow_disk.setattr(files.os, "fsync", lambda file: time.sleep(0.25) or sync(file))
        for _ in range(15):
            cfg, begun = small("killed", **settings, num_workers=1, resume=True), saved()
            process = fork(train, cfg)
            patience = time.monotonic() + (0.3 if draw.random() < 0.2 else 20)  # or else until an epoch is saved
            while time.monotonic() < patience and process.exitcode is None and begun == saved():
                time.sleep(0.01)
            time.sleep(0.4 * draw.random())
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            cut += any(run.glob(".*.tmp"))
            for path in run.glob("*.pth.tar"):
                load_tensors(path)
                loads += 1
    train(small("killed", **settings, resume=True))
    print(f"{kills} kills, {cut} of them while a file was being written, {loads} files loaded")
    assert kills >= 12 and cut >= 1 and loads >= 10
    assert same(end_of(small("straight")), end_of(small("killed")))
    assert not list(run.glob(".*.tmp"))


@posix
@pytest.mark.long
def test_a_full_disk_ends_the_run_with_a_sentence_and_keeps_the_last_checkpoint(small, run, end_of, capfd):
    """A limit on the size of files stands for the disk: the next checkpoint does not fit.

    Nor does what a user has written into config.json go, which was removed first.
    """
    path, mine = (small().out_dir / name for name in ("checkpoint.pth.tar", "config.json"))
    mine.write_text(mine.read_text().replace('"lr": 0.0002', '"lr":  0.0001'))
    before, edited = path.read_bytes(), mine.read_bytes()

    def limited():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # a grid takes more too
        run_main(lambda: train(small(n_epochs=50, resume=True)))

    process = fork(limited)
    process.join()
    out, err = capfd.readouterr()
    assert "the log is incomplete: [Errno 27] File too large: '" in out and "epoch_" in out
    assert process.exitcode == 2 and err.count("\n") <= 3 and "Traceback" not in err, err
    assert re.match(r"error: .*'.*(checkpoint|gen)\.pth\.tar'", err)
    assert path.read_bytes() == before and mine.read_bytes() == edited and b":  0.0001" in edited
    train(small(n_epochs=3, resume=True))
    assert end_of(small())["epoch"] == 3 and not list(path.parent.glob(".*.tmp"))


@posix
def test_a_second_run_in_a_folder_is_refused_until_the_first_has_died(small):
    """The lock dies with it, though forked loader processes live on for seconds, and inherit every open file."""
    first = fork(train, small(n_epochs=10**5, num_workers=1))
    try:
        wait_until((small().out_dir / "gen.pth.tar").exists, first.is_alive)
        with pytest.raises(UserError, match="another process is training in"):
            train(small(resume=True))
        assert first.is_alive()
    finally:
        first.kill()
        first.join()
    train(small(n_epochs=load_tensors(small().out_dir / "checkpoint.pth.tar")["epoch"] + 1, resume=True))


def test_once_all_is_saved_nothing_reads_the_pairs(small, data, monkeypatch, capsys):
    save = Run.save
    monkeypatch.setattr(Run, "save", lambda *args: save(*args) or shutil.rmtree(data))
    train(small(n_epochs=1, cache="none"))
    assert "skipped: " not in capsys.readouterr().out


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_unusable_files_are_counted_once_wherever_an_epoch_is_cut(small, data, at_step, cache):
    """Though loader processes are ahead."""
    for path in (data / "train" / "1.png", data / "val" / "0.png"):
        path.write_bytes(b"broken")
    cfg = small(n_epochs=2, cache=cache, skip_unreadable=True, num_workers=1, resume=True)
    for _ in range(3):
        at_step(2, lambda losses: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped):
            train(cfg)
    train(cfg)
    history = load_tensors(cfg.out_dir / "checkpoint.pth.tar")["history"]
    assert [(row["skipped"], row["val_skipped"]) for row in history] == [(1, 1)] * 2


@pytest.mark.parametrize(("cache", "workers"), [("none", 0), ("ram", 0), ("none", 1)])
def test_unusable_files_are_skipped_and_counted_on_request(small, data, at_step, cache, workers, capfd):
    """Broken from the start, or, where they are read again, in epoch 2: the run says how many and which.

    What it says to do next leaves them out: both commands were refused.
    """
    train_file, val_file = data / "train" / "1.png", data / "val" / "0.png"
    val_file.write_bytes(val_file.read_bytes()[:100])
    if cache == "none":
        at_step(7, lambda losses: train_file.write_bytes(b"broken") and losses)
    else:
        train_file.write_bytes(b"broken")
    train(small(n_epochs=3, cache=cache, skip_unreadable=True, num_workers=workers))
    history = load_tensors(small().out_dir / "checkpoint.pth.tar")["history"]
    assert [row["val_skipped"] for row in history] == [1] * 3 and all(row["val_l1"] > 0 for row in history)
    assert [row.get("skipped", 0) for row in history][::2] == [cache == "ram", 1]
    out = capfd.readouterr().out
    assert "1.png is no image" in out and out.count("1.png is") <= 3 and "skipped 1 val_skipped 1" in out
    assert f"--input {data / 'val' / '1.png'}" in out
    for name, module in (("translate", predict), ("score", evaluate)):
        words = re.search(f"^{name}: (.*)", out, re.MULTILINE)[1]
        assert call(module, *shlex.split(words)[2:], "--device", "cpu")[0] == 0, name
    metrics = small().out_dir / "evaluation_val" / "metrics.json"
    assert json.loads(metrics.read_text())["n"] == 1
    flags = ["--checkpoint", small().out_dir / "gen.pth.tar", "--data-root", data, "--num-workers", 0]
    assert call(evaluate, *flags)[0] == 2
    assert call(evaluate, *flags, "--skip-unreadable", "--baseline", "mean", "--split", "all")[0] == 0
    with pytest.raises(DataError, match="1.png"):
        train(small("strict", cache=cache))
    for path in [*(data / "train").iterdir()]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the pairs can be read"):
        train(small("none", cache=cache, skip_unreadable=True))
    (data / "val" / "1.png").write_bytes(b"")
    assert "none of the 2 pairs could be read" in call(evaluate, *flags, "--skip-unreadable")[2]


def test_when_nothing_is_left_to_train_on_the_run_ends(small, data, at_step):
    def breaks(losses):
        for path in (data / "train").iterdir():
            path.write_bytes(b"broken")
        return losses

    at_step(6, breaks)
    with pytest.raises(DataError, match="none of the 6 .* could be read"):
        train(small(n_epochs=4, skip_unreadable=True))


def test_the_steps_that_the_scaler_skips_are_counted(small, at_step, monkeypatch, capsys):
    """fp16 on CUDA: an overflow skips a step and halves the scale. Here, a scaler on the CPU with a huge scale."""
    begin = State.begin

    def with_scaler(*args):
        state = begin(*args)
        state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**125)
        return state

    monkeypatch.setattr(State, "begin", with_scaler)
    at_step(2, lambda losses: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        train(small(n_epochs=4))
    train(small(n_epochs=4, resume=True))
    saved = load_tensors(small().out_dir / "checkpoint.pth.tar")
    skipped = [row["skipped_steps"] for row in saved["history"]]
    assert skipped[0] > 0 == skipped[-1]
    assert [row["scale"] for row in saved["history"]] == [2.0 ** (125 - sum(skipped[:i])) for i in (1, 2, 3, 4)]
    steps = next(iter(saved["state"]["opt_g"]["state"].values()))["step"]
    assert steps == 24 - sum(skipped) and f"skipped_steps {skipped[0]}" in capsys.readouterr().out


@posix
@pytest.mark.parametrize("name", ["with space", "ümläut ß 猫", "new\nline", "-dash", "quote'\""])
def test_unusual_paths_work(small, data, tmp_path, name):
    moved = tmp_path / name / "data"
    moved.parent.mkdir()
    shutil.copytree(data, moved)
    (moved / "train" / "0.png").rename(moved / "train" / f"{name}.png")
    train(small(n_epochs=1, data_root=moved, out_dir=tmp_path / name / "run"))
    assert (tmp_path / name / "run" / "gen.pth.tar").exists()
    train(small(n_epochs=2, data_root=moved, out_dir=tmp_path / name / "run", resume=True))


@posix
def test_a_read_only_data_folder_and_links_are_enough(small, data, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(data / "train", target_is_directory=True)
    (linked / "val").mkdir()
    for path in (data / "val").iterdir():
        (linked / "val" / path.name).symlink_to(path)
    files = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    for path in [data, *data.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        train(small(n_epochs=1, data_root=linked))
    finally:
        for path in [data, *data.rglob("*")]:
            path.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == files


@pytest.mark.slow
def test_a_hundred_thousand_files_start_in_twenty_seconds(small, data, tmp_path):
    """Each is read once, to be known again, and none decoded; a sample of the headers is looked at."""
    big = tmp_path / "big" / "train"
    big.mkdir(parents=True)
    for i in range(100_000):
        if i % 10_000 == 0:
            one = write_pair(tmp_path / f"{i}.png")
        os.link(one, big / f"{i:06d}.png")
    shutil.copytree(data / "val", tmp_path / "big" / "val")
    start = time.perf_counter()
    train_data, *_ = load_data(small(data_root=tmp_path / "big"))
    assert len(train_data) == 100_000 and time.perf_counter() - start < 20


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_run_is_the_same_under_every_start_method(small, end_of, same, undisturbed, method):
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method(method, force=True)
    try:
        train(small(num_workers=1))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert same(undisturbed, end_of(small()))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
@pytest.mark.long
def test_a_killed_loader_process_ends_the_run_with_a_sentence_between_two_steps(small, end_of, same, undisturbed,
                                                                               at_step, capfd):
    """torch would raise its error wherever the main thread is: between the updates of D and of G, say."""

    def kill(losses):
        for pid in children_of(os.getpid()):
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)  # still inside the step

    at_step(8, kill)
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: train(small(num_workers=1)))
    out, err = capfd.readouterr()
    assert "error: a process that loads images" in err and "Traceback" not in err
    assert "--resume continues there" in out and end_of(small())["epoch"] >= 1
    train(small(num_workers=1, resume=True))
    assert same(undisturbed, end_of(small()))
