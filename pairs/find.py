"""Finds the pairs in a folder, whichever way it is laid out, and reads them."""

import hashlib
import os
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from pairs import demo, download
from pairs.images import OTHER_SUFFIXES, SUFFIXES, drawn_here, has_frames, read_size
from runtime.distributed import started, wait_for
from utils import DataError, UserError, name_of, say

SPLITS = {"train": ["train", "training"], "val": ["val", "valid", "validation"], "test": ["test", "testing"]}
KNOWN = {name + side for name in ["", *sum(SPLITS.values(), [])] for side in ("", "a", "b", "_a", "_b")} - {""}
# How A and B are called at the end of file names and inside an .npz
SIDES = [("a", "b"), ("x", "y"), ("src", "tar"), ("source", "target"), ("sources", "targets"), ("input", "target"),
         ("input", "output"), ("inputs", "targets"), ("label", "image"), ("labels", "images")]

NPZ_BYTES = 16 * 2**30  # that an .npz may unpack to, since all of it is held in memory

# A side-by-side file (path,), files of A and B (path, path), or two arrays of uint8, each (H, W) or (H, W, C).
Pair = tuple


@dataclass
class Found:
    """What a folder holds: pairs by split (train, val, test), notes to print, and files without a partner.

    names: those of the training pairs, in their order. held_out: the names of the pairs that were held out from
    training for want of a val or test split; None where there is one.
    """

    splits: dict[str, list[Pair]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    held_out: list[str] | None = None


def obtain(root: Path) -> None:
    """Draws or downloads data/NAME, below the folder that the program was started in, when absent and NAME is known.

    Of several processes on a machine, one does so and the others wait.
    Raises FileNotFoundError when an absent folder of a known name lies elsewhere: its path may be mistyped, or the data
    of a resumed run may have moved.
    """
    name = root.name
    if root.exists() or name not in ("demo", *download.DATASETS):
        return
    if root.absolute() != Path("data", name).absolute():
        raise FileNotFoundError(f"data_root {name_of(root)!r} is no folder; {name} is made as data/{name} only: take "
                                f"--data-root data/{name}, or the folder that holds your own data")
    _, world, local_rank = started()
    if world > 1 and local_rank > 0:
        wait_for(root)
    elif name == "demo":
        say(f"drawing the demo pairs into {root}")
        demo.draw(root)
    else:
        download.fetch(name, root)


def find_pairs(root: Path, seed: int = 0, held_out: Sequence[str] | None = None) -> Found:
    """The pairs in `root`, in the order of their names. For each split the first of these that is there:

        train.npz                 two uint8 arrays, sources (A) and targets (B)
        train/A, train/B          or train_A, train_B; trainA, trainB; A/train, B/train: paired by name
        train                     files paired by the ends of their names, such as 1_A, 1_B (SIDES), or side-by-side
                                  files, A on the left

    and without any split the same of A, B or `root` itself. Upper and lower case are one. Where there is neither val
    nor test, the pairs named in `held_out` become val; if none of them is there, about a tenth, drawn by `seed` and
    name, so that one pair more or less moves no other. Pictures that this program drew are never pairs.
    Raises FileNotFoundError when there is no folder or no training pair, ValueError when what is meant is not clear.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data_root {name_of(root)!r} is no folder; known names, which are downloaded when "
                                f"absent, are data/NAME with NAME one of {', '.join(download.DATASETS)}")
    found = Found()
    for split, names in SPLITS.items():
        found.splits[split] = next((pairs for name in names if (pairs := _find_split(root, name, found))), [])
    if not any(found.splits.values()) and not found.orphans:
        a, b = _inside(root, "A"), _inside(root, "B")
        found.splits["train"] = _pair_folders(a, b, found) if a or b else _one_folder(root, root, found)
    if not found.splits["train"] and not found.orphans:
        raise FileNotFoundError(_nothing_in(root))
    _note_left_out(root, found)
    found.names = [_name_in(root, pair, i) for i, pair in enumerate(found.splits["train"])]
    if not found.splits["val"] and not found.splits["test"] and not found.orphans:
        _hold_out(found, seed, root, held_out or [])
    found.splits = {split: pairs for split, pairs in found.splits.items() if pairs}
    return found


def usable_pairs(root: Path, seed: int, held_out: Sequence[str] | None = None) -> Found:
    """What `find_pairs` returns, drawn or downloaded first where `obtain` can; prints the notes.

    Raises what `find_pairs` raises, and ValueError when an image has no partner.
    """
    obtain(root)
    found = find_pairs(root, seed, held_out)
    for note in found.notes:
        say(note)
    if found.orphans:
        named = ", ".join(map(name_of, found.orphans[:5])) + (", …" if len(found.orphans) > 5 else "")
        raise UserError(f"images without a partner of the same name on the other side: {len(found.orphans)}: {named}")
    return found


def evenly(items: Sequence, at_most: int) -> list:
    """Up to `at_most` of the items, evenly spaced, in their order; 0 takes all."""
    n = min(at_most or len(items), len(items))
    return [items[i * len(items) // n] for i in range(n)]


def _inside(folder: Path | None, name: str) -> Path | None:
    """The file or folder called `name`, in upper or lower case, inside `folder`."""
    if folder is None or not folder.is_dir():
        return None
    return min((path for path in folder.iterdir() if path.name.lower() == name.lower()), default=None)


def _find_split(root: Path, split: str, found: Found) -> list[Pair]:
    folder = _inside(root, split)
    if npz := _inside(root, f"{split}.npz"):
        return _load_npz(npz)
    for a, b in ((_inside(folder, "A"), _inside(folder, "B")),
                 (_inside(root, f"{split}_A"), _inside(root, f"{split}_B")),
                 (_inside(root, f"{split}A"), _inside(root, f"{split}B")),
                 (_inside(_inside(root, "A"), split), _inside(_inside(root, "B"), split))):
        if a or b:
            return _pair_folders(a, b, found)
    return _one_folder(folder, root, found) if folder else []


def _one_folder(folder: Path, root: Path, found: Found) -> list[Pair]:
    """The files directly in `folder`, paired by the ends of their names, or else side-by-side files.

    Images in sub-folders of unknown names are refused: one side, or both?
    """
    paths = [path for path in list_images(folder, sub_folders=False) if not drawn_here(path)]
    if not paths and (elsewhere := [path for path in list_images(folder) if not drawn_here(path)]):
        raise UserError(f"the images in {name_of(folder)} lie in its sub-folders {_places(elsewhere, folder)}; known "
                        f"names are train, val and test, and A and B{_hint(elsewhere, root) if folder == root else ''}")
    by_end = {}
    for path in paths:
        if match := re.fullmatch(r"(.+)[-_]([A-Za-z]+)", path.stem):
            by_end.setdefault(match[2].lower(), []).append((match[1], path))

    def partners(ends: tuple[str, str]) -> int:
        return len(set.intersection(*({name for name, _ in by_end.get(end, [])} for end in ends)))

    ends = max(SIDES, key=partners)
    if partners(ends):
        sides = [by_end[end] for end in ends]
        n, named = sum(map(len, sides)), " and ".join(f"_{end}" for end in ends)
        if 4 * n >= 3 * len(paths):
            found.notes.append(f"{name_of(folder)}: files paired by the ends of their names, {named}")
            return _pair(*sides, found)
        found.notes.append(f"{name_of(folder)}: only {n} of the {len(paths)} names end in {named}, so that all are "
                           "taken for side-by-side files")
    return [(path,) for path in paths]


def list_images(folder: Path, sub_folders: bool = True) -> list[Path]:
    """The image files in `folder`, hidden ones not, in the order of their paths."""
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if sub_folders and not name.startswith((".", "__MACOSX"))]
        paths += [Path(place, name) for name in names
                  if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES]  # noqa: PTH122
    return sorted(paths)


def _pair_folders(a: Path | None, b: Path | None, found: Found) -> list[Pair]:
    """Files of the same name, endings apart, in `a` and `b`; what has no partner is added to `found`."""
    return _pair(*([(str(path.relative_to(folder).with_suffix("")), path) for path in list_images(folder)
                    if not drawn_here(path)] if folder else [] for folder in (a, b)), found)


def _pair(a: list[tuple[str, Path]], b: list[tuple[str, Path]], found: Found) -> list[Pair]:
    """Pairs those (name, path) of `a` and `b` whose names are equal, however their accents are written."""
    sides = []
    for named in (a, b):
        by_name = {}
        for name, path in named:
            other = by_name.setdefault(unicodedata.normalize("NFC", name), path)
            if other is not path:
                raise UserError(f"{name_of(other)} and {name_of(path)} have the same name: which one is meant?")
        sides.append(by_name)
    for side, other in (sides, sides[::-1]):
        found.orphans += [path for name, path in side.items() if name not in other]
    return [(path, sides[1][name]) for name, path in sides[0].items() if name in sides[1]]


def _load_npz(path: Path) -> list[Pair]:
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > NPZ_BYTES:
            raise UserError(f"it unpacks to {size:,} bytes, more than {NPZ_BYTES:,}")
        with np.load(path, allow_pickle=False) as file:
            names = {name.lower(): name for name in file.files}
            order = next((ends for ends in SIDES if set(ends) == set(names)), names)
            arrays = [file[names[name]] for name in order]
    except Exception as error:  # damaged files make numpy raise nearly anything
        raise DataError(f"{path} cannot be read as an .npz of plain arrays ({error})") from error
    usable = [a.dtype == np.uint8 and a.ndim in (3, 4) and a.shape[3:] in ((), (1,), (3,), (4,)) for a in arrays]
    if usable != [True, True] or arrays[0].shape[:3] != arrays[1].shape[:3]:
        raise DataError(f"{path} must hold two uint8 arrays, sources and targets, of one shape (N, H, W) or "
                        f"(N, H, W, C); it holds {[(a.dtype.name, *a.shape) for a in arrays]}")
    if not len(arrays[0]):
        raise DataError(f"{path} holds no pairs")
    return list(zip(*arrays, strict=True))


def _name_in(root: Path, pair: Pair, index: int) -> str:
    """What a pair is called whatever the system, the folder's place and the format: its path in `root`, or index."""
    if isinstance(pair[0], np.ndarray):
        return str(index)
    path = "/".join(pair[0].parts[len(root.parts) :])
    return unicodedata.normalize("NFC", os.path.splitext(path)[0])  # noqa: PTH122


def name_hash(name: str) -> int:
    """A number below 2**63 that depends on the name alone, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "little") >> 1


def _hold_out(found: Found, seed: int, root: Path, before: Sequence[str]) -> None:
    pairs, names = found.splits["train"], found.names
    if len(pairs) < 2:
        raise UserError(f"{name_of(root)} holds one pair only: one more is needed for validation")
    chosen = set(before) & set(names)
    if chosen:
        found.notes.append(f"no val or test split: {len(chosen)} of the {len(pairs)} pairs were held out for "
                           "validation before, and are again" + (
                               f"; {len(before) - len(chosen)} that were held out are gone" if len(chosen) < len(before)
                               else ""))
    else:
        ranked = sorted((name_hash(f"{seed}/{name}"), name) for name in set(names))
        chosen = {name for place, name in ranked if place < 2**63 // 10} or {ranked[0][1]}
        found.notes.append(
            ("none of the pairs that were held out before is here: " if before else "no val or test split: ")
            + f"{len(chosen)} of the {len(pairs)} pairs are held out for validation (seed {seed})")
    if len(chosen) == len(set(names)):
        raise UserError(f"all {len(pairs)} pairs in {name_of(root)} are held out for validation: none is left to train")
    found.held_out = sorted(chosen | set(before))
    found.splits["val"] = [pair for pair, name in zip(pairs, names, strict=True) if name in chosen]
    found.splits["train"] = [pair for pair, name in zip(pairs, names, strict=True) if name not in chosen]
    found.names = [name for name in names if name not in chosen]


def _nothing_in(root: Path) -> str:
    endings = Counter(path.suffix.lower() or "no ending" for path in root.rglob("*") if path.is_file())
    held = ", ".join(f"{n} × {ending}" for ending, n in endings.most_common(5)) or "nothing"
    images = list_images(root)
    return (f"0 training images in {name_of(root)}, which holds {held}"
            + (f" (images in {_places(images, root)})" if images else "")
            + f". Wanted: {', '.join(sorted(SUFFIXES))} in train/, in train/A and train/B, or in the folder itself"
            + _hint(images, root))


def _places(paths: list[Path], root: Path) -> str:
    """The folders that hold `paths`, as seen from `root`, for a message."""
    places = sorted({path.parent.relative_to(root).as_posix() for path in paths})
    return name_of(Path(", ".join(places[:5]))) + (", …" if len(places) > 5 else "")


def _hint(images: list[Path], root: Path) -> str:
    """The end of a sentence that names the one folder below `root` that looks like a data set of its own."""
    homes = set()
    for path in images:
        parts = path.relative_to(root).parts[:-1]
        homes.add(parts[: next((i for i, part in enumerate(parts) if part.lower() in KNOWN), len(parts))])
    home = homes.pop() if len(homes) == 1 else ()
    return f". Did you mean --data-root {name_of(root.joinpath(*home))}?" if home else ""


def _note_left_out(root: Path, found: Found) -> None:
    """Adds a note on each kind of image in `root` that is no part of a pair, and on links that are not followed."""
    used = {}  # folder → names
    for path in chain(found.orphans, *(pair for pairs in found.splits.values() for pair in pairs)):
        if isinstance(path, Path):
            place, name = os.path.split(path)
            used.setdefault(place or ".", set()).add(name)
    unused, drawn, links, endings = [], [], [], Counter()

    def look(top: Path) -> None:
        for place, folders, names in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
            for path in (Path(place, name) for name in folders):
                if path.is_symlink() and any(f"{inner}{os.sep}".startswith(f"{path}{os.sep}") for inner in used):
                    look(path)
                elif path.is_symlink():
                    links.append(path)
            here = used.get(str(Path(place)), ())
            for name in names:
                ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
                if ending in OTHER_SUFFIXES and not name.startswith("."):
                    endings[ending] += 1
                elif ending in SUFFIXES and not name.startswith(".") and name not in here:
                    path = Path(place, name)
                    (drawn if drawn_here(path) else unused).append(path)

    look(root)
    if unused:
        found.notes.append(f"not used: {len(unused)} image{'s' * (len(unused) > 1)} in {_places(unused, root.parent)}; "
                           "known names are train, val and test, and A and B")
    if links:
        named = ", ".join(map(name_of, links[:5])) + (", …" if len(links) > 5 else "")
        found.notes.append(f"not used: folders that are links inside the data, which are not followed: {named}")
    if endings:
        found.notes.append("not used: " + ", ".join(f"{n} × {ending}" for ending, n in endings.most_common())
                           + f"; formats that are read: {', '.join(sorted(SUFFIXES))}")
    if drawn:
        found.notes.append(f"not used: {len(drawn)} picture{'s' * (len(drawn) > 1)} that this program drew, such as "
                           f"{name_of(drawn[0])}")


def check_sizes(pair: Pair, sizes: list[tuple[int, int]]) -> None:
    """Raises DataError when a side-by-side file has an odd width, or when A and B differ in size."""
    if len(pair) == 1 and sizes[0][0] % 2:
        raise DataError(f"{name_of(pair[0])} is {sizes[0][0]}×{sizes[0][1]}: an odd width has no middle to split it at")
    if sizes[0] != sizes[-1]:
        raise DataError(f"{name_of(pair[0])} is {sizes[0][0]}×{sizes[0][1]}, but {name_of(pair[1])} is "
                        f"{sizes[1][0]}×{sizes[1][1]}: a pair must be of one size")


def check_headers(pairs: list[Pair], at_most: int = 2000, skip: bool = False) -> str:
    """Reads the headers of up to `at_most` pairs, evenly spaced, and returns their sizes for a message.

    Says which are unlikely to be pairs. Raises DataError for the first pair that cannot be used; with `skip`, only when
    none can be; ValueError when most side-by-side files are not wider than high.
    """
    sizes, narrow, moving = Counter(), [], []
    for i in np.unique(np.linspace(0, len(pairs) - 1, min(at_most, len(pairs))).astype(int)):
        try:
            found = [read_size(source) for source in pairs[i]]
            check_sizes(pairs[i], found)
            sizes[found[0]] += 1
            narrow += [f"{name_of(pairs[i][0])} ({found[0][0]}×{found[0][1]})"] if _is_narrow(pairs[i], found) else []
            moving += [name_of(source) for source in pairs[i] if has_frames(source)]
        except DataError as error:
            if not skip:
                raise
            problem = error
    if not sizes:
        raise DataError(f"none of the pairs can be read: {problem}")
    n = sum(sizes.values())
    if narrow:
        sentence = (f"{len(narrow)} of {n} files are not wider than high, such as {narrow[0]}: they do not look like "
                    "two images side by side")
        if 2 * len(narrow) > n:
            raise UserError(f"{sentence}. Put the two sides into folders A and B, or name them 1_A, 1_B; if each file "
                            "does hold both, let the names end in _AB")
        say(sentence)
    if moving:
        say(f"{len(moving)} of {n} pairs hold files of several pages or frames, of which the first is taken, such as "
            f"{moving[0]}")
    (width, height), _ = sizes.most_common(1)[0]
    layout = "side by side" if len(pairs[0]) == 1 else "each side"
    return f"{width}×{height} {layout}" + (f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else "")


def _is_narrow(pair: Pair, sizes: list[tuple[int, int]]) -> bool:
    """Whether a side-by-side file is not wider than high; a name that ends in _AB vouches for it."""
    return len(pair) == 1 and sizes[0][0] <= sizes[0][1] and not pair[0].stem.lower().endswith(("_ab", "-ab"))


def dark_sides(used: Sequence[np.ndarray]) -> list[str]:
    """A sentence for each side, A and B, that uses less than a tenth of its range; used: the `levels` of each.

    White beside other values is left out of account: label maps often mark by it what belongs to no class.
    """
    sentences = []
    for side, each in zip("AB", used, strict=True):
        values = np.flatnonzero(each)
        if len(values) > 2 and values[-1] == 255:
            values = values[:-1]
        if len(values) and values[-1] - values[0] < 25:
            sentences.append(f"side {side} uses less than a tenth of its range, {values[0] / 255:.0%} to "
                             f"{values[-1] / 255:.0%}: class indices or depth train better spread over all of it")
    return sentences
