"""Milliseconds that a training pair takes from file to bytes on one core (also with JPEGs decoded whole, and from
memory), and by number of loader processes, then from memory: pairs/s, and the main process's own CPU time, up to the
floats that the networks take, and up to the bytes, as where a GPU makes the floats.

    python benchmarks/bench_data.py [--data-roots data/facades data/maps] [--json FILE]

Without arguments: 512×256 and 1200×600 JPEG files of the demo's facades, enlarged.
"""

import contextlib
import itertools
import tempfile
import time
import unittest.mock
from dataclasses import dataclass
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
        times = [common.seconds_of(lambda i=i: data.pixels([(1, i)]), torch.device("cpu")) for i in range(len(data))]
    return common.spread([1e3 * seconds for seconds in times])


def speeds(loaders: dict[str, Batches], epochs: int) -> dict[str, dict]:
    """Pairs/s of whole epochs without any step, and this process's CPU time in ms a pair; in turns."""
    seen = {name: [] for name in loaders}
    for epoch in range(1, epochs + 2):
        for name, batches in loaders.items():
            cpu, start = time.process_time(), time.perf_counter()
            for _ in batches.epoch(epoch):
                pass
            n = len(batches.data)
            seen[name].append((n / (time.perf_counter() - start), 1e3 * (time.process_time() - cpu) / n))
    return {name: {key: common.spread(values) for key, values in zip(("pairs_per_s", "cpu_ms"), zip(
        *rows[1:], strict=True), strict=True)} for name, rows in seen.items()}


def bench(opts: Bench, device: torch.device) -> list[dict]:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rows, cfg = [], Config()
    with tempfile.TemporaryDirectory() as scratch:
        for root in opts.data_roots or [draw(Path(scratch) / f"demo {w}×{h}", (w, h)) for w, h in (
                (512, 256), (1200, 600))]:
            pairs = usable_pairs(root, 0).splits["train"]
            named = (pairs * (opts.n_pairs // len(pairs) + 1))[: opts.n_pairs]
            geometry = Geometry.of(cfg.plain())
            files, memory = (PairedImages(named, geometry=geometry, jitter=Jitter(cfg)) for _ in range(2))
            memory.cache = {}
            row = {"name": f"{root.name}, {describe(check_headers(pairs), pairs)}", "ms": ms_a_pair(files),
                   "ram": ms_a_pair(memory)}
            with unittest.mock.patch("dataset.read_pictures", lambda pair, *_: read_pictures(pair)):
                row["whole"] = ms_a_pair(files)  # JPEGs decoded at their full size
            print("{}\n  ms a pair: {}".format(row["name"], ", ".join("{} {median:.2f} ({min:.2f} to {max:.2f})".format(
                name, **row[key]) for name, key in (("file", "ms"), ("decoded whole", "whole"), ("memory", "ram")))))
            with contextlib.ExitStack() as stack:
                loaders = {}
                for n in [n for n in opts.workers if n <= usable_cores()] + ["memory"]:
                    data, order = memory if n == "memory" else files, EpochSampler(len(files), cfg.seed)
                    count = 0 if n == "memory" else n
                    loaders[str(n)] = stack.enter_context(open_batches(data, order, opts.batch_size, count, device))
                row["floats"] = speeds(loaders, opts.epochs)
                with unittest.mock.patch("pairs.loading.to_batch", lambda pixels, *_: (pixels, pixels)):
                    row["bytes"] = speeds(loaders, opts.epochs)
            for key, name in itertools.product(("floats", "bytes"), loaders):
                each = row[key][name]
                print("  {:<6} {}: {median:7.0f} pairs/s ({min:.0f} to {max:.0f}), ".format(
                    key, name, **each["pairs_per_s"])
                      + "{median:.3f} ms of CPU a pair ({min:.3f} to {max:.3f})".format(**each["cpu_ms"]), flush=True)
            rows.append(row)
    return rows


if __name__ == "__main__":
    common.start(Bench, bench, __doc__)
