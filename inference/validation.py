"""How a generator does on the validation pairs while it is trained."""

from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from config import Config
from generator import Generator
from inference.metrics import LabelScores, image_scores
from inference.translate import at_any_size
from pairs.loading import Batches
from pairs.palettes import load_palette
from pairs.values import composite, hidden, values_of
from runtime.devices import seed_draws, without_cudnn_benchmark
from runtime.distributed import Ranks
from runtime.signals import Stop

EXAMPLES = 4  # rows of a grid


class Validation:
    """Scores a generator, run as the paper tests it.

    Dropout is the same for all images and epochs, so the scores do not depend on batches or processes.
    """

    def __init__(self, cfg: Config, ranks: Ranks, autocast: Callable):
        self.cfg = cfg
        self.ranks = ranks
        self.autocast = autocast
        _, self.y = values_of(vars(cfg))
        self.labels = LabelScores(load_palette(cfg.palette)) if cfg.palette else None

    @torch.no_grad()
    def __call__(self, gen: Generator, batches: Batches, epoch: int,
                 stop: Stop) -> tuple[dict[str, float], list[list[Tensor]]]:
        """The mean val_l1 over the pairs, and EXAMPLES rows [x, y_fake, y] for the grid, on the CPU.

        Pairs of which no pixel counts are left out of all means. With space lab, val_l1 is of ab, as training's g_l1
        is; all else is of RGB.

        With best_by, adds the means of `image_scores`, named val_…, and with a palette the share of all
        pixels with the target's class, named val_label_accuracy.
        """
        n = len(batches.data)
        shown = {round(i * (n - 1) / (EXAMPLES - 1)) for i in range(EXAMPLES)}  # in the grid, evenly spaced
        scored = self.cfg.best_by != "none"
        l1 = torch.zeros((), device=self.ranks.device)
        index = self.ranks.rank  # of the pair: processes take turns
        sums = Counter()
        examples = {}

        # Translate all pairs of this process, and score each image while it is at hand
        with gen.test_time(), without_cudnn_benchmark():
            for x, y in stop.between(batches):
                seed_draws(self.cfg.seed, self.ranks.device)
                with self.autocast():
                    y_fake = at_any_size(gen, x).float()
                    hides = [hidden(each, y_fake.shape[1]) for each in y]
                    y_fake, y = composite(y_fake, y)
                l1 += F.l1_loss(y_fake, y) * len(x)  # read once, at the end
                y_fake, y = (self.y.shown(x, each) for each in (y_fake, y))
                for *row, hide in zip(x, y_fake, y, hides, strict=True):
                    if index in shown:
                        examples[index] = [image.cpu() for image in row]
                    if hide is not None and hide.all():
                        sums["blank"] += 1
                    elif scored:
                        sums.update({f"val_{name}": value / n for name, value in image_scores(*row[1:]).items()})
                        if self.labels:
                            sums["labels"] += self.labels.count(*row[1:], hide)
                    index += self.ranks.world
        sums["val_l1"] = l1.item() / n
        if batches.skipped:
            sums["val_skipped"] = batches.skipped

        # Put together what each process has seen
        total = Counter()
        for theirs, rows in self.ranks.all_gather((sums, examples)):
            total.update(theirs)
            examples |= rows
        blank = total.pop("blank", 0)
        if 0 < blank < n:
            for name in [name for name in total if name.startswith("val_") and name != "val_skipped"]:
                total[name] *= n / (n - blank)
        if scored and self.labels:
            matrix = total.pop("labels", torch.zeros(1, 1))  # of no pair, where all are blank
            total["val_label_accuracy"] = matrix.diagonal().sum().item() / max(1, matrix.sum().item())
        return dict(total), [examples[index] for index in sorted(examples)]
