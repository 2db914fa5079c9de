"""Finds the pairs in a folder, whichever way it is laid out, and reads them."""

import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import demo
import download
from distributed import started, wait_for
from images import SUFFIXES, read_image, read_size, to_array
from utils import DataError, UserError, name_of, say

SPLITS = {"train": ["train"], "val": ["val", "valid", "validation"], "test": ["test"]}

NPZ_BYTES = 16 * 2**30  # that an .npz may unpack to, since all of it is held in memory

# A side-by-side file (path,), files of A and B (path, path), or two arrays of uint8, each (H, W) or (H, W, C).
Pair = tuple


@dataclass
class Found:
    """What a folder holds: pairs by split (train, val, test), notes to print, and files without a partner."""

    splits: dict[str, list[Pair]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)


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


def find_pairs(root: Path, seed: int = 0) -> Found:
    """The pairs in `root`, in the order of their names. For each split the first of these that is there:

        train.npz                 two uint8 arrays, sources (A) and targets (B)
        train/A, train/B          or train_A, train_B; trainA, trainB; A/train, B/train: paired by name
        train                     side-by-side files, A on the left

    and without any split the same of A, B or `root` itself. Upper and lower case are one. Where there is neither val
    nor test, a tenth of the pairs, drawn by `seed`, becomes val.
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
        found.splits["train"] = _pair_folders(a, b, found) if a or b else _side_by_side(root)
    if not found.splits["train"] and not found.orphans:
        raise FileNotFoundError(_nothing_in(root))
    if not found.splits["val"] and not found.splits["test"] and not found.orphans:
        _hold_out(found, seed, root)
    found.splits = {split: pairs for split, pairs in found.splits.items() if pairs}
    return found


def usable_splits(root: Path, seed: int) -> dict[str, list[Pair]]:
    """The pairs by split, drawn or downloaded first where `obtain` can; prints what is held out.

    Raises what `find_pairs` raises, and ValueError when an image has no partner.
    """
    obtain(root)
    found = find_pairs(root, seed)
    for note in found.notes:
        say(note)
    if found.orphans:
        named = ", ".join(map(name_of, found.orphans[:5])) + (", …" if len(found.orphans) > 5 else "")
        raise UserError(f"images without a partner of the same name on the other side: {len(found.orphans)}: {named}")
    return found.splits


def evenly(items: Sequence, at_most: int) -> list:
    """Up to `at_most` of the items, evenly spaced, in their order; 0 takes all."""
    n = min(at_most or len(items), len(items))
    return [items[i * len(items) // n] for i in range(n)]


def _inside(folder: Path | None, name: str) -> Path | None:
    """The file or folder called `name`, in upper or lower case, inside `folder`."""
    if folder is None or not folder.is_dir():
        return None
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower()), None)


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
    return _side_by_side(folder) if folder else []


def _side_by_side(folder: Path) -> list[Pair]:
    """The files directly in `folder`. Images in sub-folders of unknown names are refused: one side, or both?"""
    pairs = [(path,) for path in list_images(folder, sub_folders=False)]
    if not pairs and (elsewhere := sorted({path.parent.name for path in list_images(folder)})):
        raise UserError(f"the images in {name_of(folder)} lie in its sub-folders {', '.join(elsewhere[:5])}; known "
                         "names are train, val and test, and A and B")
    return pairs


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
    sides = []
    for folder in (a, b):
        by_name = {}
        for path in list_images(folder) if folder else []:
            other = by_name.setdefault(path.relative_to(folder).with_suffix(""), path)
            if other is not path:
                raise UserError(f"{other} and {path} have the same name: which one is meant?")
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
            arrays = [file[name] for name in file.files]
    except Exception as error:  # damaged files make numpy raise nearly anything
        raise DataError(f"{path} cannot be read as an .npz of plain arrays ({error})") from error
    usable = [a.dtype == np.uint8 and a.ndim in (3, 4) and a.shape[3:] in ((), (1,), (3,), (4,)) for a in arrays]
    if usable != [True, True] or arrays[0].shape[:3] != arrays[1].shape[:3]:
        raise DataError(f"{path} must hold two uint8 arrays, sources and targets, of one shape (N, H, W) or "
                        f"(N, H, W, C); it holds {[(a.dtype.name, *a.shape) for a in arrays]}")
    if not len(arrays[0]):
        raise DataError(f"{path} holds no pairs")
    return list(zip(*arrays, strict=True))


def _hold_out(found: Found, seed: int, root: Path) -> None:
    pairs = found.splits["train"]
    if len(pairs) < 2:
        raise UserError(f"{name_of(root)} holds one pair only: one more is needed for validation")
    order = np.random.default_rng(seed).permutation(len(pairs))
    held_out = set(order[: max(1, len(pairs) // 10)].tolist())
    found.splits["val"] = [pair for i, pair in enumerate(pairs) if i in held_out]
    found.splits["train"] = [pair for i, pair in enumerate(pairs) if i not in held_out]
    found.notes.append(f"no val or test split: {len(held_out)} of the {len(pairs)} pairs are held out for validation "
                       f"(seed {seed})")


def _nothing_in(root: Path) -> str:
    endings = Counter(path.suffix.lower() or "no ending" for path in root.rglob("*") if path.is_file())
    held = ", ".join(f"{n} × {ending}" for ending, n in endings.most_common(5)) or "nothing"
    return (f"0 training images in {root}, which holds {held}. Wanted: {', '.join(sorted(SUFFIXES))} in train/, in "
            "train/A and train/B, or in the folder itself")


def check_sizes(pair: Pair, sizes: list[tuple[int, int]]) -> None:
    """Raises DataError when a side-by-side file has an odd width, or when A and B differ in size."""
    if len(pair) == 1 and sizes[0][0] % 2:
        raise DataError(f"{name_of(pair[0])} is {sizes[0][0]}×{sizes[0][1]}: an odd width has no middle to split it at")
    if sizes[0] != sizes[-1]:
        raise DataError(f"{name_of(pair[0])} is {sizes[0][0]}×{sizes[0][1]}, but {name_of(pair[1])} is "
                        f"{sizes[1][0]}×{sizes[1][1]}: a pair must be of one size")


def read_pair(pair: Pair, channels_a: int, channels_b: int, side: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A and B as `to_array` returns them; A is the left half of a file. Raises DataError.

    Both are of one height and width, but for the JPEGs that, with `side`, are decoded at 1/2, 1/4 or 1/8 of their
    size where that leaves both axes at least `side` pixels: several times faster than reducing them afterwards.
    """
    sizes = [read_size(source) for source in pair]
    check_sizes(pair, sizes)
    width, height = sizes[0][0] * len(pair) // 2, sizes[0][1]  # of a half, when one file holds both
    reduce = next((f for f in (8, 4, 2) if side and min(width, height) >= f * side and width % f == height % f == 0), 1)
    images = [read_image(source, reduce) for source in pair]
    if len(images) == 1:
        width, height = images[0].size
        images = [images[0].crop((0, 0, width // 2, height)), images[0].crop((width // 2, 0, width, height))]
    return to_array(images[0], channels_a, name_of(pair[0])), to_array(images[1], channels_b, name_of(pair[-1]))


def check_headers(pairs: list[Pair], at_most: int = 2000, skip: bool = False) -> str:
    """Reads the headers of up to `at_most` pairs, evenly spaced, and returns their sizes for a message.

    Raises DataError for the first pair that cannot be used; with `skip`, only when none can be.
    """
    sizes = Counter()
    for i in np.unique(np.linspace(0, len(pairs) - 1, min(at_most, len(pairs))).astype(int)):
        try:
            found = [read_size(source) for source in pairs[i]]
            check_sizes(pairs[i], found)
            sizes[found[0]] += 1
        except DataError as error:
            if not skip:
                raise
            problem = error
    if not sizes:
        raise DataError(f"none of the pairs can be read: {problem}")
    (width, height), _ = sizes.most_common(1)[0]
    layout = "side by side" if len(pairs[0]) == 1 else "each side"
    return f"{width}×{height} {layout}" + (f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else "")
