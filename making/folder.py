"""The folder of pairs that prepare.py makes: whose it is, what is whole in it, and how a pair gets there."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from tyro.conf import Positional, arg

from pairs.images import ending, normalise, read_picture, to_tensor
from pairs.layouts import SPLITS
from pairs.picture import Picture, over_white, to_unit
from runtime.console import say
from runtime.devices import usable_cores
from runtime.files import TEMPORARY, atomic, remove_leftovers, taking_turns
from runtime.grids import save_grid
from runtime.threads import attempt, ordered, sound
from utils import UserError, name_of

NOTE = "prepare.json"  # in the folder: the command and the settings that its pairs were made with
ROWS = 6  # of a preview
There = dict[tuple[str, str], float]  # split and name of each pair that is whole already: when it was made, nanoseconds
Out = Positional[Annotated[Path, arg(metavar="OUT")]]
Side = Path | bytes  # a file that is there already and becomes a link, or what a new one holds


@dataclass(frozen=True)
class Made:
    """A pair that is ready to be written. Without `a`, `b` is an image that has no partner yet."""

    split: str
    a: Side | None
    b: Side


@dataclass(frozen=True)
class Job:
    """A pair to make. `make` returns None where there is nothing to be had, and raises DataError or OSError."""

    name: str  # with folders, without ending
    make: Callable[[], Made | None]
    split: str = ""  # where it is known beforehand
    sources: tuple[Path, ...] = ()  # files that it is made of, if it does not depend on all inputs


class Source(Protocol):
    """What pairs are made from: one command of prepare.py, and its settings."""

    threads: int  # that its jobs may run in
    out: Path
    preview: bool

    @property
    def inputs(self) -> list[Path]: ...

    def jobs(self, there: There) -> Iterable[Job]:
        """All of them; a sequence, or something with a length, where it is known how many."""


def prepare(source: Source) -> int:
    """Makes the pairs that are not whole yet. Returns the exit status: 1 where some could not be made.

    Raises UserError where none could, or where the folder is somebody else's.
    """
    paths = vars(source).get("paths")
    if paths is not None and len(paths) < 2:
        raise UserError(f"{type(source).__name__.lower()} needs what to read and, last, the folder to make")
    val = vars(source).get("val", 0)
    if not 0 <= val < 1:
        raise UserError(f"val is the share of the pairs that is held out, from 0 to below 1; it is {val}")
    named = {}
    for path in source.inputs if paths else ():
        if (other := named.setdefault(path.resolve(), path)) is not path:
            raise UserError(f"{name_of(other)} and {name_of(path)} are one file: name it once")
    if source.preview:
        return preview(source)
    folder = Folder(source)
    counts = Counter(split for split, _ in folder.there)
    n_there = len(folder.there)
    failures = []
    jobs = source.jobs(folder.there)
    orphans = folder.orphans(jobs) if isinstance(jobs, Sequence) else []
    with tqdm(jobs, unit="pair", disable=None) as bar:
        to_do = (job for job in bar if not folder.holds(job))
        for job, made in results(to_do, source.threads, failures):
            folder.write(job.name, made)
            counts[made.split] += 1
    if not counts:
        raise nothing_made(failures)
    told = ", ".join(f"{n} in {split}" for split, n in sorted(counts.items()))
    say(f"{name_of(source.out)}: {told}" + f"; {n_there} of them were there already" * bool(n_there))
    if failures:
        say(f"not used: {len(failures)}, such as: {failures[0]}")
    if folder.older:
        say(f"pairs that are older than what they were made from: {len(folder.older)}, such as {folder.older[0]}: they "
            "stay, but where you delete both sides, the same command makes them anew")
    if orphans:
        say(f"pairs whose sources are gone or have other names: {len(orphans)}, such as {orphans[0]}: they stay, and "
            "are trained on or scored, until you delete both sides")
    if "train" in counts and not {"val", "test"} & {*counts}:
        too_few = getattr(source, "too_few", "") if val else ""
        say("there is none in val: training holds out a tenth of train" + too_few)
    return 1 if failures else 0


def results(jobs: Iterable[Job], n_threads: int, failures: list[str]) -> Iterator[tuple[Job, Made]]:
    """Each job that made a pair, and the pair; why others could not goes to `failures`."""
    n_threads = min(n_threads, usable_cores())
    make = attempt(lambda job: (job, job.make()))
    with ordered(make, jobs, n_threads, n_threads + 1) as done:
        for job, made in sound(done, failures):
            if made:
                yield job, made


def nothing_made(failures: Sequence[str]) -> UserError:
    if failures:
        return UserError(f"no pair could be made; {len(failures)} could not be read, such as: {failures[0]}")
    return UserError("no pair could be made: there is nothing that holds values on both sides")


def preview(source: Source) -> int:
    """Draws a sheet of some of the pairs, and leaves the folder alone."""
    jobs = source.jobs({})
    if isinstance(jobs, Sequence):
        jobs = jobs[:: max(1, len(jobs) // ROWS)]
    rows = []
    failures = []
    with contextlib.closing(results(jobs, source.threads, failures)) as found:
        for _, made in itertools.islice(found, ROWS):
            sides = [made.b] if made.a is None else [made.a, made.b]
            rows.append([shown(read_picture(side)) for side in sides])
    if not rows:
        raise nothing_made(failures)
    name = source.out.resolve().name
    path = Path(f"preview_{name}.png")
    save_grid(path, rows, ["A", "B"][-len(rows[0]) :], f"{len(rows)} pairs as they would be in {name}")
    say(f"preview: {path}; without --preview, the pairs are written to {name_of(source.out)}")
    return 0


def shown(picture: Picture) -> Tensor:
    """(C, H, W) in [-1, 1] on white, for a preview: classes as channels, 8 bits as they are, the rest stretched."""
    indices = picture.indices
    if indices is not None and indices.dtype == np.uint8 and 0 < indices.max() < 64:
        classes = np.arange(indices.max() + 1)[:, None, None]
        return torch.from_numpy(indices == classes).float()
    array = picture.array[..., :3]
    limits = None
    if picture.kind != "uint8":
        numbers = array if picture.valid is None else array[picture.valid]
        numbers = numbers[np.isfinite(numbers)]
        low, high = np.percentile(numbers if numbers.size else 0, [1, 99])
        limits = low, np.nextafter(high, np.inf)
    array = to_unit(replace(picture, array=np.nan_to_num(array)), limits)
    return normalise(to_tensor(array if picture.alpha is None else over_white(array, picture.alpha)))


class Folder:
    """The folder that is written to. Nothing is created before the first pair is ready.

    Raises UserError where the folder, or a file of that name, is not of
    this command with these settings, or where it and an input lie in one another.
    """

    def __init__(self, source: Source):
        self.root = source.out
        self.settings = settings_of(source)
        self.files = [path for path in source.inputs if path.is_file()]
        target = self.root.resolve()
        for path in source.inputs:
            real = path.resolve()
            if target.is_relative_to(real) or real.is_relative_to(target):
                raise UserError(f"{name_of(self.root)}, which the pairs would go to, and the input {name_of(path)} lie "
                                "in one another: take a folder outside it")
        remove_leftovers(self.root)
        self.begun = self._begun()
        self.there = self._whole() if self.begun else {}
        self.older = []  # of these, the names of those whose sources have changed since

    def _begun(self) -> bool:
        if not self.root.exists():
            return False
        if not self.root.is_dir():
            raise UserError(f"{name_of(self.root)} is a file; the pairs need a folder")
        others = next((path for path in self.root.iterdir() if not path.match(TEMPORARY)), None)  # of commands at work
        note = self.root / NOTE
        if not note.is_file():
            if others:
                raise UserError(f"{name_of(self.root)} holds files that prepare.py has not made, such as "
                                f"{name_of(others.name)}: take a new folder")
            return False
        try:
            settings = json.loads(note.read_text(encoding="utf-8"))
            now = self.settings["modified"]
            times = settings.pop("modified", now)  # of which older versions kept no note
            changed = {name for name in {*settings, *self.settings} if settings.get(name) != self.settings.get(name)}
            changed.discard("modified")
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{name_of(note)} is damaged ({error}): take a new folder") from error
        if "rules" in changed and changed.isdisjoint(("command", "inputs", "bytes")):
            raise UserError(f"{name_of(self.root)} was begun by another version of this program, which makes other "
                            "pairs or holds out others: take a new folder")
        if changed:
            name = min(changed, key=[*self.settings, *settings].index)
            raise UserError(f"{name_of(self.root)} was begun with {name} {settings.get(name)}, which is now "
                            f"{self.settings.get(name)}: take a new folder, or what it was begun with")
        if times != now:
            file = next(path for path, old, new in zip(self.files, times, now, strict=False) if old != new)
            say(f"{name_of(file)} has changed since {name_of(self.root)} was begun: pairs that are there stay as they "
                "are; if it holds something else now, take a new folder")
        return True

    def _whole(self) -> There:
        """A file that a crash of the machine left empty is none, and a link to a source is as new as that."""
        sides = defaultdict(dict)
        for split in SPLITS:
            for place, _, names in os.walk(self.root / split):
                remove_leftovers(Path(place))
                for file in (Path(place, name) for name in names if not name.startswith(".")):
                    try:
                        told = file.stat()
                    except FileNotFoundError:  # another command is making it anew
                        continue
                    if told.st_size:
                        name = file.relative_to(self.root / split).with_suffix("").as_posix()
                        side = name[:2] if name.startswith(("A/", "B/")) else ""
                        linked = told.st_nlink > 1
                        sides[split, name.removeprefix(side)][side] = math.inf if linked else told.st_mtime_ns
        return {pair: min(found.values()) for pair, found in sides.items() if {*found} in ({""}, {"A/", "B/"})}

    def orphans(self, jobs: Sequence[Job]) -> list[str]:
        """Pairs that are there and that none of the jobs would make.

        Raises UserError where another split has new ones, which may be the same, under whatever name: both would be
        there then, one to train on and one to score.
        """
        made = {(split, job.name) for job in jobs for split in ([job.split] if job.split else SPLITS)}
        new = {job.split for job in jobs if job.split and (job.split, job.name) not in self.there}
        left = [(split, f"{split}/{name}") for split, name in self.there if (split, name) not in made]
        if moved := [pair for split, pair in left if new - {split}]:
            raise UserError(f"pairs in {name_of(self.root)} whose sources are gone or moved, while another split has "
                            f"new ones, which may be the same: {len(moved)}, such as {moved[0]}: take a new folder, or "
                            "delete both sides of these pairs")
        return [pair for _, pair in left]

    def holds(self, job: Job) -> bool:
        """Whether the pair is whole already. Where a file that it was made from is newer, it is noted in `older`."""
        places = [(split, job.name) for split in ([job.split] if job.split else SPLITS)]
        times = [self.there[place] for place in places if place in self.there]
        now = time.time_ns()  # a camera's clock may be ahead
        if times and any(min(times) < path.stat().st_mtime_ns <= now for path in job.sources if path.is_file()):
            self.older.append(job.name)
        return bool(times)

    def write(self, name: str, made: Made) -> None:
        """Raises OSError, and UserError where another command has begun the folder meanwhile."""
        if not self.begun:
            self.root.mkdir(parents=True, exist_ok=True)
            with taking_turns(self.root):
                if not self._begun():  # by another process, since
                    with atomic(self.root / NOTE) as file:
                        file.write(json.dumps(self.settings, indent=1).encode())
            self.begun = True
        home = self.root / made.split
        if made.a is None:
            put(made.b, home / name)
        else:
            put(made.a, home / "A" / name)
            put(made.b, home / "B" / name)


def names_are_places(root: Path) -> bool:
    """Whether prepare.py has called the pairs in there after places on a map or rows of a table."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return json.loads((root / NOTE).read_text(encoding="utf-8"))["command"] in ("tiles", "parquet")
    return False


def put(side: Side, path: Path) -> None:
    """Writes one file, or links it, under its own ending, in place of one that an unfinished pair has left there."""
    path = path.with_name(path.name + (side.suffix if isinstance(side, Path) else ending(side)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(side, bytes):
        with atomic(path, durable=False) as file:
            file.write(side)
        return
    path.unlink(missing_ok=True)
    try:
        os.link(side.resolve(), path)
    except OSError:  # another disk, another owner, or no links at all
        with side.open("rb") as old, atomic(path, durable=False) as new:
            shutil.copyfileobj(old, new, 2**20)


def settings_of(source: Source) -> dict:
    """What the pairs depend on, as JSON has it."""
    files = [path.stat() for path in source.inputs if path.is_file()]
    told = {"command": type(source).__name__.lower(), "inputs": [str(path.resolve()) for path in source.inputs],
            "bytes": [file.st_size for file in files],
            "modified": [str(np.datetime64(file.st_mtime_ns, "ns")) for file in files]}
    if rules := getattr(source, "rules", 0):
        told["rules"] = rules
    for field in fields(source):
        value = getattr(source, field.name)
        if field.name not in ("out", "preview", "paths") and value not in source.inputs:
            told[field.name] = [*value] if isinstance(value, tuple) else value
    return told


def share(content: bytes) -> float:
    """A number in [0, 1) drawn by the content: the same for what is equal."""
    return int(hashlib.blake2b(content, digest_size=6).hexdigest(), 16) / 2**48


def split_of(content: bytes, val: float) -> str:
    """By the content, so that copies under other names stay together."""
    return "val" if share(content) < val else "train"


class Blocks:
    """The splits of the blocks of a map or a film: val are as many of a hundred as asked for, evenly spread.

    count: how many there may be. Of two or more, at least one is val, also where up to a third of them stay empty.
    """

    def __init__(self, val: float, count: int):
        self.val = 0.75 / count if val and count > 1 and val * count < 0.5 else val
        self.splits = {}  # those that are there already may be put in first

    def split(self, block) -> str:
        if block not in self.splits:
            n = len(self.splits)
            before, after = (int(blocks * self.val + 0.5) for blocks in (n, n + 1))
            self.splits[block] = "val" if after > before else "train"
        return self.splits[block]


def check_names(named: Iterable[tuple[str, str, Path]]) -> None:
    """Raises UserError where two of the (split or "", name, file) could become pairs of one name."""
    taken = {}
    for split, name, path in named:
        for place in [split] if split else SPLITS:
            if (other := taken.setdefault((place, name), path)) is not path:
                raise UserError(f"{name_of(other)} and {name_of(path)} would become one pair, {name}: rename one")
