"""Decides which pairs are trained on and which are held out, also when a run goes on with data that has changed."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np

from pairs.identity import Known, Pair, marks, name_mark, own_names, same_content, unmet
from pairs.layouts import short_name
from utils import UserError, name_of

GROUP = "(.+)[-_/ ]"  # a name without its last part
GROUP_OR_NAME = ".+(?=[-_/ ])|.+"  # the same, also of names that have one part only


@dataclass
class Found:
    """What a folder holds: pairs by split (train, val, test), notes to print, and what makes a split unusable.

    orphans: by split, the files without a partner. problems: by split, the error that says why it has no pairs. meant:
    what may be told where no file has a partner.
    held_out: the names of the pairs that were held out from training for want of a val or test split; None where there
    is one. marks: those of the pairs of each split, (N, 2), once somebody has asked for them.
    """

    splits: dict[str, list[Pair]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    orphans: dict[str, list[Path]] = field(default_factory=dict)
    problems: dict[str, UserError] = field(default_factory=dict)
    meant: str = ""
    held_out: list[str] | None = None
    marks: dict[str, np.ndarray] = field(default_factory=dict)

    def leave_out(self, files: Sequence[Path | str], why: str) -> None:
        """Notes that these images are not used, if there are any."""
        if files:
            n = len(files)
            self.notes.append(f"not used: {n:,} image{'s' * (n > 1)} {why}, such as {name_of(files[0])}")

    def mark(self) -> None:
        """Looks at all pairs, once."""
        own = own_names(pair for pairs in self.splits.values() for pair in pairs)
        self.marks = {split: marks(pairs, own) for split, pairs in self.splits.items()}

    def known_to(self, known: Known | None, split: str) -> bool:
        """Whether any pair of the split was met before; a name that now holds something else tells nothing."""
        return known is not None and bool(np.isin(self.marks[split][:, 0], known.met[:, 0]).any())

    def keep(self, split: str, wanted: np.ndarray) -> None:
        """Leaves only the `wanted`, (N,) of bool, in the split."""
        self.splits[split] = [*compress(self.splits[split], wanted)]
        self.marks[split] = self.marks[split][wanted]

    def take_out(self, split: str, met: np.ndarray, why: str, root: Path) -> None:
        """Leaves out what a run has `met`, (N,) of bool, on the other side. Raises UserError where nothing is left."""
        if met.all():
            raise UserError(f"all pairs in {split} of {name_of(root)} {why}: put others there, or begin a new run with "
                            "another --out-dir")
        if met.any():
            self.keep(split, ~met)
            self.notes.append(f"{met.sum():,} of the {len(met):,} pairs in {split} {why}")

    @property
    def validation(self) -> str:
        """The split that validation takes."""
        return "val" if "val" in {*self.splits, *self.orphans, *self.problems} else "test"


def divide(found: Found, root: Path, seed: int, known: Known | None = None, resumed: bool = True,
           group: str = "") -> None:
    """Sees to it that there are validation pairs, and that no pair which a run knows changes its side.

    Without a val or test split, the pairs that `known` has held out become val; if none of them is there, about a tenth
    of those that it was not trained on, drawn by `seed` and name, so that one pair more or less moves no other; pairs
    that hold the same stay together, and so do those of one `group` (`group_names`). With a split, what `known` has
    held out stays out of training, and what it was trained on is not validated on: a resumed run obeys, to the end of
    its life, while one that has begun with the weights of another (not `resumed`) may divide its data anew, and is told
    what that means.
    Raises UserError where nothing is left to train or to validate on, and where a resumed run may have held out some
    of the pairs that would be new to it.
    """
    found.mark()
    if known is None:
        known, resumed = Known(), False
    whose = "this run" if resumed else "the network that this run begins with"
    if resumed:
        _refuse_strangers(found, root, known)
    split = found.validation
    if split in found.splits:
        _, held = known.sides(found.marks["train"])
        trained, _ = known.sides(found.marks[split])
        if resumed:
            found.take_out("train", held, "were held out for validation before, and stay out of training", root)
            found.take_out(split, trained, "have been trained on, and are not validated on", root)
        elif trained.any():
            found.notes.append(f"{trained.sum():,} of the {len(trained):,} pairs in {split} were trained on by "
                               f"{whose}: their scores say nothing of new images")
    else:
        split = "val"
        _hold_out(found, root, seed, known, resumed, group, whose)
    if group:
        train, val = ({*group_names(found.splits[name], group)} for name in ("train", split))
        if shared := sorted(train & val):
            told = f"{len(shared):,} of the {len(val):,} groups in {split} are in train too, such as {shared[0]!r}"
            if found.held_out is None:
                raise UserError(f"{told}: move each to one side, or leave out --group {group!r}")
            found.notes.append(f"{told}: their scores say nothing of new groups")
    if twins := twin_names(found, "train", split):
        found.notes.append(f"{len(twins):,} of the {len(found.splits[split]):,} pairs in {split} hold the same as one "
                           f"in train, such as {twins[0]}: their scores say nothing of new images")


def _hold_out(found: Found, root: Path, seed: int, known: Known, resumed: bool, group: str, whose: str) -> None:
    """Moves some pairs from train to val: those that `known` has held out, or else a tenth."""
    pairs, own = found.splits["train"], found.marks["train"]
    if len(pairs) < 2:
        raise UserError(f"{name_of(root)} holds one pair only: one more is needed for validation")
    names = np.array(group_names(pairs, group), dtype=object) if group else None
    trained, held = known.sides(own)
    why = "no val or test split"
    if held.any():
        how = f"were held out by {whose}, and are again"
        if gone := unmet(known.held, own):
            how += f"; {gone:,} that were held out are gone"
        if group and (more := ~(trained | held) & np.isin(names, [*{*names[held]}])).any():
            held |= more
            how += f"; {more.sum():,} of them are new and of the same groups"
    else:
        free = ~trained
        if not free.any():
            if resumed:
                raise UserError(f"none of the pairs that were held out before is in {name_of(root)}, and this run was "
                                f"trained on all {len(pairs):,} that are: put them back, put new ones into val, or "
                                "begin a new run with another --out-dir")
            found.notes.append(f"{whose} was trained on all {len(pairs):,} pairs: scores of those that are held out "
                               "now say nothing of new images")
            free[:] = True
        held = _draw(pairs, own, free, seed, names)
        if len(known.held):
            why = "none of the pairs that were held out before is recognised here"
        how = f"are held out for validation (seed {seed})"
        if group:
            how += f", {len({*names[held]}):,} of {len({*names}):,} groups"
    if held.all():
        raise UserError(f"all {len(pairs)} pairs in {name_of(root)} are held out for validation: none is left to train")
    found.notes.append(f"{why}: {held.sum()} of the {len(pairs)} pairs {how}")
    found.splits["val"], found.marks["val"] = pairs, own
    found.keep("train", ~held)
    found.keep("val", held)
    found.held_out = sorted(pair.name for pair in found.splits["val"])


def _refuse_strangers(found: Found, root: Path, known: Known) -> None:
    """Raises UserError where pairs to train on may be some that the run has held out, changed beyond recognition.

    Such is the case where held-out pairs are missing, as many in training are new to the run, and either all of those
    that it has held out are missing, or more than a tenth of those that it was trained on: then it is not a few that
    were taken away and a few that were added. What is new in a val or test folder makes up for what is missing.
    """
    new = {split: unmet(own, known.met) for split, own in found.marks.items()}
    everything = np.concatenate([*found.marks.values()])
    n, gone = len(np.unique(known.held[:, 0])), unmet(known.held, everything)
    missing = gone - sum(n for split, n in new.items() if split != "train")
    if missing <= 0 or new["train"] < missing:
        return
    if gone == n or 10 * unmet(known.train, everything) > len(known.train):
        raise UserError(f"{gone:,} of the {n:,} pairs that this run held out cannot be recognised in {name_of(root)}, "
                        f"and {new['train']:,} pairs in training are new to it, which may be the same with other names "
                        "and contents: put the data back as it was, move what was held out into val/, or begin a new "
                        "run with another --out-dir")


def group_names(pairs: list[Pair], group: str) -> list[str]:
    """What the regular expression finds in each pair's name, without its place in a layout: its first parentheses,
    or all of it without any. Raises UserError where a name does not match."""
    matches = [re.search(group, short_name(pair.name)) for pair in pairs]
    if strangers := [pair for pair, match in zip(pairs, matches, strict=True) if not match]:
        raise UserError(f"--group {group!r} finds nothing in {len(strangers):,} of {len(pairs):,} names, such as "
                        f"{short_name(strangers[0].name)!r}")
    return [(match[1] if match.re.groups else match[0]) or "" for match in matches]


def shared_beginnings(found: Found, one: str, other: str) -> str:
    """A sentence where names in one split begin as names in the other do, as those of one patient would; else "".

    A beginning is a name without its last part, and holds a number: parts are told apart by -, _, / and spaces. Of
    fewer than three beginnings, or where hardly any is met twice, nobody can tell.
    """
    ones, others = ([short_name(pair.name) for pair in found.splits[split]] for split in (one, other))
    whole = {*ones, *others}
    begin = {name: re.sub(r"[-_/ ]+[^-_/ ]*$", "", name) for name in whole}
    counts = Counter(begin[name] for name in ones + others if re.search(r"\d", begin[name]))
    firsts = {begin[name]: name for name in reversed(ones)}
    met = firsts.keys() & counts.keys() - whole
    shared = [name for name in others if begin[name] in met]
    if len(counts) < 3 or counts.total() < 2 * len(counts) or not shared:
        return ""
    matched = all(re.search(GROUP, name) for name in whole)
    way_out = f"hold out whole ones, here by --group '{GROUP if matched else GROUP_OR_NAME}'"
    if found.held_out is None:  # training refuses a group that lies in two splits
        alone = len(found.splits) == 2
        way_out = "move all of each into one split" + f", or everything into {one} and {way_out}" * alone
    return (f"{len(shared):,} of the {len(others):,} names in {other} begin as names in {one} do, such as "
            f"{name_of(shared[0])} and {name_of(firsts[begin[shared[0]]])}: if these show one patient, slide, video or "
            f"flight, {way_out}")


def _together(*kinds: np.ndarray) -> np.ndarray:
    """(N,), one number for all pairs that must share one fate: those of which one of the kinds, (N,), is the same."""
    kinds = [np.unique(kind, return_inverse=True)[1] for kind in kinds]
    found, before = np.arange(len(kinds[0])), None
    while not np.array_equal(found, before):
        before = found
        for kind in kinds:
            least = np.full(len(found), len(found))
            np.minimum.at(least, kind, found)
            found = least[kind]
    return found


def _draw(pairs: list[Pair], own: np.ndarray, free: np.ndarray, seed: int, names: np.ndarray | None) -> np.ndarray:
    """Which of the `free` pairs are held out, (N,) of bool.

    Pairs that hold the same share one fate, that of the first of their names, unless all of them do; so do pairs of
    one group, whose `names`, (N,), are given. Raises UserError where all are one group.
    """
    groups = own[:, 0] if names is None else _together(own[:, 0], names)
    if len({*groups.tolist()}) == 1:
        if names is not None:
            raise UserError(f"--group makes one group of all {len(pairs):,} pairs, such as {names[0]!r}: none can be "
                            "held out")
        groups = np.arange(len(pairs))
    apart = free & ~np.isin(groups, groups[~free])  # groups of which nothing was trained on
    free = apart if apart.any() else free
    first = {}
    for pair, group in zip(pairs, groups.tolist(), strict=True):
        first[group] = min(first.get(group, pair.name), pair.name)
    places = {group: name_mark(f"{seed}/{name}") for group, name in first.items()}
    allowed = {*groups[free].tolist()}
    chosen = {group for group in allowed if places[group] < 2**63 // 10}
    if not chosen or len(chosen) == len(first):
        chosen = {min(allowed, key=places.get)}
    return np.isin(groups, [*chosen]) & free


def twin_names(found: Found, one: str, other: str) -> list[str]:
    """The pairs in split `other` that hold the same as one in split `one`: marks tell which may, the files decide."""
    those, these = (zip(found.splits[split], found.marks[split][:, 0].tolist(), strict=True) for split in (one, other))
    alike = defaultdict(list)
    for pair, mark in those:
        alike[mark].append(pair)
    return [name_of(pair.files[0]) for pair, mark in these
            if any(same_content(pair, twin) for twin in alike.get(mark, ()))]
