"""The U-Net generator (section 3.2.1, appendix 6.1.1)."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import UserError, init_weights


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm that, while `per_image` is set, uses each image's own statistics and records none."""

    per_image = False

    def forward(self, x: Tensor) -> Tensor:
        if self.per_image:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(x)


class Dropout(nn.Dropout):
    """Dropout that, while `shared_mask` is set, draws one mask for all images of the batch."""

    shared_mask = False
    draw = staticmethod(F.dropout)  # ones, p → such a mask; a Translator draws from random numbers of its own

    def forward(self, x: Tensor) -> Tensor:
        if self.shared_mask and self.training:
            one = torch.ones_like(x[:1])
            return x * self.draw(one, self.p)
        return super().forward(x)


def down(in_channels: int, out_channels: int, norm: bool = True) -> nn.Sequential:
    """Encoder block, (N, in, H, W) → (N, out, H/2, W/2)."""
    layers = [
        nn.LeakyReLU(0.2),
        nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
    ]
    if norm:
        layers.append(BatchNorm(out_channels))
    return nn.Sequential(*layers)


def up(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """Decoder block, (N, in, H, W) → (N, out, 2H, 2W)."""
    return nn.Sequential(
        nn.ReLU(),
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
        BatchNorm(out_channels),
        Dropout(dropout),
    )


class Generator(nn.Module):
    """Translates x (N, in_channels, H, W) in [-1, 1] to y_fake (N, out_channels, H, W) in [-1, 1].

    A crop_size of 256 gives the paper's network, whose 8 stride-2 convolutions end at 1×1. Other crops give as many
    convolutions as both sides can be halved (256×384: 7), so more or fewer blocks of the full width. The bottleneck
    has no BatchNorm, which would zero a 1×1 image at batch size 1 (the authors' erratum).
    H and W must be multiples of `multiple`, which is 2^depth; otherwise forward raises ValueError.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 3, ngf: int = 64, crop_size: int = 256,
                 dropout: float = 0.5, crop_width: int = 0):
        super().__init__()
        bits = crop_size | crop_width
        self.multiple = bits & -bits  # the largest 2^depth that divides both sides
        self.smallest = self.multiple  # side of an image
        depth = self.multiple.bit_length() - 1
        if depth < 4:
            raise ValueError(f"a crop's sides must be multiples of 16, not {crop_width or crop_size}×{crop_size}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.crop_size = crop_size
        self.crop_width = crop_width
        widths = [ngf * min(2**i, 8) for i in range(depth)]  # 64, 128, 256, 512, 512, … for ngf = 64

        first = nn.Conv2d(in_channels, ngf, 4, stride=2, padding=1, bias=False)
        self.encoder = nn.ModuleList([first])
        for i in range(1, depth):
            innermost = i == depth - 1
            self.encoder.append(down(widths[i - 1], widths[i], norm=not innermost))

        self.decoder = nn.ModuleList()
        for i in range(depth - 1, 0, -1):
            innermost = i == depth - 1
            before = widths[i] if innermost else 2 * widths[i]  # with the skip
            noise = dropout if i >= depth - 3 else 0.0
            self.decoder.append(up(before, widths[i - 1], noise))

        self.output = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(2 * ngf, out_channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"the generator takes widths and heights that are multiples of {self.multiple}, not {width}×{height}")
        h = x  # (N, in_channels, H, W)
        skips = []
        for block in self.encoder:
            h = block(h)  # (N, widths[i], H/2^(i+1), W/2^(i+1))
            skips.append(h)
        skips.pop()  # the bottleneck, (N, 8·ngf, H/2^depth, W/2^depth), is h
        for block in self.decoder:
            h = block(h)  # as the last skip, of the encoder's block i: (N, widths[i], H/2^(i+1), W/2^(i+1))
            # The skip is taken before the encoder's LeakyReLU; the ReLU that follows makes the two the same.
            h = torch.cat([skips.pop(), h], dim=1)  # (N, 2·widths[i], H/2^(i+1), W/2^(i+1))
        return self.output(h)  # (N, out_channels, H, W)

    @contextlib.contextmanager
    def test_time(self, norm: Literal["image", "running"] = "image",
                  dropout: bool | Literal["on", "off"] = True) -> Iterator[None]:
        """Inside the block, each image's output depends on no other image, and the network's buffers do not change.

        The defaults are the paper's: BatchNorm with the statistics of each image ("running": those of training), and
        dropout, with one mask for all images of a batch. Raises UserError on other words. Use the block in one thread
        only: others that run the network meanwhile are affected (those of `inference.translate.Translator` are not).
        """
        was_training = self.training
        use_test_time(self, norm, dropout)
        try:
            yield
        finally:
            for layer in self.modules():
                if isinstance(layer, BatchNorm):
                    layer.per_image = False
                if isinstance(layer, Dropout):
                    layer.shared_mask = False
            self.train(was_training)


def use_test_time(net: nn.Module, norm: str, dropout: bool | str) -> None:
    """From now on `net` runs as in the block of `test_time`."""
    if norm not in ("image", "running"):
        raise UserError(f"norm must be image or running; it is {norm!r}")
    if not isinstance(dropout, bool) and dropout not in ("on", "off"):
        raise UserError(f"dropout must be on or off, True or False; it is {dropout!r}")
    net.eval()
    for layer in net.modules():
        if isinstance(layer, BatchNorm):
            layer.per_image = norm == "image"
        if isinstance(layer, Dropout):
            layer.shared_mask = True
            layer.training = dropout in (True, "on")
