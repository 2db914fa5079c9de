"""What happens to a run when the machine, the disk or a user's hand fails. Most of it is slow: --slow."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import write_pair
from PIL import Image

import train as train_module
from runtime.checkpoint import load_tensors
from runtime.files import temporary_name
from train import train
from utils import DataError

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")
SMALL = ["--ngf", "4", "--ndf", "4", "--crop-size", "64", "--load-size", "72", "--precision", "fp32", "--device", "cpu",
         "--n-examples", "2"]


def launch(*args, **options):
    return subprocess.Popen([sys.executable, ROOT / "train.py", *map(str, args)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


def ended(process, timeout=60):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def state_of(run):
    saved = load_tensors(run / "checkpoint.pth.tar", "pix2pix checkpoint")
    return {"state": saved["state"], "epoch": saved["epoch"]}


@pytest.mark.slow
@posix
def test_thirty_kills_cost_nothing(small, end_of, same):
    """SIGKILL at random moments, many of them in the middle of writing a checkpoint, which every epoch ends with.

    What is on disk always loads, --resume continues at once, though loader processes outlive their parent, and the end
    is that of a run that nobody disturbed.
    """
    settings = dict(n_epochs=80, ngf=16, ndf=16)
    train(small("straight", **settings))
    run, draw, kills, cut, loads = small("killed").out_dir, random.Random(0), 0, 0, 0
    for _ in range(30):  # forked, because importing torch anew would take most of the time
        cfg = small("killed", **settings, num_workers=1, resume=(run / "config.json").exists())
        process = multiprocessing.get_context("fork").Process(target=train, args=(cfg,))
        begun = [path.stat().st_mtime_ns for path in run.glob("checkpoint.pth.tar")]
        process.start()
        patience = time.monotonic() + (0.3 if draw.random() < 0.2 else 20)  # or else until an epoch is saved
        while time.monotonic() < patience and process.exitcode is None and begun == [
                path.stat().st_mtime_ns for path in run.glob("checkpoint.pth.tar")]:
            time.sleep(0.01)
        time.sleep(0.4 * draw.random())
        process.kill()
        process.join()  # with a limit of time it would wait for the loader processes too
        kills += process.exitcode == -signal.SIGKILL
        cut += any(run.glob(".*.tmp"))
        for name in ("checkpoint.pth.tar", "gen.pth.tar"):
            if (run / name).exists():
                load_tensors(run / name)
                loads += 1
    train(small("killed", **{**settings, "n_epochs": 80}, resume=True))
    print(f"{kills} kills, {cut} of them while a file was being written, {loads} files loaded")
    assert kills >= 25 and cut >= 1 and loads >= 20
    assert same(end_of(small("straight")), end_of(small("killed")))
    assert not list(run.glob(".*.tmp"))


@pytest.mark.slow
@posix
def test_a_full_disk_ends_the_run_with_a_sentence_and_keeps_the_last_checkpoint(data, tmp_path):
    """A limit on the size of files stands for the disk: the next checkpoint does not fit."""
    run = tmp_path / "run"
    assert ended(launch("--data-root", data, *SMALL, "--out-dir", run, "--n-epochs", 1))[0] == 0
    before = (run / "checkpoint.pth.tar").read_bytes()
    room = len(before) // 2

    def limit():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    status, out, err = ended(launch("--resume", "--out-dir", run, "--n-epochs", 50, preexec_fn=limit))
    assert status == 2 and err.count("\n") <= 3 and "Traceback" not in err, err
    assert "error: " in err and "checkpoint.pth.tar" in err
    assert (run / "checkpoint.pth.tar").read_bytes() == before
    status, out, err = ended(launch("--resume", "--out-dir", run, "--n-epochs", 3))
    assert status == 0 and not list(run.glob(".*.tmp")), err


def test_what_a_killed_process_left_half_written_is_removed(small):
    folder = small().out_dir
    (folder / "examples").mkdir(parents=True)
    left = [folder / temporary_name(), folder / "examples" / temporary_name()]
    mine = [folder / name for name in ("notes.tmp", ".notes.tmp", "examples/.epoch_0001.png.tmp")]
    for path in left + mine:
        path.write_bytes(b"half")
    train(small(n_epochs=1))
    assert not any(path.exists() for path in left) and all(path.exists() for path in mine)


@pytest.mark.slow
@posix
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 128 + signal.SIGUSR1)])
def test_signals_save_and_end_with_the_conventional_status(data, tmp_path, name, status):
    run = tmp_path / "run"
    process = launch("--data-root", data, *SMALL, "--out-dir", run, "--n-epochs", 100000, "--save-every", 100000,
                     preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    for line in process.stdout:
        if line.startswith("epoch 2"):
            break
    process.send_signal(getattr(signal, name))
    code, out, err = ended(process)
    assert code == status and "--resume continues there" in out and "Traceback" not in err, err
    assert state_of(run)["epoch"] >= 1


@pytest.mark.slow
@posix
def test_a_second_run_on_the_same_folder_is_refused(data, tmp_path):
    run = tmp_path / "run"
    first = launch("--data-root", data, *SMALL, "--out-dir", run, "--n-epochs", 100000, "--num-workers", 0)
    try:
        for line in first.stdout:
            if line.startswith("epoch 1"):
                break
        status, _, err = ended(launch("--resume", "--out-dir", run))
        assert status == 2 and "another process is training in" in err and "Traceback" not in err, err
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    status, out, err = ended(launch("--resume", "--out-dir", run, "--n-epochs", 1))  # the lock died with its process
    assert "another process" not in err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is inherited without fork")
def test_the_lock_dies_with_the_training_process_though_its_loaders_live_on(small, at_step):
    """Forked loader processes inherit every open file, and notice the death of their parent seconds later."""
    alive = os.getpid()
    at_step(8, lambda losses: losses if os.getpid() == alive else os.kill(os.getpid(), signal.SIGKILL))
    cfg = small(num_workers=1)
    process = multiprocessing.get_context("fork").Process(target=train, args=(cfg,))
    process.start()
    process.join()  # with a limit of time it would wait for the loader processes too
    assert process.exitcode == -signal.SIGKILL
    train(replace(cfg, resume=True))


def workers_of(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(path.parent.name))
        except (OSError, IndexError):
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_a_killed_loader_process_ends_the_run_with_a_sentence_and_saves(data, tmp_path):
    run = tmp_path / "run"
    process = launch("--data-root", data, *SMALL, "--out-dir", run, "--n-epochs", 100000, "--num-workers", 2)
    for line in process.stdout:
        if line.startswith("epoch 2"):
            break
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    status, out, err = ended(process)
    assert status == 2 and "Traceback" not in err and "a process that loads images" in err, err
    assert "--resume continues there" in out and state_of(run)["epoch"] >= 1


def test_a_data_folder_that_vanishes_is_named_and_nothing_is_lost(small, data, at_step):
    cfg = small(n_epochs=5)
    at_step(9, lambda losses: shutil.rmtree(data) or losses)
    with pytest.raises(DataError, match="cannot be read: .*No such file"):
        train(cfg)
    saved = load_tensors(cfg.out_dir / "checkpoint.pth.tar")
    assert (saved["epoch"], saved["step"]) == (1, 3)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("workers", [0, 1])
def test_unusable_files_are_skipped_and_counted_on_request(small, data, at_step, capfd, split, workers):
    """An image breaks in epoch 3: the run goes on without it, and says how many and which."""
    path = data / split / "1.png"
    at_step(13, lambda losses: path.write_bytes(b"broken") and losses)
    train(small(n_epochs=4, num_workers=workers, skip_unreadable=True))
    out = capfd.readouterr().out
    assert "1.png is no PNG" in out and out.count("1.png") <= 3
    history = load_tensors(small().out_dir / "checkpoint.pth.tar")["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4] and all(row["val_l1"] > 0 for row in history)
    name = "skipped" if split == "train" else "val_skipped"
    assert name not in history[1] and history[3][name] == 1


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_files_that_are_broken_from_the_start_are_skipped_too(small, data, cache, capsys):
    for path in (data / "train" / "1.png", data / "val" / "0.png"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="1.png"):
        train(small("strict", cache=cache))
    train(small(n_epochs=2, cache=cache, skip_unreadable=True))
    history = load_tensors(small().out_dir / "checkpoint.pth.tar")["history"]
    assert [(row["skipped"], row["val_skipped"]) for row in history] == [(1, 1)] * 2
    assert "skipped 1 val_skipped 1" in capsys.readouterr().out
    for path in [*(data / "train").iterdir()]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of the pairs can be read"):
        train(small("none", cache=cache, skip_unreadable=True))


def test_without_that_request_they_stop_the_run(small, data, at_step):
    at_step(13, lambda losses: (data / "train" / "1.png").write_bytes(b"broken") and losses)
    with pytest.raises(DataError, match="1.png is no PNG"):
        train(small(n_epochs=4))


def test_when_nothing_is_left_to_train_on_the_run_ends(small, data, at_step):
    def breaks(losses):
        for path in (data / "train").iterdir():
            path.write_bytes(b"broken")
        return losses

    at_step(6, breaks)
    with pytest.raises(DataError, match="none of the 6 .* could be read"):
        train(small(n_epochs=4, skip_unreadable=True))


def test_the_steps_that_the_scaler_skips_are_counted(small, monkeypatch, capsys):
    """fp16 on CUDA: an overflow skips a step and halves the scale. Here, a scaler on the CPU with a huge scale."""
    make = train_module.make_state

    def with_scaler(*args):
        state = make(*args)
        state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**125)
        return state

    monkeypatch.setattr(train_module, "make_state", with_scaler)
    train(small(n_epochs=4))
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


def test_a_clock_that_jumps_back_changes_nothing(small, end_of, same, monkeypatch):
    train(small("straight"))
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() - random.random() * 1e6)
    train(small("jumps"))
    assert same(end_of(small("straight")), end_of(small("jumps")))


@pytest.mark.slow
def test_a_hundred_thousand_files_start_in_ten_seconds(data, tmp_path):
    """Names are listed, not opened; a sample of the headers is read."""
    big = tmp_path / "big" / "train"
    big.mkdir(parents=True)
    for i in range(100_000):
        if i % 10_000 == 0:
            one = write_pair(tmp_path / f"{i}.png")
        os.link(one, big / f"{i:06d}.png")
    shutil.copytree(data / "val", tmp_path / "big" / "val")
    code = (f"import time, sys; sys.path.insert(0, {str(ROOT)!r}); from config import Config; import dataset; "
            "start = time.perf_counter(); "
            f"train, _ = dataset.load_data(Config(data_root={str(tmp_path / 'big')!r})); "
            "print(len(train), time.perf_counter() - start)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    n, seconds = out.split()[-2:]
    assert int(n) == 100_000 and float(seconds) < 10, out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_run_is_the_same_under_every_start_method(small, end_of, same, monkeypatch, method):
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    train(small("alone"))
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method(method, force=True)
    try:
        train(small("workers", num_workers=1))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert same(end_of(small("alone")), end_of(small("workers")))


def test_an_image_that_vanishes_and_comes_back_under_another_size_is_refused(small, data, at_step):
    at_step(6, lambda losses: Image.new("RGB", (95, 48)).save(data / "train" / "1.png") or losses)
    with pytest.raises(DataError, match="95×48: an odd width"):
        train(small())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_the_death_of_a_loader_process_never_cuts_a_step_in_two(small, end_of, same, at_step):
    """torch would raise its error wherever the main thread is: between the updates of D and of G, say."""
    train(small("straight"))

    def kill(losses):
        for pid in workers_of(os.getpid()):
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)  # still inside the step
        return losses

    at_step(8, kill)
    with pytest.raises(DataError, match="a process that loads images"):
        train(small("killed", num_workers=1))
    train(small("killed", num_workers=1, resume=True))
    assert same(end_of(small("straight")), end_of(small("killed")))


@pytest.mark.slow
@posix
@pytest.mark.parametrize("encoding", ["ascii", "cp1251"])
def test_every_program_prints_where_the_output_takes_few_characters(data, tmp_path, encoding):
    """As in a Windows console in Russian with redirected output; the folder's name has what none of them can take."""
    moved, run = tmp_path / "猫 × \x1b[2J", tmp_path / "run"
    data.rename(moved)
    (moved / "val" / "broken.png").write_bytes(b"x")
    checkpoint = ["--checkpoint", run / "gen.pth.tar", "--device", "cpu"]
    for status, *command in ((0, "train.py", "--data-root", moved, "--out-dir", run, *SMALL, "--n-epochs", 1,
                              "--skip-unreadable"),
                             (2, "check.py", moved), (2, "check.py", tmp_path / "no ×"),
                             (1, "predict.py", *checkpoint, "--input", moved / "val", "--output", tmp_path / "out"),
                             (0, "evaluate.py", *checkpoint, "--data-root", moved, "--split", "train")):
        done = subprocess.run([sys.executable, *map(str, [ROOT / command[0], *command[1:]])], cwd=tmp_path,
                              capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
        out, err = (text.decode(encoding) for text in (done.stdout, done.stderr))
        assert done.returncode == status and "Traceback" not in err and "\x1b" not in out + err, out + err
        assert out or status == 2
    assert "ssim" in out and (b"\xb1" in done.stdout) == (encoding == "cp1251")  # the table, with its ±


@pytest.mark.slow
@posix
def test_two_first_starts_at_once_both_train(tmp_path):
    """Both draw the demo: the second to finish finds the folder made."""
    both = [subprocess.Popen([sys.executable, ROOT / "train.py", *SMALL, "--n-epochs", "1", "--num-workers", "0",
                              "--out-dir", str(i)], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE) for i in range(2)]
    for process in both:
        status, out, err = ended(process, timeout=300)
        assert status == 0, out + err
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["demo"]
