"""What the folders and files of pairs are called, in every layout that is known."""

import re
from collections.abc import Iterable
from itertools import chain

SPLITS = {"train": ["train", "training"], "val": ["val", "valid", "validation"], "test": ["test", "testing"]}
# Where a side (@) of a split may lie, as seen from the data's folder, in lower case; "" is that folder itself
LAYOUTS = {name: [f"{name}/@", f"{name}_@", f"{name}@", f"@/{name}"] for name in chain(*SPLITS.values())} | {"": ["@"]}
SIDE = r"(a\d*|b|m)"  # A, or several inputs A1, A2, ...; B; masks
PLACES = "|".join(sorted([*LAYOUTS, *chain(*LAYOUTS.values())], key=len, reverse=True)).replace("@", SIDE)
PLACE = re.compile(PLACES, re.IGNORECASE)
BEGINNING = re.compile(f"(?:(?:{PLACES})/)?", re.IGNORECASE)  # of a path: the place in which it lies, if any
# How A and B are called at the end of file names and inside an .npz
SIDES = [("a", "b"), ("x", "y"), ("src", "tar"), ("input", "target"), ("inputs", "targets"), ("input", "output"),
         ("source", "target"), ("sources", "targets"), ("label", "image"), ("labels", "images")]
ENDS = re.compile("(.+)[-_](ab|" + "|".join(ends[0] for ends in SIDES) + ")", re.IGNORECASE)

# Of data that lies otherwise: the patterns of A and B that can be meant in one way only, those that may be meant, and
# folders' names that two sides often have, beside the words above
PLAIN = [("{split}_label/{name}_gtFine_labelIds.png", "{split}_img/{name}_leftImg8bit.png"),  # pix2pixHD
         ("{split}_label/{name}.*", "{split}_img/{name}.*"),
         ("leftImg8bit/{split}/{name}_leftImg8bit.png", "gtFine/{split}/{name}_gtFine_color.png")]  # Cityscapes
PROPOSED = [("{split}/1st_manual/{name}_manual1.*", "{split}/images/{name}_{split}.*"),  # DRIVE
            ("stuffthingmaps*/{split}2017/{name}.*", "{split}2017/{name}.*"),  # COCO-Stuff
            *((f"DIV2K_{{split}}_LR_bicubic/X{n}/{{name}}x{n}.*", "DIV2K_{split}_HR/{name}.*") for n in (4, 3, 2)),
            ("leftImg8bit/{split}/{name}_leftImg8bit.png", "gtFine/{split}/{name}_gtFine_labelIds.png"),
            ("*/s1_*/{name}_s1_{name}.*", "*/s2_*/{name}_s2_{name}.*"),  # SEN12MS, all of it or one of its seasons
            ("s1_*/{name}_s1_{name}.*", "s2_*/{name}_s2_{name}.*")]
WORDS = [("conditioning_images", "images"), *SIDES[3:], ("s1", "s2"), ("before", "after"),
         ("SegmentationClass", "JPEGImages")]  # the last of VOC
TARGETS = {"clean", "clear", "colour", "color", "gt", "high", "hr", "norain", "normal", "out", "photo", "photos",
           "real", "render", "renders", "sharp",
           *(second for _, second in WORDS)}  # of two folders' names that are no pair above, those of B
ONE_SIDE = {"anno", "annot", "annotations", "blur", "cleaned", "colors", "conditioning", "depth", "edges", "gray",
            "hazy", "in", "instance", "ir", "low", "lr", "mask", "masks", "noisy", "rain", "rgb", "sat", "seg",
            "sketch", "sketches", "thermal", "truth",
            *TARGETS, *chain(*WORDS, *SIDES)}  # of which no pair has one at an end of its name
# Of a file's name, what is neither the word of a side that it begins with nor that which it ends with
BETWEEN_SIDES = re.compile("(?is)(?:(?:{0})[-_ .])?(.+?)(?:[-_ .](?:{0}))?".format("|".join(ONE_SIDE)))
# Of a folder that holds one side, where photos of the same names lie in train/ itself; `out` may be a network's
SIDE_OF_SPLIT = re.compile(f"({'|'.join(chain(*SPLITS.values()))})[-_ ]?({'|'.join(ONE_SIDE - {'out', 'output'})})",
                           re.IGNORECASE)


def placed(path: str) -> tuple[str, str, str]:
    """The layout in which a path lies, with @ for the side, or ""; the side, in lower case, or ""; and the rest."""
    match = BEGINNING.match(path)
    place, rest = match[0][:-1].lower(), path[match.end() :]
    if not match.lastindex:
        return place, "", rest
    start, end = match.span(match.lastindex)
    return f"{place[:start]}@{place[end:]}", place[start:end], rest


def numbered(sides: Iterable[str]) -> list[str]:
    """Those of several inputs, A1, A2, …, by their numbers."""
    return sorted((side for side in sides if side[1:]), key=lambda side: (int(side[1:]), side))


def short_name(name: str) -> str:
    """A pair's name without its place in a layout: train/A/003, A1/003, 003_A, 003_AB and 003 are one."""
    short = name[BEGINNING.match(name).end() :]
    match = ENDS.fullmatch(short)
    return match[1] if match else short
