"""Tells from headers and pixels what is unlikely to be a pair, or to be meant as the settings take it."""

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pairs.find import evenly, some
from pairs.geometry import Geometry, Size, enlargement, largest_of
from pairs.identity import Pair
from pairs.images import read_header
from pairs.palettes import sample
from pairs.patterns import SPLIT_OF, suggested
from pairs.picture import Picture, over_white, to_array
from pairs.reading import read_pictures, side_sizes
from pairs.values import KINDS, VOID, Values, mask_array, mask_weight, mask_white
from runtime.console import say
from utils import DataError, UserError, name_of

PHOTOS = (5 / 4, 4 / 3, 3 / 2, 8 / 5, 16 / 9)  # width by height, of cameras and screens; two squares are 2


@dataclass
class Headers:
    """What the headers of pairs tell."""

    sides: Counter[tuple[Size, ...]] = field(default_factory=Counter)  # how often inputs and target have these sizes
    nodata: bool = False  # whether a TIFF among them tells of a number for no data

    @property
    def sizes(self) -> Counter[Size]:
        """Of one side, once the smaller one was enlarged."""
        return Counter(map(largest_of, self.sides.elements()))

    def factors(self, side: slice) -> Counter[float]:
        """By how much the images of that part of `sides` are enlarged, where there is more than one of these."""
        return Counter(enlargement(largest_of(sides[side] or sides), largest_of(sides))
                       for sides in self.sides.elements())

    def input_factor(self, direction: str) -> float:
        """By how much the input of most pairs is enlarged: the largest, where there are several."""
        side = slice(-1) if direction == "AtoB" else slice(-1, None)
        return self.factors(side).most_common(1)[0][0]

    def enlargements(self) -> str:
        """Which sides are enlarged, and by how much, for a message; or nothing."""
        n = len(next(iter(self.sides)))
        names = ["A", "B"] if n == 2 else [*(f"A{i}" for i in range(1, n)), "B"]
        parts = []
        for i, name in enumerate(names):
            factors = self.factors(slice(i, i + 1))
            same = factors.pop(1.0, 0)
            if factors:
                by = " to ".join(f"{factor:.3g}" for factor in sorted({min(factors), max(factors)}))
                parts.append(f"{name} enlarged by {by}" + (f" in {factors.total()}" if same else ""))
        return ", ".join(parts)


def check_headers(pairs: list[Pair], at_most: int = 2000, skip: bool = False, halved: bool = False) -> Headers:
    """Reads the headers of up to `at_most` pairs (0: all), evenly spaced, and counts their sizes.

    Says which are unlikely to be pairs. Raises DataError for the first pair that cannot be used; with `skip`, only when
    none can be; UserError when most side-by-side files are not wider than high, or have the shape of a photo, of which
    the halves would be upright, but for names that end in _AB, and where a network has learnt from them (`halved`).
    """
    headers, odd, moving = Headers(), defaultdict(list), []
    for pair in evenly(pairs, at_most):
        file = pair.files[0]
        try:
            found = [*map(read_header, pair.files)]
            sides = side_sizes(pair, found)
            headers.sides[sides] += 1
            moving += [source for source, header in zip(pair.files, found, strict=True) if header.frames][:1]
            headers.nodata |= any(header.nodata for header in found)
        except DataError as error:
            if not skip:
                raise
            problem = error
            continue
        width, height = sides[0]
        if pair.side_by_side and not file.stem.lower().endswith(("_ab", "-ab")):
            shown = f"{name_of(file)} ({2 * width}×{height})"
            if 2 * width <= height:
                odd["are not wider than high"].append(shown)
            elif any(abs(2 * width / height / shape - 1) < 0.01 for shape in PHOTOS):
                odd["have the shape of a single photo"].append(shown)
    if not headers.sides:
        raise DataError(f"none of the pairs can be read: {problem}")
    n, n_odd = headers.sides.total(), sum(map(len, odd.values()))
    shapes = {width / height for (width, height), *_ in headers.sides}
    for shape, files in odd.items():
        sentence = (f"{len(files)} of {n} files {shape}, such as {files[0]}: they do not look like two images side "
                    "by side")
        if 2 * n_odd > n and not halved:
            raise UserError(f"{sentence}. Put the two sides into folders A and B, or name them 1_A, 1_B"
                            f"{_or_patterns(pairs)}; if each file does hold both, let the names end in _AB")
        say(sentence)
    first = name_of(pairs[0].files[0])
    if pairs[0].alone and shapes == {2}:
        say(f"all photos are twice as wide as high, such as {first}: if each is two images side by side, let the names "
            "end in _AB")
    if pairs[0].side_by_side and shapes == {1.5}:
        say(f"all files are three times as wide as high, such as {first}, and cut in two: if each is three images side "
            "by side, cut them apart before")
    if moving:
        say(f"{len(moving)} of {n} pairs hold files of several pages or frames, of which the first is taken, such as "
            f"{name_of(moving[0])}")
    return headers


def _or_patterns(pairs: Sequence[Pair]) -> str:
    """What may be said instead of other names, where the ends of these have a pattern."""
    files = [pair.files[0] for pair in pairs]
    folder = files[0].parent
    root = folder.parent if folder.name.lower() in SPLIT_OF else folder
    patterns = suggested([file.relative_to(root).as_posix() for file in files])
    return f", or let train.py and check.py take {patterns}" if patterns else ""


def describe(headers: Headers, pairs: list[Pair]) -> str:
    """What `check_headers` has counted, for a message."""
    ((width, height), _), *others = headers.sizes.most_common()
    size = f"{2 * width}×{height} side by side" if pairs[0].side_by_side else f"{width}×{height} each side"
    size += f" and {len(others)} other sizes" if others else ""
    enlarged = headers.enlargements()
    return f"{size} ({enlarged})" if enlarged else size


def check_small(sizes: Counter, geometry: Geometry) -> None:
    """Says how many of the training pairs that `check_headers` has counted are smaller than a crop."""
    width, height = geometry.crop
    loaded = [(geometry.load(size), n) for size, n in sizes.items()]
    if small := sum(n for size, n in loaded if size[0] < width or size[1] < height):
        say(f"{small} of {sizes.total()} training pairs are smaller than a crop, {width}×{height}, where it is taken: "
            "they are padded by reflection")


def check_shown(pairs: Sequence[Pair], geometry: Geometry, most: int) -> None:
    """Raises UserError for the first pair that validation shows with at most so many pixels a side."""
    for pair in pairs:
        with contextlib.suppress(DataError):  # told by whoever needs the pair
            shown = geometry.whole(largest_of(side_sizes(pair)))
            if min(shown) <= most:
                raise UserError(f"best_by must be another than ms_ssim, which needs more than {most} pixels a side: "
                                f"validation shows {name_of(pair.files[0])} as {shown[0]}×{shown[1]}")


USUAL = (0, 1), (-1, 1), (0, 255)  # ranges of floats that hold pictures
WHITES = 255, 1023, 4095, 16383, 65535  # of 8, 10, 12, 14 and 16 bits
ENOUGH = 2**14  # pixels of an image that are enough to tell what it holds


@dataclass
class Seen:
    """What the files of one side hold, as far as they were read."""

    name: str  # A or B
    values: Values  # how they are taken
    is_input: bool = True
    channels: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # "3", or "3 + 1" of two → files
    kinds: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))  # of a pair's first picture, second, …
    numbers: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))  # some, by their kind
    indices: Counter | None = field(default_factory=Counter)  # how often each is met; None where they are no indices
    flat: bool = True  # whether neighbours are mostly equal, as in label maps
    clipped: list[tuple[float, str]] = field(default_factory=list)  # by the range: the share in a picture, its name
    lacking: list[float] = field(default_factory=list)  # the share of each picture's pixels that hold no value
    palettes: dict[int, tuple[tuple, str]] = field(default_factory=dict)  # an index's first colour, and its file
    clash: str = ""  # where another file has another colour
    samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # of colours, for `flat_colours`

    def add(self, pictures: Sequence[Picture], shown: np.ndarray | bool = True) -> None:
        """One pair's pictures; shown: (H, W) of bool, where they count."""
        pictures = self.values.taken(pictures)
        self.channels[" + ".join(str(picture.channels) for picture in pictures)].append(pictures[0].name)
        ranged = self.values.ranged(pictures)
        for number, picture in enumerate(pictures, 1):
            self.kinds[number].add(picture.kind)
        if len({*ranged}) > 1 and not self.is_input:
            which = " and ".join(picture.name for picture in pictures)
            raise UserError(f"side {self.name} is the target, and its range is for some of {which} alone, but an "
                            "output has one range for all: train a network for each, or write all as floats in one "
                            "range")
        for picture, has_range in zip(pictures, ranged, strict=True):
            holds = np.ones(picture.array.shape[:2], bool) if picture.valid is None else picture.valid
            self.lacking.append(float(1 - holds.mean()))
            holds = holds & shown
            step = max(1, round((holds.size / ENOUGH) ** 0.5))
            array = picture.array[::step, ::step]
            laid = picture.alpha is not None and not self.values.is_sprite(pictures)
            if laid and picture.kind == "uint8" and not has_range:
                array = over_white(array, picture.alpha[::step, ::step])
            numbers = array[holds[::step, ::step]].astype(np.float64)
            numbers = numbers[np.isfinite(numbers)]
            self.numbers[picture.kind].append(numbers)
            if has_range and numbers.size:
                low, high = self.values.limits
                self.clipped.append((float(((numbers < low) | (numbers > high)).mean()), picture.name))
            self._count(picture.indices, holds)

    def _count(self, indices: np.ndarray | None, holds: np.ndarray) -> None:
        whole = indices is not None and indices.dtype.kind in "iu"
        found, n = np.unique(indices[holds] if whole else [], return_counts=True)
        if self.indices is None or not whole or len(found) > 1000:  # they measure something
            self.indices = None
            return
        self.indices.update(dict(zip(found.tolist(), n.tolist(), strict=True)))
        equal = (indices[:, 1:] == indices[:, :-1]).mean() if indices.shape[1] > 1 else 1
        self.flat = self.flat and equal > 0.8 and len(found) <= 64

    def add_palette(self, picture: Picture) -> None:
        """The colours of its indices."""
        holds = ... if picture.valid is None else picture.valid
        indices, at = np.unique(picture.indices[holds], return_index=True)
        for index, *colour in np.column_stack([indices, picture.array[holds].reshape(-1, 3)[at]]).tolist():
            colour = tuple(colour)
            first, where = self.palettes.setdefault(index, (colour, picture.name))
            if colour != first:
                self.clash = self.clash or f"{index} is {first} in {where} and {colour} in {picture.name}"

    @property
    def ranged_inputs(self) -> tuple[int, ...]:
        """Those of several, from 1, that have the range: they hold the most bits in some pair, if not in each."""
        wide = [number for number, kinds in self.kinds.items() if self.kind in kinds]
        return tuple(wide) if self.values.limits and len(self.kinds) > 1 else ()

    @property
    def kind(self) -> str:
        """The narrowest of KINDS that holds all numbers."""
        return max(self.numbers, key=KINDS.index, default="uint8")

    def all_numbers(self) -> np.ndarray:
        """Those of that kind: what is narrower needs no range."""
        return np.concatenate(self.numbers[self.kind])

    @property
    def void(self) -> dict[int, int]:
        """The indices that are none of the classes, and how often each is met."""
        return {index: n for index, n in self.indices.items() if not 0 <= index < self.values.n_labels}

    def apart(self) -> dict[float, float]:
        """Numbers that many pixels share far outside of all others, such as -9999 for no data, and what share has them.

        They are farther from the others than these are from one another. Of 8 bits, it is 255 only.
        """
        numbers = self.all_numbers()
        ends = numbers.min(initial=math.inf), numbers.max(initial=-math.inf)
        rest = numbers[(numbers > ends[0]) & (numbers < ends[1])]
        if 100 * len(rest) > len(numbers) and (rest == rest[0]).all():  # of 0, 1 and 255, 0 is none of them
            near, far = sorted(ends, key=lambda end: abs(end - rest[0]))
            rest = numbers[numbers != far] if abs(far - rest[0]) > 20 * abs(near - rest[0]) else rest
        if not len(rest) or (rest == rest[0]).all():
            return {}
        low, high = np.percentile(rest, [0.1, 99.9], method="nearest")
        far = [end for end, gap in zip(ends, (low - ends[0], ends[1] - high), strict=True) if gap > high - low]
        shares = {float(end): float((numbers == end).mean()) for end in far if self.kind != "uint8" or end == VOID}
        return {end: share for end, share in shares.items() if share > 5e-4}

    def ends(self) -> tuple[float, float] | None:
        """All numbers lie between these but for a thousandth at either end and what is `apart`; None: there is none."""
        numbers = self.all_numbers()
        numbers = numbers[~np.isin(numbers, list(self.apart()))]
        if not numbers.size:
            return None
        low, high = np.percentile(numbers, [0.1, 99.9], method="nearest")
        return float(low), float(high)

    def __str__(self) -> str:
        ends = self.ends()
        numbers = "{:.6g} to {:.6g}".format(*ends) if ends else "without a value"
        apart = "".join(f", and {number:g} in {share:.1%}" for number, share in self.apart().items())
        return f"channels {' or '.join(self.channels)}, {self.kind}, {numbers}{apart}"


@dataclass
class Counted:
    """How much of the pairs counts, as far as they were read: the mean over the pixels of each."""

    weights: list[float] = field(default_factory=list)  # 0 to 1
    ignored: list[float] = field(default_factory=list)  # the share that does not count at all
    black: list[float] = field(default_factory=list)  # the share that is black in the mask
    brightest: list[float] = field(default_factory=list)  # what counts most in the mask
    narrow: list[str] = field(default_factory=list)  # masks whose type holds more than 255, and they do not

    def add(self, pictures: Sequence[Picture], mask: Picture | None) -> np.ndarray | bool:
        """Returns where the mask is not black, (H, W) of bool."""
        weight = _shares(mask_array(mask, pictures))
        self.weights.append(float(weight.mean()))
        self.ignored.append(float((weight == 0).mean()))
        if mask is None:
            return True
        own = _shares(mask_weight(mask))[..., 0]
        self.black.append(float((own == 0).mean()))
        self.brightest.append(float(own.max()))
        if mask.kind != "uint8" and mask_white(mask) == 255 and len(np.unique(mask.array)) > 2:
            self.narrow.append(mask.name)
        return own > 0

    def tell(self, sides: Iterable[Seen]) -> None:
        """Says what does not count. Raises UserError where hardly anything does."""
        n, parts, way_out = len(self.weights), [], ""
        for side in sides:
            if any(side.lacking):
                parts.append(f"{_mean(side.lacking):.1%} of side {side.name} hold no value (NaN, or a TIFF's nodata "
                             "tag or mask)")
                if side.indices or side.kind != "float32":
                    way_out = (". If a tag's number is a value or a class, take the tag away: rio edit-info "
                               "--unset-nodata FILE")
        if self.black:
            parts.append(f"{_mean(self.black):.1%} are black in the masks")
        if not parts:  # the sides of pairs that cannot be used tell nothing
            return
        most = max(self.brightest, default=1)
        dim = f"no mask is brighter than {most:.2%} of white" if most < 0.99 else ""
        reasons = "; ".join(parts) + way_out
        weight, ignored = _mean(self.weights), _mean(self.ignored)
        if weight < 0.01:
            raise UserError(f"hardly any pixel counts, {weight:.2%} of those in {n} pairs, so that nothing is learnt: "
                            f"{reasons}; {dim}".removesuffix("; "))
        if ignored > 0.01:
            say(f"{ignored:.1%} of the pixels in {n} pairs do not count: {reasons}")
        if dim:
            say(f"{dim}: its pixels count by that share")
        if self.narrow:
            say(f"{len(self.narrow)} of {n} masks hold nothing beyond 255 in numbers that could be larger, such as "
                f"{self.narrow[0]}: there 255 counts as white")


def _shares(weight: np.ndarray | None) -> np.ndarray:
    """In [0, 1]; None: all counts."""
    if weight is None:
        return np.ones(1)
    return weight / 255 if weight.dtype == np.uint8 else weight


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / max(1, len(shares))


def range_words(low: float, high: float) -> str:
    """The two values, rounded outward to two digits of their distance, for a command line.

    0 to 1, -1 to 1 and 0 to 255 are proposed where nine tenths of them are used, and no end passes the largest number
    of so many bits: 4095 rather than 4100.
    """
    high = high if high > low else low + 1
    for black, white in USUAL:
        if black <= low and high <= white and high - low >= 0.9 * (white - black):
            return f"{black} {white}"
    power = 10.0 ** (1 - math.floor(math.log10(high - low)))
    black, white = math.floor(low * power) / power, math.ceil(high * power) / power
    white = next((full for full in WHITES if high <= full < white), white)
    return f"{black:.10g} {white:.10g}"


def _span(numbers: Iterable[int]) -> str:
    """The first of them, and the last."""
    numbers = [*numbers]
    return some(numbers) + (f" {numbers[-1]}" if len(numbers) > 5 else "")


def describe_classes(side: Seen) -> str:
    """Which classes occur, and how much is of none, for a message."""
    void, lacking = side.void, _mean(side.lacking)
    share = sum(void.values()) / side.indices.total()
    valued = "pixel that holds a value" if lacking else "pixel"
    there = sorted(side.indices.keys() - void.keys())
    return (f"side {side.name}: of the classes 0 to {side.values.n_labels - 1}, {len(there)} occur ({_span(there)}); "
            + (f"{share:.1%} of the pixels are of none, with {_span(sorted(void))}" if void else
               f"every {valued} is of one")
            + (f"; {lacking:.1%} of all hold no value" if lacking else ""))


def check_classes(side: Seen) -> None:
    """Says what is unlikely to be meant so in class indices. Raises UserError where they hold one class at most."""
    void, top, told = side.void, max(side.indices), describe_classes(side)
    single = len(side.indices) - len(void) <= 1
    if single and void:
        step = math.gcd(*side.indices)
        if void.keys() == {VOID}:
            way_out = f"{VOID} belongs to no class: write 1 in its place"
        elif step > 1 and top // step < VOID:
            way_out = f"all are multiples of {step}: divide them by it, and take --n-labels {top // step + 1}"
        else:
            way_out = f"--n-labels {top + 1} makes each a channel" if 0 < top < VOID else "class indices count from 0"
        raise UserError(f"{told}. {way_out}")
    most = max((index for index in void if index < VOID), default=-1)
    if most >= 0:
        say(f"side {side.name} looks like class indices, 0 to {most}: --n-labels {most + 1} makes each a channel, and "
            f"those from {side.values.n_labels} on belong to no class")
    if single or sum(void.values()) > side.indices.total() / 2:
        say(f"{told}: is that meant?")


def class_top(side: Seen) -> int:
    """The largest class index where the numbers look like class indices from 0 on, else 0."""
    indices = {*(side.indices or ())} - {VOID, -1}
    top = max(indices, default=0)
    few = side.kind == "uint8" and top < 64 or side.flat and len(indices) > top / 4
    return top if few and not side.clash and top < VOID and min(indices, default=0) >= 0 else 0


def check_values(pairs: Sequence[Pair], x: Values, y: Values, direction: str,
                 at_most: int = 20, colours: bool = False) -> dict[str, Seen]:
    """What A and B of up to `at_most` pairs hold, evenly spaced; says where that is unlikely to be meant so.

    With `colours`, those of x's pictures are sampled too.
    Raises UserError where numbers need a range, and proposes one, where class indices hold hardly a class, and where
    hardly any pixel counts.
    """
    counted, alike, unknown = Counted(), 0, {}
    wanted = {direction[0]: x, direction[-1]: y}
    seen = {name: Seen(name, wanted[name], name == direction[0]) for name in "AB"}
    at = "AB".index(direction[0])
    given = seen[direction[0]]
    for pair in evenly(pairs, at_most):
        with contextlib.suppress(DataError):  # told by whoever needs the pair
            *sides, mask = read_pictures(pair)
            shown = counted.add(sum(sides, []), mask)
            alike += not x.lab and np.array_equal(sides[0][0].array, sides[1][0].array)
            for side, pictures in zip(seen.values(), sides, strict=True):
                side.add(pictures, side.is_input or shown)
            first, *others = sides[at]
            if others:
                continue
            if first.has_palette:
                given.add_palette(first)
            if colours:
                given.samples.append(sample(to_array(first, 3)))
    for side in seen.values():
        low, high = side.values.limits or (0, 1)
        step = float(np.spacing(np.float32(abs(high))))
        if step > (high - low) / 1000:
            say(f"side {side.name}: numbers such as {high:.10g} are read to the nearest {step:g} (float32), which is "
                f"coarse for a range of {high - low:g}: take {low:.10g} away from them in the files")
    counted.tell(seen.values())
    n = len(counted.weights)
    if n == alike > 0:
        say(f"A and B hold the same in each of {n} pairs: is that meant?")
    for name, side in seen.items():
        if side.channels and (flag_and_rest := _check_side(side)):
            unknown[name] = flag_and_rest
    if unknown:
        flags, outside = zip(*unknown.values(), strict=True)
        raise UserError(f"nobody knows what is black and what is white in the numbers of side {' and '.join(unknown)}: "
                        f"{' '.join(flags)} would take in nearly all of those in {n} pairs{''.join(outside)}")
    return seen


def check_several(side: Seen) -> None:
    """Raises UserError where channels of several pictures would mix."""
    totals = defaultdict(list)
    for counts in sorted(side.channels, key=lambda counts: -len(side.channels[counts])):
        totals[sum(map(int, counts.split(" + ")))].append(counts)
    for usual, *others in totals.values():
        if others:
            raise UserError(f"the pictures of side {side.name} have {usual} channels in most pairs, but {others[0]} in "
                            f"that of {side.channels[others[0]][0]}: write all of each folder as gray, or as colour")


def _check_side(side: Seen) -> tuple[str, str] | None:
    """Returns a flag that tells the range, and what it leaves out, where nothing can be read without one."""
    check_several(side)
    values, told = side.values, f"side {side.name}"
    if values.n_labels and side.indices:
        check_classes(side)
        if side.clash:
            say(f"the palettes of {told} differ from file to file: {side.clash}. --n-labels looks at indices alone: "
                "write all files with one palette, or leave --n-labels out, so that colours count")
        return None
    ends, apart, top = side.ends() or (0.0, 1.0), side.apart(), class_top(side) if side.is_input else 0
    flag = f"--range-{side.name.lower()} {range_words(*ends)}"
    outside = "".join(f"; {number:g}, in {share:.1%} of it, lies far outside of all the rest: if it marks what has no "
                      "value, let masks in M/ be black there, or say so in the files, by NaN or a TIFF's nodata tag"
                      for number, share in apart.items() if side.kind != "uint8")
    if side.kind == "float32" and values.lab:
        raise UserError(f"nobody knows what is black and what is white in the numbers of {told}: Lab takes photos of "
                        "8 or 16 bits")
    if side.kind == "float32" and not values.limits:
        if top:
            raise UserError(f"{told} holds whole numbers, 0 to {top}, that look like class indices: --n-labels "
                            f"{top + 1} makes each a channel. If they measure something, {flag} takes in all of them")
        return flag, outside
    low, high = values.limits or (0, 255 if side.kind == "uint8" else 65535)
    spare = side.kind == "uint16" and not values.limits  # sensors rarely use all 16 bits
    black, white = np.clip([(end - low) / (high - low) for end in ends], 0, 1)
    if ends[0] == ends[1]:
        say(f"nearly every number of {told} is {ends[0]:g}: is that meant?{outside}")
    elif top and not values.limits:
        say(f"{told} looks like class indices, 0 to {top} in what was looked at: --n-labels {top + 1} or more makes "
            "each a channel")
    elif white - black < (0.5 if spare else 0.1):
        spread = f", {flag}" if (side.kind != "uint8" or not apart) and not values.lab else ""
        say(f"{told} uses less than {'a tenth' if white - black < 0.1 else 'half'} of its range, {black:.0%} to "
            f"{white:.0%}: class indices, depth or reflectance train better spread over all of it{spread}{outside}")
    elif outside:
        say(f"{told} holds {side}{outside}")
    clipped = _mean([share for share, _ in side.clipped])
    if clipped > 0.005:
        worst, where = max(side.clipped)
        rest = " of the rest" if apart else ""
        say(f"{told}: {clipped:.1%} of the values lie outside of {low:g} to {high:g} and are clipped, most in {where}, "
            f"{worst:.1%}: {flag} takes in nearly all{rest}")
    return None
