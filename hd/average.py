"""An average of the generator's weights over the steps of its training."""

import copy

import torch
from torch import nn

EVERY = 8  # steps between two updates of the average


class Average:
    """`net`: a copy of the generator whose weights follow it, as if each step let `decay` of what was there stay.

    The first EVERY steps leave nothing of what was there, and those after them forget faster, so that the
    initialisation does not count, however short the run.
    """

    def __init__(self, gen: nn.Module, decay: float):
        self.net, self.decay, self.steps = copy.deepcopy(gen).requires_grad_(False), decay, 0

    @torch.no_grad()
    def follow(self, gen: nn.Module) -> None:
        """Takes in the weights after one more step."""
        self.steps += 1
        if self.steps > EVERY and self.steps % EVERY:
            return
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps)) ** EVERY if self.steps > EVERY else 0.0
        for mean, value in zip(self.net.state_dict().values(), gen.state_dict().values(), strict=True):
            mean.lerp_(value, 1 - keep) if mean.is_floating_point() else mean.copy_(value)

    def state_dict(self) -> dict:
        return {"net": self.net.state_dict(), "steps": self.steps}

    def load_state_dict(self, saved: dict) -> None:
        self.net.load_state_dict(saved["net"])
        self.steps = saved["steps"]
