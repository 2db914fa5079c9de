import errno
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import utils
from runtime import console, files

ROOT = Path(utils.__file__).parent


def test_a_write_that_fails_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "a.bin"
    with files.atomic(path) as file:
        file.write(b"old")

    with pytest.raises(OSError, match="disk full"), files.atomic(path) as file:
        file.write(b"half")
        raise OSError("disk full")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.complete_folder(tmp_path / "data") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with files.complete_folder(tmp_path / "data") as folder:
        (folder / "whole").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["data"] and (tmp_path / "data" / "whole").exists()


@pytest.mark.slow
def test_a_reader_who_leaves_does_not_end_the_run():
    code = ("from runtime import console\nfor i in range(5):\n    console.say('x' * 100_000)\n"
            "open('reached', 'w').close()")
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=folder,
                                   env={**os.environ, "PYTHONPATH": os.path.dirname(utils.__file__)})  # noqa: PTH120
        process.stdout.close()
        assert process.wait(60) == 0 and "reached" in os.listdir(folder)  # noqa: PTH208


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "cp1253", "cp874", "utf-8"])
def test_no_terminal_is_too_small_for_a_message_and_none_obeys_a_file_s_name(monkeypatch, encoding):
    """Control characters clear the screen, forge lines or turn the text round; lone surrogates have no encoding."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    console.say("512×256 ± 猫 \x1b[2J\r\x07\u202e\udcff\x9b1m\nnext")
    shown = written.getvalue().decode(encoding).replace(os.linesep, "\n")
    assert shown.endswith("\\x1b[2J\\r\\x07\\u202e\\udcff\\x9b1m\nnext\n")
    assert ("512×256 ± 猫" in shown) == (encoding == "utf-8")


@pytest.mark.parametrize(("error", "status"), [(utils.UserError("bad"), 2), (FileNotFoundError("gone"), 2),
                                               (KeyboardInterrupt(), 130)])
def test_scripts_end_with_a_sentence_and_the_conventional_status(error, status, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as leaving:
        console.run_main(main)
    assert leaving.value.code == status
    assert capsys.readouterr().err == ("" if status == 130 else f"error: {error}\n")


def test_an_error_about_a_file_s_name_is_one_line_of_plain_characters(capsys):
    def main():
        raise utils.UserError("there is no runs/\x1b[2J\nerror: none")

    with pytest.raises(SystemExit):
        console.run_main(main)
    assert capsys.readouterr().err == "error: there is no runs/\\x1b[2J\\nerror: none\n"


@pytest.mark.parametrize("letters", [10, 10**6])
def test_output_that_nobody_reads_any_more_ends_without_a_word(letters):
    """`--help | head`: short enough to fail when Python closes its output only, or long enough to fail in print."""
    code = f"from runtime import console; console.run_main(lambda: print('x' * {letters}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) in (0, 141)


def test_another_broken_pipe_than_the_output_s_is_told(capsys):
    def main():
        raise BrokenPipeError("a process that it talked to has left")

    with pytest.raises(SystemExit, match="2"):
        console.run_main(main)
    assert "has left" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "world", "printed"), [("1", None, True), ("1", "1", True), ("0", "2", True),
                                                        ("1", "2", False)])
def test_only_a_process_among_others_leaves_printing_to_the_first(monkeypatch, capsys, rank, world, printed):
    """RANK may be left in the environment by another program: a run must not be silent for it."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    console.say("here")
    assert (capsys.readouterr().out == "here\n") == printed


def test_a_bug_keeps_its_traceback():
    """numpy's and torch's ValueErrors too: this code is there to be edited."""
    with pytest.raises(ValueError, match="could not convert"):
        console.run_main(lambda: np.float64("x"))


def test_a_grid_shows_the_images_unchanged_under_their_titles(tmp_path):
    red, gray = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 64, 64), torch.zeros(1, 64, 64)
    files.save_grid(tmp_path / "grid.png", [[red, gray], [gray, red]], ["input", "output"],
                    "a caption that is wider than both of the images together")
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    header = sheet.shape[0] - (2 * 64 + 3 * 4)
    assert (sheet[header + 4 + 32, 4 + 32] == (255, 0, 0)).all()
    assert (sheet[header + 4 + 32, 2 * 4 + 64 + 32] == 128).all()
    assert (sheet[header + 2 * 4 + 64 + 32, 2 * 4 + 64 + 32] == (255, 0, 0)).all()
    assert (sheet[:20] < 128).any() and (sheet[:20, -4:] == 255).all()  # a caption, not cut off


def test_a_file_that_cannot_be_written_keeps_its_reason_and_is_named_once(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '.*a.bin'") as caught, files.atomic(tmp_path / "a.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC and caught.value.strerror == "No space left on device"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs links and permissions")
def test_nothing_is_written_through_a_planted_link(tmp_path, monkeypatch):
    """Whatever the temporary name is, known from watching or guessed: a file that is there already is not opened."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".a.bin.tmp", ".a.bin", "a.bin.tmp"):
        (tmp_path / name).symlink_to(victim)
    with files.atomic(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert victim.read_text() == "precious" and (tmp_path / "a.bin").read_bytes() == b"new"
    monkeypatch.setattr(files, "temporary_name", lambda: ".known")
    (tmp_path / ".known").symlink_to(victim)
    with pytest.raises(FileExistsError), files.atomic(tmp_path / "b.bin") as file:
        file.write(b"new")
    assert victim.read_text() == "precious" and (tmp_path / ".known").is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_files_and_folders_are_as_open_to_others_as_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        with files.atomic(tmp_path / "a.bin") as file:
            file.write(b"new")
        with files.complete_folder(tmp_path / "data"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o750


def test_names_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    for length in (250, 251, 255):
        with files.atomic(tmp_path / ("a" * (length - 4) + ".bin")) as file:
            file.write(b"new")
        with files.complete_folder(tmp_path / ("b" * length)) as folder:
            (folder / "c").touch()
    assert {len(path.name) for path in tmp_path.iterdir()} == {250, 251, 255}


def test_only_our_own_leftovers_are_removed(tmp_path):
    """A killed process leaves its temporary file; a user's own may end in .tmp too, and folders may be called so."""
    code = ("import os; from pathlib import Path; from runtime.files import atomic\n"
            "kept = atomic(Path('a.bin')); kept.__enter__(); os._exit(9)")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    left, = tmp_path.iterdir()
    kept = [tmp_path / name for name in (".notes.tmp", ".a.bin.tmp", "x.tmp", ".pix2pix-notes.tmp", f"{left.name}.tmp")]
    for path in kept:
        path.touch()
    (tmp_path / files.temporary_name()).mkdir()
    files.remove_leftovers(tmp_path)
    assert not left.exists() and all(path.exists() for path in kept)


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
