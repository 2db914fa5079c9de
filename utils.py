"""What every module may use: initial weights, errors, words for messages, and packages that only some need."""

import importlib
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
from torch import nn


def init_weights(module: nn.Module, zero_bias: bool = True) -> None:
    """Convolutions N(0, 0.02); BatchNorm weights N(1, 0.02); biases 0 (appendix 6.2 and the authors' code)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        if module.weight.is_meta:  # a file's weights come next; there, normal_ would import all of torch.compile
            return
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if zero_bias and module.bias is not None:
            nn.init.zeros_(module.bias)


class UserError(ValueError):
    """A mistake that a user can fix. Programs print its message as their last line and exit with status 2."""


class DataError(UserError):
    """A file that cannot be used. A loader process prepends its traceback to the message; it is cut off here."""

    def __init__(self, message: str):
        super().__init__(message.rsplit("DataError: ", 1)[-1].strip())


class Stopped(BaseException):
    """A signal ended the run early, in all of its processes, after what was learnt had been saved.

    As KeyboardInterrupt, no error: what answers errors, in a decoder say, must let it through.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.number = number


def name_of(source: Path | np.ndarray | bytes | str) -> str:
    """A source for a message; a path with characters that do not print comes in quotes."""
    if isinstance(source, np.ndarray):
        return "an array"
    if isinstance(source, bytes):
        return "the image"
    return str(source) if str(source).isprintable() else repr(str(source))


def first_line(error: Exception) -> str:
    """Of its message; its type, where it has none."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def command_line(words: Iterable[str]) -> str:
    """The words as one would type them; the shells of Windows know double quotes alone."""
    if os.name == "nt":
        return " ".join(word if shlex.quote(word) == word else f'"{word}"' for word in words)
    return shlex.join(words)


def flags(argv: Iterable[str]) -> set[str]:
    """The settings that a command line gives."""
    return {word.split("=")[0].lstrip("-").replace("-", "_").removeprefix("no_") for word in argv}


def need(module: str, package: str, what: str) -> ModuleType:
    """The module of a package that only `what` needs. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} need {package}, which is not to be had here ({error}): pip install {package}"
                        ) from error
