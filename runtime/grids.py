"""Pictures for people: images in a grid, each as somebody can look at it."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from runtime.files import atomic

CELL = 512  # pixels of the longest side in a grid
LINE = 4  # pixels of white around each image
DRAWN = {"Software": "pix2pix"}  # marks what is drawn for people, so that it never becomes a training pair


def rgb(image: Tensor) -> Tensor:
    """(C, H, W) in [-1, 1] as people can look at it, (3, H, W): gray, colour, or the first three of more channels.

    Of two, their mean; of channels that are 0 and 1, a colour for each, and black where all are 0.
    """
    image = image.detach().float().cpu()
    if holds_classes(image):
        hues = torch.arange(len(image)) * 0.618 * 2 * math.pi  # neighbours far apart
        wheel = torch.stack([torch.cos(hues + third) for third in (0.0, 2.1, 4.2)])
        return torch.einsum("kc,chw->khw", wheel * 0.8 + 0.2, image) + image.sum(0) - 1
    return image[:3] if len(image) >= 3 else image.mean(0, keepdim=True).expand(3, -1, -1)


def holds_classes(image: Tensor) -> bool:
    """Whether each channel is a class: at most one of them is 1, and somewhere one is; the others are 0, which no value
    of 8 bits becomes, but floats do, as in a flow that stands still.
    """
    return len(image) > 1 and bool(((image == 0) | (image == 1)).all() and image.sum(0).max() == 1)


def save_grid(path: Path, rows: list[list[Tensor]], titles: list[str], caption: str = "") -> None:
    """Writes rows of images (C, H, W) in [-1, 1] as one PNG with a title over each column, as `rgb` shows them.

    Images of several sizes, or with a side above CELL, are drawn to one scale, with white around the smaller ones.
    """
    for title, image in zip(titles, rows[0], strict=False):
        caption += remark(title, image)
    images = [rgb(image) for row in rows for image in row]
    scale = min(1, CELL / max(max(image.shape[1:]) for image in images))
    images = [drawn(image, scale) for image in images]
    width = LINE + max(image.width for image in images)
    height = LINE + max(image.height for image in images)

    # The sheet: a caption if there is one, the titles, the images
    font = ImageFont.load_default(14)
    header = 44 if caption else 26
    full = max(len(titles) * width + LINE, round(font.getlength(caption)) + 12)
    sheet = Image.new("RGB", (full, header + len(rows) * height + LINE), "white")
    for i, image in enumerate(images):
        row, column = divmod(i, len(titles))
        sheet.paste(image, (LINE + column * width, header + LINE + row * height))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 4), caption, fill="black", font=font)
    for column, title in enumerate(titles):
        draw.text((6 + column * width, header - 20), title, fill="black", font=font)
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", DRAWN["Software"])
    with atomic(path, durable=False) as file:
        sheet.save(file, "PNG", pnginfo=mark)


def remark(title: str, image: Tensor) -> str:
    """What the caption must tell of a column that does not show all of its channels as they are."""
    n = len(image)
    if n in (1, 3):
        return ""
    if holds_classes(image):
        return f"; {title}: {n} classes"
    return f"; {title}: mean of 2 channels" if n == 2 else f"; {title}: channels 1 to 3 of {n}"


def drawn(image: Tensor, scale: float) -> Image.Image:
    """(3, H, W) in [-1, 1] as a picture of its size times `scale`; what is beyond is clipped."""
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1:]]
        (image,) = F.interpolate(image[None], size, mode="bilinear", antialias=True)
    pixels = ((image / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def is_marked(path: Path) -> bool:
    """Whether the file is a picture that this program drew for people."""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == DRAWN["Software"]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # no picture, or a broken one
        return False
