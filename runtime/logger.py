"""What a run tells: progress, log.csv, losses.png, example grids and TensorBoard events."""

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config import Config
from runtime import run as runs
from runtime.advice import overfits, raised, verdict, what_next, without_effect
from runtime.console import say
from runtime.files import atomic
from runtime.grids import DRAWN, save_grid
from runtime.run import Run
from runtime.state import State, count
from runtime.summary import summary
from runtime.tensorboard import Events

LOSSES = ["d_real", "d_fake", "g_gan", "g_l1"]  # of every step; what else one returns stands behind the other columns
COLUMNS = ["epoch", *LOSSES, "val_l1", "lr", "seconds", "images_per_s"]
EXTRAS = ["skipped", "val_skipped", "scale", "skipped_steps"]  # told where there are any


class Logger:
    """Keeps the history of a run, one dict of COLUMNS an epoch, and shows it in files of the run's folder.

    The history is part of the checkpoint, so the files are written anew from it and never disagree with a resumed run.
    They are written in the background; grids and curves, which keep Python busy, after the first epoch, then at most
    every SPACING seconds, and for the last epoch when the block ends. No failure in here ends a training run. In the
    processes that are not the main one, all of it is silent.
    """

    def __init__(self, run: Run):
        self.run = run
        self.cfg = cfg = run.cfg
        folder = cfg.out_dir
        self.silent = not run.ranks.main
        self.history = run.history
        self.examples = []  # of the last epoch
        self.drawn = len(self.history)
        self.drawn_at = -math.inf
        self.compared_from = run.record.get("compared_from", 0)
        self.told = False  # that the run overfits, in this session
        if self.silent:
            return

        # Where the history goes: functions of (history, examples), for every epoch and for every drawing
        self.tables = [lambda history, _: write_csv(folder / "log.csv", history)]
        self.pictures = [lambda history, examples: write_grid(folder / "examples", history[-1], examples, cfg),
                         lambda history, _: write_curves(folder / "losses.png", history, cfg)]
        try:
            self.tables.append(Events(folder / "tensorboard", len(self.history)))
        except Exception as error:  # it is not installed
            say(f"no TensorBoard events: {error}")

    def start(self, state: State, dtype: torch.dtype, lr: float) -> None:
        """Says with what the run begins or goes on; lr: the rate of its next epoch."""
        for sentence in (raised(self.history, lr), without_effect(self.cfg)):
            if sentence:
                say(sentence)
        ranks = self.run.ranks
        gen, disc = count(state.gen), count(state.disc)
        say(f"device {ranks.device.type}, precision {str(dtype).removeprefix('torch.')}, batch {self.cfg.batch_size}, "
            f"processes {ranks.world}, {gen:,} + {disc:,} parameters, which take {(gen + disc) * 16 / 1e9:.2g} GB with "
            f"gradients and Adam's moments, and activations more; writing to {self.cfg.out_dir}")

    def finish(self, pair: Any, split: str, kind: str, dtype: torch.dtype) -> None:
        """Says what the run came to, and what can follow. kind: the numbers of the targets."""
        say(what_next(self.cfg, pair, split, kind))
        if not self.silent:  # the history is the main process's
            say(summary(self.cfg, self.history, self.run.ranks.device, dtype, self.run.commit,
                        self.compared_from))

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
        self._submit("log", self.tables)
        if time.monotonic() - self.drawn_at >= runs.SPACING:
            self._draw()
        if self.cfg.paper_gan and (sentence := verdict(self.history)):
            say(sentence)
        if not self.told and (sentence := overfits(self.history[self.compared_from :])):
            self.told = True
            say(sentence)

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *exc) -> None:
        if self.drawn < len(self.history):
            self._draw()

    def _draw(self) -> None:
        self.drawn = len(self.history)
        self.drawn_at = time.monotonic()
        self._submit("drawing", self.pictures)

    def _submit(self, kind: str, sinks: list[Callable]) -> None:
        self.run.writer.submit(kind, write_all, sinks, list(self.history), self.examples)


def write_all(sinks: list[Callable], history: list[dict], examples: list[list[Tensor]]) -> None:
    for write in sinks:
        try:
            write(history, examples)
        except Exception as error:  # a full disk or a broken font must not cost the run
            say(f"the log is incomplete: {error}")


def write_csv(path: Path, history: list[dict]) -> None:
    text = io.StringIO()
    # More losses, EXTRAS, and scores with best_by
    extra = {name: None for row in history for name in row if name not in COLUMNS}
    writer = csv.DictWriter(text, [*COLUMNS, *extra], lineterminator="\n")
    writer.writeheader()
    for row in history:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    with atomic(path, durable=False) as file:
        file.write(text.getvalue().encode())


def write_curves(path: Path, history: list[dict], cfg: Config) -> None:
    from matplotlib.figure import Figure  # the object interface needs no display

    epochs = [row["epoch"] for row in history]
    panels = {"binary cross-entropy" if cfg.gan_loss == "bce" else cfg.gan_loss: LOSSES[:3],
              "L1, images in [-1, 1]": ["g_l1", "val_l1"]}
    if others := {name: None for row in history for name in row if name.startswith("g_") and name not in LOSSES}:
        panels["other losses of G"] = others
    n = len(panels)
    figure = Figure(figsize=(9, 3.25 * n))  # without layout="constrained", which takes as long as all the rest
    places = figure.subplots(n, 1, sharex=True, gridspec_kw=dict(left=0.08, right=0.98, top=0.98, bottom=0.16 / n))
    for axes, (title, names) in zip(places, panels.items(), strict=True):
        for name in names:
            style = "--" if name == "val_l1" else "-"
            axes.plot(epochs, [row.get(name, math.nan) for row in history], style, marker=".", label=name)
        if cfg.paper_gan and "g_gan" in names:
            axes.axhline(math.log(2), color="gray", linestyle="--", label="log 2 = 0.69: D is undecided")
        axes.set(ylabel=title, ylim=(0, 1.05 * axes.get_ylim()[1]))
        axes.legend()
        axes.grid(alpha=0.3)
    axes.set(xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    with atomic(path, durable=False) as file:
        figure.savefig(file, format="png", dpi=100, metadata=DRAWN)


def write_grid(folder: Path, row: dict, examples: list[list[Tensor]], cfg: Config) -> None:
    """Rows [x, y_fake, y] of the epoch that `row` tells of."""
    folder.mkdir(exist_ok=True)
    save_grid(folder / f"epoch_{row['epoch']:04d}.png", examples, ["input", "output", "target"],
              f"epoch {row['epoch']}, {cfg.direction}, validation L1 {row['val_l1']:.4f}")
