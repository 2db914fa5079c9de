"""The arrows between modules run down, as the README draws them, nobody imports a command, or what it does not use."""

import ast

import pytest
from conftest import ROOT, printed_by
from mutations import MUTATIONS

from config import Config
from generator import Generator
from runtime.checkpoint import save_generator

FLOORS = [{"prepare", "check", "predict", "evaluate", "export", "draw"}, {"train"}, {"inference"}, {"hd"},
          {"dataset", "discriminator", "generator"}, {"making"}, {"pairs"}, {"runtime"}, {"utils", "config"}]
FILES = [path for folder in (".", "making", "pairs", "runtime", "inference", "hd")
         for path in (ROOT / folder).glob("*.py")]
OURS = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def imports(path):
    """(module, whether at the top) of everything of ours that the file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) else [
            alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from ((name.split(".")[0], node.col_offset == 0) for name in names if name.split(".")[0] in OURS)


def test_imports_run_down_the_house_and_stand_at_the_top():
    for path in FILES:
        own = path.relative_to(ROOT).with_suffix("").parts[0]
        for name, at_the_top in imports(path):
            lower = OURS[name] > OURS[own] or name == own != path.stem or {name, own} == {"utils", "config"}
            assert lower and at_the_top, f"{path.relative_to(ROOT)} imports {name}"
        if own in ("generator", "discriminator"):
            assert {name for name, _ in imports(path)} <= {"utils"}


def test_one_place_prints_so_that_no_output_ends_a_program():
    """What few terminals can show, and control characters in the names of files, are escaped by console.py alone."""
    for path in FILES:
        if path.name not in ("console.py", "loading.py"):  # in which an error names no file
            calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                     if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")]
            assert all("printable(" in ast.unparse(call) for call in calls), path


def test_the_top_holds_the_paper_and_the_commands_only():
    files = sorted(path.name for path in ROOT.glob("*.py"))
    assert len(files) <= 12, (
        f"{len(files)} files at the top: {', '.join(files)}. Only the paper's files and the commands stand there, so "
        "that `ls` shows what to read first. Put what serves them into making/, pairs/, runtime/, inference/ or hd/. "
        "For one more command, raise this limit, and add it to FLOORS above and to the README's list of files")


def test_every_mutation_has_its_place_and_its_tests():
    """`python tests/mutations.py` sees each of them turn a test red, in minutes."""
    assert len(MUTATIONS) >= 20
    for mutation in MUTATIONS:
        assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1, mutation.what
        assert all((ROOT / "tests" / f"test_{name}.py").exists() for name in mutation.tests.split()), mutation.what


@pytest.mark.long
def test_programs_import_only_what_they_use(tmp_path):
    """From the start to the picture: torch.compile, scipy and albumentations take as long again as torch."""
    path = tmp_path / "gen.pth.tar"
    save_generator(Config(ngf=4, crop_size=64), Generator(3, 3, 4, 64).state_dict(), 1, path, {})
    program = f"""
import sys
import check, draw, evaluate, export, predict, prepare
import numpy as np
from inference.load import load_generator
from inference.translate import Translator
Translator(load_generator({str(path)!r})).picture(np.zeros((64, 64, 3), np.uint8))
print(*[name for name in ("torch._dynamo", "albumentations", "scipy", "torchvision", "rasterio", "av", "pyarrow",
                          "matplotlib", "torch.utils.tensorboard") if name in sys.modules])
"""
    assert printed_by(program) == "\n"


@pytest.mark.long
def test_a_step_of_training_does_not_import_the_compiler():
    """PyTorch's optimisers import it to keep it out of their methods: 0.14 GB and 1.5 s of every start."""
    program = """
import sys, torch
from contextlib import nullcontext
from config import Config
from hd.networks import make_networks
from runtime.speed import choose_levers
from runtime.state import State
from train import train_step
cfg, cpu = Config(ngf=4, ndf=4, crop_size=64), torch.device("cpu")
state = State.begin(*make_networks(cfg), cfg, cpu, torch.float32, choose_levers("auto", cpu, torch.float32))
train_step(state, *torch.rand(2, 1, 3, 64, 64), 100.0, nullcontext)
state.load_state_dict(state.state_dict())
print("torch._dynamo" in sys.modules)
"""
    assert printed_by(program) == "False\n"
