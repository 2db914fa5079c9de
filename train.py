"""Trains pix2pix: an image-to-image translator from pairs of images (Isola et al., CVPR 2017).

    python train.py                                          the settings in config.py: the embedded demo
    python train.py facades --n-epochs 50                    a recipe of the paper, one setting changed
    python train.py --data-root DIR --out-dir runs/NAME      your own pairs
    python train.py --resume --out-dir runs/NAME             continue where that run stopped
    python train.py --help                                   every setting
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import Config
from dataset import load_data
from generator import Generator
from hd.losses import Perceptual, load_perceptual
from hd.networks import make_discriminator, make_generator
from hd.step import hd_step
from inference.load import head_start
from inference.metrics import LabelScores, image_scores
from inference.translate import at_any_size
from pairs.loading import Batches, loaders
from pairs.palettes import load_palette
from pairs.values import composite
from runtime.advice import raised, what_next
from runtime.checkpoint import Run
from runtime.cli import parse
from runtime.console import run_main, say
from runtime.devices import memory_advice, no_search, seed_step, use_precision, use_seed
from runtime.distributed import Ranks, processes
from runtime.ema import Average
from runtime.logger import Logger
from runtime.meter import Meter
from runtime.signals import Stop
from runtime.speed import Levers, Step, choose_levers, graphed, prepare, set_rate
from runtime.summary import commit_of, summary
from utils import DataError, Stopped


def bce(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of every patch against one label, 1 for real or 0 for generated, in fp32."""
    logits = logits.float()
    return F.softplus(-logits if target else logits).mean()  # softplus(∓logits) is BCE, in fewer kernels


@dataclass
class State:
    """Everything that a training step changes and a checkpoint restores."""

    gen: Generator
    disc: nn.Module
    opt_g: torch.optim.Adam
    opt_d: torch.optim.Adam
    scaler: torch.amp.GradScaler  # does nothing unless the precision is fp16
    ema: Average | None = None  # average of gen's weights, which the run then saves as its result

    @property
    def result(self) -> Generator:
        return self.ema.net if self.ema else self.gen


def train_step(state: State, x: Tensor, y: Tensor, lambda_l1: float, autocast: Callable) -> dict[str, Tensor]:
    """One update of D, then one of G against the updated D (section 3.3).

    x, y: input and target, (N, C, H, W) in [-1, 1]. autocast() returns the context for a forward pass.
    Returns the losses by name, 0-dim and still on the device; the log shows whatever is in there.
    """
    gen, disc, scaler = state.gen, state.disc, state.scaler
    with autocast():
        y_fake = gen(x)

    # D: real pairs towards 1, generated pairs towards 0; halved, to slow D down against G
    with autocast():
        d_real = bce(disc(x, y), 1.0)
        d_fake = bce(disc(x, y_fake.detach()), 0.0)
    state.opt_d.zero_grad()
    scaler.scale((d_real + d_fake) / 2).backward()
    scaler.step(state.opt_d)

    # G: fool the updated D (non-saturating), and stay close to the target
    disc.requires_grad_(False)
    try:
        with autocast():
            g_gan = bce(disc(x, y_fake), 1.0)
        g_l1 = F.l1_loss(y_fake.float(), y)
        state.opt_g.zero_grad()
        scaler.scale(g_gan + lambda_l1 * g_l1).backward()
        scaler.step(state.opt_g)
    finally:
        disc.requires_grad_(True)

    scaler.update()
    losses = {"d_real": d_real, "d_fake": d_fake, "g_gan": g_gan, "g_l1": g_l1}
    return {name: loss.detach() for name, loss in losses.items()}


def learning_rate(epoch: int, lr: float, n_epochs: int, n_epochs_decay: int) -> float:
    """The rate of `epoch`, counted from 1: constant for n_epochs, then in equal steps that stop short of zero."""
    return lr * (1 - max(0, epoch - n_epochs) / (n_epochs_decay + 1))


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def make_state(cfg: Config, device: torch.device, dtype: torch.dtype, levers: Levers) -> State:
    gen, disc = make_generator(cfg.plain()).to(device), make_discriminator(cfg).to(device)
    for net in (gen, disc):
        prepare(net, levers)
    # A CUDA graph would keep a number forever, so there the rate is a tensor
    lr = partial(torch.tensor, device=device) if levers.cuda_graph else float
    adam = partial(torch.optim.Adam, betas=(cfg.beta1, 0.999), fused=levers.fused_adam or None,
                   capturable=levers.cuda_graph)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    return State(gen, disc, adam(gen.parameters(), lr(cfg.lr)), adam(disc.parameters(), lr(cfg.lr)), scaler,
                 Average(gen, cfg.ema) if cfg.ema else None)


def step_for(cfg: Config, state: State, autocast: Callable, perceptual: Perceptual | None = None,
             masked: bool = False) -> Step:
    """The paper's step, or that of hd/ if the settings go beyond the paper's losses; with masks if there are any."""
    if cfg.paper_step:
        step = partial(train_step, lambda_l1=cfg.lambda_l1, autocast=autocast)
    else:
        step = partial(hd_step, cfg=cfg, autocast=autocast, perceptual=perceptual)
    return partial(masked_step, step, state) if masked else partial(step, state)


def masked_step(step: Callable, state: State, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """A step for a y whose last channel is a mask, which weights each pixel's L1.

    Where it is 0, y_fake equals y, so that D sees no difference there.
    """
    seen = replace(state, gen=lambda x: composite(state.gen(x), y)[0])
    return step(seen, x, y[:, :-1])


@torch.no_grad()
def validate(gen: Generator, batches: Batches, epoch: int, stop: Stop, autocast: Callable, cfg: Config,
             ranks: Ranks, labels: LabelScores | None = None) -> tuple[dict[str, float], list[list[Tensor]]]:
    """The mean val_l1 over the pairs, and n_examples rows [x, y_fake, y] for the grid, on the CPU.

    Runs the network as the paper tests it. Dropout is the same for all images and epochs, so the scores do not depend
    on batches or processes. Every eval_every epochs, adds the means of `image_scores`, named val_…, and with `labels`
    the share of all pixels with the target's class, named val_label_accuracy.
    """
    n, index = len(batches.data), ranks.rank
    wanted = {round(i * (n - 1) / max(1, cfg.n_examples - 1)) for i in range(cfg.n_examples)}
    scored = cfg.eval_every and epoch % cfg.eval_every == 0
    l1, rows, sums = torch.zeros((), device=ranks.device), {}, Counter()
    with gen.test_time(), no_search():
        for x, y in stop.between(batches):
            torch.manual_seed(cfg.seed)
            with autocast():
                y_fake, y = composite(at_any_size(gen, x).float(), y)
            l1 += F.l1_loss(y_fake, y) * len(x)
            for row in zip(x, y_fake, y, strict=True):
                if index in wanted:
                    rows[index] = [image.cpu() for image in row]
                if scored:
                    for name, value in image_scores(*row[1:]).items():
                        sums[f"val_{name}"] += value / n
                    if labels:
                        sums.update(labels.count(*row[1:]))
                index += ranks.world
    sums["val_l1"] = l1.item() / n
    if batches.skipped:
        sums["val_skipped"] = batches.skipped
    total, examples = Counter(), {}
    for scores, some in ranks.all_gather((sums, rows)):
        total.update(scores)
        examples |= some
    if scored and labels:
        total["val_label_accuracy"] = total.pop("right") / max(1, total.pop("counted"))
    return dict(total), [examples[index] for index in sorted(examples)]


def train(cfg: Config) -> None:
    """Trains as cfg says and saves the result. Raises Stopped if a signal ended the run early.

    Raises UserError or OSError, with a readable message, for everything that a user can fix.
    """
    with processes(cfg.device) as ranks, Run(cfg, ranks) as run:
        cfg, device = run.cfg, ranks.device  # every process takes the main one's settings
        commit = commit_of()  # read now: files may be edited during training
        dtype = use_precision(cfg.precision, device)
        levers = choose_levers(cfg, device, dtype, ranks.world)
        perceptual = load_perceptual(device) if cfg.lambda_vgg else None
        train_data, val_data = load_data(cfg, ranks.world, run.met, run.saved is not None)

        use_seed(cfg.seed, cfg.deterministic)
        state = make_state(cfg, device, dtype, levers)
        if cfg.init_from and not run.saved:
            say(ranks.broadcast(partial(head_start, state.gen, state.disc, cfg.init_from)))  # replicate() hands it on
        progress = run.restore(state, train_data.record, train_data.unchanged, val_data.unchanged)
        rate = partial(learning_rate, lr=cfg.lr, n_epochs=cfg.n_epochs, n_epochs_decay=cfg.n_epochs_decay)
        if sentence := raised(run.history, rate(progress.epoch + 1)):
            say(sentence)
        labels = LabelScores(load_palette(cfg.palette)) if cfg.palette else None
        autocast = nullcontext if dtype == torch.float32 else partial(torch.autocast, device.type, dtype)
        step = graphed(step_for(cfg, ranks.replicate(state), autocast, perceptual, train_data.masked), levers)
        meter = Meter(state, progress, len(train_data), cfg.total_epochs, ranks)
        sizes = count(state.gen), count(state.disc)
        say(f"device {device.type}, precision {str(dtype).removeprefix('torch.')}, batch {cfg.batch_size}, processes "
            f"{ranks.world}, {sizes[0]:,} + {sizes[1]:,} parameters, which take {sum(sizes) * 16 / 1e9:.2g} GB with "
            f"gradients and Adam's moments, and activations more; writing to {cfg.out_dir}")

        with Logger(run) as log, Stop(ranks) as stop, loaders(
                train_data, val_data, cfg, ranks, levers.channels_last) as (train_batches, val_batches):
            try:
                for epoch in range(progress.epoch + 1, cfg.total_epochs + 1):
                    lr = rate(epoch)
                    set_rate(state, lr)
                    for x, y in stop.between(meter.watch(train_batches.of(epoch, start=meter.done))):
                        seed_step(cfg.seed, ranks.rank, epoch, meter.step)  # dropout's mask
                        meter.add(step(x, y), len(x))
                        if state.ema:
                            state.ema.follow(state.gen)
                    if state.ema:
                        state.ema.update(state.gen)
                    losses = meter.end()
                    scores, examples = validate(state.result, val_batches, epoch, stop, autocast, cfg, ranks, labels)
                    log.epoch({"epoch": epoch, "lr": lr, **losses, **scores}, examples)
                    progress = meter.next_epoch()
                    run.save_in_background(state, progress, log.history)
            except (Stopped, DataError):  # raised in all processes at once
                run.save(state, meter.progress(), log.history)  # --resume goes on from here
                raise
            run.save(state, progress, log.history)
        say(what_next(cfg, val_data.pairs[0], val_data.split, train_data.record["kind"]))
        if ranks.main:  # which alone keeps the history
            say(summary(cfg, log.history, device, dtype, commit))


@memory_advice("take a smaller --batch-size, --crop-size or --ngf; the last checkpoint is untouched")
def main() -> None:
    train(parse(description=__doc__))


if __name__ == "__main__":
    run_main(main, several=True)
