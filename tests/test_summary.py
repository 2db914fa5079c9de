"""The last block of a run tells what log.csv, the system and git tell."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import printed_by, row

from runtime import summary as summary_module
from runtime.summary import commit_of, peak_memory, summary
from train import train

NAMES = ["val_l1", "best_val_l1", "best_epoch", "epochs", "seconds", "images_per_s", "peak_memory_gb", "device",
         "precision", "seed", "commit", "grid", "generator"]


def block_of(text):
    """The names and values of the last lines."""
    return dict(line.split(": ", 1) for line in text.splitlines()[-len(NAMES):])


def test_a_run_ends_with_what_it_came_to(small, capsys):
    """Resumed, of both its sessions; each value is what grep finds with its name at the start of a line."""
    train(small(n_epochs=1, seed=7))
    train(small(n_epochs=3, seed=7, resume=True))
    out = capsys.readouterr().out
    told = block_of(out)
    assert re.search("^score: .* --seed 7$", out, re.MULTILINE)  # by which validation drops out
    rows = list(csv.DictReader((small().out_dir / "log.csv").open()))
    assert list(told) == NAMES and [r["epoch"] for r in rows] == ["1", "2", "3"]
    scores = [float(r["val_l1"]) for r in rows]
    seconds = [float(r["seconds"]) for r in rows]
    assert float(told["val_l1"]) == pytest.approx(scores[-1], abs=1e-4)
    assert float(told["best_val_l1"]) == pytest.approx(min(scores), abs=1e-4)
    assert scores[int(told["best_epoch"]) - 1] == min(scores) and told["epochs"] == "3"
    assert float(told["seconds"]) == pytest.approx(sum(seconds), abs=0.1)
    assert float(told["images_per_s"]) == pytest.approx(18 / sum(seconds), rel=0.01)
    assert (told["seed"], told["device"], told["precision"]) == ("7", "cpu", "fp32")
    assert Path(told["grid"]).name == "epoch_0003.png" and Path(told["grid"]).exists()
    assert Path(told["generator"]).exists() and told["commit"] == commit_of()


def test_the_best_epoch_is_not_the_last(small):
    history = [row(n, val_l1=l1, seconds=seconds, images_per_s=rate)
               for n, l1, seconds, rate in ((1, 0.4, 2.0, 5.0), (2, 0.25, 4.0, 2.0), (3, 0.3, 2.0, 5.0))]
    told = block_of(summary(small(), history, torch.device("cpu"), torch.bfloat16, "abc"))
    assert (told["val_l1"], told["best_val_l1"], told["best_epoch"]) == ("0.3000", "0.2500", "2")
    assert (told["seconds"], told["images_per_s"]) == ("8.0", "3.50")  # 28 images
    assert (told["precision"], told["commit"]) == ("bf16", "abc")
    assert "best_epoch: 3\n" in summary(small(), history, torch.device("cpu"), torch.bfloat16, "abc", compared_from=2)


def test_cuda_tells_its_own_memory_too(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_210_000_000)
    text = summary(small(), [row()], torch.device("cuda:0"), torch.float32, "abc")
    assert "\npeak_cuda_memory_gb: 3.21\ndevice: cuda\n" in text


HOLDER = """
import subprocess, sys
held = b"1" * 400_000_000
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.long
def test_the_memory_of_who_started_the_run_does_not_count():
    """getrusage takes a notebook's gigabytes for those of the training that it starts."""
    code = "from runtime.summary import peak_memory; print(peak_memory())"
    alone, started = (int(printed_by(*words)) for words in ([code], [HOLDER, code]))
    assert started == pytest.approx(alone, rel=0.2)
    assert alone > 50e6


def test_where_the_system_tells_no_memory_a_run_still_ends(small, monkeypatch):
    monkeypatch.setattr(summary_module, "Path", lambda name: Path("/nowhere"))
    assert 50e6 < peak_memory() < 1e12  # by resource
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert peak_memory() is None
    assert "peak_memory_gb: unknown\n" in summary(small(), [row()], torch.device("cpu"), torch.float32, "abc")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit; and `git`, which works there."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "checkout"
    folder.mkdir()

    def git(*words):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True,
                              text=True).stdout.strip()

    git("init")
    (folder / "train.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    return folder, git


needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


@needs_git
def test_the_commit_is_told_with_whether_files_were_changed(checkout, monkeypatch):
    folder, git = checkout
    head = git("rev-parse", "--short", "HEAD")
    assert re.fullmatch(r"[0-9a-f]{7,}", head) and commit_of(folder) == head
    (folder / "photo.png").write_text("what a run left")
    assert commit_of(folder) == head
    (folder / "train.py").write_text("2")
    assert commit_of(folder) == f"{head}+changes"
    monkeypatch.setenv("GIT_DIR", str(folder / "elsewhere"))  # as in a hook of another repository
    assert commit_of(folder) == f"{head}+changes"


@needs_git
def test_what_is_no_checkout_has_no_commit(checkout, tmp_path, monkeypatch):
    """A copy inside somebody's own repository is not of that repository's commit."""
    folder, _ = checkout
    (folder / "copy").mkdir()
    (tmp_path / "broken" / ".git").mkdir(parents=True)
    assert commit_of(folder / "copy") == commit_of(tmp_path / "nowhere") == commit_of(tmp_path / "broken") == "unknown"
    monkeypatch.setattr(subprocess, "run", Mock(side_effect=subprocess.TimeoutExpired("git", 10)))
    assert commit_of(folder) == "unknown"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(folder) == "unknown"
