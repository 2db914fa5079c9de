"""Scores of images, and of label maps as colours: the paper's photo → labels table (section 4.6).

torchmetrics is imported where it is used, for that takes longer than all the rest of a program's start.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pairs.palettes import is_void
from runtime.console import say
from utils import first_line

# An image must have more pixels a side; of ms_ssim, the message of torchmetrics says 160
NEEDS = {"ssim": 10, "ms_ssim": 175, "lpips": 30}


def needs(name: str) -> str:
    """What there must be for that score."""
    return f"more than {NEEDS[name]} pixels a side" if name in NEEDS else "two images or more"


def image_scores(y_fake: Tensor, y: Tensor) -> dict[str, float]:
    """Scores of one pair of images (C, H, W) in [-1, 1].

    l1: mean absolute difference, in those units. psnr in dB, ssim, ms_ssim: of the images in [0, 1]; what needs more
    pixels a side (NEEDS) is nan. ssim counts the border too, mirrored, which other libraries leave out.
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure,
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    a, b = y_fake.float()[None] / 2 + 0.5, y.float()[None] / 2 + 0.5
    similarity = {"ssim": structural_similarity_index_measure,
                  "ms_ssim": multiscale_structural_similarity_index_measure}
    return {"l1": F.l1_loss(y_fake.float(), y.float()).item(),
            "psnr": peak_signal_noise_ratio(a, b, data_range=1.0).item(),
            **{name: measure(a, b, data_range=1.0).item() if min(y.shape[-2:]) > NEEDS[name] else math.nan
               for name, measure in similarity.items()}}


def summary(scores: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over images of each score that is a number."""
    values = {name: torch.tensor([row[name] for row in scores], dtype=torch.float64) for name in scores[0]}
    return {name: {"mean": v.mean().item(), "std": v.std(correction=0).item()} for name, v in values.items()
            if not v.isnan().any()}


class Checkerboard:
    """Energy at the Nyquist frequency, of the outputs against the targets': 1 is as much, more shows as checkerboards.

    Of blocks of 16×16 pixels, the patterns that change sign with every column, every row, or both. Images without such
    a block do not count, nor do blocks with a pixel to `hide`, (H, W): the rims of holes hold more than any output.
    """

    def __init__(self):
        self.fake = self.real = 0.0

    def update(self, y_fake: Tensor, y: Tensor, hide: Tensor | None = None) -> None:
        self.fake += self.energy(y_fake, hide)
        self.real += self.energy(y, hide)

    @staticmethod
    def energy(image: Tensor, hide: Tensor | None = None) -> float:
        if min(image.shape[-2:]) < 16:
            return 0.0
        rows, columns = (1 - 2 * (torch.arange(n, device=image.device) % 2) for n in image.shape[-2:])
        patterns = torch.stack(torch.broadcast_tensors(rows[:, None], columns, rows[:, None] * columns))
        energy = F.avg_pool2d(image.float()[:, None] * patterns, 16).square()
        if hide is not None:
            energy = energy * (F.max_pool2d(hide.float()[None], 16) == 0)
        return energy.mean().item()

    def compute(self) -> dict[str, float]:
        return {"nyquist": self.fake / self.real if self.real > 1e-12 else math.nan}  # of flat targets, it is rounding


class Perceptual:
    """LPIPS, FID and KID over a data set, as far as the weights of their networks can be had.

    FID and KID see bytes, as they would in the files of the images, and resize them as the original FID and
    torch-fidelity do; torchmetrics from 1.8 on does otherwise.
    """

    def __init__(self, device: torch.device):
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self.metrics, self.n, self.smallest = {}, 0, math.inf
        makers = {"lpips": lambda: LearnedPerceptualImagePatchSimilarity("alex", normalize=True),
                  "fid": FrechetInceptionDistance, "kid": KernelInceptionDistance}
        for name, make in makers.items():
            try:
                self.metrics[name] = make().to(device)
                if name != "lpips":
                    self.metrics[name].inception.use_antialias = False
            except Exception as error:  # a missing package, no network, a broken download
                say(f"no {name}: it cannot be had here ({first_line(error)}); downloaded weights, which may be broken, "
                    f"lie in {torch.hub.get_dir()}")

    def update(self, y_fake: Tensor, y: Tensor, hide: Tensor | None = None) -> None:
        """What is to `hide` counts too: these networks see whole images."""
        fake, real = (image.float().expand(3, -1, -1)[None].clamp(-1, 1) / 2 + 0.5 for image in (y_fake, y))
        self.n += 1
        self.smallest = min(self.smallest, *y.shape[-2:])
        for name, metric in self.metrics.items():
            if name != "lpips":
                metric.update((fake * 255).round().byte(), real=False)  # with normalize=True, they would cut off
                metric.update((real * 255).round().byte(), real=True)
            elif self.smallest > NEEDS["lpips"]:
                metric.update(fake, real)

    def compute(self) -> dict[str, float]:
        """Without what these images do not give: `needs` tells why."""
        scores = {}
        for name, metric in self.metrics.items():
            lacks = self.smallest <= NEEDS["lpips"] if name == "lpips" else self.n < 2
            if lacks:
                continue
            if name == "kid":
                metric.subset_size = min(50, self.n)
            value = metric.compute()
            scores[name] = (value[0] if name == "kid" else value).item()
        return scores


class LabelScores:
    """Compares label maps, given as colours: each pixel counts as the class whose colour is nearest.

    A pixel whose target is void is ignored, and so is one to `hide`, (H, W); one only predicted as void is an error.
    """

    def __init__(self, palette: dict[str, tuple[int, int, int]]):
        void = [name for name in palette if is_void(name)]
        scored = [name for name in palette if name not in void]
        self.colours = torch.tensor([palette[name] for name in scored + void], dtype=torch.float32)
        self.void = len(scored)  # the class of all void colours
        self.matrix = 0  # what `count` gives of all images

    def distances(self, pixels: Tensor) -> Tensor:
        """(3, N) in [-1, 1] → (N, colours), how far each pixel is from each colour, in levels of 8 bits."""
        return torch.cdist((pixels.float().cpu() + 1).T * 127.5, self.colours)

    def classes(self, image: Tensor) -> Tensor:
        """(3, H, W) in [-1, 1] → (H·W,), the index of each pixel's class."""
        return self.distances(image.flatten(1)).argmin(1).clamp(max=self.void)

    def near(self, image: Tensor, hide: Tensor | None) -> float:
        """The share of the pixels of (3, H, W), every 16th, that have a colour of the palette but for JPEG's noise."""
        shown = image.flatten(1) if hide is None else image[:, ~hide]
        return (self.distances(shown[:, ::16]).amin(1) < 32).float().mean().item()

    def count(self, y_fake: Tensor, y: Tensor, hide: Tensor | None = None) -> Tensor:
        """(classes, classes + 1) of one image: pixels by their class in y, and in y_fake, where void is the last."""
        made, wanted = self.classes(y_fake), self.classes(y)
        if hide is not None:
            wanted[hide.cpu().flatten()] = self.void
        n = self.void + 1
        return (wanted * n + made).bincount(minlength=n * n).view(n, n)[:-1]

    def update(self, y_fake: Tensor, y: Tensor, hide: Tensor | None = None) -> None:
        self.matrix += self.count(y_fake, y, hide)

    def compute(self) -> dict[str, float]:
        """Per-pixel accuracy, per-class accuracy and class IoU over all pixels so far, over classes that occur."""
        matrix = self.matrix.double()
        hits, target, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)[:-1]
        there, union = target > 0, target + predicted - hits
        return {"pixel_accuracy": (hits.sum() / target.sum()).item(),
                "class_accuracy": (hits[there] / target[there]).mean().item(),
                "class_iou": (hits[union > 0] / union[union > 0]).mean().item()}
