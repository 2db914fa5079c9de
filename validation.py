"""What a run is judged by after each epoch: the L1 of unseen pairs, and the rows of the example grid."""

from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from devices import seeded
from distributed import ALONE, Ranks
from generator import Generator
from loading import on_device
from signals import Stop


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
