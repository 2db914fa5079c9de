"""Pairs from parquet files, as the Hub has them: a picture in each of two columns, whose bytes are kept as they are."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tyro.conf import Positional, arg

from making.folder import Job, Made, There, check_names, check_share, need, split_of
from pairs.images import read_picture
from pairs.layouts import SPLITS
from utils import DataError, UserError, name_of

AT_ONCE = 16  # rows in memory


@dataclass(frozen=True)
class Parquet:
    """Parquet files with a picture in each of two columns, as the Hub has them: their bytes become A and B."""

    threads: ClassVar[int] = 4
    paths: Positional[Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...] OUT")]]  # the last is the folder to make
    columns: tuple[str, str] = ("imageA", "imageB")  # that become A and B
    val: float = 0.1  # share that is held out of files whose names tell no split; 0 leaves it to training
    preview: bool = False  # only draw a sheet of six pairs

    @property
    def inputs(self) -> list[Path]:
        return [*self.paths[:-1]]

    @property
    def out(self) -> Path:
        return self.paths[-1]

    def jobs(self, there: There) -> "Rows | Iterator[Job]":
        check_share(self.val)
        if not self.inputs:
            raise UserError("at least one parquet file and the folder to make are needed: parquet FILE OUT")
        check_names(("", path.stem, path) for path in self.inputs)
        module = need("pyarrow.parquet", "pyarrow", "parquet files")
        files = {path: opened(module, path, self.columns) for path in self.inputs}
        return Rows(self, files)

    def make(self, file: str, split: str, row: int, cells: list[Any]) -> Made:
        a, b = (picture_in(cell, f"{file}, row {row}, {column}")
                for cell, column in zip(cells, self.columns, strict=True))
        return Made(split or split_of(a + b, self.val), a, b)


class Rows:
    """The jobs of all rows, read a few at a time; `len` is their number."""

    def __init__(self, source: Parquet, files: Mapping[Path, Any]):
        self.source, self.files = source, files

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for file in self.files.values())

    def __iter__(self) -> Iterator[Job]:
        for path, file in self.files.items():
            row, split = 0, split_in_name(path.name)
            try:
                for batch in file.iter_batches(AT_ONCE, columns=[*self.source.columns]):
                    for cells in zip(*(batch.column(name).to_pylist() for name in self.source.columns), strict=True):
                        make = partial(self.source.make, name_of(path), split, row, cells)
                        yield Job(f"{path.stem}-{row:06d}", make, split)
                        row += 1
            except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
                raise UserError(f"{name_of(path)} is damaged after row {row}: {error}") from error


def split_in_name(name: str) -> str:
    """As in train-00000-of-00001.parquet."""
    word = name.lower().split("-")[0].split(".")[0]
    return next((split for split, words in SPLITS.items() if word in words), "")


def opened(module, path: Path, columns: tuple[str, str]):
    """The open file. Raises UserError where its columns hold no pictures."""
    if not path.is_file():
        raise FileNotFoundError(f"{name_of(path)} is no file")
    try:
        file = module.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{name_of(path)} cannot be read as parquet: {error}") from error
    kinds = {field.name: kind_of(field.type) for field in file.schema_arrow}
    pictures = [name for name, kind in kinds.items() if kind == "pictures"]
    for name in columns:
        if name not in kinds:
            hint = f"--columns {' '.join(pictures[:2])}" if len(pictures) >= 2 else "--columns"
            raise UserError(f"{name_of(path)} has no column {name}; it has {', '.join(kinds)}: {hint} names the two "
                            "that become A and B")
        if kinds[name] != "pictures":
            raise UserError(f"{name_of(path)}: the column {name} holds {kinds[name]}, not pictures")
    return file


def kind_of(kind) -> str:
    """What a column of this type holds: pictures, or what it is called in a message."""
    name = str(kind)
    if name in ("binary", "large_binary") or re.match("struct<.*bytes: (large_)?(binary|null)", name):
        return "pictures"
    return "text (perhaps the paths of pictures)" if name in ("string", "large_string") else name


def picture_in(cell: Any, name: str) -> bytes:
    """The bytes of the picture, which can be read. Raises DataError, and UserError where there is only a path."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not content and isinstance(cell, dict) and cell.get("path"):
        raise UserError(f"{name} holds a path, {name_of(cell['path'])}, and no picture: the file was saved without its "
                        "images. Take one that holds them, or put those images into folders train/A and train/B")
    if not content:
        raise DataError(f"{name} is empty")
    try:
        read_picture(content)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    return content
