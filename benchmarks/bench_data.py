"""Milliseconds that a training pair takes from file to bytes on one core (also with JPEGs decoded whole, and from
memory), and by number of loader processes, then from memory: pairs/s, and the main process's own CPU time, up to the
floats that the networks take, and up to the bytes, as where a GPU makes the floats.

    python benchmarks/bench_data.py [--data-roots data/facades data/maps] [--json FILE]

Without arguments: 512×256 and 1200×600 JPEG files of the demo's facades, enlarged.
"""

import contextlib
import itertools
import tempfile
import unittest.mock
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import common
import cv2
import numpy as np
import torch
from PIL import Image

from config import Config
from dataset import PairedImages
from pairs import demo
from pairs.checks import check_headers, describe
from pairs.find import usable_pairs
from pairs.geometry import Geometry
from pairs.jitter import Jitter
from pairs.loading import Batches, EpochSampler, open_batches
from pairs.reading import read_pictures
from runtime.devices import usable_cores


@dataclass(frozen=True)
class Bench:
    data_roots: tuple[Path, ...] = ()  # folders of pairs; drawn if none is given
    n_pairs: int = 400  # of each folder
    workers: tuple[int, ...] = (0, 1, 2, 4)  # numbers of loader processes, as far as there are cores
    batch_size: int = 1  # pairs a batch
    epochs: int = 5  # counted passes over the pairs, after one to start
    device: str = "cpu"  # to which the batches travel
    json: Path | None = None  # also write the table, the hardware and the versions there


def draw(folder: Path, size: tuple[int, int]) -> Path:
    (folder / "train").mkdir(parents=True)
    for i in range(20):
        pair = np.concatenate(demo.facade(np.random.default_rng(i)), axis=1)
        Image.fromarray(pair).resize(size, Image.Resampling.BICUBIC).save(folder / "train" / f"{i}.jpg", quality=90)
    return folder


def ms_a_pair(data: PairedImages) -> dict[str, float]:
    """One after the other on one core; the warm-up also fills a cache."""
    for _ in range(2):
        times = [common.wall_and_cpu(partial(data.pixels, [(1, i)])) for i in range(len(data))]
    return common.spread(1e3 * wall for wall, _ in times)


def speeds(loaders: dict[str, Batches], epochs: int) -> dict[str, dict]:
    """Pairs/s of whole epochs without any step, and this process's CPU time in ms a pair; in turns."""

    def epoch(batches: Batches, numbers: Iterator[int]) -> None:
        deque(batches.epoch(next(numbers)), maxlen=0)

    acts = {name: partial(common.wall_and_cpu, partial(epoch, batches, itertools.count(1)))
            for name, batches in loaders.items()}
    rows = {}
    for name, (_, *times) in common.in_turns(acts, epochs + 1).items():
        n = len(loaders[name].data)
        rows[name] = {"pairs_per_s": common.spread(n / wall for wall, _ in times),
                      "cpu_ms": common.spread(1e3 * cpu / n for _, cpu in times)}
    return rows


def measure(root: Path, opts: Bench, device: torch.device) -> dict:
    cfg = Config()
    pairs = usable_pairs(root, 0).splits["train"]
    named = (pairs * (opts.n_pairs // len(pairs) + 1))[: opts.n_pairs]
    files, memory = (PairedImages(named, geometry=Geometry.of(cfg.plain()), jitter=Jitter(cfg)) for _ in range(2))
    memory.cache = {}
    row = {"name": f"{root.name}, {describe(check_headers(pairs), pairs)}", "file": ms_a_pair(files)}
    with unittest.mock.patch("dataset.read_pictures", lambda pair, *_: read_pictures(pair)):
        row["decoded whole"] = ms_a_pair(files)  # JPEGs at their full size
    row["memory"] = ms_a_pair(memory)
    with contextlib.ExitStack() as stack:
        loaders = {}
        for n in [n for n in opts.workers if n <= usable_cores()] + ["memory"]:
            data, count = (memory, 0) if n == "memory" else (files, n)
            batches = open_batches(data, EpochSampler(len(data), cfg.seed), opts.batch_size, count, device)
            loaders[str(n)] = stack.enter_context(batches)
        row["floats"] = speeds(loaders, opts.epochs)
        with unittest.mock.patch("pairs.loading.to_batch", lambda pixels, *_: (pixels, pixels)):
            row["bytes"] = speeds(loaders, opts.epochs)
    return row


def bench(opts: Bench, device: torch.device) -> Iterator[dict]:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as scratch:
        sizes = {"demo 512×256": (512, 256), "demo 1200×600": (1200, 600)}
        for root in opts.data_roots or (draw(Path(scratch, name), size) for name, size in sizes.items()):
            row = measure(root, opts, device)
            print(row["name"])
            for name in ("file", "decoded whole", "memory"):
                print(f"  {name}: {common.told(row[name])} ms a pair")
            for kind in ("floats", "bytes"):
                for name, found in row[kind].items():
                    print(f"  {kind:<6} {name}: {common.told(found['pairs_per_s'], '7.0f')} pairs/s, "
                          f"{common.told(found['cpu_ms'], '.3f')} ms of CPU a pair", flush=True)
            yield row


if __name__ == "__main__":
    common.start(Bench, bench, __doc__)
