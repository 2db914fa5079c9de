"""Trains pix2pix: an image-to-image translator from pairs of images (Isola et al., CVPR 2017).

    python train.py                                          the settings in config.py: the embedded demo
    python train.py facades --n-epochs 50                    a recipe of the paper, one setting changed
    python train.py --data-root DIR --out-dir runs/NAME      your own pairs
    python train.py --resume --out-dir runs/NAME             go on where that run stopped
    python train.py --help                                   every setting
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from checkpoint import START, Run, resume_point
from cli import parse
from config import Config
from dataset import load_data
from devices import choose_device, choose_precision, memory_advice, rng_state, seed_everything, set_rng_state
from distributed import processes
from loading import loaders, on_device
from logger import Logger, Meter, what_next
from signals import Stop
from speed import GraphedStep, choose_levers
from state import State, make_state
from utils import DataError, run_main, say
from validation import validate


def bce(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of every patch against one label: 1 for real, 0 for generated. In fp32."""
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def train_step(state: State, x: Tensor, y: Tensor, lambda_l1: float, autocast: Callable) -> Tensor:
    """One update of D, then one of G against the updated D (section 3.3).

    x, y: input and target, (N, C, H, W) in [-1, 1]. autocast() makes the context of a forward pass.
    Returns the losses [d_real, d_fake, g_gan, g_l1], still on the device.
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
    with autocast():
        g_gan = bce(disc(x, y_fake), 1.0)
    g_l1 = F.l1_loss(y_fake.float(), y)
    state.opt_g.zero_grad()
    scaler.scale(g_gan + lambda_l1 * g_l1).backward()
    scaler.step(state.opt_g)
    disc.requires_grad_(True)

    scaler.update()
    return torch.stack([d_real, d_fake, g_gan, g_l1]).detach()


def learning_rate(epoch: int, lr: float, n_epochs: int, n_epochs_decay: int) -> float:
    """The rate of `epoch`, counted from 1: constant for n_epochs, then in equal steps towards, never at, zero."""
    return lr * (1 - max(0, epoch - n_epochs) / (n_epochs_decay + 1))


def train(cfg: Config) -> int:
    """Trains as cfg says. Returns the exit status: 0, or 128 + signal when a signal ended it early.

    Raises ValueError or OSError with a readable message for everything that a user can mend.
    """
    device = choose_device(cfg.device)
    with processes(device) as ranks, Run(cfg, ranks, device) as run:
        cfg, saved = run.cfg, run.saved
        dtype = choose_precision(cfg.precision, device)
        autocast = partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)
        train_data, val_data = load_data(cfg, ranks.world, saved and saved.get("held_out"))
        run.record = train_data.record
        ranks.barrier()

        seed_everything(cfg.seed, cfg.deterministic)
        state, progress = make_state(cfg, device, dtype), START
        torch.manual_seed(cfg.seed + ranks.rank)  # for dropout, each process its own
        if saved:
            state.load_state_dict(saved["state"])
            progress = resume_point(cfg, saved, train_data.record)
            if ranks.rank < len(saved["rng"]):
                set_rng_state(device, saved["rng"][ranks.rank])
            say(f"resuming after epoch {progress['epoch']}, step {progress['step']}")
        replicas = replace(state, gen=ranks.replicate(state.gen, cfg.sync_batchnorm),
                           disc=ranks.replicate(state.disc, cfg.sync_batchnorm))
        say(f"device {device.type}, precision {str(dtype).removeprefix('torch.')}, batch {cfg.batch_size}"
            + (f" × {ranks.world} processes" if ranks.world > 1 else "")
            + f", {sum(p.numel() for p in state.gen.parameters()):,} + "
            f"{sum(p.numel() for p in state.disc.parameters()):,} parameters; writing to {cfg.out_dir}")

        def step(x: Tensor, y: Tensor) -> Tensor:
            return train_step(replicas, x, y, cfg.lambda_l1, autocast)

        if choose_levers(cfg, device, dtype).cuda_graph:
            step = GraphedStep(step)
        with Stop() as stop, loaders(train_data, val_data, cfg, device, ranks.rank, ranks.world) as (
                train_loader, sampler, val_loader):
            logger = Logger(cfg, saved["history"] if saved else [], run.background.submit) if ranks.main else None
            for epoch in range(progress["epoch"] + 1, cfg.total_epochs + 1):
                lr = learning_rate(epoch, cfg.lr, cfg.n_epochs, cfg.n_epochs_decay)
                state.set_rate(lr)
                sampler.epoch, sampler.start = epoch, progress["images"]
                meter, updates = Meter(epoch, cfg.total_epochs, len(train_data), progress, ranks), state.updates()
                failure, validation, score, problems = None, None, None, set()
                try:
                    for x, y in ranks.in_step(meter.watch(on_device(train_loader, device, problems)), stop):
                        meter.update(step(x, y), len(x))
                    progress = meter.finish()
                    if cfg.eval_every and epoch % cfg.eval_every == 0:
                        from evaluate import image_scores as score
                    if not stop.agreed:
                        validation = validate(state.gen, val_loader, device, autocast, stop, cfg.seed,
                                              cfg.n_examples, score, problems, ranks)
                except DataError as error:
                    failure, progress = error, meter.finish()
                rng = ranks.gather(rng_state(device))
                if validation is None:  # a signal or an unusable file: keep what was learnt, then leave
                    if epoch > 1 or meter.step:
                        run.save(state.state_dict(), progress, logger.history if logger else [], rng)
                        say(f"saved in epoch {epoch}, step {progress['step']}; --resume continues there")
                    if logger:
                        logger.close()
                    if failure:
                        raise failure
                    return 128 + stop.agreed

                means, rows = validation
                row = {"epoch": epoch, **meter.means(), "lr": lr, "seconds": progress["seconds"],
                       "images_per_s": len(train_data) / progress["seconds"], **means}
                progress = {**START, "epoch": epoch}
                if cfg.skip_unreadable:
                    problems = {problem for each in ranks.gather(problems) for problem in each}
                    row["skipped"] = len(problems)
                    for problem in sorted(problems):
                        say(f"skipped: {problem}")
                if state.scaler.is_enabled():
                    row |= {"scale": state.scaler.get_scale(),
                            "skipped_steps": meter.steps_here - (state.updates() - updates)}
                if logger:
                    logger.add(row, rows)
                run.save_in_background(state, progress, logger.history if logger else [], rng)
            run.save(state.state_dict(), progress, logger.history if logger else [], rng)
            if logger:
                logger.close()
                say(what_next(cfg, val_data))
    return 0


@memory_advice("take a smaller --batch-size, --crop-size or --ngf; the last checkpoint is untouched")
def main() -> int:
    return train(parse(description=__doc__))


if __name__ == "__main__":
    run_main(main)
