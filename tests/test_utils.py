import errno
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image

import utils


def test_a_write_that_fails_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "a.bin"
    utils.save_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        utils.save_atomically(path, fail)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    with pytest.raises(KeyboardInterrupt), utils.complete_folder(tmp_path / "data") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with utils.complete_folder(tmp_path / "data") as folder:
        (folder / "whole").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["data"] and (tmp_path / "data" / "whole").exists()


@pytest.mark.slow
def test_a_reader_who_leaves_does_not_end_the_run():
    code = "import time, utils\nfor i in range(5):\n    utils.say('x' * 100_000)\nopen('reached', 'w').close()"
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=folder,
                                   env={**os.environ, "PYTHONPATH": os.path.dirname(utils.__file__)})  # noqa: PTH120
        process.stdout.close()
        assert process.wait(60) == 0 and "reached" in os.listdir(folder)  # noqa: PTH208


@pytest.mark.parametrize(("error", "status"), [(utils.UserError("bad"), 2), (FileNotFoundError("gone"), 2),
                                               (KeyboardInterrupt(), 130)])
def test_scripts_end_with_a_sentence_and_the_conventional_status(error, status, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as leaving:
        utils.run_main(main)
    assert leaving.value.code == status
    assert capsys.readouterr().err == ("" if status == 130 else f"error: {error}\n")


def test_a_bug_keeps_its_traceback():
    """numpy's and torch's ValueErrors too: this code is there to be edited."""
    with pytest.raises(ValueError, match="could not convert"):
        utils.run_main(lambda: np.float64("x"))


def test_a_grid_shows_the_images_unchanged_under_their_titles(tmp_path):
    red, gray = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 64, 64), torch.zeros(1, 64, 64)
    utils.save_grid(tmp_path / "grid.png", [[red, gray], [gray, red]], ["input", "output"],
                    "a caption that is wider than both of the images together")
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    header = sheet.shape[0] - (2 * 64 + 3 * 4)
    assert (sheet[header + 4 + 32, 4 + 32] == (255, 0, 0)).all()
    assert (sheet[header + 4 + 32, 2 * 4 + 64 + 32] == 128).all()
    assert (sheet[header + 2 * 4 + 64 + 32, 2 * 4 + 64 + 32] == (255, 0, 0)).all()
    assert (sheet[:20] < 128).any() and (sheet[:20, -4:] == 255).all()  # a caption, not cut off


def test_a_file_that_cannot_be_written_keeps_its_reason_and_is_named_once(tmp_path):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device: '.*a.bin'") as caught:
        utils.save_atomically(tmp_path / "a.bin", full)
    assert caught.value.errno == errno.ENOSPC and caught.value.strerror == "No space left on device"
    assert not list(tmp_path.iterdir())
