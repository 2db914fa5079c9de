"""The colours of label maps: palettes by name or from a file, and those that a set of images turns out to have."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils import UserError


def table(text: str) -> dict[str, tuple[int, int, int]]:
    """The red, green and blue of each class, in lines such as `wall 0 85 255`."""
    lines = (line.rsplit(maxsplit=3) for line in text.strip().splitlines())
    return {name.strip(): tuple(map(int, colour)) for name, *colour in lines}


# The 19 classes that Cityscapes evaluates, then the colours of its void classes, which are not scored. Void "pole
# group" and "license plate" share the colours of pole and car. In the published pix2pix files, within JPEG's noise.
CITYSCAPES = table("""
    road              128  64 128
    sidewalk          244  35 232
    building           70  70  70
    wall              102 102 156
    fence             190 153 153
    pole              153 153 153
    traffic light     250 170  30
    traffic sign      220 220   0
    vegetation        107 142  35
    terrain           152 251 152
    sky                70 130 180
    person            220  20  60
    rider             255   0   0
    car                 0   0 142
    truck               0   0  70
    bus                 0  60 100
    train               0  80 100
    motorcycle          0   0 230
    bicycle           119  11  32
    void unlabeled      0   0   0
    void dynamic      111  74   0
    void ground        81   0  81
    void parking      250 170 160
    void rail track   230 150 140
    void guard rail   180 165 180
    void bridge       150 100 100
    void tunnel       150 120  90
    void caravan        0   0  90
    void trailer        0   0 110
""")
# The 12 classes of the CMP Facade Database, in the colours of the published pix2pix files.
FACADES = table("""
    background          0   0 223
    facade              0  48 255
    window              0 128 255
    door                0 208 255
    cornice            32 255 223
    sill              112 255 143
    balcony           192 255  63
    blind             255 239   0
    deco              255 159   0
    molding           255  79   0
    pillar            255   0   0
    shop              175   0   0
""")
# Those of the data set that this program draws.
DEMO = table("""
    sky                 0   0 170
    wall                0  85 255
    roof              170   0   0
    window              0 255 255
    sill               85 255 170
    balcony           170 255  85
    door              255 170   0
    shop              255  85   0
    street             60  60  60
""")
PALETTES = {"cityscapes": CITYSCAPES, "demo": DEMO, "facades": FACADES}


def is_void(name: str) -> bool:
    """Whether a class of that name is not scored: void, or void and what it is."""
    return name == "void" or name.startswith("void ")


def load_palette(name: str) -> dict[str, tuple[int, int, int]]:
    """One of PALETTES, or of a JSON file {"class": [red, green, blue], …}; those that `is_void` are not scored.

    Raises UserError.
    """
    if name in PALETTES:
        return PALETTES[name]
    try:
        palette = json.loads(Path(name).read_text(encoding="utf-8"))
        palette = {key: tuple(bytes([*colour])) for key, colour in palette.items()}
    except OSError as error:
        raise UserError(f"palette {name} is not {', '.join(PALETTES)} or a JSON file of colours: {error}") from error
    except (ValueError, AttributeError, TypeError, RecursionError):
        palette = {}
    if {*map(len, palette.values())} != {3} or sum(not is_void(key) for key in palette) < 2:
        raise UserError(f"palette {name} must hold two classes or more, each with three integers from 0 to 255")
    if len(set(palette.values())) < len(palette):
        raise UserError(f"palette {name} gives one colour to two classes")
    return palette


def sample(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some pixels of a colour image, uint8 or float in [0, 1], and those of them in flat places; both (N, 3) uint8.

    At edges, JPEG disturbs the colours.
    """
    image = image if image.dtype == np.uint8 else (image * 255).astype(np.uint8)
    step = max(1, min(image.shape[:2]) // 256)  # enough of a large image
    here = image[:-1:step, :-1:step].astype(np.int32)
    change = [abs(there - here) for there in (image[1::step, :-1:step], image[:-1:step, 1::step])]
    flat = np.max(change, axis=(0, 3)) <= 3
    return here.reshape(-1, 3).astype(np.uint8), here[flat].astype(np.uint8)


def flat_colours(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[list] | None:
    """[red, green, blue, share] of each colour in label maps or line drawings, the commonest first.

    Of what `sample` took from each. None where they are photos.
    """
    if not samples:
        return None
    pixels, flat = (np.concatenate(arrays).astype(np.int32) for arrays in zip(*samples, strict=True))
    found = _peaks(flat)
    if not found or len(flat) < 0.3 * len(pixels):
        return None
    (ground, n_ground), *others = found
    if not others:  # lines on paper are too thin to be flat anywhere
        lines = pixels[abs(pixels - ground).max(1) > 64]
        if not len(lines):
            return None
        found = [(ground, len(pixels) - len(lines)), (_peaks(lines)[0][0], len(lines))]
    # A photo has flat places too, and white paper around what it shows; but what else is flat has any colour.
    elif sum(n for _, n in others) < 0.7 * (len(flat) - n_ground):
        return None
    total = sum(n for _, n in found)
    return [[*colour, n / total] for colour, n in found]


def _peaks(pixels: np.ndarray) -> list[tuple[tuple, int]]:
    """Up to 40 colours of (N, 3) that stand out, and how many pixels are within 6 of each; the commonest first.

    Within 12 of another there is no colour; within 24 of one that is 3 times as common it is JPEG's noise.
    """
    codes, n = np.unique(pixels @ (65536, 256, 1), return_counts=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    peaks = []
    while n.any() and len(peaks) < 40:
        colour = colours[n.argmax()]
        distance = abs(colours - colour).max(axis=1)
        if (count := int(n[distance <= 6].sum())) < 0.0005 * len(pixels):
            break
        if all(times < 3 * count or abs(colour - other).max() > 24 for other, times in peaks):
            peaks.append((tuple(colour.tolist()), count))
        n = np.where(distance < 12, 0, n)
    return sorted(peaks, key=lambda peak: -peak[1])
