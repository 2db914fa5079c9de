"""The U-Net generator (section 3.2.1, appendix 6.1.1)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from utils import init_weights


def down(in_channels: int, out_channels: int, norm: bool = True) -> nn.Sequential:
    """Encoder block, (N, in, H, W) → (N, out, H/2, W/2)."""
    layers = [nn.LeakyReLU(0.2), nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(out_channels)] if norm else []))


def up(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    """Decoder block, (N, in, H, W) → (N, out, 2H, 2W)."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(out_channels), nn.Dropout(dropout))


class Generator(nn.Module):
    """Translates x (N, in_channels, H, W) in [-1, 1] to y_fake (N, out_channels, H, W) in [-1, 1].

    A crop_size of 256 gives the paper's network, 8 stride-2 convolutions deep down to 1×1; each halving or
    doubling of crop_size takes away or adds one block of the full width. The 1×1 bottleneck is not normalised
    (the authors' erratum: BatchNorm would zero it at batch size 1).
    H and W must be multiples of crop_size; forward raises ValueError when they are not.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 3, ngf: int = 64, crop_size: int = 256,
                 dropout: float = 0.5):
        super().__init__()
        depth = crop_size.bit_length() - 1
        if crop_size != 2**depth or depth < 4:
            raise ValueError(f"crop_size must be a power of two, at least 16; it is {crop_size}")
        self.crop_size = crop_size
        widths = [ngf * min(2**i, 8) for i in range(depth)]  # 64, 128, 256, 512, 512, … for ngf = 64

        self.encoder = nn.ModuleList([nn.Conv2d(in_channels, ngf, 4, stride=2, padding=1, bias=False)])
        for i in range(1, depth):
            self.encoder.append(down(widths[i - 1], widths[i], norm=i < depth - 1))

        self.decoder = nn.ModuleList()
        for i in range(depth - 1, 0, -1):
            skip = 0 if i == depth - 1 else widths[i]
            self.decoder.append(up(widths[i] + skip, widths[i - 1], dropout if i >= depth - 3 else 0.0))

        self.output = nn.Sequential(
            nn.ReLU(), nn.ConvTranspose2d(2 * ngf, out_channels, 4, stride=2, padding=1), nn.Tanh())
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.crop_size or width % self.crop_size:
            raise ValueError(
                f"the generator takes widths and heights that are multiples of {self.crop_size}, not {width}×{height}")
        skips = []
        h = x
        for block in self.encoder:
            h = block(h)  # (N, widths[i], H/2^(i+1), W/2^(i+1))
            skips.append(h)
        skips.pop()  # the bottleneck, (N, 8·ngf, H/2^depth, W/2^depth)
        for block in self.decoder:
            # Before the encoder's LeakyReLU: the ReLU that comes next makes the two the same.
            h = torch.cat([skips.pop(), block(h)], dim=1)  # (N, 2·widths[i], H/2^(i+1), W/2^(i+1))
        return self.output(h)  # (N, out_channels, H, W)

    @contextlib.contextmanager
    def test_time(self) -> Iterator[None]:
        """Inside the block the network runs as the paper tests it: dropout on, BatchNorm with the statistics of the
        batch, which at batch size 1 is instance normalisation. The running statistics stay as they are.
        """
        was_training = self.training
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        self.train()
        for norm in norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True
            self.train(was_training)
