"""An average of the generator's weights over the steps of its training (EMA)."""

import copy

import torch
from torch import nn

EVERY = 8  # steps between two updates of the average: each reads and writes all weights


class EMA:
    """`net`: a copy of the generator whose weights follow it, as if each step let `decay` of what was there stay.

    The first EVERY steps leave nothing of what was there, and those after them forget faster, so that the
    initialisation does not count, however short the run.
    """

    def __init__(self, gen: nn.Module, decay: float):
        self.net = copy.deepcopy(gen).requires_grad_(False)
        self.decay = decay
        self.steps = 0
        self.taken = 0  # of these steps, those that are in the average

    def update(self, gen: nn.Module) -> None:
        """Counts one more step, and takes in the weights where EVERY steps have passed."""
        self.steps += 1
        if self.steps <= EVERY or self.steps - self.taken >= EVERY:
            self.take_in(gen)

    @torch.no_grad()
    def take_in(self, gen: nn.Module) -> None:
        """Takes in the weights, which count for all steps since the last update, so that none is in no file."""
        since = self.steps - self.taken
        self.taken = self.steps
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps)) ** since if self.steps > EVERY else 0.0
        for mean, value in zip(self.net.state_dict().values(), gen.state_dict().values(), strict=True):
            mean.lerp_(value, 1 - keep) if mean.is_floating_point() else mean.copy_(value)

    def state_dict(self) -> dict:
        return {"net": self.net.state_dict(), "steps": self.steps, "taken": self.taken}

    def load_state_dict(self, saved: dict) -> None:
        self.net.load_state_dict(saved["net"])
        self.steps = saved["steps"]
        self.taken = saved["taken"]
