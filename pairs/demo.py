"""Draws the embedded data set: label maps of façades (A, left) and a rendered photo of each (B, right).

The same seed draws the same pixels, so that a run on it can be compared with another. `python -m pairs.demo` draws it.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from utils import complete_folder

SIZE = 256  # pixels a side
SCALE = 2  # photos are painted at twice the size and averaged down

PALETTE = {  # colour of each class in the label maps
    "sky": (0, 0, 170), "wall": (0, 85, 255), "roof": (170, 0, 0), "window": (0, 255, 255), "sill": (85, 255, 170),
    "balcony": (170, 255, 85), "door": (255, 170, 0), "shop": (255, 85, 0), "street": (60, 60, 60),
}
WALLS = [(0.74, 0.42, 0.33), (0.80, 0.62, 0.42), (0.72, 0.66, 0.58), (0.83, 0.74, 0.56)]  # brick, ochre, stone, cream


def draw(root: Path, n_train: int = 100, n_val: int = 16, seed: int = 0) -> None:
    """Writes train/ and val/ of side-by-side PNGs, 512×256, into `root`, which appears only when complete."""
    with complete_folder(root) as folder:
        for split, first, count in (("train", 0, n_train), ("val", n_train, n_val)):
            (folder / split).mkdir()
            for i in range(count):
                labels, photo = facade(np.random.default_rng((seed, first + i)))
                pair = np.concatenate([labels, photo], axis=1)
                Image.fromarray(pair).save(folder / split / f"{i + 1:03d}.png")


def facade(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One façade: its label map and its photo, each uint8 (256, 256, 3)."""
    scene = Scene(rng)
    sky = int(rng.integers(14, 40))
    roof = sky + int(rng.integers(22, 40))
    street = SIZE - int(rng.integers(12, 20))
    ground = street - int(rng.integers(56, 68))
    left, right = (int(rng.integers(0, 14)) for _ in range(2))

    scene.sky()
    scene.street(street)
    wall = (left, roof, SIZE - right, street)
    scene.wall(wall)
    scene.roof((max(left - 4, 0), sky, SIZE - max(right - 4, 0), roof))
    scene.band((left, roof, SIZE - right, roof + 5))
    scene.band((left, ground - 5, SIZE - right, ground))

    # Upper floors: one grid of windows, all of a kind.
    columns, floors = int(rng.integers(3, 6)), int(rng.integers(2, 4))
    step_x, step_y = (SIZE - left - right) / columns, (ground - 8 - roof - 4) / floors
    width, height = step_x * rng.uniform(0.40, 0.58), step_y * rng.uniform(0.52, 0.66)
    balcony_floor = int(rng.integers(0, floors + 1))  # `floors` means none
    for floor in range(floors):
        for column in range(columns):
            x = left + step_x * (column + 0.5) - width / 2
            y = roof + 6 + step_y * (floor + 0.5) - height / 2
            box = tuple(round(v) for v in (x, y, x + width, y + height))
            scene.window(box)
            if floor == balcony_floor or rng.random() < 0.08:
                scene.balcony((box[0] - 5, box[3] - round(height * 0.36), box[2] + 5, box[3] + 3))
            else:
                scene.sill((box[0] - 3, box[3], box[2] + 3, box[3] + 4))

    # Ground floor: one door among shops and windows.
    door = int(rng.integers(columns))
    for column in range(columns):
        x, middle = left + step_x * column, left + step_x * (column + 0.5)
        if column == door:
            half = min(step_x * 0.3, 15)
            scene.door(tuple(round(v) for v in (middle - half, ground + 12, middle + half, street)))
        elif rng.random() < 0.7:
            scene.shop(tuple(round(v) for v in (x + 5, ground + 8, x + step_x - 5, street - 5)))
        else:
            box = tuple(round(v) for v in (middle - width / 2, ground + 12, middle + width / 2, street - 16))
            scene.window(box)
            scene.sill((box[0] - 3, box[3], box[2] + 3, box[3] + 4))
    return scene.finish()


class Scene:
    """A label map and a photo that grow together. Boxes are (left, top, right, bottom) in pixels of the label map."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.labels = np.zeros((SIZE, SIZE, 3), np.uint8)
        self.photo = np.zeros((SIZE * SCALE, SIZE * SCALE, 3), np.float32)
        self.paint_colour = np.array([0.93, 0.91, 0.86]) * rng.uniform(0.85, 1.05)  # frames, sills and bands
        self.wood = np.array([[0.36, 0.20, 0.12], [0.18, 0.30, 0.24], [0.20, 0.24, 0.36]])[rng.integers(3)]
        self.curtains = rng.random() < 0.6

    def label(self, name: str, box: tuple) -> None:
        left, top, right, bottom = np.clip(box, 0, SIZE)
        self.labels[top:bottom, left:right] = PALETTE[name]

    def view(self, box: tuple) -> np.ndarray:
        """The part of the photo inside `box`, to be painted on; parts of a label pixel are allowed."""
        left, top, right, bottom = (round(float(np.clip(v, 0, SIZE)) * SCALE) for v in box)
        return self.photo[top:bottom, left:right]

    def noise(self, shape: tuple[int, int], cell: float, amount: float) -> np.ndarray:
        """Smooth noise (h, w, 1) around 0 with features of about `cell` pixels."""
        h, w = (max(2, round(n / cell / SCALE) + 1) for n in shape)
        coarse = Image.fromarray(self.rng.normal(0, amount, (h, w)).astype(np.float32))
        return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC))[..., None]

    def shadow(self, box: tuple, strength: float) -> None:
        self.view(box)[...] *= 1 - strength

    def sky(self) -> None:
        self.label("sky", (0, 0, SIZE, SIZE))
        fall = np.clip(np.linspace(0, 3, len(self.photo)), 0, 1)[:, None, None]  # paler down to the horizon
        self.photo[...] = (1 - fall) * [0.42, 0.62, 0.86] + fall * [0.80, 0.88, 0.95]
        clouds = self.noise(self.photo.shape[:2], 26, 0.7) + self.noise(self.photo.shape[:2], 9, 0.3)
        self.photo += 0.22 / (1 + np.exp(-3 * clouds + 1))

    def street(self, top: int) -> None:
        box = (0, top, SIZE, SIZE)
        self.label("street", box)
        area = self.view(box)
        area[...] = np.array([0.50, 0.49, 0.48]) * np.linspace(1.12, 0.8, len(area))[:, None, None]
        area += self.noise(area.shape[:2], 1.0, 0.03)
        self.view((0, top, SIZE, top + 2))[...] *= 1.25  # kerb

    def wall(self, box: tuple) -> None:
        self.label("wall", box)
        area = self.view(box)
        kind = self.rng.integers(len(WALLS))
        area[...] = np.array(WALLS[kind]) * self.rng.uniform(0.9, 1.08) + self.rng.normal(0, 0.015, 3)
        rows, columns = np.mgrid[: area.shape[0], : area.shape[1]]
        high, wide = (4 * SCALE, 10 * SCALE) if kind == 0 else (12 * SCALE, 26 * SCALE)  # bricks, or blocks of stone
        course = rows // high
        shifted = columns + (course % 2) * wide // 2
        tone = self.rng.normal(0, 0.045 if kind == 0 else 0.018, (course.max() + 1, shifted.max() // wide + 1))
        area *= 1 + tone[course, shifted // wide][..., None]
        joint = (rows % high < 1) | (shifted % wide < 1)
        area[joint] = area[joint] * 0.75 + (0.14 if kind == 0 else 0.08)
        area *= 1 + self.noise(area.shape[:2], 30, 0.05) + self.noise(area.shape[:2], 1.2, 0.02)  # weather, grain
        area *= np.linspace(1.06, 0.90, len(area))[:, None, None]

    def roof(self, box: tuple) -> None:
        self.label("roof", box)
        area = self.view(box)
        colour = np.array([[0.48, 0.25, 0.19], [0.33, 0.34, 0.38]])[self.rng.integers(2)]
        rows, columns = np.mgrid[: area.shape[0], : area.shape[1]]
        high, wide = 5 * SCALE, 6 * SCALE
        bulge = 0.80 + 0.35 * (rows % high) / high  # each row of tiles is lit at its lower edge
        round_ = 0.92 + 0.08 * np.sin(2 * np.pi * (columns + (rows // high % 2) * wide / 2) / wide)
        area[...] = colour * (bulge * round_)[..., None] * np.linspace(0.9, 1.2, len(area))[:, None, None]
        area *= 1 + self.noise(area.shape[:2], 2.5, 0.05)

    def band(self, box: tuple) -> None:
        """A moulding across the façade, which casts a shadow on the wall below it."""
        self.label("sill", box)
        left, top, right, bottom = box
        area = self.view(box)
        area[...] = self.paint_colour * np.linspace(1.1, 0.72, len(area))[:, None, None]
        self.shadow((left, bottom, right, bottom + 4), 0.30)

    def sill(self, box: tuple) -> None:
        self.label("sill", box)
        left, top, right, bottom = box
        self.view(box)[...] = self.paint_colour
        self.shadow((left, bottom - 1.5, right, bottom), 0.25)
        self.shadow((left + 2, bottom, right + 2, bottom + 3), 0.35)

    def glass(self, box: tuple) -> None:
        """Panes that reflect the sky, darker towards the bottom, with one bright slanting streak."""
        area = self.view(box)
        fall = np.linspace(0, 1, len(area))[:, None, None]
        area[...] = (1 - fall) * [0.50, 0.62, 0.72] + fall * [0.12, 0.15, 0.20]
        rows, columns = np.mgrid[: area.shape[0], : area.shape[1]]
        streak = np.abs(columns + 0.6 * rows - 0.75 * area.shape[1]) < 0.13 * area.shape[1]
        area[streak] += 0.12
        area *= self.rng.uniform(0.85, 1.1)

    def frame(self, box: tuple, bars_x: int, bars_y: int, colour: np.ndarray, width: float = 1.5) -> None:
        """A frame around `box`, with bars that cut it into bars_x + 1 by bars_y + 1 panes."""
        left, top, right, bottom = box
        for i in range(bars_x + 2):
            x = left + (right - left - width) * i / (bars_x + 1)
            self.view((x, top, x + width, bottom))[...] = colour
        for i in range(bars_y + 2):
            y = top + (bottom - top - width) * i / (bars_y + 1)
            self.view((left, y, right, y + width))[...] = colour

    def window(self, box: tuple) -> None:
        self.label("window", box)
        left, top, right, bottom = box
        self.glass(box)
        if self.curtains and self.rng.random() < 0.7:
            reach = (right - left) * self.rng.uniform(0.15, 0.3)
            for side in ((left, top, left + reach, bottom), (right - reach, top, right, bottom)):
                area = self.view(side)
                folds = 0.72 + 0.10 * np.sin(np.arange(area.shape[1]) * 1.5)
                area[...] = area * 0.3 + 0.7 * folds[None, :, None] * [1.0, 0.97, 0.90]
        self.frame(box, 1, 1 if bottom - top < 34 else 2, self.paint_colour)
        self.shadow((left, top, right, top + 3), 0.45)  # the window lies deep in the wall; the light is up left
        self.shadow((left, top, left + 2, bottom), 0.35)

    def balcony(self, box: tuple) -> None:
        """A railing before the lower part of a window, on a slab that shades the wall."""
        self.label("balcony", box)
        left, top, right, bottom = box
        self.shadow(box, 0.35)
        iron = np.array([0.10, 0.10, 0.12])
        for x in np.arange(left, right - 0.9, 3):
            self.view((x, top, x + 1, bottom - 3))[...] = iron
        self.view((left, top, right, top + 1.5))[...] = iron * 1.6
        self.view((left, bottom - 3, right, bottom))[...] = self.paint_colour * 0.85
        self.shadow((left + 3, bottom, right + 3, bottom + 6), 0.40)

    def door(self, box: tuple) -> None:
        self.label("door", box)
        left, top, right, bottom = box
        area = self.view(box)
        grain = 1 + 0.5 * self.noise((1, area.shape[1]), 1.5, 0.12)
        area[...] = self.wood * grain
        light = (left + 2, top + 2, right - 2, top + 11)
        self.glass(light)
        middle = (left + right) / 2
        for x0, x1 in ((left + 3, middle - 2), (middle + 2, right - 3)):
            for y0, y1 in ((top + 15, (top + bottom) / 2 + 3), ((top + bottom) / 2 + 7, bottom - 4)):
                self.view((x0, y0, x1, y1))[...] *= 0.72
                self.view((x0 + 1, y0 + 1, x1, y1))[...] *= 1.55
        self.shadow((middle - 0.5, top + 12, middle + 0.5, bottom), 0.6)
        handle = (middle + 1.5, (top + bottom) / 2 + 3, middle + 3.5, (top + bottom) / 2 + 5.5)
        self.view(handle)[...] = [0.9, 0.75, 0.35]
        self.shadow((left, top, right, top + 3), 0.45)
        self.shadow((left, top, left + 2, bottom), 0.35)

    def shop(self, box: tuple) -> None:
        """A lit shop window below a striped awning."""
        self.label("shop", box)
        left, top, right, bottom = box
        area = self.view(box)
        fall = np.linspace(0, 1, len(area))[:, None, None]
        area[...] = (1 - fall) * [0.38, 0.33, 0.28] + fall * [0.86, 0.70, 0.46]
        area *= 1 + self.noise(area.shape[:2], 5, 0.18)  # what is on show
        self.frame((left, top, right, bottom), 2 if right - left > 44 else 1, 0, self.wood * 0.8, 2)
        awning = self.view((left, top, right, top + 11))
        colour = np.array([[0.75, 0.16, 0.14], [0.13, 0.38, 0.26], [0.16, 0.26, 0.52]])[self.rng.integers(3)]
        stripes = np.arange(awning.shape[1]) // (5 * SCALE) % 2 == 0
        awning[...] = np.where(stripes[None, :, None], colour, [0.93, 0.91, 0.86])
        awning *= np.linspace(1.08, 0.82, len(awning))[:, None, None]
        self.shadow((left, top + 11, right, top + 16), 0.45)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The label map and the photo, with a lens's fall-off and a sensor's noise."""
        pixels = self.photo.reshape(SIZE, SCALE, SIZE, SCALE, 3).mean(axis=(1, 3))
        rows, columns = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
        pixels *= (1.03 - 0.10 * (rows**2 + columns**2))[..., None] * self.rng.uniform(0.94, 1.06)
        pixels += self.rng.normal(0, 0.008, pixels.shape)
        return self.labels, (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


if __name__ == "__main__":
    draw(Path("data/demo"))
