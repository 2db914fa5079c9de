"""The PatchGAN discriminator (section 3.2.2, appendix 6.1.2)."""

import torch
from torch import Tensor, nn

from utils import init_weights


class Discriminator(nn.Module):
    """Judges patches of pairs: x (N, in_channels, H, W), y (N, out_channels, H, W) → logits (N, 1, h, w).

    The number of stride-2 convolutions, n_layers, sets the field of one logit: 0 is 1×1 pixels (PixelGAN), 1 is 16×16,
    3 is the paper's 70×70 (30×30 logits for a 256×256 image), 5 is 286×286 (ImageGAN).
    Raises ValueError if a side of the image is shorter than 3 * 2**n_layers pixels.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 3, ndf: int = 64, n_layers: int = 3):
        super().__init__()
        self.min_size = 3 * 2**n_layers if n_layers else 1
        kernel, padding = (4, 1) if n_layers else (1, 0)
        widths = [ndf * min(2**i, 8) for i in range(n_layers + 1)] if n_layers else [ndf, 2 * ndf]
        strides = [2] * n_layers + [1] if n_layers else [1, 1]

        layers = [nn.Conv2d(in_channels + out_channels, widths[0], kernel, strides[0], padding), nn.LeakyReLU(0.2)]
        for before, width, stride in zip(widths, widths[1:], strides[1:], strict=False):
            layers += [nn.Conv2d(before, width, kernel, stride, padding, bias=False),
                       nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, kernel, 1, padding))
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.min_size:
            raise ValueError(f"the discriminator takes images of at least {self.min_size} pixels a side, "
                             f"not {x.shape[-1]}×{x.shape[-2]}")
        return self.layers(torch.cat([x, y], dim=1))
