"""Parquet files with a picture in each of two columns, as the Hub has them. Nothing else needs pyarrow."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pairs.images import ending, read_picture
from utils import DataError, UserError, command_line, name_of, need

COLUMNS = "imageA", "imageB"
BINARY = "(large_)?binary(_view)?"
PICTURES = rf"^({BINARY}|dictionary<values={BINARY},.*|struct<.*bytes: ({BINARY}|null).*)$"  # as pyarrow has it
AT_ONCE = 16  # rows in memory
MANY = 8  # columns that a message names


def opened(path: Path, columns: tuple[str, str] = COLUMNS):
    """The open file. Raises UserError where its columns hold no pictures, or without pyarrow."""
    module = need("pyarrow.parquet", "pyarrow", "parquet files")
    if not path.is_file():
        raise FileNotFoundError(f"{name_of(path)} is no file")
    try:
        file = module.ParquetFile(path)
    except (OSError, ValueError) as error:
        with path.open("rb") as begin:
            if begin.read(100).startswith(b"version https://git-lfs"):
                raise UserError(f"{name_of(path)} only points to a file of Git LFS: git lfs pull fetches it") from error
        raise UserError(f"{name_of(path)} cannot be read as parquet: {error}") from error
    kinds = {field.name: re.sub(PICTURES, "pictures", str(field.type)) for field in file.schema_arrow}
    wrong = [name for name in columns if kinds.get(name) != "pictures"]
    found = [name for name, kind in kinds.items() if kind == "pictures"]
    if wrong and len(found) > 1:
        raise UserError(f"{name_of(path)} holds no pictures in {' and '.join(wrong)}, but in {', '.join(found)}: name "
                        f"those that become A and B, as in {command_line(['--columns', *found[:2]])}")
    if wrong:
        told = ", ".join(f"{name} ({kind})" for name, kind in [*kinds.items()][:MANY])
        raise UserError(f"{name_of(path)} holds no pictures in {' and '.join(wrong)}; its columns are {told}"
                        f"{', …' * (len(kinds) > MANY)}: A and B need one each whose cells hold the bytes of pictures")
    return file


def rows(file, path: Path, columns: tuple[str, str] = COLUMNS) -> Iterator[tuple[Any, Any]]:
    """The two cells of each row, a few rows at a time in memory. Raises UserError where the file is damaged."""
    row = 0
    try:
        for batch in file.iter_batches(AT_ONCE, columns=[*columns]):
            for cells in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                yield cells
                row += 1
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{name_of(path)} is damaged after row {row}: {error}") from error


def picture_in(cell: Any, name: str) -> bytes:
    """The bytes of the picture, of a known kind. Raises DataError, and UserError where there is only a path."""
    content = bytes_in(cell, name)
    try:
        read_picture(content)
        ending(content)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    return content


def bytes_in(cell: Any, name: str) -> bytes:
    """The same, of a picture that is not looked at."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not content and isinstance(cell, dict) and cell.get("path"):
        raise UserError(f"{name} holds a path, {name_of(cell['path'])}, and no picture: the file was saved without its "
                        "images. Take one that holds them, or put those images into folders train/A and train/B")
    if not content:
        raise DataError(f"{name} is empty")
    return content
