"""Trains the paper's recipe with single ingredients added, from several seeds, and compares validation scores and cost.

    python benchmarks/bench_recipe.py data/facades [--n-epochs 12] [--seeds 0 1 2] [--json FILE]
    python benchmarks/bench_recipe.py data/facades --variants paper ema+decay+fm

The runs stay in --out-dir, a folder each, the variants of a seed one after the other: started again, the benchmark
reads what is finished and goes on with what was cut. Other settings need another folder.
"""

import csv
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import common
import torch
import tyro

from config import recipe
from train import train
from utils import UserError

INGREDIENTS = {"paper": {}, "ema": dict(ema=0.999), "decay": {}, "hinge": dict(gan_loss="hinge", lambda_l1=25.0),
               "lsgan": dict(gan_loss="lsgan", lambda_l1=25.0), "fm": dict(lambda_fm=10.0),
               "spectral": dict(spectral_norm=True), "bicubic": dict(interpolation="bicubic")}
SCORES = ("val_l1", "val_ssim", "val_ms_ssim")


@dataclass(frozen=True)
class Recipes:
    data_root: tyro.conf.Positional[Path]  # folder of pairs
    recipe: str = "facades"  # the paper's settings to start from
    variants: tuple[str, ...] = (*INGREDIENTS, "ema+decay+hinge+fm+spectral")  # ingredients, joined by +
    seeds: tuple[int, ...] = (0, 1, 2)  # one run of each variant a seed
    n_epochs: int = 12  # of each run; decay lets the rate fall over the second half of them
    last: int = 3  # epochs whose mean is the score of a run, for single ones wander
    crop_size: int = 128  # pixels
    ngf: int = 32  # width of both networks
    n_val: int = 100  # validation pairs
    out_dir: Path = Path("runs/recipes")  # of the runs
    num_workers: int = 1  # processes that load images
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    json: Path | None = None  # also write the scores there


def settings(variant: str, opts: Recipes) -> dict:
    changes = {"n_epochs": opts.n_epochs, "n_epochs_decay": 0}
    for word in variant.split("+"):
        changes |= INGREDIENTS[word]
        if word == "decay":
            changes |= {"n_epochs": opts.n_epochs - opts.n_epochs // 2, "n_epochs_decay": opts.n_epochs // 2}
    return changes


def history(folder: Path) -> list[dict]:
    log = folder / "log.csv"
    return [*csv.DictReader(log.read_text(encoding="utf-8").splitlines())] if log.exists() else []


def runs(opts: Recipes) -> Iterator[dict]:
    """One row a run: variant, seed, mean scores of the last epochs, the last one's, median seconds a step."""
    for seed in opts.seeds:
        for variant in opts.variants:
            folder = opts.out_dir / f"{variant}-{seed}"
            if len(history(folder)) < opts.n_epochs:
                train(replace(recipe(opts.recipe), data_root=opts.data_root, out_dir=folder, seed=seed, resume=True,
                              eval_every=1, n_val=opts.n_val, crop_size=opts.crop_size,
                              load_size=opts.crop_size * 286 // 256, ngf=opts.ngf, ndf=opts.ngf, device=opts.device,
                              num_workers=opts.num_workers, cache="ram", **settings(variant, opts)))
            rows = history(folder)[: opts.n_epochs]
            row = {"variant": variant, "seed": seed}
            for name in SCORES:
                values = [float(epoch[name]) for epoch in rows[-opts.last :]]
                row |= {name: statistics.mean(values), f"last_{name}": values[-1]}
            yield row | {"step": statistics.median(1 / float(epoch["images_per_s"]) for epoch in rows)}


def lines(rows: list[dict]) -> Iterator[str]:
    """A table: of each variant, mean and spread of its scores, and the cost of a step against the first one's."""
    scores = [name for name in SCORES if not math.isnan(rows[0][name])]  # MS-SSIM needs more than 160 pixels
    yield f"| variant | runs | {' | '.join(scores)} | s a step | cost |"
    yield f"|---|---|{'---|' * len(scores)}---|---|"
    variants = dict.fromkeys(row["variant"] for row in rows)
    steps = {name: statistics.median(row["step"] for row in rows if row["variant"] == name) for name in variants}
    for variant in variants:
        own = [row for row in rows if row["variant"] == variant]
        cells = []
        for name in scores:
            values = [row[name] for row in own]
            cells.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        yield (f"| {variant} | {len(own)} | {' | '.join(cells)} | {steps[variant]:.3f} | "
               f"{steps[variant] / steps[rows[0]['variant']]:.2f}x |")


def bench(opts: Recipes, device: torch.device) -> list[dict]:
    unknown = {word for variant in opts.variants for word in variant.split("+")} - {*INGREDIENTS}
    if unknown:  # before hours of training
        raise UserError(f"no ingredient is called {', '.join(sorted(unknown))}; there are {', '.join(INGREDIENTS)}")
    rows = []
    for row in runs(opts):
        rows.append(row)
        print(", ".join(f"{name} {value:.4f}" if type(value) is float else f"{name} {value}"
                        for name, value in row.items()), flush=True)
    print(*lines(rows), sep="\n")
    return rows


if __name__ == "__main__":
    common.start(Recipes, bench, __doc__)
