"""Trains the same pairs in plain fp32 and with auto, from several seeds, and compares the validation scores.

    python benchmarks/bench_fidelity.py --data-root data/facades [--n-epochs 10] [--seeds 0 1 2] [--json FILE]

The auto scores must lie within the spread of the fp32 seeds: what is fast must not cost quality.
"""

import contextlib
import csv
import tempfile
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import common
import torch
from bench_train import PLAIN

from config import recipe
from runtime.speed import choose_levers
from train import train


@dataclass(frozen=True)
class Fidelity:
    data_root: Path  # folder of pairs
    recipe: str = "facades"  # the paper's settings to start from
    n_epochs: int = 10  # of each run
    seeds: tuple[int, ...] = (0, 1, 2)  # one run of each variant a seed
    crop_size: int = 256  # pixels
    ngf: int = 64  # width of both networks
    n_val: int = 100  # validation pairs
    variants: tuple[str, ...] = ("fp32", "auto")  # fp32 is plain eager; auto; eager is auto without a CUDA graph
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    num_workers: int = 4  # processes that load images
    cache: str = "none"  # or ram
    json: Path | None = None  # also write the scores there


SETTINGS = {"fp32": PLAIN, "auto": {}, "eager": {}}
SCORES = ("val_l1", "val_ssim", "images_per_s")


def levers_of(variant: str) -> contextlib.AbstractContextManager:
    """Keeps train() from the CUDA graph of auto in the block, where the variant is eager."""
    if variant != "eager":
        return contextlib.nullcontext()
    return unittest.mock.patch("train.choose_levers", lambda *args: replace(choose_levers(*args), cuda_graph=False))


def runs(opts: Fidelity) -> Iterator[dict]:
    """One row a run: variant, seed, the last validation scores, training images a second in the last epoch."""
    for seed in opts.seeds:
        for variant in opts.variants:
            with tempfile.TemporaryDirectory() as scratch, levers_of(variant):
                out_dir = Path(scratch) / "run"
                train(replace(recipe(opts.recipe), data_root=opts.data_root, out_dir=out_dir, seed=seed,
                              n_epochs=opts.n_epochs, n_epochs_decay=0, best_by="val_l1", n_val=opts.n_val,
                              crop_size=opts.crop_size, load_size=opts.crop_size * 286 // 256, ngf=opts.ngf,
                              ndf=opts.ngf, device=opts.device, cache=opts.cache,
                              num_workers=opts.num_workers, **SETTINGS[variant]))
                *_, last = csv.DictReader((out_dir / "log.csv").read_text(encoding="utf-8").splitlines())
            yield {"variant": variant, "seed": seed, **{name: float(last[name]) for name in SCORES}}


def lines(rows: list[dict]) -> Iterator[tuple[str, str]]:
    """Of each variant, its name and the spread of its scores."""
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        yield f"{variant}, {len(own)} seeds", ", ".join("{} {median:.4f} ({min:.4f} to {max:.4f})".format(
            name, **common.spread([row[name] for row in own])) for name in SCORES)


def bench(opts: Fidelity, device: torch.device) -> list[dict]:
    rows = list(runs(opts))
    for name, scores in lines(rows):
        print(f"{name}: {scores}")
    return rows


if __name__ == "__main__":
    common.start(Fidelity, bench, __doc__)
