"""Photos in CIE Lab, as colourisation takes them: L is how light a pixel is, a and b are its colour.

Written in torch, so that batches are converted on their device: what loaders resize, cut, mirror and hand over stays
RGB of 8 bits. sRGB under D65; white is exactly L = 100, and of all grays a and b are 0.
"""

import torch
from torch import Tensor

XYZ = torch.tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]],
                   dtype=torch.float64)
XYZ /= XYZ.sum(1, keepdim=True)  # white becomes 1, 1, 1
BACK = torch.linalg.inv(XYZ)
KNEE = 6 / 29
HALVINGS = 14  # of the interval in which the chroma is sought


def lab_of(rgb: Tensor) -> Tensor:
    """(…, 3, H, W) in [0, 1] → L from 0 to 100, then a and b, about -110 to 110."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = mixed(XYZ, linear)
    x, y, z = torch.where(xyz > KNEE**3, xyz.clamp(min=KNEE**3) ** (1 / 3), xyz / (3 * KNEE**2) + 4 / 29).unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def rgb_of(lab: Tensor) -> Tensor:
    """The inverse, in [0, 1]. Of colours that no screen shows, a and b shrink until one does, and L stays.

    Clipping them would change how light they are.
    """
    rgb = unbounded(lab)
    outside = ~shows(rgb)
    if outside.any():
        light, ab = lab.movedim(-3, 0)[:, outside][..., None].split([1, 2])  # (n, 1), as one column of pixels

        def paler(share: Tensor) -> Tensor:
            return unbounded(torch.cat([light, ab * share]))

        low = torch.zeros_like(light[0])
        high = torch.ones_like(low)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            shown = shows(paler(middle))
            low = torch.where(shown, middle, low)
            high = torch.where(shown, high, middle)
        rgb.movedim(-3, 0)[:, outside] = paler(low)[..., 0]
    return rgb.clamp(0, 1)


def unbounded(lab: Tensor) -> Tensor:
    """RGB, which may lie outside of [0, 1]."""
    light, a, b = lab.unbind(-3)
    y = (light + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], dim=-3)
    xyz = torch.where(f > KNEE, f**3, 3 * KNEE**2 * (f - 4 / 29))
    linear = mixed(BACK, xyz)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)


def shows(rgb: Tensor) -> Tensor:
    """(…, H, W), whether a screen shows that colour, but for rounding."""
    return ((rgb > -1e-5) & (rgb < 1 + 1e-5)).all(dim=-3)


def mixed(matrix: Tensor, image: Tensor) -> Tensor:
    return torch.einsum("ij,...jhw->...ihw", matrix.to(image), image)
