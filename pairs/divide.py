"""Decides which pairs are trained on and which are held out, also when a run goes on with data that has changed."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np

from pairs.identity import Known, Pair, digest, marks, own_names, same_content, unmet
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

    def seen_by(self, known: Known, split: str) -> np.ndarray:
        """The marks of the pairs of the split, (N, 2), of the kind that `known` knows."""
        return known.look(self.splits[split], self.marks[split])

    def known_to(self, known: Known | None, split: str) -> bool:
        """Whether any pair of the split was met before; a name that now holds something else tells nothing."""
        if known is None:
            return False
        met = np.concatenate([known.trained, known.held])[:, 0]
        return bool(np.isin(self.seen_by(known, split)[:, 0], met).any())

    def keep(self, split: str, wanted: np.ndarray) -> None:
        """Leaves only the `wanted`, (N,) of bool, in the split."""
        self.splits[split] = [*compress(self.splits[split], wanted)]
        self.marks[split] = self.marks[split][wanted]

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
    split = found.validation
    if resumed:
        _refuse_strangers(found, root, known)
    if found.splits.get(split):
        if group:
            _refuse_shared(found, split, group)
        _, held = known.sides(found.seen_by(known, "train"))
        trained, _ = known.sides(found.seen_by(known, split))
        if resumed and held.any():
            found.keep("train", ~held)
            found.notes.append(f"{held.sum():,} pairs in train were held out for validation before, and stay out of "
                               "training")
        if trained.any() and not resumed:
            found.notes.append(f"{trained.sum():,} of the {len(trained):,} pairs in {split} were trained on by "
                               f"{whose}: their scores say nothing of new images")
        elif trained.any():
            found.keep(split, ~trained)
            found.notes.append(f"{trained.sum():,} of the {len(trained):,} pairs in {split} have been trained on, and "
                               "are not validated on")
        for name in ("train", split):
            if not found.splits[name]:
                what = "held out before" if name == "train" else "trained on before"
                raise UserError(f"all pairs in {name} of {name_of(root)} were {what} by {whose}: put others there, or "
                                "begin a new run with another --out-dir")
        _tell_twins(found, split)
        return
    pairs, own = found.splits["train"], found.marks["train"]
    names = np.array(group_names(pairs, group), dtype=object) if group else None
    if len(pairs) < 2:
        raise UserError(f"{name_of(root)} holds one pair only: one more is needed for validation")
    seen = found.seen_by(known, "train")
    trained, held = known.sides(seen)
    why = "no val or test split"
    if held.any():
        how = ("were held out for validation before, and are again" if resumed else
               f"were held out by {whose}, and are again")
        gone = unmet(known.held, seen)
        how += f"; {gone:,} that were held out are gone" if gone > 0 else ""
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
        why = "none of the pairs that were held out before is recognised here" if len(known.held) else why
        how = f"are held out for validation (seed {seed})"
        if group:
            how += f", {len({*names[held]}):,} of {len({*names}):,} groups"
    if held.all():
        raise UserError(f"all {len(pairs)} pairs in {name_of(root)} are held out for validation: none is left to train")
    found.notes.append(f"{why}: {held.sum()} of the {len(pairs)} pairs {how}")
    if group and (shared := sorted({*names[held]} & {*names[~held]})):
        found.notes.append(f"{len(shared):,} of the groups held out are trained on too, such as {shared[0]!r}: "
                           "their scores say nothing of new groups")
    found.splits["val"], found.marks["val"] = pairs, own
    found.keep("train", ~held)
    found.keep("val", held)
    _tell_twins(found, "val")
    found.held_out = sorted(pair.name for pair in found.splits["val"])


def _refuse_strangers(found: Found, root: Path, known: Known) -> None:
    """Raises UserError where pairs to train on may be some that the run has held out, changed beyond recognition.

    Such is the case where held-out pairs are missing, as many in training are new to the run, and either all of those
    that it has held out are missing, or more than a tenth of those that it was trained on: then it is not a few that
    were taken away and a few that were added. What is new in a val or test folder makes up for what is missing.
    """
    seen = {split: found.seen_by(known, split) for split in found.splits}
    new = {split: unmet(own, np.concatenate([known.trained, known.held])) for split, own in seen.items()}
    everything = np.concatenate([*seen.values()])
    n, gone = len(np.unique(known.held[:, 0])), unmet(known.held, everything)
    missing = gone - sum(n for split, n in new.items() if split != "train")
    if missing <= 0 or new["train"] < missing:
        return
    if gone == n or 10 * unmet(known.train, everything) > len(known.train):
        which = f"none of the {n:,} pairs" if gone == n else f"{gone:,} of the {n:,} pairs"
        raise UserError(f"{which} that this run held out can{'' if gone == n else 'not'} be recognised in "
                        f"{name_of(root)}, and {new['train']:,} pairs in training are new to it, which may be the same "
                        "with other names and contents: put the data back as it was, move what was held out into "
                        "val/, or begin a new run with another --out-dir")


def group_names(pairs: list[Pair], group: str) -> list[str]:
    """What the regular expression finds in each pair's name, without its place in a layout: its first parentheses,
    or all of it without any. Raises UserError where a name does not match."""
    matches = [re.search(group, short_name(pair.name)) for pair in pairs]
    if strangers := [pair for pair, match in zip(pairs, matches, strict=True) if not match]:
        raise UserError(f"--group {group!r} finds nothing in {len(strangers):,} of {len(pairs):,} names, such as "
                        f"{short_name(strangers[0].name)!r}")
    return [(match[1] if match.re.groups else match[0]) or "" for match in matches]


def _refuse_shared(found: Found, split: str, group: str) -> None:
    train, val = ({*group_names(found.splits[name], group)} for name in ("train", split))
    if shared := sorted(train & val):
        raise UserError(f"{len(shared):,} of the {len(val):,} groups in {split} are in train too, such as "
                        f"{shared[0]!r}: move each to one side, or leave out --group {group!r}")


def shared_beginnings(found: Found, one: str, other: str) -> str:
    """A sentence where names in one split begin as names in the other do, as those of one patient would; else "".

    A beginning is a name without its last part, and holds a number: parts are told apart by -, _, / and spaces. Of
    fewer than three beginnings, or where hardly any is met twice, nobody can tell.
    """
    stems = {split: [re.sub(r"[-_/ ]+[^-_/ ]*$", "", short_name(pair.name)) for pair in found.splits[split]]
             for split in (one, other)}
    whole = {short_name(pair.name) for split in (one, other) for pair in found.splits[split]}
    counts = Counter(stem for split in stems.values() for stem in split if re.search(r"\d", stem))
    n = sum(counts.values())
    met = {*stems[one]} & counts.keys() - whole
    shared = [i for i, stem in enumerate(stems[other]) if stem in met]
    if len(counts) < 3 or n < 2 * len(counts) or not shared:
        return ""
    at = shared[0]
    names = [short_name(found.splits[other][at].name),
             short_name(found.splits[one][stems[one].index(stems[other][at])].name)]
    matched = all(re.search(GROUP, name) for name in whole)
    way_out = f"hold out whole ones, here by --group '{GROUP if matched else GROUP_OR_NAME}'"
    if found.held_out is None:  # training refuses a group that lies in two splits
        others = [split for split in found.splits if split not in (one, other)]
        way_out = "move all of each into one split" + f", or everything into {one} and {way_out}" * (not others)
    return (f"{len(shared):,} of the {len(stems[other]):,} names in {other} begin as names in {one} do, such as "
            f"{' and '.join(map(name_of, names))}: if these show one patient, slide, video or flight, {way_out}")


def _together(own: np.ndarray, names: np.ndarray | None) -> np.ndarray:
    """(N,), a number for all pairs that must share one fate: those that hold the same, and those of one group."""
    if names is None:
        return own[:, 0] if len({*own[:, 0].tolist()}) > 1 else np.arange(len(own))
    parent = {}

    def root(node: object) -> object:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for name, mark in zip(names, own[:, 0].tolist(), strict=True):
        parent[root(mark)] = root(name)
    numbers = {}
    return np.array([numbers.setdefault(root(name), len(numbers)) for name in names])


def _draw(pairs: list[Pair], own: np.ndarray, free: np.ndarray, seed: int, names: np.ndarray | None) -> np.ndarray:
    """Which of the `free` pairs are held out, (N,) of bool.

    Pairs that hold the same share one fate, that of the first of their names, unless all of them do; so do pairs of
    one group, whose `names`, (N,), are given. Raises UserError where all are one group.
    """
    groups = _together(own, names)
    if names is not None:
        if len({*groups.tolist()}) == 1:
            raise UserError(f"--group makes one group of all {len(pairs):,} pairs, such as {names[0]!r}: none can be "
                            "held out")
        apart = free & ~np.isin(groups, groups[~free])  # groups of which nothing was trained on
        free = apart if apart.any() else free
    first = {}
    for pair, group in zip(pairs, groups.tolist(), strict=True):
        first[group] = min(first.get(group, pair.name), pair.name)
    places = {group: digest(f"{seed}/{name}".encode(errors="surrogateescape")) for group, name in first.items()}
    allowed = {*groups[free].tolist()}
    chosen = {group for group in allowed if places[group] < 2**63 // 10}
    if not chosen or len(chosen) == len(first):
        chosen = {min(allowed, key=lambda group: (places[group], first[group]))}
    return np.isin(groups, [*chosen]) & free


def _tell_twins(found: Found, split: str) -> None:
    if twins := twin_names(found, "train", split):
        found.notes.append(f"{len(twins):,} of the {len(found.splits[split]):,} pairs in {split} hold the same as one "
                           f"in train, such as {twins[0]}: their scores say nothing of new images")


def twin_names(found: Found, one: str, other: str) -> list[str]:
    """The pairs in split `other` that hold the same as one in split `one`: marks tell which may, the files decide."""
    those, these = (found.marks[split][:, 0].tolist() for split in (one, other))
    wanted, alike = {*these}, defaultdict(list)
    for pair, mark in zip(found.splits[one], those, strict=True):
        if mark in wanted:
            alike[mark].append(pair)
    return [name_of(pair.files[0]) for pair, mark in zip(found.splits[other], these, strict=True)
            if any(same_content(pair, twin) for twin in alike.get(mark, ()))]
