"""What a run tells: progress, log.csv, losses.png, example grids and TensorBoard events."""

import csv
import io
import math
import time
from collections.abc import Callable

from torch import Tensor

from runtime import checkpoint
from runtime.advice import Overfitting, verdict
from runtime.checkpoint import Run
from runtime.console import say
from runtime.files import DRAWN, atomic, save_grid

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
        losses = " ".join(f"{name} {row[name]:.3f}" for name in row if name.startswith(("d_", "g_")))
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
