"""Trains pix2pix: an image-to-image translator from pairs of images (Isola et al., CVPR 2017).

    python train.py                                          the settings in config.py: the embedded demo
    python train.py facades --n-epochs 50                    a recipe of the paper, one setting changed
    python train.py --data-root DIR --out-dir runs/NAME      your own pairs
    python train.py --resume --out-dir runs/NAME             continue where that run stopped
    python train.py --help                                   every setting
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import Config
from dataset import load_data
from hd.losses import load_vgg
from hd.networks import make_networks
from hd.step import hd_step
from inference.load import head_start
from inference.validation import Validation
from pairs.loading import loaders
from pairs.values import composite
from runtime.cli import parse
from runtime.console import run_main
from runtime.devices import memory_advice, seed_step, use_precision, use_seed
from runtime.distributed import processes
from runtime.logger import Logger
from runtime.meter import Meter
from runtime.run import Run
from runtime.signals import Stop
from runtime.speed import choose_levers, graphed
from runtime.state import State
from utils import DataError, Stopped


def bce(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of every patch against one label, 1 for real or 0 for generated, in fp32."""
    logits = logits.float()
    return F.softplus(-logits if target else logits).mean()  # softplus(∓logits) is BCE, in fewer kernels


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


def step_for(cfg: Config, state: State, autocast: Callable, vgg_loss: nn.Module | None = None,
             masked: bool = False) -> Callable:
    """The paper's step, or that of hd/ if the settings go beyond the paper's losses; with masks if there are any."""
    if cfg.paper_step:
        step = partial(train_step, lambda_l1=cfg.lambda_l1, autocast=autocast)
    else:
        step = partial(hd_step, cfg=cfg, autocast=autocast, vgg_loss=vgg_loss)
    if masked:
        step = partial(masked_step, step)
    return partial(step, state)


def masked_step(step: Callable, state: State, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """A step for a y whose last channel is a mask in [-1, 1], by which y_fake is blended into y for all losses.

    Where it is -1, y_fake equals y, so that D sees no difference there.
    """

    def gen(x: Tensor) -> Tensor:
        y_fake, _ = composite(state.gen(x), y)
        return y_fake

    seen = replace(state, gen=gen)
    return step(seen, x, y[:, :-1])


def train(cfg: Config) -> None:
    """Trains as cfg says and saves the result. Raises Stopped if a signal ended the run early.

    Raises UserError or OSError, with a readable message, for everything that a user can fix.
    """
    with processes(cfg.device) as ranks, Run(cfg, ranks) as run:
        # Decide how this machine computes.
        cfg = run.cfg  # every process takes the main one's settings
        device = ranks.device
        dtype = use_precision(cfg.precision, device)
        levers = choose_levers(cfg.speed, device, dtype, ranks.world)
        levers.use()
        autocast = nullcontext
        if dtype != torch.float32:
            autocast = partial(torch.autocast, device.type, dtype)

        # Find everything that the run needs, so that what is missing ends it now.
        validate = Validation(cfg, ranks, autocast)
        vgg_loss = load_vgg(device) if cfg.lambda_vgg else None
        train_data, val_data, survey = load_data(cfg, ranks.world, before=run.met, resumed=run.saved is not None)
        survey.check_same(ranks)

        # Draw the networks from the seed, then put the checkpoint into them if there is one.
        use_seed(cfg.seed, deterministic=cfg.speed == "deterministic")
        state = State.begin(*make_networks(cfg), cfg, device, dtype, levers)
        if cfg.init_from and not run.saved:
            ranks.broadcast(partial(head_start, state.gen, state.disc, cfg.init_from))  # replicate() hands it on
        progress = run.restore(state, survey.record, survey.same_train)

        # Choose the step, and what watches over it.
        rate = partial(learning_rate, lr=cfg.lr, n_epochs=cfg.n_epochs, n_epochs_decay=cfg.n_epochs_decay)
        step = step_for(cfg, ranks.replicate(state), autocast, vgg_loss, train_data.masked)
        step = graphed(step, levers)
        meter = Meter(state, progress, len(train_data), cfg.total_epochs, ranks)

        batches = loaders(train_data, val_data, cfg, ranks, levers.channels_last)
        with Logger(run) as log, Stop(ranks) as stop, batches as (train_batches, val_batches):
            log.start(state, dtype, rate(progress.epoch + 1))
            try:
                for epoch in range(progress.epoch + 1, cfg.total_epochs + 1):
                    # Train on every pair once; after a resume, on those that the epoch has left. Order, jitter and
                    # dropout follow from the seed and the position, which `meter` counts and checkpoints keep.
                    lr = rate(epoch)
                    state.set_rate(lr)
                    left = meter.watch(train_batches.epoch(epoch, start=meter.done))
                    for x, y in stop.between(left):
                        seed_step(cfg.seed, ranks.rank, epoch, meter.step, device)  # dropout's mask
                        losses = step(x, y)
                        meter.add(losses, len(x))
                        if state.ema:
                            state.ema.update(state.gen)
                    if state.ema:
                        state.ema.take_in(state.gen)
                    means = meter.end()

                    # Validate, log, and save, the last at most every 20 seconds.
                    scores, examples = validate(state.result, val_batches, epoch, stop)
                    row = {"epoch": epoch, "lr": lr, **means, **scores}
                    log.epoch(row, examples)
                    progress = meter.next_epoch()
                    run.save_epoch(state, progress, log.history)
            except (Stopped, DataError):  # raised in all processes at once
                run.save(state, meter.progress(), log.history)  # --resume goes on in the middle of the epoch
                raise
            run.save(state, progress, log.history)
        shown = next(val_data.readable(), survey.scored[0])
        log.finish(shown, survey.split, survey.record["kind"], dtype)


@memory_advice("take a smaller --batch-size, --crop-size or --ngf; the last checkpoint is untouched")
def main() -> None:
    train(parse(description=__doc__))


if __name__ == "__main__":
    run_main(main, several=True)
