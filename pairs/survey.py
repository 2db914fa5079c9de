"""What training finds out about its pairs before it begins, and what its checkpoints keep of that."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pairs.checks import Headers, Seen, check_headers, check_shown, check_small, check_values, describe
from pairs.divide import Found
from pairs.find import evenly, usable_pairs
from pairs.geometry import Geometry, size_range, usual_size
from pairs.identity import Known, Pair, changes, digest, marks
from pairs.palettes import flat_colours
from pairs.patterns import Patterns
from pairs.values import Values
from runtime.console import say
from runtime.distributed import Ranks
from utils import UserError, name_of


@dataclass
class Survey:
    """The pairs that training found, and what `look` says of them."""

    root: Path
    found: Found
    known: Known | None  # the pairs that the run, or the one that it begins with, has met
    resumed: bool
    scored: list[Pair] = field(default_factory=list)  # of the validation pairs
    masked: bool = False  # whether every training pair needs a mask, as some pixels may hold no value
    record: dict = field(default_factory=dict)  # what a checkpoint and a generator's file keep
    same_train: bool = True  # whether a resumed run trains on the pairs that it knows, in their order

    @classmethod
    def find(cls, settings: Mapping[str, Any], before: dict | None, resumed: bool) -> "Survey":
        """The pairs that the settings of a run point at, none of which changes its side.

        before: what the file says that the run goes on from (`resumed`) or has begun with.
        Raises FileNotFoundError, or UserError, also where the run is one of an earlier version.
        """
        before = before or {}
        known = Known.of(before)
        if resumed and not known and "held_out" in before:
            raise UserError("the run is of an earlier version, which knew its pairs by name alone: begin a new one "
                            "with another --out-dir")
        root = Path(settings["data_root"])
        patterns = Patterns.of(settings)
        photos = settings["space"] == "lab"
        found = usable_pairs(root, settings["seed"], known, resumed, patterns, settings["group"], photos)
        gc.freeze()  # they stay: no collection looks at them again, nor copies them into the loader processes
        return cls(root, found, known, bool(known) and resumed)

    @property
    def train(self) -> list[Pair]:
        return self.found.splits["train"]

    @property
    def split(self) -> str:
        """Of the pairs that are held out: val or test."""
        return self.found.validation

    @property
    def held_out(self) -> list[Pair]:
        return self.found.splits[self.split]

    def check_batch(self, batch_size: int, world: int) -> None:
        """Raises UserError where the training pairs do not fill one batch in every process."""
        if batch_size * world > len(self.train):
            processes = f" × {world} processes" if world > 1 else ""
            raise UserError(f"batch_size {batch_size}{processes} is larger than the data set: {len(self.train)} "
                            "training pairs")

    def check_same(self, ranks: Ranks) -> None:
        """Raises UserError, in all processes, where one of them has found other pairs, as on another machine."""
        found = ranks.all_gather([digest(self.found.marks[split].tobytes()) for split in ("train", self.split)])
        other = next((rank for rank, marks in enumerate(found) if marks != found[0]), None)
        if other is not None:
            raise UserError(f"process {other} has found other pairs in {name_of(self.root)} than process 0: let that "
                            "folder hold the same files on all machines")

    def look(self, x: Values, y: Values, geometry: Geometry, direction: str, n_val: int, *, skip: bool = False,
             shown_above: int = 0) -> None:
        """Reads the headers of the pairs and some of their pixels, and says what is unlikely to be meant so.

        Validation scores `n_val` pairs (0: all), which it must show with more than `shown_above` pixels a side.
        Raises UserError for what training cannot use; with `skip`, not for single pairs that cannot be read.
        """
        # Headers tell the sizes, and what is no pair.
        headers, _ = (check_headers(self.found.splits[split], skip=skip, halved=self.found.known_to(self.known, split))
                      for split in ("train", self.split))

        # Pixels tell whether the numbers mean what the settings say.
        seen = check_values(self.train, x, y, direction, colours=not x.n_labels)
        self.masked = headers.nodata or any(side.kind == "float32" for side in seen.values())

        # Sizes tell what a crop and a score will see.
        self.scored = evenly(self.held_out, n_val)
        say(f"{self.root}: {len(self.train)} training pairs, {describe(headers, self.train)}, {direction}; "
            f"{len(self.scored)} of {len(self.held_out)} validation pairs scored")
        check_small(headers.sizes, geometry)
        if shown_above:
            check_shown(self.scored, geometry, shown_above)

        # A checkpoint keeps all of this, and who was met.
        self.record = self._facts(headers, seen, direction) | self._marks(n_val)

    def _facts(self, headers: Headers, seen: dict[str, Seen], direction: str) -> dict:
        """What whoever translates with the network wants to know of its pairs."""
        a_is_input = direction == "AtoB"
        channels = seen["A"].channels if len(self.train[0].inputs) > 1 else {}
        return {
            "usual_size": usual_size(headers.sizes),
            "size_range": size_range(headers.sizes),
            "enlarge": headers.input_factor(direction),
            "kind": seen[direction[-1]].kind,
            "inputs": len(self.train[0].inputs) if a_is_input else 1,
            "ranged_inputs": seen["A"].ranged_inputs if a_is_input else (),
            "counts": max(channels, key=lambda counts: len(channels[counts]), default=""),
            "colours": flat_colours(seen[direction[0]].samples),
        }

    def _marks(self, n_val: int) -> dict:
        """Which pairs were met; says where these are others than a resumed run knows."""
        train, held_out = (self.found.marks[split] for split in ("train", self.split))
        scored = evenly(held_out[:, 0], n_val)
        masks = marks([Pair((pair.mask,), pair.mask, name=pair.name) for pair in self.scored if pair.mask is not None])
        masked = sorted(zip(scored, masks[:, 0], strict=False))
        before = Known()
        if self.resumed:
            before = self.known
            sides = ("training", train, before.train), ("validation", held_out, before.val)
            differ = [f"{name} pairs: {change}" for name, new, old in sides
                      if len(old) and (change := changes(new, old))]
            if differ:
                say(f"the data is no longer what the run was trained on: {'; '.join(differ)}")
            self.same_train = np.array_equal(train[:, 0], before.train[:, 0])
        return {"pairs": before.next(train, held_out).plain(), "validated_on": digest(np.sort(scored).tobytes()),
                "masked_by": digest(np.array(masked).tobytes())}
