"""Milliseconds a training pair takes from file to tensor on one core (also with JPEGs decoded whole, and from memory),
and pairs/s of the whole loader by number of workers (also handing over floats).

    python benchmarks/bench_data.py [--data-roots data/facades data/maps] [--json FILE]

Without arguments: 512×256 and 1200×600 JPEG files of the demo's facades, enlarged.
"""

import json
import statistics
import sys
import tempfile
import time
import unittest.mock
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import torch
import tyro
from bench_train import hardware
from PIL import Image

from config import Config
from dataset import Jitter, PairedImages, read_pair
from pairs import demo
from pairs.find import usable_pairs
from pairs.loading import loaders
from pairs.plausible import check_headers
from runtime.devices import usable_cores
from runtime.distributed import Ranks


@dataclass(frozen=True)
class Bench:
    data_roots: tuple[Path, ...] = ()  # folders of pairs; drawn if none is given
    n_pairs: int = 100  # of each folder
    workers: tuple[int, ...] = ()  # numbers of workers; 0, 1, 2 and 4, at most one a core, if none is given
    batch_size: int = 1  # pairs a batch
    json: Path | None = None  # also write the table, the hardware and the versions there


def draw(folder: Path, size: tuple[int, int]) -> Path:
    (folder / "train").mkdir(parents=True)
    for i in range(20):
        pair = np.concatenate(demo.facade(np.random.default_rng(i)), axis=1)
        Image.fromarray(pair).resize(size, Image.Resampling.BICUBIC).save(folder / "train" / f"{i}.jpg", quality=90)
    return folder


def time_pairs(data: PairedImages, n: int) -> list[float]:
    """Seconds for each of n pairs, read one after the other on one core, after a warm-up."""
    seconds = []
    for i in range(-5, n):
        start = time.perf_counter()
        data.pixels([(1, i % len(data))])
        seconds.append(time.perf_counter() - start)
    return seconds[5:]


def time_loader(data: PairedImages, cfg: Config, workers: int) -> tuple[float, float]:
    """Pairs a second over one epoch with a step that does nothing, and the main process's own ms a pair."""
    cfg = replace(cfg, num_workers=workers)
    with loaders(data, data, cfg, Ranks()) as (batches, _):
        for epoch in (1, 2):
            start, own = time.perf_counter(), time.process_time()
            for _ in batches.of(epoch):
                pass
        own = (time.process_time() - own) / len(data)
        return len(data) / (time.perf_counter() - start), own * 1e3


def bench(opts: Bench) -> dict:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    cores = usable_cores()
    workers = opts.workers or [n for n in (0, 1, 2, 4, 8) if n <= cores]
    result = {"hardware": hardware(torch.device("cpu")), "rows": []}
    print(", ".join(f"{key} {value}" for key, value in result["hardware"].items()) + f", cores {cores}")
    with tempfile.TemporaryDirectory() as scratch:
        roots = opts.data_roots or [draw(Path(scratch) / f"demo {w}×{h}", (w, h)) for w, h in ((512, 256), (1200, 600))]
        print(f"{'ms/pair:':<42} {'median':>8} {'fastest':>8} {'slowest':>8} {'whole':>8} {'ram':>8}   "
              f"pairs/s of the loader, batch {opts.batch_size}, by workers (ms a pair of the main process)")
        for root in roots:
            pairs = usable_pairs(root, 0).splits["train"]
            cfg = replace(Config(), batch_size=opts.batch_size)
            data = PairedImages((pairs * (opts.n_pairs // len(pairs) + 1))[: opts.n_pairs], size=cfg.load_size,
                                jitter=Jitter(cfg))
            seconds = time_pairs(data, opts.n_pairs)
            with unittest.mock.patch("dataset.read_pair", lambda *args: read_pair(*args[:3])):
                whole = statistics.median(time_pairs(data, opts.n_pairs)) * 1e3  # JPEGs decoded at their full size
            rates = {n: time_loader(data, cfg, n) for n in workers}
            data.cache = {}
            time_pairs(data, opts.n_pairs)
            cached = statistics.median(time_pairs(data, opts.n_pairs)) * 1e3
            rates["ram"] = time_loader(data, cfg, 0)
            name = f"{root.name}, {check_headers(pairs)}"
            row = {"name": name, "ms": statistics.median(seconds) * 1e3, "min": min(seconds) * 1e3,
                   "max": max(seconds) * 1e3, "whole_ms": whole, "cached_ms": cached, "pairs_per_s": rates}
            result["rows"].append(row)
            print(f"{name:<42} {row['ms']:8.2f} {row['min']:8.2f} {row['max']:8.2f} {whole:8.2f} {cached:8.2f}   "
                  + ", ".join(f"{n}: {rate:.0f} ({own:.2f})" for n, (rate, own) in rates.items()), flush=True)
    if opts.json:
        opts.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    return result


if __name__ == "__main__":
    bench(tyro.cli(Bench, description=__doc__))
