"""Trains the same pairs in plain fp32 and with auto, from several seeds, and compares the validation scores.

    python benchmarks/bench_fidelity.py --data-root data/facades [--n-epochs 10] [--seeds 0 1 2] [--json FILE]

The auto scores must lie within the spread of the fp32 seeds: what is fast must not cost quality.
"""

import csv
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tyro
from bench_train import PLAIN

from config import recipe
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
    json: Path | None = None  # also write the scores there


SETTINGS = {"fp32": PLAIN, "auto": {}, "eager": dict(cuda_graph="off")}


def fidelity(opts: Fidelity) -> list[dict]:
    """One row a run: variant, seed, the last validation scores, training images a second."""
    rows = []
    for seed in opts.seeds:
        for variant in opts.variants:
            with tempfile.TemporaryDirectory() as scratch:
                cfg = replace(recipe(opts.recipe), data_root=opts.data_root, out_dir=Path(scratch) / "run", seed=seed,
                              n_epochs=opts.n_epochs, n_epochs_decay=0, eval_every=opts.n_epochs, n_val=opts.n_val,
                              crop_size=opts.crop_size, load_size=opts.crop_size * 286 // 256, ngf=opts.ngf,
                              ndf=opts.ngf, save_every=opts.n_epochs, device=opts.device,
                              num_workers=opts.num_workers, **SETTINGS[variant])
                if status := train(cfg):  # stopped by a signal
                    sys.exit(status)
                *_, last = csv.DictReader((cfg.out_dir / "log.csv").read_text(encoding="utf-8").splitlines())
            rows.append({"variant": variant, "seed": seed, "val_l1": float(last["val_l1"]),
                         "val_ssim": float(last["val_ssim"]), "images_per_s": float(last["images_per_s"])})
    return rows


def table(rows: list[dict]) -> None:
    print(f"{'variant':<8} {'seeds':>5} {'val L1: mean':>13} {'min':>8} {'max':>8} {'val SSIM: mean':>15} {'min':>8} "
          f"{'max':>8} {'images/s':>9}")
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        l1, ssim, speed = ([row[key] for row in own] for key in ("val_l1", "val_ssim", "images_per_s"))
        print(f"{variant:<8} {len(own):>5} {statistics.mean(l1):13.4f} {min(l1):8.4f} {max(l1):8.4f} "
              f"{statistics.mean(ssim):15.4f} {min(ssim):8.4f} {max(ssim):8.4f} {statistics.median(speed):9.1f}")


def main() -> None:
    opts = tyro.cli(Fidelity, description=__doc__)
    rows = fidelity(opts)
    if opts.json:
        opts.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    table(rows)


if __name__ == "__main__":
    main()
