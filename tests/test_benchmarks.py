import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from train import train

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_gpu_report_has_no_failure(data, tmp_path):
    """It meets a GPU for a few minutes, once: what can go wrong on any device must have gone wrong before."""
    out = tmp_path / "report"
    done = subprocess.run([sys.executable, FOLDER / "gpu_report.py", data, "--quick", "--device", "cpu", "--out", out,
                           "--minutes", "30"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (out / "errors.txt").read_text()
    told = dict(re.findall(r"^## (\w+)\n(.+?)(?=^## |\Z)", (out / "report.txt").read_text(), re.MULTILINE | re.DOTALL))
    assert (*told,) == ("tests", "profile", "data", "facades", "steps", "fidelity", "nccl", "whole")
    assert not [text for text in told.values() if "FAILED" in text or "DIFFER" in text or "skipped:" in text]
    assert {path.name for path in out.iterdir()} == {
        "report.txt", "errors.txt", "profile.txt", "grid.png", "bench_data.json", "bench_train.json",
        "bench_recipe.json"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), [
    ("bench_recipe", ["--crop-size", "64", "--ngf", "4", "--n-epochs", "2", "--seeds", "0", "--num-workers", "0",
                      "--variants", "paper", "ema+decay+fm", "plain", "--out-dir", "runs", "--palette", "demo",
                      "--rounds", "1", "--device", "cpu"]),
    ("bench_train", ["--batches", "1", "--crop-size", "64", "--steps", "1", "--device", "cpu", "--generator", "local",
                     "--ngf", "4", "--only", "^auto$"])])
def test_what_the_report_and_results_leave_out_runs_and_writes_its_rows(data, tmp_path, name, flags):
    roots = [data] if name == "bench_recipe" else []
    rows = tmp_path / "rows.json"
    subprocess.run([sys.executable, FOLDER / f"{name}.py", *roots, *flags, "--json", rows], check=True)
    assert json.loads(rows.read_text())["rows"]


@pytest.mark.slow
def test_every_runtime_that_is_there_gives_the_picture_of_pytorch(small, data, capfd):
    cfg = small(n_epochs=1)
    train(cfg)
    subprocess.run([sys.executable, FOLDER / "bench_exports.py", "--checkpoint", cfg.out_dir / "gen.pth.tar", "--data",
                    data, "--pictures", "1", "--rounds", "1"], check=True)
    lines = [re.split(r"\s{2,}", line) for line in capfd.readouterr().out.splitlines()]
    off = {line[0]: float(line[-4]) for line in lines if len(line) > 4 and line[0] != "runtime"}
    exact = {"onnxruntime", "OpenVINO, f32", "OpenCV dnn"} & {*off}
    assert "onnxruntime" in exact and all(off[name] < 0.05 for name in exact), off
    assert off["onnxruntime, --int8"] > 0.05, off


@pytest.mark.long
def test_a_misspelt_variant_is_told_before_the_others_are_trained(data, tmp_path):
    done = subprocess.run([sys.executable, FOLDER / "bench_recipe.py", data, "--variants", "paper", "ema+lsgn",
                           "--out-dir", tmp_path / "runs"], capture_output=True, text=True)
    assert done.returncode == 2 and "no ingredient is called lsgn" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
