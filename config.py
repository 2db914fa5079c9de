"""Every setting of a run. Edit the defaults here, or override them by flags of the same names."""

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args


@dataclass(frozen=True)
class Config:
    # Data
    data_root: Path = Path("data/demo")  # folder of pairs; known names are drawn or downloaded when absent
    direction: Literal["AtoB", "BtoA"] = "AtoB"  # which half is the input; A is the left half
    in_channels: Literal[1, 3] = 3  # channels of the input image: 1 gray, 3 RGB
    out_channels: Literal[1, 3] = 3  # channels of the output image: 1 gray, 3 RGB
    load_size: int = 286  # pixels; training pairs are resized to this square, then cropped
    crop_size: int = 256  # pixels; what the networks see: 64, 128, 256, 512 or 1024; sets the U-Net's depth
    skip_unreadable: bool = False  # put another pair in the place of one that cannot be read, and count it
    flip: bool = True  # mirror half of the training pairs, input and target together
    label_side: Literal["none", "A", "B", "both"] = "none"  # side(s) resized by nearest neighbour: label maps
    color_jitter: float = 0.0  # 0 to 1; random brightness, contrast, saturation and hue; 0, as the paper: off
    color_jitter_side: Literal["A", "B"] = "A"  # the photo side, which color_jitter changes

    # Networks
    ngf: int = 64  # width of the generator's first layer
    ndf: int = 64  # width of the discriminator's first layer
    n_layers: int = 3  # D's field: 0 is 1x1, 1 is 16x16, 2 is 34x34, 3 is 70x70, 4 is 142x142, 5 is 286x286
    dropout: float = 0.5  # in the first three decoder blocks, the only noise; 0 turns it off

    # Optimisation
    lambda_l1: float = 100.0  # weight of L1 beside the GAN loss
    lr: float = 2e-4  # Adam's learning rate, for both networks
    beta1: float = 0.5  # Adam's first momentum; the second is 0.999
    n_epochs: int = 8  # epochs at the constant learning rate; enough for the demo, where the paper takes 200
    n_epochs_decay: int = 0  # further epochs, over which the learning rate falls linearly towards 0
    batch_size: int = 1  # pairs a step and process; at 1, the paper's choice, BatchNorm is instance normalisation

    # Run
    name: str = ""  # of the run; if not given, that of the data or of the recipe
    out_dir: Path | None = None  # the run's folder; if not given, runs/NAME, or runs/NAME-2, ... where that is taken
    resume: bool = False  # go on with the run in out_dir, or the last one of that name; begin it if there is none
    save_every: int = 1  # epochs between checkpoints, and at least 20 s; the last epoch is always saved
    eval_every: int = 0  # epochs between PSNR, SSIM and MS-SSIM in the log and a best.pth.tar by val_l1; 0: never
    n_val: int = 100  # validation pairs scored after each epoch, evenly spaced; 0 takes all
    n_examples: int = 4  # validation pairs drawn in the example grids
    num_workers: int = 4  # processes that load images, at most one a core; 0 loads in the main process
    cache: Literal["auto", "none", "ram"] = "auto"  # ram reads each pair once, into memory; auto does, up to 2 GB
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    seed: int = 0  # one seed for weights, order, jitter and dropout
    deterministic: bool = False  # slower algorithms that repeat to the bit on CUDA too; the CPU always does

    # Speed: the same training in less time; auto takes what pays on the device (docs/speed.md)
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"  # of the forward and backward passes
    fused_adam: bool = True  # one kernel for the whole update
    channels_last: Literal["auto", "on", "off"] = "auto"  # images in memory as (N, H, W, C)
    small_matmul: Literal["auto", "on", "off"] = "auto"  # the U-Net's innermost convolutions as matrix products
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile: a minute or two before the first step
    cuda_graph: Literal["auto", "on", "off"] = "auto"  # the whole step as one launch; CUDA only, not with fp16

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type in (Path, Path | None):
                if value is None and f.type is not Path:
                    continue
                object.__setattr__(self, f.name, Path(value))
            elif f.type is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif get_args(f.type):
                words = ", ".join(str(word) for word in get_args(f.type))
                _require(self, f.name, value in get_args(f.type), f"must be one of {words}")
            else:
                _require(self, f.name, type(value) is f.type, f"must be of type {f.type.__name__}")

        for name, (low, high) in BOUNDS.items():
            rule = f"must be from {low} to {high}" if high < math.inf else f"must be at least {low}"
            _require(self, name, low <= getattr(self, name) <= high and getattr(self, name) < math.inf, rule)
        _require(self, "crop_size", self.crop_size in (64, 128, 256, 512, 1024), "must be 64, 128, 256, 512 or 1024")
        _require(self, "load_size", self.crop_size <= self.load_size <= 8192,
                 f"must be at least crop_size ({self.crop_size}) and at most 8192")
        _require(self, "color_jitter_side", not self.color_jitter or self.label_side not in (
            "both", self.color_jitter_side), f"must not be the label side ({self.label_side}) with color_jitter")
        _require(self, "n_layers", self.crop_size >= 3 * 2**self.n_layers,
                 f"must be so small that 3 * 2**n_layers <= crop_size ({self.crop_size})")
        _require(self, "n_epochs", self.total_epochs >= 1, "must be at least 1 together with n_epochs_decay")
        _require(self, "name", self.name not in (".", "..") and not {*self.name} & {*"/\\\0"}, "must name a folder")
        _require(self, "device", self.device.split(":")[0] in ("auto", "cuda", "mps", "cpu"),
                 "must be auto, cuda, cuda:N, mps or cpu")

    @property
    def total_epochs(self) -> int:
        return self.n_epochs + self.n_epochs_decay

    def plain(self) -> dict:
        """The settings as strings, numbers and booleans, which `Config(**plain)` takes back."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self).items()}


BOUNDS = dict(color_jitter=(0, 1), ngf=(1, 1024), ndf=(1, 1024), n_layers=(0, 5), dropout=(0, 0.999),
              lambda_l1=(0, math.inf), lr=(1e-20, 1), beta1=(0, 0.999), n_epochs=(0, math.inf),
              n_epochs_decay=(0, math.inf), batch_size=(1, math.inf), save_every=(1, math.inf),
              eval_every=(0, math.inf), n_val=(0, math.inf), n_examples=(1, 64), num_workers=(0, 256),
              seed=(0, 2**32 - 1))


def _require(cfg: Config, name: str, ok: bool, rule: str) -> None:
    if not ok:
        raise ValueError(f"{name} {rule}; it is {getattr(cfg, name)!r}")


# Training as in the paper (appendix 6.2), whatever the defaults in config.py have become.
PAPER = dict(in_channels=3, out_channels=3, load_size=286, crop_size=256, flip=True, label_side="none",
             color_jitter=0.0, ngf=64, ndf=64, n_layers=3, dropout=0.5, lambda_l1=100.0, lr=2e-4, beta1=0.5,
             n_epochs=200, n_epochs_decay=0, batch_size=1)
EDGES = dict(PAPER, n_epochs=15, batch_size=4, load_size=256, flip=False, direction="AtoB")
RECIPES = {
    "facades": dict(PAPER, direction="BtoA"),  # labels → photo
    "maps": dict(PAPER, direction="AtoB"),  # aerial → map
    "maps_to_aerial": dict(PAPER, direction="BtoA", data_root=Path("data/maps")),
    "cityscapes": dict(PAPER, direction="BtoA"),  # labels → photo
    "cityscapes_to_labels": dict(PAPER, direction="AtoB", data_root=Path("data/cityscapes")),
    "edges2shoes": EDGES,
    "edges2handbags": EDGES,
    "night2day": dict(PAPER, direction="AtoB", n_epochs=17, batch_size=4),
}


def recipe(name: str) -> Config:
    """The paper's settings for a data set. Raises ValueError when there is no recipe of that name."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return replace(Config(), **{"data_root": Path("data") / name, "name": name, **RECIPES[name]})
