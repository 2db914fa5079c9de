"""What a run tells: progress, log.csv, losses.png, example grids and TensorBoard events."""

import csv
import io
import itertools
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config import Config
from runtime import run as runs
from runtime.advice import Overfitting, raised, verdict, what_next
from runtime.console import say
from runtime.files import DRAWN, atomic, save_grid
from runtime.run import Run
from runtime.state import State, count
from runtime.summary import summary

LOSSES = ["d_real", "d_fake", "g_gan", "g_l1"]  # of every step; what else one returns stands behind the other columns
COLUMNS = ["epoch", *LOSSES, "val_l1", "lr", "seconds", "images_per_s"]
NUMBERS = itertools.count()  # of TensorBoard's files of this process
EXTRAS = ["skipped", "val_skipped", "scale", "skipped_steps"]  # told where there are any


class Logger:
    """Keeps the history of a run, one dict of COLUMNS an epoch, and shows it in files of the run's folder.

    The history is part of the checkpoint, so the files are written anew from it and never disagree with a resumed run.
    They are written in the background; grids and curves, which keep Python busy, after the first epoch, then at most
    every SPACING seconds, and for the last epoch when the block ends. No failure in here ends a training run. In the
    processes that are not the main one, all of it is silent.
    """

    def __init__(self, run: Run):
        self.run, self.cfg, self.folder = run, run.cfg, run.cfg.out_dir
        self.silent = not run.ranks.main
        self.history = run.history
        self.examples = []  # of the last epoch
        self.drawn = len(self.history)
        self.drawn_at = -math.inf
        self.told = len(self.history)  # epochs that TensorBoard's file holds
        self.events = None
        self.overfitting = Overfitting()
        if self.silent:
            return
        for row in self.history:
            self.overfitting.add(row)
        try:
            self.events = open_events(self.folder / "tensorboard", self.told + 1)
        except Exception as error:  # it is not installed, or not to be written to
            say(f"no TensorBoard events: {error}")

    def start(self, state: State, dtype: torch.dtype, lr: float) -> None:
        """Says with what the run begins or goes on; lr: the rate of its next epoch."""
        if sentence := raised(self.history, lr):
            say(sentence)
        ranks = self.run.ranks
        gen, disc = count(state.gen), count(state.disc)
        say(f"device {ranks.device.type}, precision {str(dtype).removeprefix('torch.')}, batch {self.cfg.batch_size}, "
            f"processes {ranks.world}, {gen:,} + {disc:,} parameters, which take {(gen + disc) * 16 / 1e9:.2g} GB with "
            f"gradients and Adam's moments, and activations more; writing to {self.folder}")

    def finish(self, val_data: Any, kind: str, dtype: torch.dtype) -> None:
        """Says what the run came to, and what can follow. kind: the numbers of the targets."""
        say(what_next(self.cfg, val_data.pairs[0], val_data.split, kind))
        if not self.silent:  # the history is the main process's
            say(summary(self.cfg, self.history, self.run.ranks.device, dtype, self.run.commit))

    def epoch(self, row: dict, examples: list[list[Tensor]]) -> None:
        """Takes in one epoch, with rows [x, y_fake, y] of example images: prints it and writes the files."""
        if self.silent:
            return
        self.history.append(row)
        self.examples = examples
        losses = " ".join(f"{name} {row[name]:.3f}" for name in row if name.startswith(("d_", "g_")))
        extra = "".join(f" {name} {row[name]:g}" for name in EXTRAS if row.get(name))
        say(f"epoch {row['epoch']}/{self.cfg.total_epochs} {losses} val_l1 {row['val_l1']:.4f} lr {row['lr']:.2g} "
            f"{row['seconds']:.0f} s {row['images_per_s']:.1f} img/s{extra}")
        self.run.writer.submit("log", self._write, list(self.history))
        if time.monotonic() - self.drawn_at >= runs.SPACING:
            self._draw()
        told = (verdict(self.history) if self.cfg.paper_step else "", self.overfitting.add(row))
        for sentence in filter(None, told):
            say(sentence)

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *exc) -> None:
        if self.drawn < len(self.history):
            self._draw()

    def _draw(self) -> None:
        self.drawn = len(self.history)
        self.drawn_at = time.monotonic()
        self.run.writer.submit("drawing", self._write_pictures, list(self.history), self.examples)

    def _write(self, history: list[dict]) -> None:
        self._try(write_csv, self.folder / "log.csv", history)
        if not self.events:
            return
        try:
            write_events(self.events, history[self.told :])
            self.told = len(history)
        except Exception as error:  # most of all a full disk
            say(f"TensorBoard's curves end with epoch {self.told}, as {self.events} cannot be written: {error}")
            self.events = None

    def _write_pictures(self, history: list[dict], examples: list[list[Tensor]]) -> None:
        self._try(write_grid, self.folder / "examples", history[-1], examples, self.cfg)
        self._try(write_curves, self.folder / "losses.png", history, self.cfg)

    def _try(self, write: Callable, *args) -> None:
        try:
            write(*args)
        except Exception as error:  # a full disk or a broken font must not cost the run
            say(f"the log is incomplete: {error}")


def write_csv(path: Path, history: list[dict]) -> None:
    text = io.StringIO()
    extra = {name: None for row in history for name in row if name not in COLUMNS}  # with best_by
    writer = csv.DictWriter(text, [*COLUMNS, *extra], lineterminator="\n")
    writer.writeheader()
    for row in history:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    with atomic(path, durable=False) as file:
        file.write(text.getvalue().encode())


def write_curves(path: Path, history: list[dict], cfg: Config) -> None:
    from matplotlib.figure import Figure  # the object interface needs no display

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for name in LOSSES[:3]:
        top.plot(epochs, [row[name] for row in history], marker=".", label=name)
    if cfg.paper_step:
        top.axhline(math.log(2), color="gray", linestyle="--", label="log 2 = 0.69: D is undecided")
    top.set(ylabel="binary cross-entropy" if cfg.gan_loss == "bce" else cfg.gan_loss, ylim=(0, None))
    for name, style in (("g_l1", "-"), ("val_l1", "--")):
        bottom.plot(epochs, [row[name] for row in history], style, marker=".", label=name)
    bottom.set(ylabel="L1, images in [-1, 1]", xlabel="epoch", ylim=(0, None))
    bottom.xaxis.get_major_locator().set_params(integer=True)
    for axes in (top, bottom):
        axes.legend()
        axes.grid(alpha=0.3)
    with atomic(path, durable=False) as file:
        figure.savefig(file, format="png", dpi=100, metadata=DRAWN)


def write_grid(folder: Path, row: dict, examples: list[list[Tensor]], cfg: Config) -> None:
    """Rows [x, y_fake, y] of the epoch that `row` tells of."""
    folder.mkdir(exist_ok=True)
    save_grid(folder / f"epoch_{row['epoch']:04d}.png", examples, ["input", "output", "target"],
              f"epoch {row['epoch']}, {cfg.direction}, validation L1 {row['val_l1']:.4f}")


def open_events(folder: Path, first: int) -> Path:
    """A new file of TensorBoard's; what older ones in the folder hold of the epoch `first` and later counts no more.

    Written here and not by SummaryWriter, whose thread dies with a traceback where the disk is full.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    folder.mkdir(exist_ok=True)
    path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(NUMBERS)}"
    start = SessionLog(status=SessionLog.START)
    append_events(path, [Event(wall_time=time.time(), file_version="brain.Event:2"),
                         Event(wall_time=time.time(), step=first, session_log=start)])
    return path


def write_events(path: Path, rows: list[dict]) -> None:
    """Adds the numbers of these epochs to a file of `open_events`."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    events = []
    for row in rows:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "epoch"]
        events.append(Event(wall_time=time.time(), step=row["epoch"], summary=Summary(value=values)))
    append_events(path, events)


def append_events(path: Path, events: list) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("ab") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
