import itertools
import math
import sys
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from conftest import row
from PIL import Image

from runtime import logger as logger_module
from runtime.checkpoint import Progress
from runtime.distributed import Ranks
from runtime.logger import COLUMNS, LOSSES, Logger
from runtime.meter import Meter

STATE = SimpleNamespace(scaler=torch.amp.GradScaler("cpu", enabled=False))


def meter_of(epoch=1, total=2, n_images=6, ranks=Ranks(), **progress):  # noqa: B008
    return Meter(STATE, Progress(epoch - 1, **progress), n_images, total, ranks)


def step(value):
    """What a training step tells whose losses all have this value."""
    return dict.fromkeys(LOSSES, torch.tensor(value))


@pytest.fixture
def logger_of(small):
    """Makes loggers of one run, which write at once."""

    def make(*history):
        small().out_dir.mkdir(exist_ok=True)
        writer = SimpleNamespace(submit=lambda kind, act, *args: act(*args))
        return Logger(SimpleNamespace(cfg=small(), ranks=Ranks(), history=[*history], record={}, writer=writer))

    return make


EXAMPLES = [[torch.zeros(3, 64, 64)] * 3]


@pytest.mark.parametrize("sink", ["logger.write_csv", "logger.write_curves", "logger.write_grid", "logger.Events",
                                  "tensorboard.event_of"])
def test_a_logger_that_fails_does_not_end_the_run(logger_of, monkeypatch, capsys, sink):
    monkeypatch.setattr(f"runtime.{sink}", Mock(side_effect=OSError("no space left")))
    logger_of().epoch(row(), EXAMPLES)
    assert "no space left" in capsys.readouterr().out


def test_a_broken_tensorboard_ends_its_curves_alone(logger_of, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    logger_of().epoch(row(), EXAMPLES)
    assert "TensorBoard's curves end with epoch 0" in capsys.readouterr().out


@pytest.mark.parametrize("first_number", [0, 9, 99])
def test_tensorboard_forgets_what_a_resumed_run_repeats(small, logger_of, monkeypatch, first_number):
    """Killed in epoch 3 with a checkpoint of epoch 1: the curves would go back in time, though in the same second."""
    monkeypatch.setattr("runtime.tensorboard.NUMBERS", itertools.count(first_number))
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = logger_of()
    for epoch in (1, 2, 3):
        first.epoch(row(epoch, val_l1=0.5), EXAMPLES)
    logger_of(row(1)).epoch(row(2, val_l1=0.25), EXAMPLES)
    events = event_accumulator.EventAccumulator(str(small().out_dir / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("val_l1")] == [(1, 0.5), (2, 0.25)]
    assert set(events.Tags()["scalars"]) == set(COLUMNS[1:])


def test_a_full_disk_under_tensorboard_ends_its_curves_alone(small, logger_of, disk, capsys):
    """It ended a finished training; the sentence named no file, and a thread left its traceback."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = disk(small().out_dir / "tensorboard", 4096)
    logger = logger_of()
    for epoch in range(1, 41):
        logger.epoch(row(epoch), EXAMPLES)
    logger.__exit__()
    out, err = capsys.readouterr()
    [path] = folder.iterdir()
    (sentence,) = [line for line in out.splitlines() if "TensorBoard" in line]
    assert str(path) in sentence and "No space left on device" in sentence and "Traceback" not in err
    last = int(sentence.split("end with epoch ")[1].split(",")[0])
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert len(events.Scalars("val_l1")) == last > 5
    assert len((small().out_dir / "log.csv").read_text().splitlines()) == 1 + 40


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("runtime.meter.time.perf_counter", lambda: next(clock))
    meter = meter_of()
    for batch in meter.watch(range(3)):
        meter.add(step(float(batch)), 2)
    meter.progress()
    out, err = capsys.readouterr()
    assert " 33% epoch 1/2 0:" in out and " left 0." in out and " img/s data " in out and out.count("\n") == 3
    assert "\r" not in out + err


def test_the_time_left_and_the_waiting_share_are_those_of_the_images_so_far(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("runtime.meter.time.perf_counter", lambda: now[0])

    def slow_loader():
        now[0] += 75
        yield 1

    meter = meter_of(2, 3, 10, images=5)
    for _ in meter.watch(slow_loader()):
        now[0] += 25
        meter.add(step(1.0), 5)
    # 5 images took 100 s; this epoch is then done, and one of 10 images is to come: 200 s
    shown = capsys.readouterr().out
    assert "0:03:20 left" in shown and "data 75%" in shown


@pytest.mark.curves
def test_the_curves_have_log_2_as_their_reference(logger_of, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure))
    logger_of().epoch(row(), EXAMPLES)
    heights = [line.get_ydata()[0] for line in drawn[0].axes[0].lines]
    assert heights == pytest.approx([0.6, 0.6, 0.9, math.log(2)])


def test_grids_and_curves_are_drawn_now_and_then_and_at_the_end(small, logger_of, monkeypatch):
    """Drawing takes Python's attention from a training whose epochs take a second."""
    drawn, clock = [], [0.0]
    monkeypatch.setattr(logger_module, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    logger = logger_of()
    monkeypatch.setattr(logger_module, "write_curves", lambda path, history, cfg: drawn.append(len(history)))
    for epoch, clock[0] in ((1, 0), (2, 19), (3, 20), (4, 30)):
        logger.epoch(row(epoch), EXAMPLES)
    assert drawn == [1, 3]
    for _ in range(2):  # at the end, what is drawn already is not drawn again
        logger.__exit__()
        assert drawn == [1, 3, 4]
    grids = sorted(path.name for path in (small().out_dir / "examples").iterdir())
    assert grids == [f"epoch_000{epoch}.png" for epoch in drawn]
    assert len((small().out_dir / "log.csv").read_text().splitlines()) == 1 + 4


@pytest.mark.curves
def test_a_loss_that_is_added_has_its_curve(small, tmp_path):
    for name, history in (("paper", [row(1), row(2)]), ("more", [row(1), row(2, g_fm=1.0)])):
        logger_module.write_curves(tmp_path / f"{name}.png", history, small())
    paper, more = (Image.open(tmp_path / f"{name}.png").size for name in ("paper", "more"))
    assert more == (paper[0], 1.5 * paper[1])


def test_losses_that_begin_within_an_epoch_have_their_means_when_it_is_cut_again():
    first = meter_of(sums={"g_old": 5.0}, images=2)
    first.add(step(1.0), 1)
    again = Meter(STATE, first.progress(), 6, 2, Ranks())
    again.add(step(1.0), 3)
    again.progress()
    assert again.means() == dict.fromkeys(LOSSES, 1.0)


def test_scores_that_do_not_compare_are_no_sign_of_overfitting(logger_of):
    history = [row(i, val_l1=(0.1 if i < 15 else 0.5) - 1e-4 * i, g_l1=1 / i) for i in range(1, 40)]
    log = logger_of(*history[:-1])
    log.epoch(history[-1], [])
    assert log.told
    log.run.record["compared_from"] = 14
    log = Logger(log.run)
    log.history.pop()
    log.epoch(history[-1], [])
    assert not log.told


def test_the_log_averages_the_losses_of_all_processes_once():
    """Asked again, after an error in validation, the processes must not be added up twice."""
    class Two(Ranks):
        def all_reduce(self, values, op="sum"):
            return [a + b for a, b in zip(values, [6.0] * 4 + [2, 1], strict=True)]  # two images of loss 3, one skipped

    meter = meter_of(1, 1, 4, Two(world=2))
    for _ in range(2):
        meter.add(step(1.0), 1)
    progress = meter.progress()
    assert (progress.images, progress.skipped) == (4, 1) and progress == meter.progress()
    assert progress.sums == dict.fromkeys(LOSSES, 8.0)
    assert meter.means() == dict.fromkeys(LOSSES, 2.0)
