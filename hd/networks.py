"""pix2pixHD's generators and discriminator (Wang et al., CVPR 2018, section 3.2), and which one a run has.

The names of their weights are those of the authors' release, so that its files load.
"""

from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from config import Config
from discriminator import Discriminator
from generator import BatchNorm, Dropout, Generator
from utils import init_weights

Norm = Literal["instance", "batch"]


init_hd_weights = partial(init_weights, zero_bias=False)  # biases stay PyTorch's default, as in the authors' code


def conv(in_channels: int, out_channels: int, kernel: int, norm: Norm = "instance", stride: int = 1,
         padding: int = 0, up: bool = False) -> list[nn.Module]:
    """A convolution and its norm; with `up` transposed, (N, in, H, W) → (N, out, 2H, 2W). Biases but with BatchNorm."""
    bias = norm == "instance"
    layer = (nn.ConvTranspose2d(in_channels, out_channels, kernel, stride, padding, output_padding=1, bias=bias) if up
             else nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias))
    return [layer, nn.InstanceNorm2d(out_channels) if norm == "instance" else BatchNorm(out_channels)]


def stem(in_channels: int, out_channels: int, norm: Norm = "instance") -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), *conv(in_channels, out_channels, 7, norm), nn.ReLU(True)]


def resample(before: int, after: int, norm: Norm = "instance") -> list[nn.Module]:
    """To half the size where the channels grow, (N, C, H, W) → (N, 2C, H/2, W/2), else to twice."""
    return [*conv(before, after, 3, norm, stride=2, padding=1, up=after < before), nn.ReLU(True)]


def head(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, out_channels, 7), nn.Tanh()]


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, norm: Norm = "instance", dropout: bool = False):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), *conv(channels, channels, 3, norm), nn.ReLU(True),
            *([Dropout(0.5)] if dropout else []), nn.ReflectionPad2d(1), *conv(channels, channels, 3, norm))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)  # no ReLU after the sum


def run(layers: nn.Sequential, x: Tensor, checkpointing: bool) -> Tensor:
    """layers(x); with `checkpointing`, backward computes again what lies between every second activation or block.

    That halves the peak of both networks. Nothing is drawn in there: only what is loaded from files has Dropout.
    """
    if not (checkpointing and torch.is_grad_enabled()):
        return layers(x)
    ends = [i for i, layer in enumerate(layers, 1) if isinstance(layer, nn.ReLU | nn.Tanh | ResidualBlock)]
    for begin, end in pairwise([0, *ends[1:-1:2], len(layers)]):
        x = checkpoint(layers[begin:end], x, use_reentrant=False, preserve_rng_state=False)
    return x


class GlobalGenerator(nn.Module):
    """Translates x (N, in_channels, H, W) in [-1, 1] to y_fake (N, out_channels, H, W) in [-1, 1].

    n_downs stride-2 convolutions, n_blocks residual blocks at the smallest size, and as many transposed convolutions.
    With n_downs 2 it is the ResNet of the CycleGAN and pix2pix release, there also with BatchNorm and dropout.
    H and W must be multiples of 2**n_downs, at least twice that because blocks pad by reflection; otherwise forward
    raises ValueError.
    """

    test_time = Generator.test_time
    crop_size = crop_width = 0  # of the training crop, if it is known; the network does not use them
    checkpointing = False

    def __init__(self, in_channels: int = 3, out_channels: int = 3, ngf: int = 64, n_downs: int = 4, n_blocks: int = 9,
                 norm: Norm = "instance", dropout: bool = False):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.multiple = 2**n_downs
        self.smallest = 2 * self.multiple  # side of an image
        layers = stem(in_channels, ngf, norm)  # (N, ngf, H, W)
        for i in range(n_downs):
            layers += resample(ngf * 2**i, ngf * 2 ** (i + 1), norm)  # (N, ngf·2^(i+1), H/2^(i+1), W/2^(i+1))
        layers += [ResidualBlock(ngf * 2**n_downs, norm, dropout) for _ in range(n_blocks)]
        for i in range(n_downs, 0, -1):
            layers += resample(ngf * 2**i, ngf * 2 ** (i - 1), norm)
        self.model = nn.Sequential(*layers, *head(ngf, out_channels))
        self.apply(init_hd_weights)

    def forward(self, x: Tensor) -> Tensor:
        check_size(self, x)
        return run(self.model, x, self.checkpointing)


class LocalEnhancer(nn.Module):
    """The same for twice the height and width: a GlobalGenerator of width 2·ngf at half size, and layers around it.

    What stands before its last convolution is added to the enhancer's own features at half size. H and W must be
    multiples of 2**(n_downs + 1), two of them at least.
    """

    test_time = Generator.test_time
    crop_size = crop_width = 0
    checkpointing = False

    def __init__(self, in_channels: int = 3, out_channels: int = 3, ngf: int = 32, n_downs: int = 4, n_blocks: int = 9,
                 n_local_blocks: int = 3):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.multiple = 2 ** (n_downs + 1)
        self.smallest = 2 * self.multiple
        self.model = GlobalGenerator(in_channels, out_channels, 2 * ngf, n_downs, n_blocks).model[:-3]
        self.model1_1 = nn.Sequential(*stem(in_channels, ngf), *resample(ngf, 2 * ngf))
        self.model1_2 = nn.Sequential(*(ResidualBlock(2 * ngf) for _ in range(n_local_blocks)), *resample(2 * ngf, ngf),
                                      *head(ngf, out_channels))
        self.pool = pool()
        self.apply(init_hd_weights)

    def forward(self, x: Tensor) -> Tensor:
        check_size(self, x)
        coarse = run(self.model, self.pool(x), self.checkpointing)  # (N, 2·ngf, H/2, W/2)
        return run(self.model1_2, run(self.model1_1, x, self.checkpointing) + coarse, self.checkpointing)


def check_size(net: GlobalGenerator | LocalEnhancer, x: Tensor) -> None:
    height, width = x.shape[-2:]
    if height % net.multiple or width % net.multiple or min(height, width) < net.smallest:
        raise ValueError(f"the generator takes widths and heights that are multiples of {net.multiple}, at least "
                         f"{net.smallest}, not {width}×{height}")


def pool() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)


class MultiscaleDiscriminator(nn.Module):
    """n_scales PatchGANs, each with the pair x (N, C, H, W), y (N, C', H, W) at half the size of the one before.

    Returns [[features, …, logits], …], a list a scale, the finest first: n_layers + 1 features, then logits.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 3, ndf: int = 64, n_layers: int = 3,
                 n_scales: int = 2):
        super().__init__()
        self.n_layers, self.n_scales, self.pool = n_layers, n_scales, pool()
        widths = [ndf, *(min(ndf * 2**i, 512) for i in range(1, n_layers + 1))]
        for scale in range(n_scales):  # scale0 is the coarsest
            layers = [[nn.Conv2d(in_channels + out_channels, ndf, 4, 2, 2), nn.LeakyReLU(0.2, True)]]
            for before, after in pairwise(widths):
                stride = 2 if len(layers) < n_layers else 1
                layers.append([*conv(before, after, 4, stride=stride, padding=2), nn.LeakyReLU(0.2, True)])
            layers.append([nn.Conv2d(widths[-1], 1, 4, 1, 2)])
            for number, layer in enumerate(layers):
                self.add_module(f"scale{scale}_layer{number}", nn.Sequential(*layer))
        self.apply(init_hd_weights)

    def forward(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        pair = torch.cat([x, y], dim=1)  # (N, C + C', H, W)
        judgements = []
        for scale in reversed(range(self.n_scales)):
            h = pair
            features = []
            for number in range(self.n_layers + 2):
                h = self.get_submodule(f"scale{scale}_layer{number}")(h)  # half the size, but for the last two layers
                features.append(h)
            judgements.append(features)
            pair = self.pool(pair)  # (N, C + C', H/2, W/2)
        return judgements


class PatchDiscriminator(Discriminator):
    """The paper's, with the same weights, for a step that asks for features: one list, as if of one scale."""

    def forward(self, x: Tensor, y: Tensor) -> list[list[Tensor]]:
        return [self.features(x, y)]


# Which networks a run has. What a further generator needs, the README tells

def unet(settings: dict) -> Generator:
    dropout = settings["dropout"]
    gen = Generator(settings["in_channels"], settings["out_channels"], settings["ngf"], settings["crop_size"], dropout,
                    settings.get("crop_width", 0))
    is_release = "release" in (settings.get("generator"), settings.get("dropout_blocks"))  # the name it had before
    return release_dropout(gen, dropout) if is_release else gen


def release_dropout(gen: Generator, dropout: float) -> Generator:
    """The U-Net with dropout as in the authors' PyTorch release: a block later than in the paper, and at most to where
    the full width of 8·ngf ends."""
    for i, block in enumerate(gen.decoder):
        block[3].p = dropout if 1 <= i <= len(gen.encoder) - 5 else 0.0
    return gen


def residual(make: type[nn.Module], settings: dict) -> GlobalGenerator | LocalEnhancer:
    gen = make(*(settings[name] for name in ("in_channels", "out_channels", "ngf", "n_downs", "n_blocks")))
    gen.crop_size = settings["crop_size"]
    gen.crop_width = settings.get("crop_width", 0)
    gen.checkpointing = max(gen.crop_size, gen.crop_width) > 512
    return gen


GENERATORS = {
    "unet": unet,
    "release": unet,
    "global": partial(residual, GlobalGenerator),
    "local": partial(residual, LocalEnhancer),
}


def make_generator(settings: dict) -> Generator | GlobalGenerator | LocalEnhancer:
    """The generator of these settings, as a configuration or a file names them; files that name none hold a U-Net."""
    return GENERATORS[settings.get("generator", "unet")](settings)


def make_discriminator(cfg: Config) -> Discriminator | MultiscaleDiscriminator:
    """The paper's discriminator, which tells its features where the step of hd/ asks for them, or pix2pixHD's."""
    sizes = cfg.in_channels, cfg.out_channels, cfg.ndf, cfg.n_layers
    if cfg.n_scales:
        disc = MultiscaleDiscriminator(*sizes, cfg.n_scales)
    elif cfg.paper_step:
        disc = Discriminator(*sizes)
    else:
        disc = PatchDiscriminator(*sizes)
    if cfg.spectral_norm:
        for layer in list(disc.modules()):  # a copy, as spectral_norm adds modules
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)
    return disc


def make_networks(cfg: Config) -> tuple[nn.Module, nn.Module]:
    """The generator and the discriminator of a run."""
    return make_generator(cfg.plain()), make_discriminator(cfg)
