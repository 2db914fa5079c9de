"""Trains the paper's recipe with single ingredients added, from several seeds, and compares validation scores and cost.

    python benchmarks/bench_recipe.py data/facades --palette facades [--seeds 0 1 2] [--json FILE]
    python benchmarks/bench_recipe.py data/facades --variants paper ema+decay+fm

The runs stay in --out-dir, a folder each, the variants of a seed one after the other: started again, the benchmark
reads what is finished and goes on with what was cut. Other settings need another folder. The cost of a step is timed
at the end, the variants in turns. fm and lsgan take the step of hd/, in which G comes first, and lsgan
a lambda_l1 of 25: order and l1_25 are what these change alone. plain computes in fp32 and without what makes the
others fast: what is fast must not cost quality. The means of release are taken against bicubic targets, what the
generator scores at the end against the same as all others.
"""

import csv
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import common
import torch
import tyro
from bench_train import PLAIN, batch_of, real_step

from config import Config, recipe
from evaluate import Evaluate, evaluate, load_pairs
from inference.load import load_generator
from pairs.find import usable_pairs
from train import train
from utils import UserError

INGREDIENTS = {"paper": {}, "ema": dict(ema=0.999), "decay": {},
               "lsgan": dict(gan_loss="lsgan", lambda_l1=25.0), "fm": dict(lambda_fm=10.0),
               "spectral": dict(spectral_norm=True), "release": dict(generator="release"),
               "order": dict(lambda_fm=1e-9), "l1_25": dict(lambda_l1=25.0), "plain": PLAIN}
MEANS = ("val_l1", "val_ssim", "val_ms_ssim")  # over the last epochs of a run
ENDS = ("nyquist", "pixel_accuracy", "class_iou")  # of the generator that it leaves; the two as a reader sees it
ALSO = ("l1", "ssim", "ms_ssim")  # of that one too, for the file of rows
READER = "reader"
FREE = ("resume", "out_dir", "data_root", "num_workers", "device")  # settings that change no score


@dataclass(frozen=True)
class Recipes:
    data_root: tyro.conf.Positional[Path]  # folder of pairs
    recipe: str = "facades"  # the paper's settings to start from
    variants: tuple[str, ...] = (*INGREDIENTS, "ema+fm+spectral")  # ingredients, joined by +
    seeds: tuple[int, ...] = (0, 1, 2)  # one run of each variant a seed
    n_epochs: int = 5  # of each run; decay lets the rate fall over the second half of them
    last: int = 2  # epochs whose mean is the score of a run, for single ones wander
    crop_size: int = 192  # pixels
    ngf: int = 32  # width of both networks
    n_val: int = 50  # validation pairs
    palette: str = ""  # of the inputs: a reader learns to tell them from the targets, and is shown the outputs
    rounds: int = 20  # in which the variants take turns of 8 steps, for their cost; 0: not timed
    out_dir: Path = Path("runs/recipes")  # of the runs
    num_workers: int = 1  # processes that load images
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    json: Path | None = None  # also write the scores there


def settings(variant: str, seed: int, opts: Recipes) -> Config:
    changes = {"n_epochs": opts.n_epochs, "n_epochs_decay": 0}
    for word in variant.split("+"):
        changes |= INGREDIENTS[word]
        if word == "decay":
            changes |= {"n_epochs": opts.n_epochs - opts.n_epochs // 2, "n_epochs_decay": opts.n_epochs // 2}
    return replace(recipe(opts.recipe), data_root=opts.data_root, out_dir=opts.out_dir / f"{variant}-{seed}", seed=seed,
                   resume=True, best_by="val_l1", n_val=opts.n_val, crop_size=opts.crop_size,
                   load_size=opts.crop_size * 286 // 256, ngf=opts.ngf, ndf=opts.ngf, device=opts.device,
                   num_workers=opts.num_workers, cache="ram", **changes)


def trained(cfg: Config) -> list[dict]:
    """The epochs of the run, from its log; whatever of them there is not yet is trained. Raises UserError."""
    begun, left = cfg.out_dir / "config.json", cfg.out_dir / "gen.pth.tar"
    if begun.exists():
        there, wanted = json.loads(begun.read_text(encoding="utf-8")), cfg.plain()
        if others := [name for name in wanted if there.get(name, wanted[name]) != wanted[name] and name not in FREE]:
            raise UserError(f"the run in {cfg.out_dir} has another {others[0]}: take another --out-dir")
    if not left.exists() or load_generator(left).trained.epoch != cfg.total_epochs:
        train(cfg)
    return [*csv.DictReader((cfg.out_dir / "log.csv").read_text(encoding="utf-8").splitlines())]


def scored(cfg: Config, opts: Recipes, device: torch.device) -> dict[str, float]:
    """What evaluate.py says of the generator that a run left, and its reader of the targets."""
    reader = opts.out_dir / READER / "gen.pth.tar" if opts.palette else None
    asked = Evaluate(cfg.out_dir / "gen.pth.tar", opts.data_root, direction=cfg.direction, reader=reader,
                     palette=opts.palette or None, limit=opts.n_val, num_workers=opts.num_workers)
    gen = load_generator(asked.checkpoint, device)
    geometry = replace(gen.trained.geometry, interpolation="linear")  # of all the same targets
    gen.trained = replace(gen.trained, geometry=geometry)
    scores = evaluate(gen, *load_pairs(asked, gen), asked)["scores"]
    output, target = scores["output"], scores.get("target", {})
    found = {name: output.get(name, math.nan) for name in ENDS}
    found |= {f"real_{name}": target.get(name, math.nan) for name in ENDS}
    return found | {f"end_{name}": output[name]["mean"] for name in ALSO if name in output}


def runs(opts: Recipes) -> Iterator[tuple[Config, dict]]:
    """Each run, once it is trained, and its row: variant, seed, mean scores of the last epochs, the last one's."""
    for seed in opts.seeds:
        for variant in opts.variants:
            cfg = settings(variant, seed, opts)
            epochs, row = trained(cfg), {"variant": variant, "seed": seed}
            for name in MEANS:
                values = [float(epoch[name]) for epoch in epochs[-opts.last :]]
                row |= {name: statistics.mean(values), f"last_{name}": values[-1]}
            yield cfg, row


def costs(opts: Recipes, device: torch.device) -> dict[str, float]:
    """Seconds of a step on one random pair, for each variant: the median of the rounds."""
    acts = {}
    for variant in opts.variants:
        cfg = settings(variant, 0, opts)
        torch.manual_seed(0)
        (state, step), batch = real_step(cfg, device), batch_of(1, cfg, device)

        def act(state=state, step=step, batch=batch) -> None:
            step(*batch)
            if state.ema:
                state.ema.update(state.gen)

        acts[variant] = partial(common.seconds_of, act, device, 8)
        acts[variant]()
    return {variant: statistics.median(times) for variant, times in common.in_turns(acts, opts.rounds).items()}


def line(*cells) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def lines(rows: list[dict], seconds: dict[str, float]) -> Iterator[str]:
    """Two tables: of each variant, mean and spread of its scores and the cost of a step; then what is between it and
    the first variant, seed by seed, for the seeds are the same."""
    scores = [name for name in MEANS + ENDS if not math.isnan(rows[0].get(name, math.nan))]  # MS-SSIM needs 176 pixels
    found = {}
    for row in rows:
        found.setdefault(row["variant"], []).append(row)
    (name, first), *others = found.items()
    yield line("variant", "runs", *scores, "s a step", "cost")
    yield "|---" * (len(scores) + 4) + "|"
    for variant, own in found.items():
        columns = [[row[score] for row in own] for score in scores]
        cells = [f"{statistics.mean(each):.4f} ({min(each):.4f} to {max(each):.4f})" for each in columns]
        cost = seconds.get(variant, math.nan)
        yield line(variant, len(own), *cells, f"{cost:.3f}", f"{cost / seconds.get(name, math.nan):.2f}x")
    yield "\n" + line(f"variant, less {name}", *scores)
    yield "|---" * (len(scores) + 1) + "|"
    for variant, own in others:
        pairs = [*zip(own, first, strict=True)]
        yield line(variant, *(", ".join(f"{a[score] - b[score]:+.4f}" for a, b in pairs) for score in scores))


def bench(opts: Recipes, device: torch.device) -> Iterator[dict]:
    unknown = {word for variant in opts.variants for word in variant.split("+")} - {*INGREDIENTS}
    if unknown:  # before hours of training
        raise UserError(f"no ingredient is called {', '.join(sorted(unknown))}; there are {', '.join(INGREDIENTS)}")
    if usable_pairs(opts.data_root, 0).held_out:
        raise UserError("the data needs a split val or test: what is held out by chance is another with each seed")
    if opts.palette:
        cfg = replace(settings("paper", 0, opts), out_dir=opts.out_dir / READER, best_by="none")
        back = "AtoB" if cfg.direction == "BtoA" else "BtoA"
        trained(replace(cfg, direction=back, label_side=back[-1]))
    rows = []
    for cfg, row in runs(opts):
        row |= scored(cfg, opts, device)
        rows.append(row)
        print(json.dumps(row), flush=True)
    seconds = costs(opts, device) if opts.rounds else {}
    print(*lines(rows, seconds), sep="\n")
    return [row | {"step": seconds.get(row["variant"], math.nan)} for row in rows]


if __name__ == "__main__":
    common.start(Recipes, bench, __doc__)
