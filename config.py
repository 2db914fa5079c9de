"""Every setting of a run. Edit the defaults here, or override them by flags of the same names."""

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

Range = tuple[float, float] | None  # low and high


@dataclass(frozen=True)
class Config:
    # Data
    data_root: Path = Path("data/demo")  # folder of pairs; known names are drawn or downloaded when absent
    direction: Literal["AtoB", "BtoA"] = "AtoB"  # which half is the input; A is the left half
    in_channels: int = 3  # channels of the input, 1 to 64: 1 gray, 3 RGB; of several inputs A1, A2, ... together
    out_channels: int = 3  # channels of the output, 1 to 64: 1 gray, 3 RGB
    range_a: Range = None  # the values in A that become -1 and 1; if not given, the whole range of 8 or 16 bits
    range_b: Range = None  # the same in B
    n_labels: int = 0  # classes, where the input holds their indices; in_channels is then the same; 0: no indices
    resize: Literal["stretch", "aspect", "none"] = "stretch"  # both sides to load_size, as the paper; shorter; neither
    load_size: int = 286  # pixels; height (with aspect: shorter side) to which training pairs are resized, then cropped
    crop_size: int = 256  # pixels, a multiple of 16; height of what the networks see
    crop_width: int = 0  # pixels, a multiple of 16; 0: as crop_size. The two set the U-Net's depth
    skip_unreadable: bool = False  # put another pair in the place of one that cannot be read, and count it
    flip: bool = True  # mirror half of the training pairs, input and target together
    interpolation: Literal["linear", "bicubic"] = "linear"  # of resizing; bicubic is the authors' PyTorch release's
    label_side: Literal["none", "A", "B", "both"] = "none"  # side(s) resized by nearest neighbour: label maps
    color_jitter: float = 0.0  # 0 to 1; random brightness, contrast, saturation and hue; 0, as the paper: off
    color_jitter_side: Literal["A", "B"] = "A"  # the photo side, which color_jitter changes

    # Networks
    ngf: int = 64  # width of the generator's first layer
    ndf: int = 64  # width of the discriminator's first layer
    n_layers: int = 3  # D's field: 0 is 1x1, 1 is 16x16, 2 is 34x34, 3 is 70x70, 4 is 142x142, 5 is 286x286
    dropout: float = 0.5  # in the U-Net's first three decoder blocks, the only noise; 0 turns it off
    dropout_blocks: Literal["paper", "release"] = "paper"  # release: not in the first, as the authors' PyTorch release
    generator: Literal["unet", "global", "local"] = "unet"  # global and local: pix2pixHD's (docs/pix2pixhd.md)
    n_downs: int = 4  # global, local: how often the size is halved; in local once more
    n_blocks: int = 9  # global, local: residual blocks at the smallest size
    n_scales: int = 0  # 1 to 3: pix2pixHD's discriminators, each at half the size of the one before; 0: the paper's
    spectral_norm: bool = False  # divide the weights of each layer of D by their largest singular value
    checkpointing: bool = False  # global, local: compute activations twice, instead of keeping them: less memory
    init_from: Path | None = None  # weights to begin with: gen.pth.tar, checkpoint.pth.tar (D too), *_net_G.pth

    # Optimisation
    gan_loss: Literal["bce", "lsgan", "hinge"] = "bce"  # cross-entropy, as the paper; least squares; a margin
    lambda_l1: float = 100.0  # weight of L1 beside the GAN loss
    lambda_fm: float = 0.0  # weight of L1 between D's features of generated and of real pairs; 0: off
    lambda_vgg: float = 0.0  # weight of L1 between VGG19's features, which torchvision downloads; 0: off
    lr: float = 2e-4  # Adam's learning rate, for both networks
    beta1: float = 0.5  # Adam's first momentum; the second is 0.999
    n_epochs: int = 8  # epochs at the constant learning rate; enough for the demo, where the paper takes 200
    n_epochs_decay: int = 0  # further epochs, over which the learning rate falls linearly towards 0
    ema: float = 0.0  # 0.999: gen.pth.tar holds a mean of G's weights, of which each step keeps this share; 0: the last
    batch_size: int = 1  # pairs a step and process; at 1, the paper's choice, BatchNorm is instance normalisation

    # Run
    name: str = ""  # of the run; if not given, that of the data or of the recipe
    out_dir: Path | None = None  # the run's folder; if not given, runs/NAME, or runs/NAME-2, ... where that is taken
    resume: bool = False  # go on with the run in out_dir, or the last one of that name; begin it if there is none
    save_every: int = 1  # epochs between checkpoints, and at least 20 s; the last epoch is always saved
    eval_every: int = 0  # epochs between PSNR, SSIM and MS-SSIM in the log and a best.pth.tar by best_by; 0: never
    best_by: Literal["val_l1", "psnr", "ms_ssim", "label_accuracy"] = "val_l1"  # the score that best.pth.tar is best in
    palette: str = ""  # cityscapes, facades or a JSON file: eval_every also scores the outputs as label maps
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
        """Whether the paper's losses are all there is to learn from."""
        return self.gan_loss == "bce" and not (self.n_scales or self.lambda_fm or self.lambda_vgg)

    def plain(self) -> dict:
        """The settings as strings, numbers, booleans and lists, which `Config(**plain)` takes back."""
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


# Training as in the paper (appendix 6.2), whatever the defaults in config.py have become.
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
    """The settings of the paper for a data set, or of another recipe. Raises ValueError when none has that name."""
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return replace(Config(), **{"data_root": Path("data") / name, "name": name, **RECIPES[name]})
