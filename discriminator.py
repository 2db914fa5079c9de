"""The PatchGAN discriminator (section 3.2.2, appendix 6.1.2)."""

import torch
from torch import Tensor, nn

from utils import init_weights


class Discriminator(nn.Module):
    """Judges patches of pairs: x (N, in_channels, H, W), y (N, out_channels, H, W) → logits (N, 1, h, w).

    The number of stride-2 convolutions, n_layers, sets the field of one logit: 0 is 1×1 pixels (PixelGAN), 1 is 16×16,
    3 is the paper's 70×70 (30×30 logits for a 256×256 image), 5 is 286×286 (ImageGAN).
    Raises ValueError if a side of the image is shorter than 3 * 2**n_layers pixels (PixelGAN takes any).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 3, ndf: int = 64, n_layers: int = 3):
        super().__init__()
        if n_layers:
            kernel, padding = 4, 1
            self.min_size = 3 * 2**n_layers
            widths = [ndf * min(2**i, 8) for i in range(n_layers + 1)]  # 64, 128, 256, 512 for ndf = 64
            strides = [2] * n_layers + [1]
        else:
            kernel, padding = 1, 0
            self.min_size = 1
            widths = [ndf, 2 * ndf]
            strides = [1, 1]

        layers = [
            nn.Conv2d(in_channels + out_channels, ndf, kernel, strides[0], padding),
            nn.LeakyReLU(0.2),
        ]
        for i in range(1, len(widths)):
            layers += [
                nn.Conv2d(widths[i - 1], widths[i], kernel, strides[i], padding, bias=False),
                nn.BatchNorm2d(widths[i]),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, kernel, 1, padding))
        self.layers = nn.Sequential(*layers)
        self.apply(init_weights)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.features(x, y)[-1]  # (N, 1, h, w)

    def features(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """What each LeakyReLU gives, then the logits."""
        height, width = x.shape[-2:]
        if min(height, width) < self.min_size:
            raise ValueError(f"the discriminator takes images of at least {self.min_size} pixels a side, "
                             f"not {width}×{height}")
        h = torch.cat([x, y], dim=1)  # (N, in_channels + out_channels, H, W)
        features = []
        for layer in self.layers:
            h = layer(h)  # convolution i: (N, widths[i], H/2^(i+1), W/2^(i+1)), but the last two take off 1 pixel each
            if isinstance(layer, nn.LeakyReLU):
                features.append(h)
        return [*features, h]
