"""The block in docs/minimal.md is the whole method: it trains as train.py does, to the bit."""

import itertools
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LARGER, ROOT, fresh_state, paired, settings, write_pair

from pairs.find import usable_pairs
from pairs.values import to_batch
from train import train_step

[BLOCK] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "minimal.md").read_text(encoding="utf-8"), re.DOTALL)
SMALL = dict(train_files='sorted(Path("data/train").glob("*.png"))', val_file='Path("data/val/5.png")', size="64",
             ngf="4", ndf="4", n_epochs="1", device='"cpu"')
PROGRAM = 'if __name__ == "__main__":'


def run_block(text=BLOCK, name="minimal", values=SMALL, **names):
    """What the block defines when these values stand at its top; called "__main__", it trains too."""
    for setting, value in values.items():
        text, found = re.subn(rf"^{setting} = .*$", f"{setting} = {value}", text, flags=re.MULTILINE)
        assert found == 1, setting
    names["__name__"] = name
    exec(compile(text, "minimal.py", "exec"), names)
    return names


def tensors(net):
    """Weights, then BatchNorm's statistics, in the order of the layers."""
    return [*net.parameters(), *net.buffers()]


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """The block after five pairs. `began`: its first weights; `seen`: random state, x, y, losses of each step."""
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        write_pair(Path("data", "train" if i < 5 else "val", f"{i}.png"), seed=i, width=200, height=90)
    seen, began = [], []

    def watched(step, *nets):
        began.extend([tensor.clone() for tensor in tensors(net)] for net in nets)

        def watched_step(x, y):
            drawn = torch.get_rng_state()
            losses = step(x, y)
            seen.append((drawn, x, y, losses))
            return losses

        return watched_step

    assert PROGRAM in BLOCK
    text = BLOCK.replace(PROGRAM, f"train_step = watched(train_step, gen, disc)\n\n{PROGRAM}")
    return run_block(text, "__main__", watched=watched, seen=seen, began=began)


@pytest.fixture
def cfg(tmp_path):
    changes = {**LARGER, "direction": "BtoA", "load_size": 71, "speed": "plain"}
    return settings(tmp_path / "data", tmp_path / "run", **changes)


def test_the_block_is_short():
    lines = BLOCK.splitlines()
    assert len(lines) < 120 and max(map(len, lines)) <= 120


def test_without_changes_its_networks_are_the_papers():
    with torch.device("meta"):
        names = run_block(values=dict(device='"meta"'))
    assert [sum(p.numel() for p in names[net].parameters()) for net in ("gen", "disc")] == [54_413_955, 2_768_705]


def test_its_steps_are_those_of_train(steps, cfg):
    """From the same seed the same weights; from the same pairs and dropout the same losses and weights, to the bit."""
    torch.manual_seed(0)
    state = fresh_state(cfg)
    for net, weights in zip((state.gen, state.disc), steps["began"], strict=True):
        assert len(tensors(net)) == len(weights) and all(map(torch.equal, tensors(net), weights))
    for drawn, x, y, losses in steps["seen"]:
        torch.set_rng_state(drawn)
        ours = train_step(state, x, y, cfg.lambda_l1, nullcontext)
        assert torch.equal(torch.stack(list(ours.values())), losses)
    with torch.no_grad():  # the strip that the block has drawn took one more forward pass, which moves the statistics
        x, _ = steps["read_pair"](Path("data/val/5.png"), 64)
        state.gen(x)
    for ours, name in ((state.gen, "gen"), (state.disc, "disc")):
        assert all(map(torch.equal, tensors(ours), tensors(steps[name])))
    state.gen.load_state_dict(torch.load("gen.pt"))
    assert all(map(torch.equal, tensors(state.gen), tensors(steps["gen"])))


def test_its_pairs_are_crops_of_those_of_dataset(steps, cfg):
    """Each once an epoch, input and target cropped and mirrored together; Pillow and torch round some pixels apart."""
    data = paired(usable_pairs(cfg.data_root, 0).splits["train"], cfg)
    data.geometry = replace(data.geometry, interpolation="bicubic")  # Pillow's default, by which the block resizes
    places = list(itertools.product(range(8), range(8), (False, True)))
    found = []
    for index in range(5):
        whole = torch.cat(to_batch(torch.from_numpy(data.read(index))[None], data.x), dim=1)
        assert whole.shape == (1, 6, 71, 71)
        for _, x, y, _ in steps["seen"]:
            pair = torch.cat([x, y], dim=1)
            for top, left, mirrored in places:
                crop = whole[..., top : top + 64, left : left + 64]
                if (pair - (crop.flip(-1) if mirrored else crop)).abs().max() < 1.5 / 127.5:
                    found.append((index, mirrored))
    assert [index for index, _ in found] == [0, 1, 2, 3, 4]
    assert {mirrored for _, mirrored in found} == {False, True}


def test_its_jitter_reaches_every_offset(tmp_path):
    """Red is the column, green the row, blue the side; mirrored or not, whatever the row."""
    columns, rows = np.meshgrid(np.arange(71), np.arange(71))
    halves = [np.stack([columns, rows, np.full_like(rows, blue)], axis=2).astype(np.uint8) for blue in (0, 255)]
    path = write_pair(tmp_path / "pair.png", left=halves[0], right=halves[1])
    names = run_block()
    torch.manual_seed(0)
    found = set()
    for _ in range(200):
        x, y = (((side[0] + 1) * 127.5).round().int() for side in names["read_pair"](path, 71))
        assert torch.equal(x[:2], y[:2]) and (x[2] == 255).all() and (y[2] == 0).all()
        first, last = int(x[0, 0, 0]), int(x[0, 0, -1])
        found.add((int(x[1, 0, 0]), min(first, last), first > last))
    for mirrored in (False, True):
        places = {(top, left) for top, left, flipped in found if flipped == mirrored}
        assert {top for top, _ in places} == {left for _, left in places} == {*range(8)}
    x, y = names["read_pair"](path, 64)  # for the strip: whole, without jitter
    assert x.shape == y.shape == (1, 3, 64, 64) and x[0, 0, 0, 0] < -0.95 and x[0, 0, 0, -1] > -0.5
