"""The networks and their optimisers: what a training step changes, and what a checkpoint restores."""

from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from config import Config
from discriminator import Discriminator
from generator import Generator
from speed import choose_levers, prepare


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
