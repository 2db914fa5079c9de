"""What the folders and files of pairs are called, in every layout that is known."""

import re
from functools import lru_cache
from itertools import chain

SPLITS = {"train": ["train", "training"], "val": ["val", "valid", "validation"], "test": ["test", "testing"]}
# Where a side (@) of a split may lie, as seen from the data's folder, in lower case; "" is that folder itself
LAYOUTS = {name: [f"{name}/@", f"{name}_@", f"{name}@", f"@/{name}"] for name in chain(*SPLITS.values())} | {"": ["@"]}
SIDE = r"(a\d*|b|m)"  # A, or several inputs A1, A2, ...; B; masks
PLACE = re.compile("|".join([*LAYOUTS, *chain(*LAYOUTS.values())]).replace("@", SIDE))
# How A and B are called at the end of file names and inside an .npz
SIDES = [("a", "b"), ("x", "y"), ("src", "tar"), ("source", "target"), ("sources", "targets"), ("input", "target"),
         ("input", "output"), ("inputs", "targets"), ("label", "image"), ("labels", "images")]
ENDS = re.compile("(.+)[-_](ab|" + "|".join(ends[0] for ends in SIDES) + ")", re.IGNORECASE)

# Of data that lies otherwise: the patterns of A and B that can be meant in one way only, and folders' names that two
# sides often have
PIX2PIXHD = [("{split}_label/{name}_gtFine_labelIds.png", "{split}_img/{name}_leftImg8bit.png"),
             ("{split}_label/{name}.*", "{split}_img/{name}.*")]
CITYSCAPES = [("leftImg8bit/{split}/{name}_leftImg8bit.png", "gtFine/{split}/{name}_gtFine_color.png")]
CITY_LABELS = [("leftImg8bit/{split}/{name}_leftImg8bit.png", "gtFine/{split}/{name}_gtFine_labelIds.png")]
SEASONS = [("*/s1_*/{name}_s1_{name}.*", "*/s2_*/{name}_s2_{name}.*"),  # SEN12MS, all of it or one of its seasons
           ("s1_*/{name}_s1_{name}.*", "s2_*/{name}_s2_{name}.*")]
WORDS = [("input", "target"), ("inputs", "targets"), ("input", "output"), ("source", "target"),
         ("conditioning_images", "images"), ("label", "image"), ("labels", "images"), ("s1", "s2"), ("before", "after")]
TARGETS = {"clean", "colour", "color", "gt", "high", "hr", "norain", "normal", "out", "photo", "photos", "real",
           "render", "renders", "sharp",
           *(second for _, second in WORDS)}  # of two folders' names that are no pair above, those of B
ONE_SIDE = {"mask", "masks", "sat", "seg", *TARGETS, *chain(*WORDS, *SIDES)}  # ends of names that no pair has


def short_name(name: str) -> str:
    """A pair's name without its place in a layout: train/A/003, A1/003, 003_A, 003_AB and 003 are one."""
    folder, _, file = name.rpartition("/")
    short = _below_place(folder) + file
    match = ENDS.fullmatch(short)
    return match[1] if match else short


@lru_cache(4096)
def _below_place(folder: str) -> str:
    """What of a folder lies below the last place in it that a layout knows, with a slash at its end."""
    parts = folder.split("/")
    n = next(n for n in range(len(parts), -1, -1) if PLACE.fullmatch("/".join(parts[:n]).lower()))
    return "".join(f"{part}/" for part in parts[n:] if folder)
