"""A training step with pix2pixHD's losses, for any of the generators and discriminators."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from config import Config
from hd.losses import VGGLoss, feature_matching, gan_loss
from runtime.state import State


def hd_step(state: State, x: Tensor, y: Tensor, cfg: Config, autocast: Callable, vgg_loss: VGGLoss | None
            ) -> dict[str, Tensor]:
    """One update of G against D as it is, then one of D, as the authors do; both judge the same y_fake.

    In this order, what D makes of the real pair serves both updates. x, y: input and target, (N, C, H, W) in [-1, 1].
    Returns the losses by name, with g_fm and g_vgg where they count, 0-dim and still on the device.
    """
    gen, disc, scaler = state.gen, state.disc, state.scaler
    with autocast():
        y_fake = gen(x)
        real = disc(x, y)

    # G: fool D, make D see in y_fake what it sees in y, and stay close to the target
    disc.requires_grad_(False)
    try:
        with autocast():
            fake = disc(x, y_fake)
        g_gan = gan_loss(cfg.gan_loss, fake, real=True)
        g_l1 = F.l1_loss(y_fake.float(), y)
        g_loss = g_gan + cfg.lambda_l1 * g_l1
        more = {}
        if cfg.lambda_fm:
            more["g_fm"] = feature_matching(fake, real)
            g_loss = g_loss + cfg.lambda_fm * more["g_fm"]
        if cfg.lambda_vgg:
            with autocast():
                more["g_vgg"] = vgg_loss(y_fake, y)
            g_loss = g_loss + cfg.lambda_vgg * more["g_vgg"]
        state.opt_g.zero_grad()
        scaler.scale(g_loss).backward()
        scaler.step(state.opt_g)
    finally:
        disc.requires_grad_(True)

    # D: real pairs towards real, generated pairs towards generated; halved
    with autocast():
        fake = disc(x, y_fake.detach())
    d_real = gan_loss(cfg.gan_loss, real, real=True)
    d_fake = gan_loss(cfg.gan_loss, fake, real=False)
    state.opt_d.zero_grad()
    scaler.scale((d_real + d_fake) / 2).backward()
    scaler.step(state.opt_d)

    scaler.update()
    losses = {"d_real": d_real, "d_fake": d_fake, "g_gan": g_gan, "g_l1": g_l1, **more}
    return {name: loss.detach() for name, loss in losses.items()}
