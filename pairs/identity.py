"""What tells a pair from every other, wherever it lies, and what a run knows of the pairs that it has met.

A pair has two marks, numbers below 2**63. The first is of what its sides hold: files count whole up to WHOLE, larger
ones by their size and evenly spaced pieces; a mask says nothing of which pair it is. The second is of its name: without
its place in a layout where no other pair shares that name, else as seen from the data's folder; an array has none of
its own, as its number changes with what is put in front.

What a pair holds decides wherever that is known, so that no other root, order or layout moves it. Its name decides only
for what was never met: a file that was replaced, or written anew, stays on the side where its name has been. A pair
that a run knows from both sides, because the user's own folders hold it twice, stays where it lies.
"""

import filecmp
import hashlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pairs.layouts import short_name
from runtime.threads import ordered

WHOLE = 4 * 2**20  # bytes of a file that are read whole; all pieces of a larger one together are as many
PIECES = 64
PART = 32  # pairs that a thread looks at before it asks whether to go on
SLOW = 5e-4  # seconds a pair, from where on several threads look
NOBODY = -1  # the mark that no pair has

Source = Path | np.ndarray  # a file, or an array of numbers, (H, W) or (H, W, C)


@dataclass(frozen=True, slots=True)
class Pair:
    """Where one pair comes from."""

    inputs: tuple[Source, ...]  # the sources of A; or one file that holds both sides, A on the left
    target: Source | None = None  # the source of B; None where the input holds both sides
    mask: Source | None = None
    name: str = ""  # of the first file, as seen from the data's folder, without its ending; of an array, its number

    @property
    def side_by_side(self) -> bool:
        return self.target is None

    @property
    def alone(self) -> bool:
        """Whether it is one photo, input and target both: its L and its ab."""
        return self.target is self.inputs[0]

    @property
    def sides(self) -> list[Source]:
        """The inputs and the target."""
        return [*self.inputs, *([] if self.side_by_side or self.alone else [self.target])]

    @property
    def files(self) -> list[Source]:
        """All of its sources: the inputs, the target, the mask."""
        return [*self.sides, *([] if self.mask is None else [self.mask])]


def partners(sides: Sequence[Mapping[Hashable, Path]]) -> tuple[dict[Hashable, list[Path]], list[Path]]:
    """The files of all sides that have one key, by that key; and those that lack a partner on some side."""
    common = set.intersection(*map(set, sides))
    alone = [path for side in sides for key, path in side.items() if key not in common]
    return {key: [side[key] for side in sides] for key in sides[0] if key in common}, alone


def digest(data: bytes) -> int:
    """A number below 2**63 that depends on the bytes alone, on every machine."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little") >> 1


def same_content(one: Pair, other: Pair) -> bool:
    """Whether the sides of both, which have equal marks, hold the same, to the byte. Raises OSError."""
    return all(map(_same, one.sides, other.sides))


def _same(one: Source, other: Source) -> bool:
    if isinstance(one, Path):
        return filecmp.cmp(one, other, shallow=False)
    return np.array_equal(one, other)


def name_mark(name: str) -> int:
    return digest(name.encode(errors="surrogateescape"))


def own_names(pairs: Iterable[Pair]) -> dict[str, str]:
    """What each pair's name is without its place, unless two of these pairs would then share one: then its name."""
    short = {pair.name: short_name(pair.name) for pair in pairs}
    counts = Counter(short.values())
    return {name: own if counts[own] == 1 else name for name, own in short.items()}


def marks(pairs: Sequence[Pair], own: dict[str, str] | None = None) -> np.ndarray:
    """(N, 2) of int64: the marks of the pairs. A file that cannot be read has those of its name.

    own: what `own_names` says of all pairs that the data holds; None where these are all.
    """
    own = own_names(pairs) if own is None else own
    starts = range(0, len(pairs), PART)

    def part(start: int) -> list[tuple[int, int]]:
        return [_marks(pair, own) for pair in pairs[start : start + PART]]

    begin = time.perf_counter()
    first = part(0)
    # A slow disk or network answers many questions at once; where files are at hand, a second thread only hinders
    slow = time.perf_counter() - begin > SLOW * len(first)
    with ordered(part, starts, 16 if slow else 1, ahead=32) as parts:
        parts = tqdm(parts, "looking at the pairs", len(starts), delay=3, leave=False, disable=None)
        return np.array([*itertools.chain(*parts)], np.int64).reshape(-1, 2)


def _marks(pair: Pair, own: dict[str, str]) -> tuple[int, int]:
    name = name_mark(own[pair.name])
    try:
        content = digest(b"".join(map(_sample, pair.sides)))
    except OSError:  # told by whoever needs the pair
        content = name
    return content, content if isinstance(pair.inputs[0], np.ndarray) else name


def _sample(source: Source) -> bytes:
    if isinstance(source, np.ndarray):
        return f"{source.dtype.str} {source.shape}".encode() + hashlib.sha256(np.ascontiguousarray(source)).digest()
    with source.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= WHOLE:
            return hashlib.sha256(file.read(size)).digest()
        found = hashlib.sha256(b"%d" % size)
        piece = WHOLE // PIECES
        for i in range(PIECES):
            file.seek(i * (size - piece) // (PIECES - 1))
            found.update(file.read(piece))
        return found.digest()


def _no_marks() -> np.ndarray:
    return np.zeros((0, 2), np.int64)


@dataclass(frozen=True, eq=False)
class Known:
    """The marks of the pairs that a run has met, (N, 2) each: what its file tells."""

    train: np.ndarray = field(default_factory=_no_marks)  # as they were trained on last, in their order
    val: np.ndarray = field(default_factory=_no_marks)
    trained_before: np.ndarray = field(default_factory=_no_marks)  # in sessions before, and gone since
    held_before: np.ndarray = field(default_factory=_no_marks)

    @classmethod
    def of(cls, saved: dict) -> "Known | None":
        """What a checkpoint or a generator's file tells; None where it tells nothing of pairs."""
        pairs = saved.get("pairs")
        return cls(**{name: _rows(value) for name, value in pairs.items()}) if isinstance(pairs, dict) else None

    @property
    def trained(self) -> np.ndarray:
        return np.concatenate([self.train, self.trained_before])

    @property
    def held(self) -> np.ndarray:
        return np.concatenate([self.val, self.held_before])

    @property
    def met(self) -> np.ndarray:
        return np.concatenate([self.trained, self.held])

    def sides(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the pairs with these marks: which were trained on, and which were held out; (N,) of bool each."""
        sides = self.trained, self.held
        content, name = np.array([[np.isin(found[:, i], side[:, i]) for side in sides] for i in range(2)])
        trained, held = content | ~content.any(axis=0) & name
        return trained & ~held, held & ~trained

    def next(self, train: np.ndarray, val: np.ndarray) -> "Known":
        """What the run knows once it has gone on with these pairs."""
        seen = np.concatenate([train[:, 0], val[:, 0]])
        return Known(train, val, *(side[~np.isin(side[:, 0], seen)] for side in (self.trained, self.held)))

    def plain(self) -> dict[str, Tensor]:
        """What `of` takes back."""
        return {name: torch.tensor(rows) for name, rows in vars(self).items()}


def _rows(marks: Tensor) -> np.ndarray:
    rows = np.asarray(marks, np.int64)
    return rows if rows.ndim == 2 else np.stack([rows, np.full_like(rows, NOBODY)], axis=1)


def unmet(known: np.ndarray, found: np.ndarray) -> int:
    """How many of the pairs with marks `known` are found neither by what they hold nor by their names."""
    gone = ~(np.isin(known[:, 0], found[:, 0]) | np.isin(known[:, 1], found[:, 1]))
    return len(np.unique(known[gone, 0]))


def changes(now: np.ndarray, then: np.ndarray) -> str:
    """How one set of marks differs from the other: "2 replaced, 3 added, 1 gone"; empty where it does not."""
    new, old = (Counter(rows[:, 0].tolist()) for rows in (now, then))
    added, gone = new - old, old - new
    names, former = (Counter(rows[np.isin(rows[:, 0], [*some]), 1].tolist())
                     for rows, some in ((now, added), (then, gone)))
    replaced = min((names & former).total(), added.total(), gone.total())
    counts = {"replaced": replaced, "added": added.total() - replaced, "gone": gone.total() - replaced}
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)
