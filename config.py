"""Every setting of a run. Edit the defaults here, or override them with flags of the same names."""

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

Range = tuple[float, float] | None  # low and high


@dataclass(frozen=True)
class Config:
    # Data
    data_root: Path = Path("data/demo")  # folder of pairs; known data sets are drawn or downloaded if missing
    direction: Literal["AtoB", "BtoA"] = "AtoB"  # which side is the input: A (the left half) or B
    in_channels: int = 3  # channels of the input, 1 to 64: 1 gray, 3 RGB; for several inputs A1, A2, ... their sum
    out_channels: int = 3  # channels of the output, 1 to 64: 1 gray, 3 RGB
    range_a: Range = None  # the values in A that become -1 and 1; by default the whole range of 8 or 16 bits
    range_b: Range = None  # the values in B that become -1 and 1; by default the whole range of 8 or 16 bits
    n_labels: int = 0  # number of classes if the input holds class indices (this sets in_channels); 0: it holds none
    resize: Literal["stretch", "aspect", "none"] = "stretch"  # both sides to load_size (paper), the shorter or neither
    load_size: int = 286  # pixels; height (aspect: shorter side) to which training pairs are resized before the crop
    crop_size: int = 256  # pixels, a multiple of 16; height of the crop that the networks see
    crop_width: int = 0  # pixels, a multiple of 16; width of that crop; 0: crop_size. Both set the U-Net's depth
    skip_unreadable: bool = False  # replace a pair that cannot be read by another one, and count it
    flip: bool = True  # mirror half of the training pairs, input and target together
    interpolation: Literal["linear", "bicubic"] = "linear"  # resizing method; bicubic is that of the authors' release
    label_side: Literal["none", "A", "B", "both"] = "none"  # side of the label maps, resized by nearest neighbour
    color_jitter: float = 0.0  # 0 to 1; strength of random brightness, contrast, saturation and hue; the paper has 0
    color_jitter_side: Literal["A", "B"] = "A"  # side that color_jitter changes: the photos

    # Networks
    ngf: int = 64  # channels of the generator's first layer
    ndf: int = 64  # channels of the discriminator's first layer
    n_layers: int = 3  # D's field: 0 is 1x1, 1 is 16x16, 2 is 34x34, 3 is 70x70, 4 is 142x142, 5 is 286x286
    dropout: float = 0.5  # probability in three of the U-Net's decoder blocks, the only noise; 0: no noise
    dropout_blocks: Literal["paper", "release"] = "paper"  # the first three, or as in the authors' release
    generator: Literal["unet", "global", "local"] = "unet"  # global and local are pix2pixHD's (docs/pix2pixhd.md)
    n_downs: int = 4  # global, local: number of halvings; local has one more
    n_blocks: int = 9  # global, local: number of residual blocks at the smallest size
    n_scales: int = 0  # 1 to 3: number of pix2pixHD's discriminators, each at half the size of the last; 0: the paper's
    spectral_norm: bool = False  # divide the weights of each of D's layers by their largest singular value
    checkpointing: bool = False  # global, local: recompute activations instead of keeping them, to save memory
    init_from: Path | None = None  # weights to start from: gen.pth.tar, checkpoint.pth.tar (D's too) or *_net_G.pth

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
    name: str = ""  # name of the run; by default that of the data or of the recipe
    out_dir: Path | None = None  # the run's folder; by default runs/NAME, or runs/NAME-2, ... if that is taken
    resume: bool = False  # continue the run in out_dir, or the last one of that name; start it if there is none
    save_every: int = 1  # epochs between checkpoints (at least 20 s apart); the last epoch is always saved
    eval_every: int = 0  # epochs between logs of PSNR, SSIM and MS-SSIM, and updates of best.pth.tar; 0: never
    best_by: Literal["val_l1", "psnr", "ms_ssim", "label_accuracy"] = "val_l1"  # the score that best.pth.tar is best in
    palette: str = ""  # cityscapes, facades or a JSON file: eval_every then also scores the outputs as label maps
    n_val: int = 100  # validation pairs scored after each epoch, evenly spaced; 0: all
    n_examples: int = 4  # validation pairs shown in the example grids
    num_workers: int = 4  # processes that load images, at most one per core; 0: the main process loads them
    cache: Literal["auto", "none", "ram"] = "auto"  # ram: keep resized pairs in memory; auto: if they fit into 2 GB
    device: str = "auto"  # auto, cuda, cuda:1, mps or cpu
    seed: int = 0  # seed of weights, order, jitter and dropout
    deterministic: bool = False  # use slower algorithms that repeat to the bit on CUDA too; the CPU always does

    # Speed: the same training in less time; auto uses what pays on the device (docs/speed.md)
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"  # numbers of the forward and backward passes
    fused_adam: bool = True  # update all weights in one kernel
    channels_last: Literal["auto", "on", "off"] = "auto"  # store images in memory as (N, H, W, C)
    small_matmul: Literal["auto", "on", "off"] = "auto"  # compute the U-Net's innermost convolutions as matrix products
    compile: Literal["auto", "on", "off"] = "auto"  # use torch.compile, which delays the first step by a minute or two
    cuda_graph: Literal["auto", "on", "off"] = "auto"  # launch the whole step at once; CUDA only, not with fp16

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type in (Path, Path | None):
                if value is None and f.type is not Path:
                    continue
                object.__setattr__(self, f.name, Path(value))
            elif f.type is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif f.type == Range:
                if value is not None:
                    _require(self, f.name, _is_range(value), "must be two finite numbers, the lower one first")
                    object.__setattr__(self, f.name, tuple(map(float, value)))
            elif get_args(f.type):
                words = ", ".join(str(word) for word in get_args(f.type))
                _require(self, f.name, value in get_args(f.type), f"must be one of {words}")
            else:
                _require(self, f.name, type(value) is f.type, f"must be of type {f.type.__name__}")

        if self.n_labels:
            object.__setattr__(self, "in_channels", self.n_labels)
        for name, (low, high) in (BOUNDS | ({"in_channels": (1, 255)} if self.n_labels else {})).items():
            rule = f"must be from {low} to {high}" if high < math.inf else f"must be at least {low}"
            _require(self, name, low <= getattr(self, name) <= high and getattr(self, name) < math.inf, rule)
        for name in ("crop_size", "crop_width"):
            near = max(16, round(getattr(self, name) / 16) * 16)
            _require(self, name, getattr(self, name) % 16 == 0, f"must be a multiple of 16, such as {near}")
        _require(self, "load_size", self.resize == "none" or self.load_size >= self.crop_size,
                 f"must be at least crop_size ({self.crop_size})")
        _require(self, "color_jitter_side", not self.color_jitter or self.label_side not in (
            "both", self.color_jitter_side), f"must not be the label side ({self.label_side}) with color_jitter")
        recoloured = "in_channels" if self.color_jitter_side == self.direction[0] else "out_channels"
        colours = getattr(self, recoloured) in (1, 3) and not (recoloured == "in_channels" and self.n_labels)
        _require(self, recoloured, not self.color_jitter or colours, "must be 1 or 3, of colours, with color_jitter")
        _require(self, "out_channels", not self.lambda_vgg or self.out_channels in (1, 3),
                 "must be 1 or 3 with lambda_vgg")
        shorter = min(self.crop_size, self.crop_width or self.crop_size)
        _require(self, "n_layers", shorter >= 3 * 2**self.n_layers,
                 f"must be so small that 3 * 2**n_layers is at most the crop's shorter side ({shorter})")
        _require(self, "n_layers", self.n_layers or not (self.n_scales or self.lambda_fm),
                 "must be at least 1 with n_scales or lambda_fm")
        multiple = 2 ** (self.n_downs + (self.generator == "local"))
        fits = shorter >= 2 * multiple and (self.crop_size | self.crop_width) % multiple == 0
        _require(self, "n_downs", self.generator == "unet" or fits,
                 f"must be so small that the crop's sides are multiples of {multiple}, twice or more")
        _require(self, "checkpointing", not self.checkpointing or self.generator != "unet",
                 "needs generator global or local")
        _require(self, "n_epochs", self.total_epochs >= 1, "must be at least 1 together with n_epochs_decay")
        if self.palette:
            _require(self, "palette", self.eval_every and self.out_channels == 3, "needs eval_every and 3 out_channels")
            _require(self, "palette", self.label_side in (self.direction[-1], "both"),
                     f"needs label_side {self.direction[-1]}, so that no resizing mixes colours")
        _require(self, "best_by", self.best_by == "val_l1" or self.eval_every, "needs eval_every")
        _require(self, "best_by", self.best_by != "label_accuracy" or self.palette, "needs a palette")
        _require(self, "best_by", self.best_by != "ms_ssim" or shorter > 160 or self.resize != "stretch",
                 "must be another where a crop has no more than 160 pixels a side")
        _require(self, "name", self.name not in (".", "..") and not {*self.name} & {*"/\\\0"}, "must name a folder")
        _require(self, "device", self.device.split(":")[0] in ("auto", "cuda", "mps", "cpu"),
                 "must be auto, cuda, cuda:N, mps or cpu")

    @property
    def total_epochs(self) -> int:
        return self.n_epochs + self.n_epochs_decay

    @property
    def paper_step(self) -> bool:
        """Whether training uses the paper's losses only; a new loss must be added here."""
        return self.gan_loss == "bce" and not (self.n_scales or self.lambda_fm or self.lambda_vgg)

    def plain(self) -> dict:
        """The settings as strings, numbers, booleans and lists, from which `Config(**plain)` restores them."""
        return {name: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
                for name, v in asdict(self).items()}


BOUNDS = dict(n_labels=(0, 255), in_channels=(1, 64), out_channels=(1, 64), load_size=(16, 8192), crop_size=(16, 4096),
              crop_width=(0, 4096), color_jitter=(0, 1), ngf=(1, 1024), ndf=(1, 1024), n_layers=(0, 5),
              dropout=(0, 0.999), n_downs=(1, 6), n_blocks=(1, 64), n_scales=(0, 3), lambda_l1=(0, math.inf),
              lambda_fm=(0, math.inf), lambda_vgg=(0, math.inf), ema=(0, 0.99999), lr=(1e-20, 1), beta1=(0, 0.999),
              n_epochs=(0, math.inf), n_epochs_decay=(0, math.inf), batch_size=(1, math.inf),
              save_every=(1, math.inf), eval_every=(0, math.inf), n_val=(0, math.inf), n_examples=(1, 64),
              num_workers=(0, 256), seed=(0, 2**32 - 1))


def _require(cfg: Config, name: str, ok: bool, rule: str) -> None:
    if not ok:
        raise ValueError(f"{name} {rule}; it is {getattr(cfg, name)!r}")


def _is_range(value) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(
        type(v) in (int, float) and abs(v) < 1e300 for v in value) and float(value[0]) < float(value[1])


# Training as in the paper (appendix 6.2), even after the defaults above were edited.
PAPER = dict(in_channels=3, out_channels=3, range_a=None, range_b=None, n_labels=0, resize="stretch", load_size=286,
             crop_size=256, crop_width=0, interpolation="linear", flip=True, label_side="none", color_jitter=0.0,
             ngf=64, ndf=64, n_layers=3, dropout=0.5, dropout_blocks="paper", generator="unet", n_scales=0,
             spectral_norm=False, gan_loss="bce", lambda_l1=100.0, lambda_fm=0.0, lambda_vgg=0.0, lr=2e-4, beta1=0.5,
             n_epochs=200, n_epochs_decay=0, ema=0.0, batch_size=1)
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
    "better": dict(PAPER, ema=0.999, lambda_fm=10.0, spectral_norm=True),  # what helped in docs/recipe.md
    "pix2pixhd": dict(PAPER, load_size=572, crop_size=512, generator="global", n_downs=4, n_blocks=9, n_scales=2,
                      gan_loss="lsgan", lambda_l1=0.0, lambda_fm=10.0, n_epochs=100, n_epochs_decay=100),
}


def recipe(name: str) -> Config:
    """The paper's settings for a data set, or another recipe. Raises ValueError if there is no recipe of that name."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return replace(Config(), **{"data_root": Path("data") / name, "name": name, **RECIPES[name]})
