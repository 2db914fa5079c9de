"""Checks a folder of pairs without training on it: counts, sizes, unusable files, and a preview of jittered pairs.

    python check.py DIR [flags of train.py]
"""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import Config
from dataset import PairedImages, read_pair
from pairs.download import ensure_dataset
from pairs.find import Pair, find_pairs
from pairs.images import levels
from pairs.plausible import check_headers, dark_sides
from runtime.cli import parse
from utils import DataError, UserError, name_of, run_main, save_grid, say


def check(cfg: Config) -> int:
    """Decodes every pair, prints what it found and writes a preview grid. Returns 0, or 2 when something is wrong."""
    ensure_dataset(cfg.data_root)
    found = find_pairs(cfg.data_root, cfg.seed)
    problems = [f"no partner for {name_of(path)}" for path in found.orphans]
    used = [np.zeros(256, bool), np.zeros(256, bool)]
    for note in found.notes:
        say(note)

    def try_pair(pair: Pair) -> str:
        try:
            a, b = read_pair(pair, 3, 3)
            used[:] = used[0] | levels(a), used[1] | levels(b)
            kind = "side by side" if len(pair) == 1 else "A and B"
            return f"{a.shape[1] + b.shape[1] if len(pair) == 1 else a.shape[1]}×{a.shape[0]} {kind}"
        except DataError as error:
            problems.append(str(error))
            return "unusable"

    good = {}
    for split, pairs in found.splits.items():
        with ThreadPoolExecutor() as pool:
            kinds = list(tqdm(pool.map(try_pair, pairs), f"reading {split}", len(pairs), leave=False, disable=None))
        good[split] = [pair for pair, kind in zip(pairs, kinds, strict=True) if kind != "unusable"]
        counts = ", ".join(f"{n} × {kind}" for kind, n in Counter(kinds).most_common(8))
        say(f"{split}, pairs: {len(pairs)} ({counts})")
        if good[split]:
            try:
                check_headers(good[split], at_most=len(pairs))
            except UserError as error:
                problems.append(str(error))
    for sentence in dark_sides(used):
        say(sentence)
    for problem in problems[:50]:
        say(f"problem: {problem}")
    if len(problems) > 50:
        say(f"… and {len(problems) - 50} more")
    if good.get("train"):
        data = PairedImages(good["train"], cfg, train=True)
        rows = [list(data[int(i)]) for i in np.linspace(0, len(data) - 1, min(6, len(data)))]
        preview = Path(f"preview_{cfg.data_root.resolve().name}.png")
        try:
            save_grid(preview, rows, [f"input ({cfg.direction[0]})", f"target ({cfg.direction[-1]})"],
                      f"{cfg.data_root.resolve().name}, {cfg.direction}, jittered")
            say(f"preview of jittered pairs: {preview}")
        except OSError as error:
            problems.append(f"the preview {preview} cannot be written here: {error.strerror}")
            say(f"problem: {problems[-1]}")
    say(f"problems: {len(problems)}")
    return 2 if problems else 0


def main() -> int:
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("-"):
        argv[:1] = ["--data-root", argv[0]]
    return check(parse(argv, __doc__))


if __name__ == "__main__":
    run_main(main)
