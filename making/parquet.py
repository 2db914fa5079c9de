"""Pairs from parquet files, as the Hub has them: a picture in each of two columns, whose bytes are kept as they are."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from making.folder import Job, Made, There, check_names, split_of
from pairs.parquet import COLUMNS, opened, picture_in, rows
from pairs.patterns import SPLIT, SPLIT_OF
from runtime.console import say
from utils import UserError, name_of

SPLIT_IN = re.compile(rf"(?<![^\W\d_])({SPLIT})(?![^\W\d_])")  # a word of its own


@dataclass(frozen=True)
class Parquet:
    """Parquet files with a picture in each of two columns, as the Hub has them: their bytes become A and B."""

    threads: ClassVar[int] = 4
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar="FILE_OR_FOLDER [...] OUT")]]  # OUT is the folder to make
    columns: tuple[str, str] = COLUMNS  # that become A and B
    val: float = 0.1  # share that is held out of files whose names tell no split; 0 leaves it to training
    preview: bool = False  # only draw a sheet of six pairs

    @property
    def inputs(self) -> list[Path]:
        folders = [sorted(path.rglob("*.parquet")) if path.is_dir() else [path] for path in self.paths[:-1]]
        return [file for files in folders for file in files]

    @property
    def out(self) -> Path:
        return self.paths[-1]

    def jobs(self, there: There) -> "Rows | Iterator[Job]":
        if not self.inputs:
            raise UserError(f"no file in {name_of(self.paths[0])} ends in .parquet")
        if len({*self.columns}) < 2:
            raise UserError(f"--columns {' '.join(self.columns)} names no two columns: A and B would be the same")
        splits = splits_named(self.inputs)
        check_names((splits[path], path.stem, path) for path in self.inputs)
        kept = {(split or each, path.stem) for path, split in splits.items() for each in ("train", "val")}
        if moved := [f"{split}/{name}" for split, name in there if (split, name.rpartition("-")[0]) not in kept]:
            raise UserError(f"{name_of(self.out)} was begun by another version of this program, which put {moved[0]} "
                            "and others into another split: take a new folder")
        untold = [path for path, split in splits.items() if not split]
        if any(splits.values()) and untold:
            say(f"files whose names tell no split, as others' do: {len(untold)}, such as {name_of(untold[0])}: what "
                "--val holds out of them goes to val, the rest to train")
        found = Rows(self, {path: opened(path, self.columns) for path in self.inputs}, splits)
        if not len(found):
            raise UserError(f"there are no pairs to make: {name_of(self.inputs[0])} holds 0 rows")
        return found

    def make(self, file: str, split: str, row: int, cells: tuple[Any, Any]) -> Made:
        a, b = (picture_in(cell, f"{file}, row {row}, {column}")
                for cell, column in zip(cells, self.columns, strict=True))
        return Made(split or split_of(a + b, self.val), a, b)


@dataclass(frozen=True)
class Rows:
    """The jobs of all rows, read a few at a time; `len` is their number."""

    source: Parquet
    files: Mapping[Path, Any]
    splits: Mapping[Path, str]

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for file in self.files.values())

    def __iter__(self) -> Iterator[Job]:
        for path, file in self.files.items():
            split = self.splits[path]
            for row, cells in enumerate(rows(file, path, self.source.columns)):
                make = partial(self.source.make, name_of(path), split, row, cells)
                yield Job(f"{path.stem}-{row:06d}", make, split)


def splits_named(paths: Sequence[Path]) -> dict[Path, str]:
    """The split that a word of each file's name tells, as in maps-train-00000-of-00001.parquet, else "".

    Else the nearest folder called like a split does, as that of train/0000.parquet, if one of them is train. Raises
    UserError where a name has words of two splits.
    """
    folders = {path: next((SPLIT_OF[name] for name in map(folder_name, path.parents) if name in SPLIT_OF), "")
               for path in paths}
    if "train" not in folders.values():
        folders = {}
    splits = {}
    for path in paths:
        told = sorted({SPLIT_OF[word] for word in SPLIT_IN.findall(path.stem.lower())})
        if len(told) > 1:
            raise UserError(f"the name of {name_of(path)} tells of {' and '.join(told)}: rename it, so that one split "
                            "is left")
        splits[path] = told[0] if told else folders.get(path, "")
    return splits


def folder_name(folder: Path) -> str:
    return folder.name.lower().removeprefix("partial-")  # as the Hub calls what it made of a part of large data
