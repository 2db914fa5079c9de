"""The scripts in results/ run from the data to the row of a table, and go on where they were cut."""

import csv
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


def run(script, folder, **settings):
    """What it prints last."""
    env = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "NGF": "4", "SIZE": "64"} | settings
    done = subprocess.run(["sh", folder / "results" / script], env=env, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.fixture
def checkout(tmp_path):
    """The project without data and runs."""
    rooms = [path.parent for path in ROOT.glob("*/__init__.py")]
    for path in [*ROOT.glob("*.py"), *rooms, ROOT / "benchmarks"]:
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "results").mkdir()
    for path in (ROOT / "results").glob("*.*"):
        (tmp_path / "results" / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.slow
def test_the_demo_goes_on_and_gives_a_row(checkout):
    first = run("demo.sh", checkout, EPOCHS="1", PAIRS="6")
    second = run("demo.sh", checkout, EPOCHS="2", PAIRS="6")
    assert "| 1 epochs |" in first[-1] and "| 2 epochs |" in second[-1] and "| 16 images | l1 0." in second[-1]
    logs = checkout / "results" / "logs" / "results_demo"
    settings = json.loads((logs / "config.json").read_text())
    assert settings["data_root"] == "demo_6" and settings["out_dir"] == "runs/results_demo"
    log = (logs / "log.csv").read_text()
    assert log.startswith((checkout / "runs" / "results_demo" / "log.csv").read_text()) and log.count("\n") == 3
    assert run("demo.sh", checkout, EPOCHS="2", PAIRS="6")[-1] == second[-1]  # which trains no more


@pytest.mark.slow
def test_the_page_in_docs_is_made_by_one_script(checkout):
    (checkout / "draw.html").symlink_to(ROOT / "draw.html")
    run("try.sh", checkout, EPOCHS="1", PAIRS="6")
    assert {path.name for path in (ROOT / "docs" / "try").iterdir() if path.suffix != ".onnx"} == {
        path.name for path in (checkout / "docs" / "try").iterdir() if path.suffix != ".onnx"}


@pytest.mark.slow
def test_each_recipe_of_facades_has_its_row(checkout):
    run("demo.sh", checkout, EPOCHS="1", PAIRS="6")
    (checkout / "data" / "demo_6" / "test").symlink_to(checkout / "data" / "demo_6" / "val")
    settings = {"EPOCHS": "2", "DATA": "data/demo_6", "PALETTE": "demo", "OUT": "trial"}
    few = run("facades.sh", checkout, RUNS="decay", **{**settings, "OUT": "another trial"})  # than the tenth is kept
    assert few[-1].startswith("| results_facades64_decay")
    settings["EVERY"] = "1"
    run("facades.sh", checkout, RUNS="decay", **settings)
    lines = run("facades.sh", checkout, **settings)
    rows = [line for line in lines if line.startswith("| results_facades64_")]
    assert [row.split()[1].rpartition("_")[2] for row in rows] == ["paper", "decay", "better"]
    rates = []
    for name in ("paper", "decay"):
        with (checkout / "trial" / "results" / "logs" / f"results_facades64_{name}" / "log.csv").open() as file:
            rates.append([float(row["lr"]) for row in csv.DictReader(file)])
    assert rates == [[2e-4, 2e-4], [2e-4, 1e-4]]
    for name in ("paper", "decay", "better"):
        with (checkout / "trial" / "results" / "logs" / f"results_facades64_{name}" / "curve.csv").open() as file:
            kept = list(csv.DictReader(file))
        assert {row["weights"] for row in kept} == {"last", "average"} and kept[-1]["epoch"] == "2"
        assert all(0 < float(row[score]) < 100 for row in kept for score in ("l1", "psnr", "pixel_accuracy"))
    assert [path.name for path in (checkout / "results" / "logs").iterdir()] == ["results_demo"]  # none of a trial


@pytest.mark.slow
def test_samples_of_other_data_have_their_rows(checkout):
    run("demo.sh", checkout, EPOCHS="1", PAIRS="6")
    for name in ("maps", "edges2shoes"):
        (checkout / "data" / name).symlink_to(checkout / "data" / "demo_6")
    published = checkout / "results" / "logs" / "results_maps64" / "curve.csv"
    published.parent.mkdir(parents=True)
    published.write_text("epoch,weights,l1\n1,last,7\n1,average,7\n")  # of another run
    lines = run("samples.sh", checkout, EPOCHS="2", EVERY="1")
    assert "last,7\n" not in published.read_text()
    rows = [line.split()[1] for line in lines if line.startswith("| results_")]
    assert rows == ["results_maps64", "results_edges2shoes64"]
    for name, batch in (("maps", 1), ("edges2shoes", 4)):
        logs = checkout / "results" / "logs" / f"results_{name}64"
        assert json.loads((logs / "config.json").read_text())["batch_size"] == batch
        assert {*json.loads((logs / "metrics.json").read_text())["scores"]} == {"output", "mean"}
        assert (logs / "curve.png").exists()


@pytest.mark.slow
def test_what_a_cpu_does_is_kept_in_tables(checkout):
    run("cpu.sh", checkout, SECONDS_EACH="1", IMAGES="4", EPOCHS="1", ROUNDS="1")
    for name, unit in (("train", "images/s"), ("data", "ms"), ("predict", "images/s")):
        logs = checkout / "results" / "logs" / "cpu"
        assert unit in (logs / f"bench_{name}.txt").read_text()
        assert json.loads((logs / f"bench_{name}.json").read_text())
