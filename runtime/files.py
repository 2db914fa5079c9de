"""Files and folders that are complete or not there."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from utils import UserError, name_of

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed
    fcntl = None


TEMPORARY = f".pix2pix-{'[0-9a-f]' * 16}.tmp"  # the pattern of all such names


def temporary_name() -> str:
    """A name that nobody can foresee, short enough wherever names may be long, and told from every user's own."""
    return f".pix2pix-{secrets.token_hex(8)}.tmp"


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of processes that were killed in the middle of `atomic`, not of those at work."""
    for path in folder.glob(TEMPORARY):
        if fcntl is None:
            with contextlib.suppress(OSError):  # Windows: of a process at work, which has it open
                path.unlink()
        elif path.is_file():
            with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:  # its process has ended meanwhile
                if claim(file):
                    path.unlink()


def claim(file: BinaryIO | int) -> bool:
    """Whether no other process has claimed the file: from now on, and until it is closed, this one has.

    Where the file system or the machine has no such locks, nobody ever has.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def taking_turns(folder: Path) -> Iterator[None]:
    """Of processes that do this with one folder, the others wait, where there are such locks (see `claim`).

    For a second at most: whoever holds the lock for longer, such as the command flock, is no process that does this.
    """
    with contextlib.ExitStack() as stack:
        if fcntl:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            end = time.monotonic() + 1
            while not claim(handle) and time.monotonic() < end:
                time.sleep(0.01)
        yield


@contextlib.contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once it is complete. Raises OSError, naming it.

    durable: it is on disk then, and outlasts a crash of the machine; what can be made again need not wait for a disk.
    """
    made = False
    try:
        while not made:
            temporary = path.with_name(temporary_name())
            file = temporary.open("xb")  # never one that is there already, nor through a link
            made = claim(file) and temporary.exists()  # or another process has just taken it for a leftover
        with file:
            yield file
            file.flush()
            if durable:
                sync(file.fileno())
            if fcntl:  # before the claim ends
                temporary.replace(path)
        if not fcntl:
            temporary.replace(path)
        if durable and os.name == "posix":
            sync_folder(path.parent)  # the new name itself must reach the disk
    except (OSError, RuntimeError) as error:  # RuntimeError: torch.save's, when a write fails
        told = error if getattr(error, "errno", None) or not made else refused(temporary)  # torch, NumPy tell no reason
        number, reason = (told.errno, told.strerror) if told and told.errno else (errno.EIO, str(error).splitlines()[0])
        raise OSError(number, reason, str(path)) from error
    finally:
        if made:
            temporary.unlink(missing_ok=True)


def refused(path: Path) -> OSError | None:
    """Why a megabyte more does not fit into the file; None where it does."""
    try:
        with path.open("ab") as file:
            file.write(bytes(2**20))
            sync(file.fileno())
    except OSError as error:
        return error
    return None


UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # of file systems that do not know a call


def is_full(error: Exception) -> bool:
    """Whether it tells of a disk that takes nothing more: full, by this user's share of it, or read-only by now."""
    found = {getattr(each, "errno", None) for each in (error, error.__cause__)}
    return not found.isdisjoint({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def sync(file: int) -> None:
    """Waits until a file is on disk, where its file system can tell. Raises OSError when it does not get there."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in UNSUPPORTED:  # the file is there, and whole
            raise


def sync_folder(path: Path) -> None:
    """The same for the names in a folder, which may be writable and not readable."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in UNSUPPORTED | {errno.EACCES, errno.EPERM}:
            return
        raise
    try:
        sync(folder)
    except OSError as error:
        if error.errno != errno.EBADF:  # to be synced, a folder would have to be open for writing
            raise
    finally:
        os.close(folder)


def new_folder(folder: Path, flag: str) -> Path:
    """`folder`, whatever links lead there; one that is empty goes. Raises UserError, naming the flag, on others."""
    path = folder.resolve()
    if path == Path.cwd():
        raise UserError(f"{name_of(path)} is the folder that you are in: let {flag} be a new one")
    try:
        path.rmdir()
    except OSError as error:
        if path.exists():
            raise UserError(f"{name_of(folder)} is there already: let {flag} be a new folder") from error
    return path


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    Where another process has made a folder of that name meanwhile, that one stays. What killed processes have left
    beside it is removed. Raises OSError, naming `path`, where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in unfinished(path.parent):
        if abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(temporary_name())
    lock = lock_in(temporary)
    new = temporary / path.name
    try:
        temporary.mkdir(0o700)
        with contextlib.suppress(OSError):  # a file system without locks: then nobody removes what is left
            lock.acquire()
        new.mkdir()
        yield new
        try:
            new.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    except OSError as error:
        if str(temporary) in str(error.filename) or error.filename is None and is_full(error):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        lock.release()
        shutil.rmtree(temporary, ignore_errors=True)


def unfinished(folder: Path) -> list[Path]:
    """The temporary folders of `complete_folder` there that hold something beside their lock, of any process."""
    return [path for path in folder.glob(TEMPORARY) if {"lock"} < {inner.name for inner in path.glob("*")}]


def abandoned(folder: Path) -> bool:
    """Whether the process that made this temporary folder is certainly gone: its lock is free."""
    try:
        with lock_in(folder):
            return True
    except OSError:  # held, or not to be known where the file system has no locks
        return False


def lock_in(folder: Path) -> FileLock:
    return FileLock(folder / "lock", timeout=0, fallback_to_soft=False)
