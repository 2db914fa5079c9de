"""Every setting of a run. Edit the defaults here, or override them with flags of the same names."""

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

Range = tuple[float, float] | None  # low and high
Network = Literal["unet", "release", "global", "local"]


@dataclass(frozen=True)
class Config:
    # Data
    data_root: Path = Path("data/demo")  # folder of pairs; known data sets are drawn or downloaded if missing
    files_a: tuple[str, ...] = ()  # where A lies in data_root: {split}/input/{name}.png; several inputs: several
    files_b: str = ""  # where B lies: {split}/target/{name}.png; {name} is what pairs share, * anything within a name
    files_m: str = ""  # where masks lie, if there are any
    group: str = ""  # a regular expression: pairs whose names give it one match, such as a patient, are in one split
    direction: Literal["AtoB", "BtoA"] = "AtoB"  # which side is the input: A (the left half) or B
    in_channels: int = 3  # channels of the input: 1 gray, 3 RGB; for several inputs A1, A2, ... their sum
    out_channels: int = 3  # channels of the output: 1 gray, 3 RGB
    space: Literal["rgb", "lab"] = "rgb"  # lab colours photos, alone or in pairs: L to ab, in 1 and 2 channels
    range_a: Range = None  # the values in A that become -1 and 1; by default the whole range of 8 or 16 bits
    range_b: Range = None  # the values in B that become -1 and 1; by default the whole range of 8 or 16 bits
    bands_a: tuple[int, ...] = ()  # bands of A's files to take, from 1, in this order; they set in_ or out_channels
    bands_b: tuple[int, ...] = ()  # the same of B
    n_labels: int = 0  # number of classes if the input holds class indices (this sets in_channels); 0: it holds none
    resize: Literal["stretch", "aspect", "none"] = "stretch"  # both sides to load_size (paper), the shorter or neither
    load_size: int = 286  # pixels; height (aspect: shorter side) to which training pairs are resized before the crop
    crop_size: int = 256  # pixels, a multiple of 16; height of the crop that the networks see
    crop_width: int = 0  # pixels, a multiple of 16; width of that crop; 0: crop_size. Both set the U-Net's depth
    skip_unreadable: bool = False  # replace a pair that cannot be read by another one, and count it
    flip: Literal["none", "mirror", "all"] = "mirror"  # half of the pairs (paper); all 8 symmetries: for no way up
    label_side: Literal["none", "A", "B", "both"] = "none"  # side of the label maps, resized by nearest neighbour
    color_jitter: float = 0.0  # 0 to 1; strength of random colours in the input, or, if it holds labels, in the output

    # Networks
    ngf: int = 64  # channels of the generator's first layer
    ndf: int = 64  # channels of the discriminator's first layer
    n_layers: int = 3  # D's field: 0 is 1x1, 1 is 16x16, 2 is 34x34, 3 is 70x70, 4 is 142x142, 5 is 286x286
    dropout: float = 0.5  # probability in three of the U-Net's decoder blocks, the only noise; 0: no noise
    generator: Network = "unet"  # release: as the authors' PyTorch program, also resizing; global, local: pix2pixHD's
    n_downs: int = 4  # global, local: number of halvings; local has one more
    n_blocks: int = 9  # global, local: number of residual blocks at the smallest size
    n_scales: int = 0  # 1 to 3: number of pix2pixHD's discriminators, each at half the size of the last; 0: the paper's
    spectral_norm: bool = False  # divide the weights of each of D's layers by their largest singular value
    init_from: Path | None = None  # weights to start from: checkpoint.pth.tar (D's too) or all that --checkpoint takes

    # Optimisation
    gan_loss: Literal["bce", "lsgan"] = "bce"  # cross-entropy (the paper) or least squares
    lambda_l1: float = 100.0  # weight of L1 beside the GAN loss
    lambda_fm: float = 0.0  # weight of L1 between D's features of generated and of real pairs; 0: off
    lambda_vgg: float = 0.0  # weight of L1 between VGG19's features, whose weights torchvision downloads; 0: off
    lr: float = 2e-4  # Adam's learning rate, for both networks
    beta1: float = 0.5  # Adam's first decay rate; the second is 0.999
    n_epochs: int = 8  # epochs at the constant learning rate; 8 suffice for the demo, the paper takes 200
    n_epochs_decay: int = 0  # further epochs, over which the learning rate falls linearly towards 0
    ema: float = 0.0  # decay per step of a moving average of G's weights for gen.pth.tar; try 0.999; 0: no average
    batch_size: int = 1  # pairs per step and process; at 1, the paper's choice, BatchNorm is instance normalisation

    # Run
    out_dir: Path | None = None  # the run's folder; by default runs/NAME after the data's, or runs/NAME-2, ...
    resume: bool = False  # continue the run in out_dir, or the last one on that data; start it if there is none
    best_by: str = "none"  # keep the best epoch in best.pth.tar, by val_l1, psnr, ms_ssim or a palette of label maps
    n_val: int = 100  # validation pairs scored after each epoch, evenly spaced; 0: all
    num_workers: int = 4  # processes that load images, at most one per core; 0: the main process loads them
    cache: Literal["auto", "none", "ram"] = "auto"  # ram: keep resized pairs in memory; auto: if they fit into 2 GB
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    seed: int = 0  # seed of weights, order, jitter and dropout

    # Speed: the same training in less time (docs/speed.md)
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"  # numbers of the forward and backward passes
    speed: Literal["auto", "plain", "compile", "deterministic"] = "auto"  # auto: what pays on the device

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, coerced(f.name, f.type, getattr(self, f.name)))
        for name, side, n_labels in (("in_channels", 0, self.n_labels), ("out_channels", -1, 0)):
            n = n_labels or getattr(self, name)
            if self.space == "lab" and n == 3:
                n = LAB[name]
            bands = self.bands_a if self.direction[side] == "A" else self.bands_b
            object.__setattr__(self, name, len(bands) or n)
        for f in reversed(fields(self)):  # n_labels sets in_channels
            if f.type in (int, float):
                low, high = BOUNDS.get(f.name, (0, math.inf))
                value = getattr(self, f.name)
                rule = f"must be from {low} to {high}" if high < math.inf else f"must be at least {low}"
                require(f.name, value, low <= value <= high and value < math.inf, rule)
        for name, holds, rule in rules(self):
            require(name, getattr(self, name), holds, rule)

    @property
    def total_epochs(self) -> int:
        return self.n_epochs + self.n_epochs_decay

    @property
    def is_unet(self) -> bool:
        return self.generator in ("unet", "release")

    @property
    def interpolation(self) -> Literal["linear", "bicubic"]:
        """How images are resized that hold no labels."""
        return "bicubic" if self.generator == "release" else "linear"

    @property
    def input_is_label(self) -> bool:
        return self.n_labels > 0 or self.label_side in ("both", self.direction[0])

    @property
    def target_is_label(self) -> bool:
        return self.label_side in ("both", self.direction[-1])

    @property
    def palette(self) -> str:
        """The palette whose classes outputs are scored by, or an empty string."""
        return "" if self.best_by in ("none", *SCORES) else self.best_by

    @property
    def paper_gan(self) -> bool:
        """Whether D and its losses are the paper's, so that they are log 2 where D is undecided."""
        return self.gan_loss == "bce" and not self.n_scales

    @property
    def paper_step(self) -> bool:
        """Whether losses and D are those of `train_step`, the paper's; whatever goes beyond needs `hd_step`."""
        used = {f.name for f in fields(self) if f.name.startswith("lambda_") and getattr(self, f.name)}
        return self.paper_gan and used <= {"lambda_l1"}

    def plain(self) -> dict:
        """The settings as strings, numbers, booleans and lists, from which `Config(**plain)` restores them."""
        return {name: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
                for name, v in asdict(self).items()}


SCORES = "val_l1", "psnr", "ms_ssim"
PALETTES = "cityscapes", "demo", "facades"

BOUNDS = {  # other numbers are at least 0
    "n_labels": (0, 255),
    "in_channels": (1, 255),
    "out_channels": (1, 64),
    "load_size": (16, 8192),
    "crop_size": (16, 4096),
    "crop_width": (0, 4096),
    "color_jitter": (0, 1),
    "ngf": (1, 1024),
    "ndf": (1, 1024),
    "n_layers": (0, 5),
    "dropout": (0, 0.999),
    "n_downs": (1, 6),
    "n_blocks": (1, 64),
    "n_scales": (0, 3),
    "lr": (1e-20, 1),
    "beta1": (0, 0.999),
    "ema": (0, 0.99999),
    "batch_size": (1, math.inf),
    "num_workers": (0, 256),
    "seed": (0, 2**32 - 1),
}

LAB = {  # settings that have one value with space lab
    "n_labels": 0,
    "label_side": "none",
    "range_a": None,
    "range_b": None,
    "bands_a": (),
    "bands_b": (),
    "in_channels": 1,
    "out_channels": 2,
    "lambda_vgg": 0,
}


def rules(c: Config) -> list[tuple[str, bool, str]]:
    """What the bounds leave open: a setting, whether it fits to the others, and what it must do."""
    sides = c.crop_size, c.crop_width or c.crop_size
    recoloured, channels = ("out_channels", c.out_channels) if c.input_is_label else ("in_channels", c.in_channels)
    multiple = 2 ** (c.n_downs + (c.generator == "local"))
    patterns = [("files_a", pattern) for pattern in c.files_a]
    patterns += [(name, getattr(c, name)) for name in ("files_b", "files_m") if getattr(c, name)]
    rgb = c.space == "rgb"
    return [
        *((name, is_place(pattern),
           "must be a path inside data_root that holds {name}, such as {split}/input/{name}.png")
          for name, pattern in patterns),
        ("files_a", len({"{split}" in pattern for _, pattern in patterns}) < 2,
         "and the patterns of the other sides must all hold {split}, or none of them"),
        ("files_b", bool(c.files_a) == bool(c.files_b), "must be given where files_a is, and nowhere else"),
        ("files_m", bool(c.files_a) or not c.files_m, "must be given with files_a and files_b only"),
        ("n_labels", not c.n_labels or not (c.bands_a if c.direction[0] == "A" else c.bands_b),
         "must be 0 where bands of the input are chosen"),
        ("group", is_pattern(c.group), "must be a regular expression"),
        *((name, rgb or getattr(c, name) == only,
           "must keep its default with space lab, which makes ab of a photo's L")
          for name, only in LAB.items()),
        ("in_channels", c.n_labels > 0 or c.in_channels <= 64, "must be from 1 to 64"),
        *((name, size % 16 == 0, f"must be a multiple of 16, such as {max(16, round(size / 16) * 16)}")
          for name, size in (("crop_size", c.crop_size), ("crop_width", c.crop_width))),
        ("load_size", c.resize == "none" or c.load_size >= c.crop_size, f"must be at least crop_size ({c.crop_size})"),
        ("color_jitter", not c.color_jitter or not c.input_is_label or not c.target_is_label,
         "must be 0 where both sides hold labels"),
        (recoloured, not c.color_jitter or channels in (1, 3), "must be 1 or 3, of colours, with color_jitter"),
        ("out_channels", not c.lambda_vgg or c.out_channels in (1, 3), "must be 1 or 3 with lambda_vgg"),
        ("n_layers", min(sides) >= 3 * 2**c.n_layers,
         f"must be so small that 3 * 2**n_layers is at most the crop's shorter side ({min(sides)})"),
        ("n_layers", c.n_layers > 0 or not c.n_scales and not c.lambda_fm,
         "must be at least 1 with n_scales or lambda_fm"),
        ("n_downs", c.is_unet or all(side % multiple == 0 and side >= 2 * multiple for side in sides),
         f"must be so small that the crop's sides are multiples of {multiple}, twice or more"),
        ("n_epochs", c.total_epochs >= 1, "must be at least 1 together with n_epochs_decay"),
        ("best_by", not c.palette or c.palette in PALETTES or c.palette.endswith(".json"),
         f"must be none, {', '.join(SCORES)}, or a palette: {', '.join(PALETTES)} or a JSON file"),
        ("best_by", not c.palette or c.out_channels == 3,
         "must be another where out_channels is not 3, as with space lab"),
        ("best_by", not c.palette or c.target_is_label,
         f"needs label_side {c.direction[-1]}, so that no resizing mixes colours"),
        ("best_by", c.best_by != "ms_ssim" or min(sides) > 175 or c.resize != "stretch",
         "must be another where a crop has no more than 175 pixels a side"),
        ("device", c.device.split(":")[0] in ("auto", "cuda", "mps", "cpu"), "must be auto, cuda, cuda:N, mps or cpu"),
    ]


def is_place(pattern: str) -> bool:
    """Whether it can tell where one side lies."""
    braces = set(re.findall(r"\{[^}]*\}?", pattern))
    relative = not re.match("/|[A-Za-z]:", pattern) and ".." not in pattern.split("/")
    return relative and braces in ({"{name}"}, {"{name}", "{split}"})


def is_pattern(regex: str) -> bool:
    try:
        re.compile(regex)
    except re.error:
        return False
    return True


def require(name: str, value, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} {rule}; it is {value!r}")


TUPLES = {  # type → whether values are such, what they must be, the type of each
    tuple[str, ...]: (lambda values: all(type(v) is str for v in values), "must be words", str),
    tuple[int, ...]: (lambda values: len(values) <= 64 and all(type(v) is int and v > 0 for v in values),
                      "must be up to 64 numbers of bands, from 1", int),
    Range: (lambda values: all(type(v) in (int, float) and abs(v) < 1e300 for v in values) and len(values) == 2
            and float(values[0]) < float(values[1]), "must be two finite numbers, the lower one first", float),
}


def coerced(name: str, kind, value):
    """The value as a setting of this type holds it. Raises ValueError on another type."""
    if value is None and kind in (Path | None, Range):
        return None
    if kind in (Path, Path | None):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if kind in TUPLES:
        holds, rule, single = TUPLES[kind]
        require(name, value, isinstance(value, list | tuple) and holds(value), rule)
        return tuple(map(single, value))
    if words := get_args(kind):
        require(name, value, value in words, f"must be one of {', '.join(words)}")
    else:
        require(name, value, type(value) is kind, f"must be of type {kind.__name__}")
    return value


# Training as in the paper (appendix 6.2), even after the defaults above were edited: a new weight belongs here too.
PAPER = dict(
    in_channels=3, out_channels=3, space="rgb", range_a=None, range_b=None, n_labels=0,
    resize="stretch", load_size=286, crop_size=256, crop_width=0,
    flip="mirror", label_side="none", color_jitter=0.0,
    generator="unet", ngf=64, dropout=0.5,
    ndf=64, n_layers=3, n_scales=0, spectral_norm=False,
    gan_loss="bce", lambda_l1=100.0, lambda_fm=0.0, lambda_vgg=0.0,
    lr=2e-4, beta1=0.5, ema=0.0,
    n_epochs=200, n_epochs_decay=0, batch_size=1,
)
EDGES = dict(PAPER, n_epochs=15, batch_size=4, load_size=256, flip="none", direction="AtoB")
RECIPES = {
    "facades": dict(PAPER, direction="BtoA"),  # labels → photo
    "maps": dict(PAPER, direction="AtoB"),  # aerial → map
    "maps_to_aerial": dict(PAPER, direction="BtoA", data_root=Path("data/maps")),
    "cityscapes": dict(PAPER, direction="BtoA"),  # labels → photo
    "cityscapes_to_labels": dict(PAPER, direction="AtoB", data_root=Path("data/cityscapes")),
    "edges2shoes": EDGES,
    "edges2handbags": EDGES,
    "night2day": dict(PAPER, direction="AtoB", n_epochs=17, batch_size=4),
    "release": dict(PAPER, generator="release", n_epochs=100, n_epochs_decay=100),  # as the authors' PyTorch program
    "better": dict(PAPER, ema=0.999, lambda_fm=10.0, spectral_norm=True),  # what helped in docs/recipe.md
    "pix2pixhd": dict(
        PAPER, load_size=572, crop_size=512,
        generator="global", n_downs=4, n_blocks=9, n_scales=2,
        gan_loss="lsgan", lambda_l1=0.0, lambda_fm=10.0,
        n_epochs=100, n_epochs_decay=100,
    ),
}


def recipe(name: str) -> Config:
    """The paper's settings for a data set, or another recipe. Raises ValueError if there is no recipe of that name."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return replace(Config(), **{"data_root": Path("data") / name, **RECIPES[name]})
