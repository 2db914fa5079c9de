"""What an epoch tells while it runs: the means of its losses, its speed, a bar."""

import math
import sys
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from runtime.checkpoint import Progress
from runtime.console import say
from runtime.distributed import Ranks
from runtime.state import State
from utils import UserError


class Meter:
    """Averages the losses of each epoch, times it, and shows it: a bar on a terminal, else a line every 30 seconds.

    Losses stay on the device until a second has passed: reading them earlier would stall it at every step.
    `progress` carries on an epoch that a checkpoint cut in two.
    Of several processes, each counts the images of all and averages its own losses; `end` averages all.
    """

    def __init__(self, state: State, progress: Progress, n_images: int, total_epochs: int, ranks: Ranks):
        self.state = state
        self.n_images = n_images
        self.total_epochs = total_epochs
        self.ranks = ranks
        self._begin(progress)

    def _begin(self, progress: Progress) -> None:
        self.before = progress
        self.epoch = progress.epoch + 1
        self.step = progress.step
        self.done = progress.images  # images of this epoch, in all processes and sessions
        self.sums = dict(progress.sums) if self.ranks.main else dict.fromkeys(progress.sums, 0.0)
        self.weight = self.done if self.ranks.main and self.sums else 0  # images that the sums are of
        self.pending: list[tuple[dict[str, Tensor], int]] = []
        self.batches = ()  # of this session, once it has begun with them
        self.skipped = 0  # pairs of this process and session that could not be read
        self.updates = updates(self.state)
        self.waited = 0.0  # seconds, for data
        self.seconds = None  # of the epoch, once it has ended
        self.start = self.synchronised = self.printed = time.perf_counter()
        silent = not self.ranks.main or not sys.stderr.isatty() or self.epoch > self.total_epochs
        self.bar = tqdm(total=self.n_images, initial=self.done, leave=False, dynamic_ncols=True, disable=silent,
                        delay=0.1, bar_format="{percentage:3.0f}% {desc} {bar}")  # drawn after what is said first

    def watch(self, batches: Iterable) -> Iterator:
        """The batches of an epoch, which begins here; the time spent waiting for them counts."""
        self.batches = batches
        self.start = self.synchronised = self.printed = time.perf_counter()
        batches = iter(batches)
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def add(self, losses: dict[str, Tensor], n: int) -> None:
        """Takes in one step: its losses, 0-dim and still on the device, and its number of images in this process."""
        self.pending.append((losses, n))
        self.skipped = getattr(self.batches, "skipped", 0)  # of the next batch, which may be given up, none counts
        self.done += n * self.ranks.world
        self.step += 1
        if time.perf_counter() - self.synchronised > 1:
            self.synchronise()

    def synchronise(self) -> None:
        """Reads the losses that are still on the device. Raises UserError, saying where, when one is not finite."""
        if self.pending:
            self._read()
            self._show()
        self.synchronised = time.perf_counter()

    def _read(self) -> None:
        names = list(self.pending[0][0])
        if {*names} != {*self.sums}:  # the first steps, or a session that has other losses than the one before
            self.sums = dict.fromkeys(names, 0.0)
            self.weight = 0
        flat = torch.stack([loss for losses, _ in self.pending for loss in losses.values()])  # one copy from the device
        rows = flat.view(len(self.pending), len(names)).tolist()
        first = self.step - len(rows) + 1
        for step, (row, (_, n)) in enumerate(zip(rows, self.pending, strict=True), first):
            losses = dict(zip(names, row, strict=True))
            if not all(map(math.isfinite, row)):
                named = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                raise UserError(f"the losses are no longer finite in epoch {self.epoch}, step {step}: {named}. "
                                "Try a lower lr, or --precision fp32")
            for name, value in losses.items():
                self.sums[name] += value * n
            self.weight += n
        self.pending = []

    def _show(self) -> None:
        elapsed = time.perf_counter() - self.start
        to_come = (self.total_epochs - self.epoch + 1) * self.n_images - self.done
        rate = (self.done - self.before.images) / elapsed
        left = int(to_come / rate)
        pace = (f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left {rate:.1f} img/s "
                f"data {self.waited / elapsed:.0%}")
        means = self.means()
        self.bar.n = self.done
        self.bar.set_description_str(  # d_real|d_fake: all of it fits into 80 columns
            f"{self.epoch}/{self.total_epochs} {pace} d {means['d_real']:.2f}|{means['d_fake']:.2f} "
            f"g_gan {means['g_gan']:.2f} g_l1 {means['g_l1']:.2f}")
        if self.bar.disable and time.perf_counter() - self.printed > 30:
            self.printed = time.perf_counter()
            losses = " ".join(f"{name} {value:.3f}" for name, value in means.items())
            say(f"{self.done / self.n_images:4.0%} epoch {self.epoch}/{self.total_epochs} {pace} {losses}")

    def means(self) -> dict[str, float]:
        return {name: total / max(1, self.weight) for name, total in self.sums.items()}

    def end(self) -> dict[str, float]:
        """Ends the epoch: its losses, over all processes, and its speed, for the log."""
        progress = self.progress()
        row = {**self.means(), "seconds": progress.seconds, "images_per_s": self.n_images / progress.seconds}
        if progress.skipped:
            row["skipped"] = progress.skipped
        if self.state.scaler.is_enabled():
            row["scale"] = self.state.scaler.get_scale()
            row["skipped_steps"] = progress.skipped_steps
        return row

    def progress(self) -> Progress:
        """Where the epoch stands, with the losses of all processes: from there, it can be carried on."""
        if self.seconds is None:
            self.synchronise()
            self.bar.clear()  # close would leave it, as with a delay it counts as never drawn
            self.bar.close()
            *sums, weight, skipped = self.ranks.all_reduce([*self.sums.values(), self.weight, self.skipped])
            self.skipped = self.before.skipped + int(skipped)
            steps = self.step - self.before.step if self.state.scaler.is_enabled() else 0
            self.skipped_steps = self.before.skipped_steps + steps - (updates(self.state) - self.updates)
            scale = self.done / max(1, weight)  # of losses that began within the epoch, as if they were of all of it
            self.sums = {name: total * scale for name, total in zip(self.sums, sums, strict=True)}
            self.weight = self.done
            self.seconds = self.before.seconds + time.perf_counter() - self.start
        return Progress(self.epoch - 1, self.step, self.done, self.sums, self.seconds, self.skipped, self.skipped_steps)

    def next_epoch(self) -> Progress:
        """Where the run stands once the epoch is complete."""
        self._begin(Progress(self.epoch))
        return self.before


def updates(state: State) -> int:
    """The updates of G so far; a step that the scaler skips, because gradients overflowed in fp16, is none."""
    steps = [moments["step"] for moments in state.opt_g.state.values()] if state.scaler.is_enabled() else []
    return int(steps[0]) if steps else 0
