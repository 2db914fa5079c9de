import errno
import os
import stat
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, files_up_to, launch
from PIL import Image

from runtime import files
from runtime.grids import save_grid
from utils import UserError


def put(path, content=b"new", **options):
    with files.atomic(path, **options) as file:
        file.write(content)


def test_a_write_that_fails_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "a.bin"
    put(path, b"old")
    for words in ((errno.ENOSPC, "No space left on device"), ("disk full",)):
        with pytest.raises(OSError, match=f"{words[-1]}: '.*a.bin'") as caught, files.atomic(path) as file:
            file.write(b"half")
            raise OSError(*words)
        assert caught.value.errno in (errno.EIO, words[0]) and caught.value.strerror == words[-1]
        assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_that_does_not_fit_is_named(tmp_path, disk):
    """Neither nothing, which is what a write tells, nor the temporary folder; what else fails is told as it is."""
    root = disk(tmp_path / "full", 65536)
    for write in (Path.write_bytes, put):
        with pytest.raises(OSError, match=f"No space left on device: '{root / 'data'}'$"), \
                files.complete_folder(root / "data") as folder:
            write(folder / "a.bin", bytes(10**6))
        assert not list(root.iterdir())
    with pytest.raises(FileNotFoundError, match="'missing'"), files.complete_folder(root / "data"):
        Path("missing").read_bytes()
    with pytest.raises(TimeoutError, match="^late$"), files.complete_folder(root / "data"):
        raise TimeoutError("late")


def test_a_grid_shows_the_images_unchanged_under_their_titles(tmp_path):
    red, gray = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 64, 64), torch.zeros(1, 64, 64)
    save_grid(tmp_path / "grid.png", [[red, gray], [gray, red]], ["input", "output"],
                    "a caption that is wider than both of the images together")
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    header = sheet.shape[0] - (2 * 64 + 3 * 4)
    assert (sheet[header + 4 + 32, 4 + 32] == (255, 0, 0)).all()
    assert (sheet[header + 4 + 32, 2 * 4 + 64 + 32] == 128).all()
    assert (sheet[header + 2 * 4 + 64 + 32, 2 * 4 + 64 + 32] == (255, 0, 0)).all()
    assert (sheet[:20] < 128).any() and (sheet[:20, -4:] == 255).all()  # a caption, not cut off


@pytest.mark.parametrize("write", [
    lambda file: torch.save({"x": torch.zeros(2**20)}, file), lambda file: np.save(file, np.zeros(2**20))])
def test_a_write_of_torch_or_numpy_that_does_not_fit_tells_why(tmp_path, write):
    """Their own errors tell of positions and elements, and not that the disk is full."""
    path = tmp_path / "a.bin"
    with files_up_to(2**21), pytest.raises(OSError, match="large: .*a.bin") as told, files.atomic(path) as file:
        write(file)
    assert told.value.errno == errno.EFBIG and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs links and permissions")
def test_nothing_is_written_through_a_planted_link(tmp_path, monkeypatch):
    """Whatever the temporary name is, known from watching or guessed: a file that is there already is not opened."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".a.bin.tmp", ".a.bin", "a.bin.tmp"):
        (tmp_path / name).symlink_to(victim)
    put(tmp_path / "a.bin")
    assert victim.read_text() == "precious" and (tmp_path / "a.bin").read_bytes() == b"new"
    monkeypatch.setattr(files, "temporary_name", lambda: ".known")
    (tmp_path / ".known").symlink_to(victim)
    with pytest.raises(FileExistsError):
        put(tmp_path / "b.bin")
    assert victim.read_text() == "precious" and (tmp_path / ".known").is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_files_and_folders_are_as_open_to_others_as_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        put(tmp_path / "a.bin")
        with files.complete_folder(tmp_path / "data"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o750


def test_names_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    for length in (250, 251, 255):
        put(tmp_path / ("a" * (length - 4) + ".bin"))
        with files.complete_folder(tmp_path / ("b" * length)) as folder:
            (folder / "c").touch()
    assert {len(path.name) for path in tmp_path.iterdir()} == {250, 251, 255}


@pytest.mark.long
def test_leftovers_go_where_an_open_file_cannot_be_removed(tmp_path, monkeypatch):
    """On Windows, which has no flock: what was opened to be claimed could not be removed, and ended every start."""
    name, at_work = files.temporary_name(), {files.temporary_name()}
    unlink, open_ = Path.unlink, Path.open
    for each in (name, *at_work):
        (tmp_path / each).touch()

    def windows(path, **options):
        if path.name in at_work:
            raise PermissionError(13, "The process cannot access the file")
        unlink(path, **options)

    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(Path, "unlink", windows)
    monkeypatch.setattr(Path, "open", lambda path, *mode: at_work.add(path.name) or open_(path, *mode))
    files.remove_leftovers(tmp_path)
    assert not (tmp_path / name).exists() and len([*tmp_path.iterdir()]) == 1


def test_only_our_own_leftovers_are_removed(tmp_path):
    """A killed process leaves its temporary file; a user's own may end in .tmp too, and folders may be called so."""
    code = ("import os; from pathlib import Path; from runtime.files import atomic\n"
            f"kept = atomic(Path({str(tmp_path / 'a.bin')!r})); kept.__enter__(); os._exit(9)")
    launch("-c", code, cwd=ROOT).communicate()
    left, = tmp_path.iterdir()
    kept = [tmp_path / name for name in (".notes.tmp", ".a.bin.tmp", "x.tmp", ".pix2pix-notes.tmp", f"{left.name}.tmp")]
    for path in kept:
        path.touch()
    (tmp_path / files.temporary_name()).mkdir()
    files.remove_leftovers(tmp_path)
    assert not left.exists() and all(path.exists() for path in kept)


@pytest.mark.skipif(os.name != "posix", reason="the lock of a process at work is POSIX")
def test_what_is_being_written_is_no_leftover_and_nobody_waits_for_a_lock_of_others(tmp_path):
    """As where several commands clear up in one folder, and the command flock holds it."""
    done = threading.Event()
    others = threading.Thread(target=lambda: [files.remove_leftovers(tmp_path) for _ in iter(done.is_set, True)])
    others.start()
    try:
        for n in range(2000):
            put(tmp_path / "a.bin", bytes([n % 256]), durable=False)
    finally:
        done.set()
        others.join()
    with tmp_path.joinpath("a.bin").open() as held:
        assert files.claim(held)
        with files.taking_turns(held.name):
            assert [*tmp_path.iterdir()] == [tmp_path / "a.bin"]


MAKE = ("import os, time; from pathlib import Path; from runtime.files import complete_folder\n"
        "making = complete_folder(Path({path!r})); (making.__enter__() / 'half').touch()\n"
        "print('made', flush=True); {then}")


@pytest.mark.skipif(os.name != "posix", reason="the lock of a killed process is POSIX")
@pytest.mark.long
def test_what_killed_makers_left_is_removed_and_what_others_are_making_stays(tmp_path):
    """Each start that was killed in a download left its gigabytes; a folder of somebody else may look alike."""
    path, mine = tmp_path / "data", tmp_path / files.temporary_name()
    (mine / "data").mkdir(parents=True)  # no lock in it: nothing is known of it
    launch("-c", MAKE.format(path=str(path), then="os._exit(9)"), cwd=ROOT).communicate()
    dead, = set(tmp_path.iterdir()) - {mine}
    assert (dead / "data" / "half").exists()
    alive = launch("-c", MAKE.format(path=str(path), then="time.sleep(60)"), cwd=ROOT)
    try:
        assert alive.stdout.readline() == "made\n"
        other, = set(tmp_path.iterdir()) - {mine}  # this start has removed what the first one left
        assert other != dead and files.unfinished(tmp_path) == [other]
        with files.complete_folder(path) as folder:
            (folder / "whole").touch()
        assert set(tmp_path.iterdir()) == {mine, other, path} and (other / "data" / "half").exists()
        assert [each.name for each in path.iterdir()] == ["whole"]
    finally:
        alive.kill()
        alive.communicate()
    assert files.abandoned(other)


def test_a_folder_that_another_process_completed_meanwhile_is_kept(tmp_path):
    for name in ("first", "second"):
        with files.complete_folder(tmp_path / "data") as folder:
            (folder / name).touch()
            if name == "first":
                with files.complete_folder(tmp_path / "data") as other:
                    (other / "meanwhile").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "meanwhile"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError), files.complete_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX systems")
@pytest.mark.parametrize(("number", "folders", "call"), [
    *((number, folders, "fsync") for number in (errno.EINVAL, errno.ENOTSUP, errno.ENOSPC, errno.EIO)
      for folders in (False, True)), (errno.EBADF, True, "fsync"), (errno.EACCES, True, "open")])
def test_only_a_file_system_that_knows_no_fsync_costs_nothing(tmp_path, monkeypatch, number, folders, call):
    """FUSE, SMB and some NAS: the file is there, and whole. What does not reach the disk is an error."""
    real, path, failed = getattr(os, call), tmp_path / "a.bin", number in (errno.ENOSPC, errno.EIO)

    def refused(what, *args):
        if (Path(what).is_dir() if call == "open" else stat.S_ISDIR(os.fstat(what).st_mode)) == folders:
            raise OSError(number, os.strerror(number))
        return real(what, *args)

    monkeypatch.setattr(files.os, call, refused)
    with pytest.raises(OSError, match="a.bin") if failed else nullcontext() as caught:
        put(path)
    assert not failed or caught.value.errno == number
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([b"new"] if folders or not failed else [])


def test_what_can_be_made_again_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", lambda file: pytest.fail("waited"))
    put(tmp_path / "log.csv", durable=False)
    assert (tmp_path / "log.csv").read_bytes() == b"new"


def test_only_an_empty_folder_gives_way_to_a_new_one(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("empty", "none", "file/x"):  # what cannot be made is told by whoever makes it
        assert files.new_folder(tmp_path / name, "--page") == tmp_path / name and not (tmp_path / name).exists()
    for name in ("full", "file"):
        with pytest.raises(UserError, match=f"{name} is there already: let --page be a new folder"):
            files.new_folder(tmp_path / name, "--page")
