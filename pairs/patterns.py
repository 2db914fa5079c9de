"""Finds pairs by patterns such as {split}/input/{name}.png, where data lies in folders with names of its own."""

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from pairs.divide import Found
from pairs.identity import Pair, partners
from pairs.images import SUFFIXES, drawn_here
from pairs.layouts import ONE_SIDE, PLAIN, PROPOSED, SPLITS, TARGETS, WORDS
from utils import UserError, command_line, name_of

SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
SPLIT = "|".join(sorted(SPLIT_OF, key=len, reverse=True))
Key = tuple[str, str]  # split and name

GAP = "\0"  # in a pattern, where two sides have a word each
WORD = re.compile(r"(?<![^/])[^/]+(?=/)|(?<![^/])[A-Za-z]+(?=[-_ .][^/]*$)|(?<![^-_ ./])[A-Za-z]+$")  # that may be one
JOINED = "|".join([r"(?-i:[A-Z])[^/\d]*", "im", "imgs?", *ONE_SIDE])  # behind train: Masks, annot
SPLIT_IN = re.compile(rf"(?<![^\W\d_])({SPLIT})(?![^\W\d_]|[^/]*$)|(?<![^/])({SPLIT})(?=({JOINED})/)", re.IGNORECASE)
AROUND = re.compile(rf".+(?=[-_ .]{GAP}$)|(?<=^{GAP}[-_ .]).+|^[^{GAP}]+$")  # what of a stem is no such word


@dataclass(frozen=True)
class Patterns:
    """Where the files of each side lie, as seen from the data's folder; false where nobody said so.

    {split} stands for train, val, test or another word for these, {name} for what the files of a pair share, also
    folders, and * for anything inside one name. Of several {name} in a pattern, all together tell the pair.
    """

    a: tuple[str, ...] = ()  # several: inputs that are stacked
    b: str = ""
    m: str = ""  # masks

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Patterns":
        """Those of a run, or of a generator's file."""
        return cls(tuple(settings.get("files_a", ())), settings.get("files_b", ""), settings.get("files_m", ""))

    def __bool__(self) -> bool:
        return bool(self.a)

    def __str__(self) -> str:
        """As flags for a command line."""
        return command_line(["--files-a", *self.a, "--files-b", self.b, *(["--files-m", self.m] if self.m else [])])

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.a, self.b, *([self.m] if self.m else []))

    def sides(self, paths: Iterable[str]) -> list[dict[Key, list[str]]]:
        """Of each pattern, the paths that it matches, by what they share with their partners."""
        sides = [(compiled_pattern(pattern), defaultdict(list)) for pattern in self.all]
        for path in paths:
            normal = unicodedata.normalize("NFC", path)
            keys = [(key_of(match), side) for pattern, side in sides if (match := pattern.fullmatch(normal))]
            shortest = min((len(name) for (_, name), _ in keys), default=0)  # 1_mask.png is not {name}.png as well
            for key, side in keys:
                if len(key[1]) == shortest:
                    side[key].append(path)
        return [side for _, side in sides]

    def fit(self, root: Path) -> bool:
        """Whether each of them matches something in there."""
        return all(self.sides(list_files(root)))

    def shorter(self) -> Iterator["Patterns"]:
        """The same as seen from folders further down, as long as the sides stay apart."""
        if len({*self.all}) < len(self.all) or not all("{name}" in pattern for pattern in self.all):
            return
        yield self
        if all("/" in pattern for pattern in self.all):
            *a, b, m = (pattern.partition("/")[2] for pattern in (*self.a, self.b, self.m))
            yield from Patterns(tuple(a), b, m).shorter()


def compiled_pattern(pattern: str) -> re.Pattern:
    """Upper and lower case are one, but for what {name} stands for."""
    regex = ""
    for i, part in enumerate(re.split(r"(\{split\}|\{name\}|\*)", unicodedata.normalize("NFC", pattern))):
        if part == "{name}":
            regex += f"(?P<name{i}>.+)"
        elif part == "{split}":
            regex += "(?P=split)" if "<split>" in regex else f"(?P<split>{SPLIT})"
        else:
            regex += "[^/]*" if part == "*" else re.escape(part)
    return re.compile(regex, re.IGNORECASE | re.DOTALL)


def key_of(match: re.Match) -> Key:
    groups = match.groupdict()
    split = SPLIT_OF[groups.pop("split").lower()] if "split" in groups else ""
    return split, "/".join(groups.values())


def files_beside(pattern: str, files: Sequence[str]) -> set[str]:
    """Those that begin as a file which the pattern matches, up to the end of its {name}, and then differ.

    None where the pattern has only an ending such as .png behind {name}.
    """
    end = pattern.rpartition("{name}")[2]
    if "/" in end or not end.rpartition(".")[0]:
        return set()
    compiled = compiled_pattern(pattern)
    matches = {file: match for file in files if (match := compiled.fullmatch(unicodedata.normalize("NFC", file)))}
    beginnings = {match.string[: match.end(match.lastgroup)] for match in matches.values()}
    return {file for file in {*files} - matches.keys()
            if any(file[: mark.start()] in beginnings for mark in re.finditer(r"[-_. ]", file))}


def walk(top: Path, onerror: Callable[[OSError], None] | None = None,
         followlinks: bool = False) -> Iterator[tuple[Path, list[str], list[Path]]]:
    """Of each folder that is not hidden: itself, the names of those in it, its files; by links each once, none back."""
    linked = set()
    for place, folders, names in os.walk(top, onerror=onerror, followlinks=followlinks):
        folder = Path(place)
        if folder != top and folder.is_symlink():
            if (real := folder.resolve()) in {*linked, *map(Path.resolve, folder.absolute().parents)}:
                folders.clear()
                continue
            linked.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX", "@eaDir")))
        yield folder, folders, [folder / name for name in names]


def split_ending(name: str) -> tuple[str, str]:
    """A file's name without its ending, and that in lower case."""
    stem, ending = posixpath.splitext(name)
    return stem, "hidden" if name.startswith(".") else ending.lower()


def place_in(folder: Path, top: Path) -> str:
    """The folder as seen from `top`, with a slash at its end."""
    return "".join(f"{part}/" for part in folder.parts[len(top.parts) :])


def list_files(root: Path) -> list[str]:
    """The images below `root`, as seen from there, in order; folders that are links are followed."""
    found, seen = [], set()
    for folder, folders, files in walk(root, followlinks=True):
        if (real := folder.resolve()) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: ((folder / name).is_symlink(), name))  # whose own names are kept
        place = place_in(folder, root)
        found += [place + path.name for path in files
                  if split_ending(path.name)[1] in SUFFIXES and not drawn_here(path)]
    return sorted(found)


def find_matches(root: Path, patterns: Patterns) -> Found:
    """The pairs whose files the patterns match; without {split}, all are train.

    A val or test split of one side holds inputs only, and is left out.
    Files without a partner are orphans, unless they outnumber the pairs and all of another side has its partner.
    Raises UserError where a pattern matches nothing, two files are one, or no name is met on all sides.
    """
    files = list_files(root)
    sides = patterns.sides(files)
    for pattern, side in zip(patterns.all, sides, strict=True):
        if not side:
            such = f", such as {name_of(files[0])}" if files else ""
            raise UserError(f"{pattern!r} matches none of the {len(files):,} images in {name_of(root)}{such}")
        if double := [paths for paths in side.values() if len(paths) > 1]:
            raise UserError(f"{pattern!r} gives {len(double):,} pairs more than one file, such as "
                            f"{name_of(double[0][0])} and {name_of(double[0][1])}: let it name the ending, or more of "
                            "what lies between")
    taken = Counter(path for side in sides for paths in side.values() for path in paths)
    if own := [path for path, n in taken.items() if n > 1]:  # .jpg and .JPG are one
        raise UserError(f"{patterns} put {len(own):,} images on two sides, each as its own partner, such as "
                        f"{name_of(own[0])}: let a file match one pattern only")

    found = Found()
    if not set.intersection(*map(set, sides)):
        examples = " against ".join(name_of("/".join(filter(None, min(side)))) for side in sides[:2])
        raise UserError(f"{patterns} match {' and '.join(f'{len(side):,}' for side in sides)} images in "
                        f"{name_of(root)}, but no name is met on all sides: {examples}")
    n = len(patterns.a)
    for word in ("", *SPLITS):
        split = word or "train"
        own = [{key: root / paths[0] for key, paths in sorted(side.items()) if key[0] == word} for side in sides]
        if not any(own):
            continue
        if split != "train" and not all(own):
            found.leave_out([path for side in own for path in side.values()], f"of {split}, which has one side only")
            continue
        together, orphans = partners(own)
        if len(orphans) > len(together) == min(map(len, own)):  # as of VOC, whose photos have masks in part
            found.leave_out(orphans, f"of {split} without a partner")
        elif orphans:
            found.orphans[split] = orphans
        if together:
            found.splits[split] = [Pair(tuple(paths[:n]), *paths[n:], name="/".join(filter(None, key)))
                                   for key, paths in together.items()]
    found.leave_out([file for file in files if file not in taken], "that no pattern matches")
    return found


def read_as(files: Sequence[str]) -> Patterns | None:
    """The patterns of a layout that can be meant in one way only; None where the files lie otherwise."""
    return _best(files, _further_down(files, PLAIN))


def suggested(files: Sequence[str]) -> Patterns | None:
    """Patterns for folders, or parts of names, that may be the two sides; None where there are none.

    They make most pairs, some to train on if any do; of as many, those called as sides often are come first.
    """
    return _best(files, _further_down(files, PROPOSED)) or _best(files, chain(_one_named(files), _beside(files)))


def _further_down(files: Sequence[str], candidates: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The patterns themselves, and as seen from above each folder that holds all files."""
    home = posixpath.commonpath(files) if files else ""
    places = ["", *(f"{home[: mark.end()]}/" for mark in re.finditer(r"[^/]+", home))]
    return ((place + a, place + b) for place in places for a, b in candidates)


def _best(files: Sequence[str], candidates: Iterable[tuple[str, str]]) -> Patterns | None:
    """Those that make most pairs, first of all some to train on, and find partners for more than half of A."""
    best, most = None, (False, 0)
    for a, b in candidates:
        of_a, of_b = Patterns((a,), b).sides(files)
        common = {key for key in of_a.keys() & of_b.keys() if of_a[key] != of_b[key]}
        n = len(common)
        splits = {split for split, _ in common}  # in others, there may be inputs alone
        made = not splits.isdisjoint({"", "train"}), n
        if made > most and 2 * n > sum(split in splits for split, _ in of_a):
            best, most = Patterns((a,), b), made
        if n == len(of_a) == len(of_b) and 2 * n == len(files):
            break  # with a partner for each file, of which there may be very many
    return best


def _one_named(files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The patterns of files whose names go on in two ways: 1.jpg and 1.png, 1.png and 1_mask.png."""
    names = [re.fullmatch(r"(?s)((.+?)([-_ .][A-Za-z]+)?)(\.\w+)", file).groups() for file in files]
    there = {stem for stem, *_ in names}
    ends = Counter()
    for _, beginning, word, ending in names:
        ends[ending] += 1
        if word and beginning in there:
            ends[word + ending] += 1
    split = "{split}/" if all(file.partition("/")[0].lower() in SPLIT_OF for file in files) else ""
    return combinations(sorted((f"{split}{{name}}{end}" for end, _ in ends.most_common(3)), reverse=True), 2)


def _beside(files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The patterns of every two folders beside each other, and of every two words that names end or begin with."""
    places = defaultdict(lambda: defaultdict(list))  # pattern with a gap → word in the gap → stems
    split = "{split}" if any("train" in file.lower() for file in files) else r"\g<0>"  # else none would be trained on
    for file in files:
        path = SPLIT_IN.sub(split, file.rpartition(".")[0])  # also in train2017 and DIV2K_train_HR
        for word in WORD.finditer(path):
            *folders, stem = f"{path[: word.start()]}{GAP}{path[word.end() :]}".split("/")
            unnamed = [folder if folder == GAP or "{split}" in folder else "{name}" for folder in folders]
            stem = AROUND.sub("{name}", stem)
            for place in dict.fromkeys("/".join([*each, stem]) for each in (folders, unnamed)):
                if "{name}" in place:
                    places[place][word[0]].append(path.rpartition("/")[2])
    for place, stems in sorted(places.items(), key=lambda item: _unlikely(item[1]))[:12]:
        known = [pair for pair in WORDS if {*pair} <= stems.keys()]
        words = sorted(stems, key=lambda word: -len(stems[word]))[:3]
        words.sort(key=lambda word: (word.lower() in TARGETS, word.lower()))
        for pair in [*known, *sorted(combinations(words, 2), key=lambda pair: pair[1].lower() not in TARGETS)]:
            n = sum(len(stems[word]) for word in pair)
            if pair not in known and 2 * n < sum(map(len, stems.values())):  # two of many scenes
                continue
            yield tuple(f"{place.replace(GAP, word)}.*" for word in pair)
            if place.endswith("/{name}"):  # where the names on each side have a beginning or an end of their own
                own = _own_names(*(stems[word] for word in pair))
                yield tuple(f"{place.replace(GAP, word).removesuffix('{name}')}{name}.*"
                            for word, name in zip(pair, own, strict=True))


def _unlikely(words: Mapping[str, list[str]]) -> tuple[int, int, bool, bool]:
    """Sorts first what most files lie in, of that two words rather than one for each patient or scene, then sides'."""
    parts = [{*re.findall(r"[^\W\d_]{2,}|^.$", word.lower())} for word in words]
    own = set.union(*parts) - set.intersection(*parts)  # photos_1 and photos_2 are no sides
    return (-sum(map(len, words.values())), abs(len(words) - 2), own.isdisjoint(ONE_SIDE),
            bool(re.search(r"\d", "".join(words))))


def _own_names(*sides: Sequence[str]) -> list[str]:
    """Of each of two sides, {name} between what all of its stems begin and end with.

    Digits count pairs, and so may what lies behind a -, _, point or space.
    """
    counting = r"(?<=[-_. ])[^-_. ]+$|\d+$"
    firsts = [re.sub(counting, "", os.path.commonprefix(stems)) for stems in sides]
    lasts = [re.sub(counting, "", os.path.commonprefix([stem[::-1] for stem in stems]))[::-1] for stems in sides]
    short, long = sorted(range(2), key=lambda i: len(firsts[i]))
    if firsts[long].startswith(firsts[short]) and any(stem.startswith(firsts[long]) for stem in sides[short]):
        firsts = ["", ""]  # what B's share, as train_, begins some of A's too, beside others such as test_
    return [f"{first}{{name}}{last}" for first, last in zip(firsts, lasts, strict=True)]
