"""What a run tells: progress, log.csv, losses.png, example grids and TensorBoard events."""

import csv
import io
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from config import Config
from runtime import checkpoint
from runtime.advice import Overfitting, verdict
from runtime.checkpoint import Progress, Run
from runtime.console import say
from runtime.distributed import Ranks
from runtime.files import DRAWN, atomic, save_grid
from utils import UserError

LOSSES = ["d_real", "d_fake", "g_gan", "g_l1"]
MORE_LOSSES = {"g_fm": "lambda_fm", "g_vgg": "lambda_vgg"}  # each where its weight is not 0
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
        self.run, self.cfg, self.folder, self.silent = run, run.cfg, run.cfg.out_dir, not run.ranks.main
        self.history = run.history
        self.drawn, self.drawn_at, self.examples = len(self.history), -math.inf, []
        self.tensorboard = None
        if self.silent:
            return
        self.overfitting = Overfitting()
        for row in self.history:
            self.overfitting.add(row)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(self.folder / "tensorboard", purge_step=len(self.history) + 1)
        except Exception as error:
            say(f"no TensorBoard events: {error}")

    def epoch(self, row: dict, examples: list[list[Tensor]]) -> None:
        """Takes in one epoch, with rows [x, y_fake, y] of example images: prints it and writes the files."""
        if self.silent:
            return
        self.history.append(row)
        self.examples = examples
        losses = " ".join(f"{name} {row[name]:.3f}" for name in losses_of(self.cfg))
        extra = "".join(f" {name} {row[name]:g}" for name in EXTRAS if row.get(name))
        say(f"epoch {row['epoch']}/{self.cfg.total_epochs} {losses} val_l1 {row['val_l1']:.4f} lr {row['lr']:.2g} "
            f"{row['seconds']:.0f} s {row['images_per_s']:.1f} img/s{extra}")
        self.run.writer.submit(self._write, list(self.history), examples)
        told = (verdict(self.history) if self.cfg.paper_step else "", self.overfitting.add(row))
        for sentence in filter(None, told):
            say(sentence)

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *exc) -> None:
        if self.drawn < len(self.history):
            self._draw(self.history, self.examples)
        if self.tensorboard:
            self.tensorboard.close()

    def _write(self, history: list[dict], examples: list[list[Tensor]]) -> None:
        self._try(self._write_csv, history)
        self._try(self._write_events, history[-1])
        if time.monotonic() - self.drawn_at >= checkpoint.SPACING:
            self._draw(history, examples)

    def _draw(self, history: list[dict], examples: list[list[Tensor]]) -> None:
        self.drawn, self.drawn_at = len(history), time.monotonic()
        self._try(self._write_examples, history[-1], examples)
        self._try(self._write_plot, history)

    def _try(self, write: Callable, *args) -> None:
        try:
            write(*args)
        except Exception as error:  # a full disk or a broken font must not cost the run
            say(f"the log is incomplete: {error}")

    def _write_csv(self, history: list[dict]) -> None:
        text = io.StringIO()
        extra = {name: None for row in history for name in row if name not in COLUMNS}  # with eval_every
        writer = csv.DictWriter(text, [*COLUMNS, *extra], lineterminator="\n")
        writer.writeheader()
        for row in history:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
        with atomic(self.folder / "log.csv") as file:
            file.write(text.getvalue().encode())

    def _write_plot(self, history: list[dict]) -> None:
        from matplotlib.figure import Figure  # the object interface needs no display

        epochs = [row["epoch"] for row in history]
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        for name in LOSSES[:3]:
            top.plot(epochs, [row[name] for row in history], marker=".", label=name)
        if self.cfg.paper_step:
            top.axhline(math.log(2), color="gray", linestyle="--", label="log 2 = 0.69: D is undecided")
        top.set(ylabel={"bce": "binary cross-entropy"}.get(self.cfg.gan_loss, self.cfg.gan_loss))
        if self.cfg.gan_loss != "hinge":
            top.set(ylim=(0, None))
        for name, style in (("g_l1", "-"), ("val_l1", "--")):
            bottom.plot(epochs, [row[name] for row in history], style, marker=".", label=name)
        bottom.set(ylabel="L1, images in [-1, 1]", xlabel="epoch", ylim=(0, None))
        bottom.xaxis.get_major_locator().set_params(integer=True)
        for axes in (top, bottom):
            axes.legend()
            axes.grid(alpha=0.3)
        with atomic(self.folder / "losses.png") as file:
            figure.savefig(file, format="png", dpi=100, metadata=DRAWN)

    def _write_examples(self, row: dict, examples: list[list[Tensor]]) -> None:
        save_grid(self.folder / "examples" / f"epoch_{row['epoch']:04d}.png", examples, ["input", "output", "target"],
                  f"epoch {row['epoch']}, {self.cfg.direction}, validation L1 {row['val_l1']:.4f}")

    def _write_events(self, row: dict) -> None:
        if self.tensorboard:
            for name in row.keys() - {"epoch"}:
                self.tensorboard.add_scalar(name, row[name], row["epoch"])
            self.tensorboard.flush()


def losses_of(cfg: Config) -> list[str]:
    """What a step returns, in its order."""
    return LOSSES + [name for name, weight in MORE_LOSSES.items() if getattr(cfg, weight)]


class Meter:
    """Averages the losses of each epoch, times it, and shows it: a bar on a terminal, else a line every 30 seconds.

    Losses stay on the device until a second has passed: reading them earlier would stall it at every step.
    `progress` carries on an epoch that a checkpoint cut in two.
    Of several processes, each counts the images of all and averages its own losses; `end` averages all.
    """

    def __init__(self, state: Any, progress: Progress, n_images: int, total_epochs: int, ranks: Ranks,
                 names: list[str] = LOSSES):  # noqa: B006
        self.names = names
        self.state, self.n_images, self.total_epochs, self.ranks = state, n_images, total_epochs, ranks
        self._begin(progress)

    def _begin(self, progress: Progress) -> None:
        self.epoch, self.step, self.done, self.before = progress.epoch + 1, progress.step, progress.images, progress
        kept = self.ranks.main and len(progress.sums) == len(self.names)  # else of other losses, or none yet
        self.sums, self.weight = (progress.sums, self.done) if kept else ([0.0] * len(self.names), 0)
        self.here, self.steps_here, self.waited = 0, 0, 0.0  # of this session: images, steps, seconds waited for data
        self.pending: list[tuple[Tensor, int]] = []
        self.seconds = None  # of this session's part of the epoch, once that has ended
        self.start = self.synchronised = self.printed = time.perf_counter()
        silent = not self.ranks.main or not sys.stderr.isatty() or self.epoch > self.total_epochs
        self.bar = tqdm(total=self.n_images, initial=self.done, leave=False, dynamic_ncols=True, disable=silent,
                        bar_format="{percentage:3.0f}% {desc} {bar}")

    def watch(self, batches: Iterable) -> Iterator:
        """The batches of an epoch, which begins here; the time spent waiting for them counts."""
        self.batches, self.updates = batches, updates(self.state)
        self.start = self.synchronised = self.printed = time.perf_counter()
        batches = iter(batches)
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def add(self, losses: Tensor, n: int) -> None:
        """Takes in one step: its losses, still on the device, and its number of images in this process."""
        self.pending.append((losses, n))
        self.here, self.done = self.here + n * self.ranks.world, self.done + n * self.ranks.world
        self.step, self.steps_here = self.step + 1, self.steps_here + 1
        if time.perf_counter() - self.synchronised > 1:
            self.synchronise()

    def synchronise(self) -> None:
        """Reads the losses that are still on the device. Raises ValueError, saying where, when one is not finite."""
        values = torch.stack([losses for losses, _ in self.pending]).tolist() if self.pending else []
        for back, (row, (_, n)) in enumerate(zip(values, self.pending, strict=True)):
            if not all(map(math.isfinite, row)):
                step = self.step - len(values) + back + 1
                named = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, row, strict=True))
                raise UserError(f"the losses are no longer finite in epoch {self.epoch}, step {step}: "
                                 f"{named}. Try a lower lr, or --precision fp32")
            self.sums = [total + value * n for total, value in zip(self.sums, row, strict=True)]
            self.weight += n
        self.pending = []
        self.synchronised = time.perf_counter()
        if values:
            self._show()

    def _show(self) -> None:
        elapsed = self.synchronised - self.start
        to_come = (self.total_epochs - self.epoch + 1) * self.n_images - self.done
        minutes = elapsed / self.here * to_come / 60
        pace = (f"{int(minutes // 60)}:{int(minutes % 60):02d}:{int(minutes * 60 % 60):02d} left "
                f"{self.here / elapsed:.1f} img/s data {self.waited / elapsed:.0%}")
        means = self.means()
        self.bar.n = self.done
        self.bar.set_description_str(  # d_real|d_fake: all of it fits into 80 columns
            f"{self.epoch}/{self.total_epochs} {pace} d {means['d_real']:.2f}|{means['d_fake']:.2f} "
            f"g_gan {means['g_gan']:.2f} g_l1 {means['g_l1']:.2f}")
        if self.bar.disable and self.synchronised - self.printed > 30:
            self.printed = self.synchronised
            losses = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            say(f"{self.done / self.n_images:4.0%} epoch {self.epoch}/{self.total_epochs} {pace} {losses}")

    def means(self) -> dict[str, float]:
        return {name: total / max(1, self.weight) for name, total in zip(self.names, self.sums, strict=True)}

    def end(self) -> dict[str, float]:
        """Ends the epoch: its losses, over all processes, and its speed, for the log."""
        progress = self.progress()
        row = {**self.means(), "seconds": progress.seconds, "images_per_s": self.n_images / progress.seconds}
        if skipped := self.ranks.all_reduce([self.batches.skipped])[0]:
            row["skipped"] = int(skipped)
        if self.state.scaler.is_enabled():
            row |= {"scale": self.state.scaler.get_scale(),
                    "skipped_steps": self.steps_here - (updates(self.state) - self.updates)}
        return row

    def progress(self) -> Progress:
        """Where the epoch stands, with the losses of all processes: from there, it can be carried on."""
        if self.seconds is None:
            self.synchronise()
            self.bar.close()
            *self.sums, self.weight = self.ranks.all_reduce([*self.sums, self.weight])
            self.seconds = self.before.seconds + time.perf_counter() - self.start
        return Progress(self.epoch - 1, self.step, self.done, self.sums, self.seconds)

    def next_epoch(self) -> Progress:
        """Where the run stands once the epoch is complete."""
        self._begin(Progress(self.epoch))
        return self.before


def updates(state: Any) -> int:
    """The updates of G so far; a step that the scaler skips, because gradients overflowed in fp16, is none."""
    steps = [moments["step"] for moments in state.opt_g.state.values()] if state.scaler.is_enabled() else []
    return int(steps[0]) if steps else 0
