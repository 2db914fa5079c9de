"""Checks a folder of pairs without training on it: counts, sizes, unusable files, and a preview of jittered pairs.

    python check.py DIR [flags of train.py]
"""

import itertools
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from config import Config
from dataset import PairedImages
from making.folder import names_are_places
from pairs.checks import check_headers, check_small, check_values, describe_classes
from pairs.divide import shared_beginnings, twin_names
from pairs.download import ensure_dataset
from pairs.find import evenly, find_pairs
from pairs.geometry import Geometry
from pairs.identity import Pair
from pairs.jitter import Jitter, check_colours
from pairs.patterns import Patterns
from pairs.reading import read_pair
from pairs.values import values_of
from runtime.cli import parse
from runtime.console import run_main, say
from runtime.grids import save_grid
from runtime.threads import ordered
from utils import DataError, UserError, name_of


def check(cfg: Config) -> int:
    """Decodes every pair, prints what it found and writes a preview grid. Returns 0, or 2 when something is wrong.

    Raises UserError where it cannot tell what numbers mean.
    """
    ensure_dataset(cfg.data_root)
    photos = cfg.space == "lab"
    found = find_pairs(cfg.data_root, cfg.seed, patterns=Patterns.of(cfg.plain()), group=cfg.group, photos=photos)
    wanted = "train", found.validation
    problems = [str(found.problems[split]) for split in wanted if split in found.problems]
    problems += [f"no partner for {name_of(path)}" for split in wanted for path in found.orphans.get(split, [])]
    for note in [*found.notes, *filter(None, [found.meant.removeprefix(". ")])]:
        say(note)

    def look(pair: Pair) -> tuple[str, str, bool]:
        """Its sizes and sides, why it cannot be used, and whether its mask leaves no pixel that counts."""
        try:
            side, _, *mask = read_pair(pair, a, b)
        except DataError as error:
            return "unusable", str(error), False
        height, width, _ = side.shape
        several = f"A1 to A{len(pair.inputs)}" if len(pair.inputs) > 1 else "A"
        kind = f"{width}×{height} {several} and B"
        if pair.side_by_side:
            kind = f"{2 * width}×{height} side by side"
        elif pair.alone:
            kind = f"{width}×{height} photos"
        return kind + " with masks" * len(mask), "", any(not each.any() for each in mask)

    good, counted, geometry = {}, {}, Geometry.of(cfg.plain())
    x, y = values_of(vars(cfg))
    a, b = (x, y) if cfg.direction == "AtoB" else (y, x)
    seen = check_values(sum(found.splits.values(), []), x, y, cfg.direction, at_most=200)
    for (name, side), values in zip(seen.items(), (a, b), strict=True):
        if side.channels:
            say(f"side {name}: {side}; the {'input' if values is x else 'target'} is {values}")
        if values.n_labels and side.indices:
            say(describe_classes(side))
    for split, pairs in found.splits.items():
        with ordered(look, pairs, None, ahead=64) as looks:
            looks = tqdm(looks, f"reading {split}", len(pairs), leave=False, disable=None)
            kinds, faults, empty = zip(*looks, strict=True)
        counts = ", ".join(f"{n} × {kind}" for kind, n in Counter(kinds).most_common(8))
        say(f"{split}, pairs: {len(pairs)} ({counts})")
        problems += filter(None, faults)
        good[split] = [pair for pair, fault in zip(pairs, faults, strict=True) if not fault]
        if any(empty):
            told = (f"{split}: no pixel counts in {sum(empty)} of {len(pairs)} pairs, such as "
                    f"{name_of(pairs[empty.index(True)].files[0])}")
            problems.append(told) if all(empty) else say(told)
        try:
            if good[split]:
                counted[split] = check_headers(good[split], at_most=0)
                if enlarged := counted[split].enlargements():
                    say(f"{split}: {enlarged}, to the size of the other side")
        except UserError as error:
            problems.append(str(error))
    for one, other in itertools.combinations(found.marks, 2):
        beginnings = shared_beginnings(found, one, other)
        if beginnings and not names_are_places(cfg.data_root):
            say(beginnings)
        if (one, other) != ("train", found.validation) and (twins := twin_names(found, one, other)):  # else it is told
            say(f"{len(twins)} of the {len(found.splits[other])} pairs in {other} hold the same as one in {one}, such "
                f"as {twins[0]}")
    if "train" in counted:
        # What training will see of a side.
        sizes = counted["train"].sizes
        check_small(sizes, geometry)
        usual = sizes.most_common(1)[0][0]
        told = {"trained on": geometry.load(usual), "cut to": geometry.crop, "validated on": geometry.whole(usual)}
        say(f"one side, {usual[0]}×{usual[1]}: " + ", ".join(f"{what} {w}×{h}" for what, (w, h) in told.items())
            + f" (resize {cfg.resize})")
    if good.get("train"):
        check_colours(good["train"], cfg)
        # What it will see of some pairs.
        name = cfg.data_root.resolve().name
        preview = Path(f"preview_{name}.png")
        data = PairedImages(good["train"], cfg.direction, x, y, geometry, cfg.label_side, Jitter(cfg),
                            masked=any(side.kind == "float32" for side in seen.values())
                            or "train" not in counted or counted["train"].nodata)
        titles = [f"input ({cfg.direction[0]})", f"target ({cfg.direction[-1]})", *(["mask"] if data.masked else [])]
        rows = []
        try:
            for x_i, y_i in map(data.__getitem__, evenly(range(len(data)), 6)):
                y_i, *mask = y_i.split(y.channels)
                rows.append([x_i, y.shown(x_i, y_i), *mask])
            save_grid(preview, rows, titles, f"{name}, {cfg.direction}, jittered")
            say(f"preview of jittered pairs: {preview}")
        except OSError as error:
            problems.append(f"the preview {preview} cannot be written here: {error.strerror}")
        except DataError as error:
            problems.append(str(error))
    for problem in problems[:50]:
        say(f"problem: {problem}")
    say(f"problems: {len(problems)}" + (", of which the first 50 are named" if len(problems) > 50 else ""))
    return 2 if problems else 0


def main() -> int:
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("-"):
        argv[:1] = ["--data-root", argv[0]]
    return check(parse(argv, __doc__))


if __name__ == "__main__":
    run_main(main)
