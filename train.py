"""Trains pix2pix: an image-to-image translator from pairs of images (Isola et al., CVPR 2017).

    python train.py                                          the settings in config.py: the embedded demo
    python train.py facades --n-epochs 50                    a recipe of the paper, one setting changed
    python train.py --data-root DIR --out-dir runs/NAME      your own pairs
    python train.py --resume --out-dir runs/NAME             go on where that run stopped
    python train.py --help                                   every setting
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from config import Config
from dataset import load_data
from discriminator import Discriminator
from generator import Generator
from inference.metrics import image_scores
from pairs.loading import loaders, on_device
from runtime.checkpoint import START, Run, resume_point
from runtime.cli import parse
from runtime.devices import (
    choose_device,
    choose_precision,
    memory_advice,
    rng_state,
    seed_everything,
    seeded,
    set_rng_state,
)
from runtime.distributed import ALONE, Ranks, processes
from runtime.logger import Logger, Meter, what_next
from runtime.signals import Stop
from runtime.speed import GraphedStep, choose_levers, prepare
from utils import DataError, run_main, say


def bce(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of every patch against one label: 1 for real, 0 for generated. In fp32."""
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


@dataclass
class State:
    """Everything that a training step changes."""

    gen: Generator
    disc: Discriminator
    opt_g: torch.optim.Adam
    opt_d: torch.optim.Adam
    scaler: torch.amp.GradScaler  # passes everything through unless the precision is fp16

    def state_dict(self) -> dict:
        return {f.name: getattr(self, f.name).state_dict() for f in fields(self)}

    def load_state_dict(self, saved: dict) -> None:
        """Takes weights, moments and scale from `saved`; the optimisers' settings stay those of the configuration."""
        for f in fields(self):
            own, new = getattr(self, f.name), saved[f.name]
            if isinstance(own, torch.optim.Optimizer):
                new = {**new, "param_groups": own.state_dict()["param_groups"]}
            if new:  # a scaler that was switched off saves nothing
                own.load_state_dict(new)
        for optimiser in (self.opt_g, self.opt_d):  # fused Adam wants moments laid out in memory like their parameters
            for parameter, moments in optimiser.state.items():
                for name in ("exp_avg", "exp_avg_sq"):
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])

    def updates(self) -> int:
        """The updates of G so far; a step that the scaler skips, because gradients overflowed in fp16, is none."""
        steps = [moments["step"] for moments in self.opt_g.state.values()]
        return int(steps[0]) if steps else 0

    def set_rate(self, lr: float) -> None:
        for group in self.opt_g.param_groups + self.opt_d.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)  # in place, where a CUDA graph reads it
            else:
                group["lr"] = lr


def make_state(cfg: Config, device: torch.device, dtype: torch.dtype) -> State:
    levers = choose_levers(cfg, device, dtype)
    gen = Generator(cfg.in_channels, cfg.out_channels, cfg.ngf, cfg.crop_size, cfg.dropout).to(device)
    disc = Discriminator(cfg.in_channels, cfg.out_channels, cfg.ndf, cfg.n_layers).to(device)
    for net in (gen, disc):
        prepare(net, levers)
    # The rate as a tensor, because a CUDA graph would keep a number for ever
    lr = partial(torch.tensor, device=device) if levers.cuda_graph else float
    adam = partial(torch.optim.Adam, betas=(cfg.beta1, 0.999), fused=levers.fused_adam or None,
                   capturable=levers.cuda_graph)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    return State(gen, disc, adam(gen.parameters(), lr(cfg.lr)), adam(disc.parameters(), lr(cfg.lr)), scaler)


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


@torch.no_grad()
def validate(gen: Generator, loader: DataLoader, device: torch.device, autocast: Callable, stop: Stop, seed: int,
             n_examples: int, score: Callable | None = None, problems: set[str] | None = None,
             ranks: Ranks = ALONE) -> tuple[dict[str, float], list[list[Tensor]]] | None:
    """The mean val_l1 over the pairs of `loader`, and n_examples rows [x, y_fake, y] for the grid, on the CPU.

    With `score`, also the means of what score(y_fake, y) returns for each pair, as val_….
    Runs as the paper tests; dropout is the same for all images and in all epochs, so that batches and processes do not
    matter, and draws nothing from the training's random numbers. `problems` takes up what `on_device` skips.
    Returns None when a signal comes.
    """
    n, index = len(loader.dataset), ranks.rank
    wanted = {round(i * (n - 1) / max(1, n_examples - 1)) for i in range(n_examples)}
    l1, rows, sums = torch.zeros((), device=device), {}, Counter()
    with gen.test_time():
        for x, y in ranks.in_step(on_device(loader, device, set() if problems is None else problems), stop):
            with seeded(seed, device), autocast():
                y_fake = gen(x).float()
            l1 += F.l1_loss(y_fake, y) * len(x)
            for row in zip(x, y_fake, y, strict=True):
                if index in wanted:
                    rows[index] = [image.cpu() for image in row]
                if score:
                    for name, value in score(*row[1:]).items():
                        sums[name] += value
                index += ranks.world
    if stop.agreed:
        return None
    sums["l1"] = l1.item()
    parts = ranks.gather(dict(sums))
    names = dict.fromkeys(name for part in parts for name in part)
    means = {f"val_{name}": sum(part.get(name, 0.0) for part in parts) / n for name in names}
    rows = {index: row for part in ranks.gather(rows) for index, row in part.items()}
    return means, [rows[index] for index in sorted(rows)]


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
                        score = image_scores
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
