"""What a training step changes and a checkpoint restores."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from config import Config
from runtime.ema import EMA
from runtime.speed import Adam, Levers, prepare


@dataclass
class State:
    """Two networks, their optimisers and what goes with them."""

    gen: nn.Module
    disc: nn.Module
    opt_g: torch.optim.Adam
    opt_d: torch.optim.Adam
    scaler: torch.amp.GradScaler  # does nothing unless the precision is fp16
    ema: EMA | None = None  # average of gen's weights, which the run then saves as its result

    @classmethod
    def begin(cls, gen: nn.Module, disc: nn.Module, cfg: Config, device: torch.device, dtype: torch.dtype,
              levers: Levers) -> "State":
        """Where a run begins: the networks on the device, and optimisers that have seen no gradient."""
        for net in (gen, disc):
            prepare(net.to(device), levers)
        # A CUDA graph would keep a number forever, so there the rate is a tensor
        rate = partial(torch.tensor, device=device) if levers.cuda_graph else float
        adam = partial(Adam, betas=(cfg.beta1, 0.999), fused=levers.fused_adam or None,
                       capturable=levers.cuda_graph)
        opt_g = adam(gen.parameters(), rate(cfg.lr))
        opt_d = adam(disc.parameters(), rate(cfg.lr))
        scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        return cls(gen, disc, opt_g, opt_d, scaler, EMA(gen, cfg.ema) if cfg.ema else None)

    @property
    def result(self) -> nn.Module:
        """The generator that a run leaves: the average where it keeps one."""
        return self.ema.net if self.ema else self.gen

    def set_rate(self, lr: float) -> None:
        """Sets the learning rate of both optimisers."""
        for group in self.opt_g.param_groups + self.opt_d.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)  # in place, where a CUDA graph reads it
            else:
                group["lr"] = lr

    def parts(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if part is not None}

    def state_dict(self) -> dict[str, dict]:
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, saved: dict[str, dict]) -> None:
        """Takes weights, moments and scale; the optimisers' settings stay those of the configuration."""
        for name, part in self.parts().items():
            if name == "ema" and name not in saved:  # switched on since: it begins with the weights so far
                part.net.load_state_dict(saved["gen"])
                continue
            new = saved[name]
            if isinstance(part, torch.optim.Optimizer):
                new = {**new, "param_groups": part.state_dict()["param_groups"]}
            if new:  # a scaler that was switched off saves nothing
                part.load_state_dict(new)
        for optimiser in (self.opt_g, self.opt_d):  # fused Adam wants moments laid out in memory like their parameters
            for parameter, moments in optimiser.state.items():
                for name in ("exp_avg", "exp_avg_sq"):
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])


def count(net: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in net.parameters())


def result_of(saved: dict[str, dict]) -> dict[str, Tensor]:
    """The weights of `State.result`, from a state dict."""
    return saved["ema"]["net"] if "ema" in saved else saved["gen"]


def on_cpu(value):
    """Nested dicts and lists with every tensor on the CPU, so that a file loads on any machine."""
    return for_tensors(Tensor.cpu, value)


def snapshot(value):
    """Nested dicts and lists with a copy of every tensor, where it is, for writing while training goes on."""
    # On MPS, copies to the CPU beside the training can crash (pytorch#197805): they are made here, not by the writer.
    return for_tensors(lambda tensor: tensor.cpu() if tensor.device.type == "mps" else tensor.clone(), value)


def for_tensors(act: Callable[[Tensor], Tensor], value):
    if isinstance(value, dict):
        return {key: for_tensors(act, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [for_tensors(act, inner) for inner in value]
    return act(value) if isinstance(value, Tensor) else value
