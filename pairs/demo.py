"""Draws the embedded data set: label maps of façades (A, left) and a rendered photo of each (B, right).

The same seed draws the same pixels, so that a run on it can be compared with another.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from pairs.palettes import DEMO as PALETTE
from runtime.files import complete_folder

SIZE = 256  # pixels a side
SCALE = 2  # photos are painted at twice the size and averaged down

# Masonry: red, green, blue; height and width of a brick (the first wall), block, tile or slab in pixels of the photo.
WALLS = [
    (0.74, 0.42, 0.33, 8, 20),
    (0.80, 0.62, 0.42, 24, 52),
    (0.72, 0.66, 0.58, 24, 52),
    (0.83, 0.74, 0.56, 24, 52),
]
ROOFS = [(0.56, 0.29, 0.22, 10, 12), (0.38, 0.39, 0.44, 10, 12)]
STREETS = [(0.50, 0.49, 0.48, 6, 24)]
PAINTS = np.array([(0.75, 0.16, 0.14), (0.13, 0.38, 0.26), (0.16, 0.26, 0.52)])  # of doors, shops and awnings
BLACK = 0.0, 0.0, 0.0
IRON = 0.12, 0.12, 0.14
GLASS = 0.12, 0.15, 0.20
SHEEN = 0.50, 0.62, 0.72


def draw(root: Path, n_train: int = 100, n_val: int = 16, seed: int = 0) -> None:
    """Writes train/ and val/ of side-by-side PNGs, 512×256, into `root`, which appears only when complete."""
    with complete_folder(root) as folder:
        for split, first, count in (("train", 0, n_train), ("val", n_train, n_val)):
            (folder / split).mkdir()
            for i in range(count):
                pair = np.concatenate(facade(np.random.default_rng((seed, first + i))), axis=1)
                Image.fromarray(pair).save(folder / split / f"{i + 1:03d}.png")


def facade(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One façade: its label map and its photo, each uint8 (256, 256, 3)."""
    scene = Scene(rng)
    left = rng.integers(14)
    right = SIZE - rng.integers(14)
    eaves = rng.integers(46, 70)
    street = SIZE - rng.integers(12, 20)
    ground = street - rng.integers(56, 68)  # the top of the ground floor
    columns = rng.integers(3, 6)
    floors = rng.integers(2, 4)
    wide = (right - left) / columns
    high = (ground - eaves - 12) / floors
    half_x = int(wide * rng.uniform(0.20, 0.29))  # of every window
    half_y = int(high * rng.uniform(0.26, 0.33))
    door = rng.integers(columns)  # its column
    balconies = rng.integers(floors + 1)  # their floor, perhaps none

    sky = scene.paint((0, 0, SIZE, SIZE), (0.42, 0.62, 0.86), (0.82, 0.90, 0.96), "sky")
    sky += 0.22 / (1 + np.exp(1 - 3 * scene.noise(sky, 52, 0.7) - 3 * scene.noise(sky, 18, 0.3)))  # clouds
    scene.masonry((0, street, SIZE, SIZE), "street", STREETS)
    scene.masonry((left, eaves, right, street), "wall", WALLS)
    scene.masonry((left - 4, eaves - rng.integers(22, 40), right + 4, eaves), "roof", ROOFS)
    scene.ledge(left, eaves, right)
    scene.ledge(left, ground - 5, right)
    for column in range(columns):
        x = int(left + wide * (column + 0.5))
        for floor in range(floors):
            y = int(eaves + 6 + high * (floor + 0.5))
            scene.window((x - half_x, y - half_y, x + half_x, y + half_y), floor == balconies or rng.random() < 0.08)
        if column == door:
            scene.door((x - 14, ground + 12, x + 14, street))
        elif rng.random() < 0.7:
            scene.shop((x - int(wide / 2) + 5, ground + 8, x + int(wide / 2) - 5, street - 5))
        else:
            scene.window((x - half_x, ground + 12, x + half_x, street - 16), balcony=False)
    photo = scene.photo.reshape(SIZE, SCALE, SIZE, SCALE, 3).mean(axis=(1, 3)) * rng.uniform(0.94, 1.06)  # exposure
    return scene.labels, (np.clip(photo, 0, 1) * 255).round().astype(np.uint8)


class Scene:
    """A label map and a photo that grow together. Boxes are (left, top, right, bottom) in pixels of the label map."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.labels = np.zeros((SIZE, SIZE, 3), np.uint8)
        self.photo = np.zeros((SIZE * SCALE, SIZE * SCALE, 3), np.float32)
        self.trim = np.array([0.93, 0.91, 0.86]) * rng.uniform(0.85, 1.05)  # colour of frames and ledges

    def paint(self, box: tuple, upper, lower=None, label: str | None = None, cover: float = 1.0) -> np.ndarray:
        """Lays a colour, or two that blend downwards, over `box`, and labels it. Returns that part of the photo."""
        left, top, right, bottom = (min(max(v, 0), SIZE) for v in box)
        if label:
            self.labels[top:bottom, left:right] = PALETTE[label]
        area = self.photo[round(top * SCALE) : round(bottom * SCALE), round(left * SCALE) : round(right * SCALE)]
        area *= 1 - cover
        area += cover * np.linspace(upper, upper if lower is None else lower, len(area))[:, None]
        return area

    def noise(self, area: np.ndarray, cell: float, amount: float) -> np.ndarray:
        """Smooth noise (h, w, 1) around 0 for a part of the photo, with features of about `cell` of its pixels."""
        h, w = area.shape[:2]
        coarse = self.rng.normal(0, amount, (int(h / cell) + 2, int(w / cell) + 2)).astype(np.float32)
        return np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC))[..., None]

    def masonry(self, box: tuple, label: str, kinds: list) -> None:
        """Rows of bricks, blocks, tiles or slabs of one of `kinds`, every other row shifted by half of one."""
        *colour, high, wide = kinds[self.rng.integers(len(kinds))]
        colour = np.array(colour) * self.rng.uniform(0.9, 1.08) + self.rng.normal(0, 0.015, 3)
        area = self.paint(box, colour * 1.06, colour * 0.90, label)
        row, y = np.divmod(np.arange(area.shape[0])[:, None], high)
        column, x = np.divmod(np.arange(area.shape[1]) + row % 2 * wide // 2, wide)
        tone = self.rng.normal(1, 0.36 / high, (row.max() + 1, column.max() + 1))[row, column]
        if label == "roof":
            tone += 0.35 * y / high - 0.2  # each row of tiles is lit at its lower edge
        tone[(y == 0) | (x == 0)] *= 0.85  # joints
        area *= tone[..., None] + self.noise(area, 60, 0.05) + self.noise(area, 2, 0.02)  # weather, grain

    def ledge(self, left: int, top: int, right: int) -> None:
        """A moulding or a sill, which casts a shadow on the wall below it."""
        self.paint((left, top, right, top + 4), self.trim * 1.1, self.trim * 0.72, "sill")
        self.paint((left + 2, top + 4, right, top + 7), BLACK, cover=0.35)

    def frame(self, box: tuple, upright: int, level: int, width: float, colour: np.ndarray) -> None:
        """Evenly spread bars around and across a box that lies deep in the wall; the light is up left."""
        left, top, right, bottom = box
        for x in np.linspace(left, right - width, upright):
            self.paint((x, top, x + width, bottom), colour)
        for y in np.linspace(top, bottom - width, level):
            self.paint((left, y, right, y + width), colour)
        self.paint((left, top, right, top + 3), BLACK, cover=0.45)
        self.paint((left, top, left + 2, bottom), BLACK, cover=0.35)

    def window(self, box: tuple, balcony: bool) -> None:
        left, top, right, bottom = box
        area = self.paint(box, SHEEN, GLASS, "window")
        rows, columns = np.ogrid[: area.shape[0], : area.shape[1]]
        area[np.abs((columns + 0.6 * rows) / area.shape[1] - 0.75) < 0.13] += 0.12  # a slanting reflection
        if self.rng.random() < 0.4:
            for x in (left, (left + 3 * right) / 4):
                curtain = self.paint((x, top, x + (right - left) / 4, bottom), (0.76, 0.74, 0.68), cover=0.7)
                curtain[:, ::4] *= 0.85  # folds
        self.frame(box, 3, 3 if bottom - top < 34 else 4, 1.5, self.trim)
        self.ledge(left - 4, bottom, right + 4)
        if balcony:
            railing = (left - 4, bottom - (bottom - top) // 3, right + 4, bottom + 1)
            self.paint(railing, BLACK, label="balcony", cover=0.35)
            self.frame(railing, (right - left + 8) // 3, 2, 1, IRON)

    def door(self, box: tuple) -> None:
        left, top, right, bottom = box
        wood = self.rng.choice(PAINTS) * 0.7
        self.paint(box, wood * 0.8, wood * 0.7, "door")
        self.frame(box, 3, 3, 4, wood)
        self.paint((left + 3, top + 3, right - 3, top + 11), SHEEN, GLASS)
        self.paint((right - 12, bottom - 22, right - 10, bottom - 19), (0.9, 0.75, 0.35))  # handle

    def shop(self, box: tuple) -> None:
        """A lit shop window below a striped awning."""
        left, top, right, bottom = box
        area = self.paint(box, (0.38, 0.33, 0.28), (0.86, 0.70, 0.46), "shop")
        area *= 1 + self.noise(area, 10, 0.18)  # what is on show
        colour = self.rng.choice(PAINTS)
        self.frame((left, top + 11, right, bottom), 4 if right - left > 44 else 3, 2, 2, colour * 0.5)
        awning = self.paint((left, top, right, top + 11), (1.0, 0.98, 0.93), (0.76, 0.75, 0.71))
        awning[:, np.arange(awning.shape[1]) // 10 % 2 == 0] *= colour
