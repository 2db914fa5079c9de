"""Finds the pairs in a folder, whichever way it is laid out."""

import gc
import os
import re
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, takewhile
from pathlib import Path

import numpy as np

from pairs.divide import Found, divide
from pairs.download import DATASETS, ensure_dataset
from pairs.identity import Known, Pair, partners
from pairs.images import OTHER_SUFFIXES, SUFFIXES, drawn_here, is_image_array
from pairs.layouts import BETWEEN_SIDES, LAYOUTS, PLACE, SIDE_OF_SPLIT, SIDES, SPLITS, numbered, placed
from pairs.patterns import Patterns, find_matches, list_files, place_in, read_as, split_ending, suggested, walk
from runtime.console import say
from utils import DataError, UserError, name_of

Named = list[tuple[str, Path]]  # images, and what they are called on their side
NPZ_BYTES = 16 * 2**30  # that an .npz may unpack to, since all of it is held in memory


def usable_pairs(root: Path, seed: int, known: Known | None = None, resumed: bool = True,
                 patterns: Patterns | None = None, group: str = "", photos: bool = False) -> Found:
    """What `find_pairs` returns, drawn or downloaded first where `ensure_dataset` can; prints the notes.

    Raises what `find_pairs` raises, and UserError when an image of a split that training needs has no partner.
    """
    ensure_dataset(root)
    found = find_pairs(root, seed, known, resumed, patterns, group, photos)
    for note in found.notes:
        say(note)
    refuse_problems(found, ["train", found.validation])
    return found


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without garbage collection: half of the time would go into it where many small objects are made to stay."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:  # else somebody further out has paused it
            gc.enable()


@collector_paused()
def find_pairs(root: Path, seed: int = 0, known: Known | None = None, resumed: bool = True,
               patterns: Patterns | None = None, group: str = "", photos: bool = False) -> Found:
    """The pairs in `root` for training: what `find_splits` finds, with validation pairs as `divide` holds them out.

    Raises FileNotFoundError when there is no folder or no training pair, UserError when what is meant is not clear.
    """
    found = find_splits(root, patterns, photos)
    wanted = {"train", found.validation}
    broken = {*found.orphans, *found.problems}
    if not found.splits.get("train") and "train" not in broken:
        raise nothing_to_train(root, found)
    for split in broken - wanted:
        n = len(found.orphans.get(split, []))
        why = found.problems.get(split) or f"{n} image{'s' * (n > 1)} without a partner"
        found.notes.append(f"not used: {split}, which training does not need: {why}")
    if not broken & wanted:
        divide(found, root, seed, known, resumed, group)
    return found


def refuse_problems(found: Found, splits: Iterable[str]) -> None:
    """Raises UserError for the first of these splits that has files without a partner, or no pairs for a reason."""
    for split in splits:
        if split in found.problems:
            raise found.problems[split]
        if orphans := found.orphans.get(split):
            raise UserError(f"images without a partner of the same name on the other side: {len(orphans)}: "
                            f"{some(orphans)}{found.meant}")


@collector_paused()
def find_splits(root: Path, patterns: Patterns | None, photos: bool) -> Found:
    """The pairs in `root`, in the order of their names: what the patterns match, if there are any.

    Else, for each split, the first of these that is there:

        train.npz                 two arrays, sources (A) and targets (B)
        train/A, train/B          or train_A, train_B; trainA, trainB; A/train, B/train: paired by name; several
                                  inputs are A1, A2, …; masks, if there are any, M
        train                     files paired by the ends of their names, such as 1_A, 1_B (SIDES), or side-by-side
                                  files, A on the left

    and without any split the same of A, B or `root` itself. Upper and lower case are one. One data set has one layout:
    where some split has two sides, a val or test split of single images or of one side holds inputs only, and is left
    out. Pictures that this program drew are never pairs. With `photos`, a file without a partner, in a sub-folder too,
    is a photo, input and target both, unless all names end in _AB, as those of side-by-side files.
    Raises FileNotFoundError when there is no folder, UserError when it is not clear what training pairs are meant.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data_root {name_of(root)!r} is no folder: --data-root takes that of your pairs. "
                                "Known names, which are downloaded when absent, are data/NAME with NAME one of "
                                f"{', '.join(DATASETS)}")
    if patterns:
        return find_matches(root, patterns)
    try:
        index = _Index(root, photos)
        found = _known_layout(index)
        _refuse_one_side(index, found)
    except UserError as error:
        if not (patterns := read_as(list_files(root))):
            raise type(error)(f"{error}{_flags(root)}".replace("?. ", "? ")) from error
        found = find_matches(root, patterns)
        found.notes.insert(0, f"{name_of(root)} is read as by {patterns}")
    if found.orphans and not found.splits:
        found.meant = _flags(root)
    return found


def _flags(root: Path) -> str:
    """The end of a sentence that tells the patterns which may be meant."""
    patterns = suggested(list_files(root))
    return f". If these are pairs, train.py and check.py read them, with A as the input: {patterns}" if patterns else ""


def _refuse_one_side(index: "_Index", found: Found) -> None:
    """Raises UserError where side-by-side files have partners in a folder of the split, such as train_masks."""
    n = len(index.root.parts)
    beside = [path for path in index.unused() if any(map(SIDE_OF_SPLIT.fullmatch, path.parts[n:-1]))]
    halves = [pair.files[0] for pair in found.splits.get("train", []) if pair.side_by_side]
    if not beside or not halves or halves[0].stem.lower().endswith(("_ab", "-ab")):
        return
    files = [path.relative_to(index.root).as_posix() for path in (*halves, *beside)]
    patterns = suggested(files)
    a, b = patterns.sides(files) if patterns else ({}, {})
    if 2 * len(a.keys() & b.keys()) > len(halves):
        raise UserError(f"{name_of(halves[0])} and others have partners of their names in another folder: if each is "
                        "two images side by side, let the names end in _AB")


def _known_layout(index: "_Index") -> Found:
    found = Found()
    parts = {split: _first(names, index) for split, names in SPLITS.items()}
    if not any(parts.values()) or not parts["train"] and any(map(index.images.get, [("@", "a"), ("@", "a1")])):
        parts["train"] = _part("", index)
    if problem := parts["train"].problem:
        raise problem
    two_sided = any(part.pairs and not part.halves for part in parts.values())
    for split, part in parts.items():
        if split != "train" and (part.one_sided and not part.problem or two_sided and (part.one_sided or part.halves)):
            inputs = [path for _, path in part.images]
            found.leave_out(inputs, f"in {_places(inputs, index.root.parent)}: inputs without targets")
            continue
        found.notes += part.notes
        for kind, told in ((found.problems, part.problem), (found.orphans, part.orphans), (found.splits, part.pairs)):
            if told:
                kind[split] = told
    index.leave_out(found)
    return found


class _Index:
    """What one walk over `root` finds. Nothing is opened but what this program may have drawn, by its name.

    images: by layout and side (`placed`), the (name, path) of the images there and in folders of other names below, in
    the order of their paths; names are as seen from there. What becomes a pair, or lacks a partner, is taken out.
    """

    def __init__(self, root: Path, photos: bool = False):
        self.root, self.photos, self.images, self.npz = root, photos, defaultdict(list), {}
        self.drawn, self.links, self.tables, self.endings = [], [], [], Counter()
        tops = [root]  # and linked folders in known places
        for folder, folders, files in chain.from_iterable(walk(top, self._unreadable) for top in tops):
            for path in (folder / name for name in folders):
                if path.is_symlink():
                    (tops if self._is_known(path) else self.links).append(path)
            layout, side, place = placed(place_in(folder, root))
            images = self.images[layout, side]
            for path in files:
                stem, ending = split_ending(path.name)
                self.endings[ending] += 1
                if ending == ".png" and drawn_here(path):
                    self.drawn.append(path)
                elif ending in SUFFIXES:
                    images.append((unicodedata.normalize("NFC", place + stem), path))
                elif path.name in ("metadata.csv", "metadata.jsonl"):
                    self.tables.append(path)
                elif ending == ".npz" and folder == root:
                    self.npz[path.name.lower()] = path
        for images in self.images.values():
            images.sort(key=lambda image: str(image[1]).replace(os.sep, "\0"))  # as by their parts, in half the time

    def _is_known(self, folder: Path) -> bool:
        """Whether pairs may lie there, by its name."""
        return bool(PLACE.fullmatch(place_in(folder, self.root)[:-1]))

    def _unreadable(self, error: OSError) -> None:
        if self._is_known(Path(error.filename)):
            raise error

    def unused(self) -> list[Path]:
        return [path for images in self.images.values() for _, path in images]

    def leave_out(self, found: Found) -> None:
        """Notes each kind of image that is no part of a pair, and links that are not followed."""
        unused = self.unused()
        where = _places(unused, self.root.parent)
        found.leave_out(unused, f"in {where} (known names are train, val and test, and A and B)")
        if self.links:
            found.notes.append("not used: folders that are links inside the data, which are not followed: "
                               + some(self.links))
        if others := other_formats(self.endings):
            found.notes.append(f"not used: {others}")
        found.leave_out(self.drawn, "that this program drew")
        if self.tables:
            found.notes.append(f"not used: {name_of(self.tables[0])}; pairs are told by folders and names alone")


def list_images(folder: Path) -> list[Path]:
    """The image files in `folder` and below it, also by links, in the order of their paths.

    Says how many files of other formats are left out.
    """
    endings = {path: split_ending(path.name)[1] for _, _, files in walk(folder, followlinks=True) for path in files}
    if others := other_formats(Counter(endings.values())):
        say(f"not used: {others}")
    return sorted(path for path, ending in endings.items() if ending in SUFFIXES)


def other_formats(endings: Counter) -> str:
    """How many files of each format that is not read there are, for a message; or nothing."""
    others = Counter({ending: endings[ending] for ending in endings.keys() & OTHER_SUFFIXES})
    return f"{_counts(others)}; formats that are read: {', '.join(sorted(SUFFIXES))}" if others else ""


def sides_in(folder: Path, by_end: bool) -> dict[Path, tuple[str, Hashable]]:
    """By the layouts of `find_pairs`, of each image in a folder: the side, A, A1, B, M or "", and what partners share.

    That is the layout, with @ for the side, and the name. With `by_end`, where no image lies on a side, names have one
    by their ends. Says how many files of other formats are left out.
    """
    sides, folders = {}, defaultdict(list)
    for path in list_images(folder):
        stem = split_ending(path.name)[0]
        layout, side, inside = placed(place_in(path.parent, folder))
        sides[path] = side.upper(), (layout, unicodedata.normalize("NFC", inside + stem))
        folders[path.parent].append((stem, path))
    if by_end and not any(side for side, _ in sides.values()):
        for home, images in folders.items():
            _, *both, rest = _by_end(images)
            if len(rest) <= len(images) / 4:
                sides |= {path: (side, (home, stem)) for side, named in zip("AB", both, strict=True)
                          for stem, path in named}
    return sides


def _name(path: Path, top: Path) -> str:
    """What a file is called on every system, as seen from `top`, without its ending."""
    return unicodedata.normalize("NFC", place_in(path.parent, top) + split_ending(path.name)[0])


@dataclass
class _Part:
    """What one split holds. problem: why it has no pairs; images: all that was looked at."""

    pairs: list[Pair] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: Named = field(default_factory=list)
    one_sided: bool = False
    problem: UserError | None = None

    def __bool__(self) -> bool:
        return bool(self.pairs or self.orphans or self.problem)

    @property
    def whole(self) -> bool:
        return bool(self.pairs) and not self.orphans and not self.halves

    @property
    def halves(self) -> bool:
        return bool(self.pairs) and self.pairs[0].side_by_side


def _first(names: Sequence[str], index: _Index) -> _Part:
    """The first of the folders of these names that holds pairs of two sides, else the first that holds anything."""
    parts = {}
    for name in names:
        if part := _part(name, index):
            parts[name] = part
            if part.whole:
                break
    chosen = max(parts, key=lambda name: parts[name].whole, default="")
    for name in parts.keys() - {chosen}:
        index.images[name, ""] = [*dict.fromkeys([*index.images[name, ""], *parts[name].images])]
    return parts.get(chosen, _Part())


def _part(split: str, index: _Index) -> _Part:
    part = _Part()
    try:
        if npz := index.npz.get(f"{split}.npz"):
            part.pairs = _load_npz(npz, part.notes)
            return part
        for layout in LAYOUTS[split]:
            there = {side: images for (place, side), images in index.images.items() if place == layout}
            inputs = ["a"] if there.get("a") else numbered(there) or ["a"]  # of several, also one that is empty
            given = any(map(there.get, inputs))
            if given or there.get("b"):
                masks = ["m"] if there.get("m") else []
                sides = [index.images.pop((layout, side), []) for side in (*inputs, "b", *masks)]
                part.images = [*chain(*sides)]
                part.one_sided = not (given and there.get("b"))
                part.pairs = _pair(index, part, sides, len(inputs))
                return part
        part.images = index.images.pop((split, ""), [])
        part.pairs = _one_folder(part.images, split, index, part)
    except UserError as error:
        part.problem = error
    return part


def _by_end(images: Named) -> tuple[str, Named, Named, Named]:
    """The ends of names (SIDES) that pair most images, for a message; those of A and of B, without them; and others.

    All are others where no two images are paired.
    """
    by_end = defaultdict(list)
    for name, path in images:
        stem, end = re.fullmatch(r"(?s)(.+?)(?:[-_]([A-Za-z]+))?", name).groups()
        by_end[(end or "").lower()].append((stem, path))
    stems = {end: {stem for stem, _ in by_end[end]} for end in chain(*SIDES)}
    a, b = max(SIDES, key=lambda ends: len(stems[ends[0]] & stems[ends[1]]))
    if not stems[a] & stems[b]:
        return "", [], [], images
    return f"_{a} and _{b}", by_end.pop(a), by_end.pop(b), [*chain(*by_end.values())]


def _one_folder(images: Named, split: str, index: _Index, part: _Part) -> list[Pair]:
    """The files directly in a folder, paired by the ends of their names, or else side-by-side files.

    Images in sub-folders of unknown names are refused: one side, or both?
    """
    if not images:
        return []
    folder = images[0][1].parents[images[0][0].count("/")]
    here = [image for image in images if index.photos or "/" not in image[0]]
    if not here:
        part.one_sided = True  # for all that is known
        below = [path for _, path in images]
        raise UserError(f"the images in {name_of(folder)} lie in its sub-folders {_places(below, folder)}; known names "
                        f"are train, val and test, and A and B{'' if split else _hint(below, folder)}")
    index.images[split, ""] = [] if index.photos else [image for image in images if "/" in image[0]]
    ends, a, b, rest = _by_end(here)
    if len(rest) <= len(here) / 4:
        part.notes.append(f"{name_of(folder)}: files paired by the ends of their names, {ends}")
        index.images[split, ""] += rest
        return _pair(index, part, [a, b])
    if ends:
        part.notes.append(f"{name_of(folder)}: only {len(a + b)} of the {len(here)} names end in {ends}, so that all "
                          "are taken for side-by-side files")
    if not index.photos and (twice := _named_as_two(here)):
        part.one_sided = True  # for all that is known
        raise UserError(f"{name_of(twice[0])} and {name_of(twice[1])} are called like two sides of one pair: if each "
                        "file holds both sides, let the names end in _AB")
    alone = index.photos and not all(name.lower().endswith(("_ab", "-ab")) for name, _ in here)
    return [Pair((path,), path if alone else None, name=_name(path, index.root)) for _, path in here]


def _named_as_two(images: Named) -> list[Path]:
    """The first two files of one name, if nearly all are: 1.jpg and 1.png, 1.png and 1_mask.png, sat_1 and mask_1."""
    by_name = defaultdict(list)
    for name, path in images:
        by_name[BETWEEN_SIDES.fullmatch(name)[1]].append(path)
    several = [paths for paths in by_name.values() if len(paths) > 1]
    return several[0][:2] if several and sum(map(len, several)) >= 0.9 * len(images) else []


def _pair(index: _Index, part: _Part, sides: list[Named], n: int = 1) -> list[Pair]:
    """Pairs those of `n` inputs, B and, if there are any, masks whose names are equal; tells `part` the rest."""
    together, part.orphans = partners([*map(by_key, sides)])
    return [Pair(tuple(paths[:n]), *paths[n:], name=_name(paths[0], index.root)) for paths in together.values()]


def by_key(images: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    side = {}
    for name, path in images:
        if (other := side.setdefault(name, path)) is not path:
            raise UserError(f"{name_of(other)} and {name_of(path)} have the same name, and it is not clear which one "
                            "is meant")
    return side


def _load_npz(path: Path, notes: list[str]) -> list[Pair]:
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > NPZ_BYTES:
            raise UserError(f"it unpacks to {size:,} bytes, more than {NPZ_BYTES:,}")
        with np.load(path, allow_pickle=False) as file:
            names = {name.lower(): name for name in file.files}
            known = [ends for ends in SIDES if set(ends) == set(names) and "label" not in ends[0]]  # images may be A
            order = known[0] if known else [*names]
            arrays = [file[names[name]] for name in order]
    except Exception as error:  # damaged files make numpy raise nearly anything
        raise DataError(f"{path} cannot be read as an .npz of plain arrays ({error})") from error
    usable = [a.ndim > 1 and len(a) > 0 and is_image_array(a[0]) for a in arrays]
    if usable != [True, True] or len(arrays[0]) != len(arrays[1]):
        raise DataError(f"{path} must hold two arrays of numbers, sources and targets, of shape (N, H, W) or "
                        f"(N, H, W, C), with one N above 0, C at most 64; it holds "
                        f"{[(a.dtype.name, *a.shape) for a in arrays]}")
    if not known and order != ["arr_0", "arr_1"]:
        notes.append(f"{path.name}: A is {name_of(order[0])} and B is {name_of(order[1])}, in the order of the file")
    return [Pair((a,), b, name=str(i)) for i, (a, b) in enumerate(zip(*arrays, strict=True))]


def nothing_to_train(root: Path, found: Found) -> FileNotFoundError:
    """The error that says what is there instead of training pairs."""
    index = _Index(root)
    images = index.unused()
    held = index.endings + Counter({"link to a folder, not followed": len(index.links)})
    return FileNotFoundError(
        f"0 training images in {name_of(root)}, which holds {_counts(held, 5) or 'nothing'}"
        + (f" (images in {_places(images, root)})" if images else "")
        + f". Wanted: {', '.join(sorted(SUFFIXES))} in train/, in train/A and train/B, or in the folder itself; "
        "or two arrays in train.npz"
        + ("" if found.splits else _flags(root) or _hint(images, root)))


def some(names: Sequence[Path | str | int]) -> str:
    """The first five of them, for a message."""
    return ", ".join(map(name_of, names[:5])) + (", …" if len(names) > 5 else "")


def _counts(endings: Counter, at_most: int | None = None) -> str:
    return ", ".join(f"{n} × {ending or 'no ending'}" for ending, n in endings.most_common(at_most))


def _places(paths: list[Path], root: Path) -> str:
    """The folders that hold `paths`, as seen from `root`, for a message."""
    return some(sorted(folder.relative_to(root).as_posix() for folder in {path.parent for path in paths}))


def _hint(images: list[Path], root: Path) -> str:
    """The end of a sentence that names the one folder below `root` that looks like a data set of its own."""
    homes = {tuple(takewhile(lambda part: not PLACE.fullmatch(part), folder.relative_to(root).parts))
             for folder in {path.parent for path in images}}
    home = homes.pop() if len(homes) == 1 else ()
    return f". Did you mean --data-root {name_of(root.joinpath(*home))}?" if home else ""


def evenly(items: Sequence, at_most: int) -> list:
    """Up to `at_most` of the items, evenly spaced, in their order; 0 takes all."""
    n = min(at_most or len(items), len(items))
    return [items[i * len(items) // n] for i in range(n)]
