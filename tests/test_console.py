import io
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, launch

import utils
from runtime import console


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "cp1253", "cp874", "utf-8"])
def test_no_terminal_is_too_small_for_a_message_and_none_obeys_a_file_s_name(monkeypatch, encoding):
    """Control characters clear the screen, forge lines or turn the text round; lone surrogates have no encoding."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    console.say("512×256 ± 猫 \x1b[2J\r\x07\u202e\udcff\x9b1m\nnext")
    shown = written.getvalue().decode(encoding).replace(os.linesep, "\n")
    with pytest.raises(SystemExit):
        console.run_main(lambda: print("512×256 ± 猫"))  # as the help is printed
    assert shown.endswith("\\x1b[2J\\r\\x07\\u202e\\udcff\\x9b1m\nnext\n")
    assert ("512×256 ± 猫" in shown) == (encoding == "utf-8")


@pytest.mark.parametrize(("error", "status"), [(utils.UserError("bad"), 2), (FileNotFoundError("gone"), 2),
                                               (KeyboardInterrupt(), 130), (utils.Stopped(15), 143),
                                               (BrokenPipeError("another than the output's"), 2),
                                               (utils.UserError("no runs/\x1b[2J\nerror: none"), 2)])
def test_scripts_end_with_a_sentence_and_the_conventional_status(error, status, monkeypatch):
    """The sentence is written in one piece: torchrun's processes print unbuffered, and all at once."""
    pieces = []
    monkeypatch.setattr(sys.stderr, "write", pieces.append)

    def main():
        raise error

    with pytest.raises(SystemExit) as leaving:
        console.run_main(main)
    assert leaving.value.code == status
    shown = str(error).replace("\x1b", "\\x1b").replace("\n", "\\n")  # one line of plain characters
    assert pieces == ([] if status > 128 else [f"error: {shown}\n"])


@pytest.mark.parametrize(("code", "statuses"), [
    *((f"console.run_main(lambda: print('x' * {letters}))", (0, 141)) for letters in (10, 10**6)),
    ("for i in range(5):\n    console.say('x' * 100_000)\nraise SystemExit(7)", (7,))])
@pytest.mark.long
def test_a_reader_who_leaves_ends_no_run_and_other_output_without_a_word(code, statuses):
    """`--help | head`: short enough to fail when Python closes its output only, or long enough to fail in print."""
    process = launch("-c", f"from runtime import console\n{code}", cwd=ROOT)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) in statuses


def test_a_program_whose_output_was_closed_before_it_started_works(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as ended:
        console.run_main(lambda: sys.stdout.write("lost") + sys.stderr.write("lost"))
    assert ended.value.code == 8


@pytest.mark.parametrize(("rank", "world", "several", "printed"), [
    ("1", None, True, True), ("1", "1", True, True), ("0", "2", True, True), ("1", "2", True, False),
    ("1", "2", False, True)])
def test_a_program_that_is_one_process_speaks_whatever_a_launcher_has_left(monkeypatch, capsys, rank, world, several,
                                                                          printed):
    """A run, too, must not be silent for a RANK alone; of several processes, the first one speaks."""
    for name, value in dict(WORLD_SIZE=world, RANK=rank, LOCAL_RANK=rank, TORCHELASTIC_RUN_ID=None).items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        console.run_main(lambda: console.say("here"), several)
    assert capsys.readouterr().out == ("here\n" if printed else "")


def test_after_run_in_a_notebook_ctrl_c_does_not_end_the_kernel(monkeypatch):
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    usual, seen = signal.default_int_handler, []
    before = signal.signal(signal.SIGINT, usual)
    with pytest.raises(SystemExit):
        console.run_main(lambda: seen.append(signal.getsignal(signal.SIGINT)))
    assert [*seen, signal.signal(signal.SIGINT, before)] == [usual, usual]


def test_torchrun_is_told_which_program_it_may_start(monkeypatch, capsys):
    for name, value in dict(WORLD_SIZE="2", RANK="1", TORCHELASTIC_RUN_ID="none").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="2"):
        console.run_main(lambda: pytest.fail("runs"))
    assert "error: torchrun starts train.py only" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    """numpy's and torch's ValueErrors too: this code is there to be edited."""
    with pytest.raises(ValueError, match="could not convert"):
        console.run_main(lambda: np.float64("x"))


def test_commands_are_quoted_for_the_shell_that_is_there(monkeypatch):
    words = ["python", r"runs\my run\gen.pth.tar", "{split}/A/{name}.png"]
    assert utils.command_line(["O'Brien"]) == """'O'"'"'Brien'"""
    assert utils.command_line(words) == r"""python 'runs\my run\gen.pth.tar' '{split}/A/{name}.png'"""
    monkeypatch.setattr(utils, "os", SimpleNamespace(name="nt"))
    assert utils.command_line(words) == r'''python "runs\my run\gen.pth.tar" "{split}/A/{name}.png"'''
    assert utils.command_line(["O'Brien"]) == '''"O'Brien"'''
