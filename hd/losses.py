"""pix2pixHD's losses: of the GAN and of D's features (section 3.2), and of VGG's features. All in fp32."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import UserError, first_line

VGG_LAYERS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1.0}  # relu1_1 … relu5_1, and how much each counts


def gan_loss(kind: str, judgements: list[list[Tensor]], real: bool) -> Tensor:
    """How far the logits are from "real" or from "generated", summed over scales. kind: bce or lsgan."""
    compare = F.mse_loss if kind == "lsgan" else F.binary_cross_entropy_with_logits
    loss = 0.0
    for *_, logits in judgements:
        logits = logits.float()
        loss = loss + compare(logits, torch.full_like(logits, float(real)))
    return loss


def feature_matching(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """L1 between D's features of generated and of real pairs, 4 times its mean over layers, and its mean over scales.

    4 times, because the authors weigh it so: with the n_layers of 3, each layer counts fully.
    """
    loss = 0.0
    for (*features, _), (*targets, _) in zip(fake, real, strict=True):
        for feature, target in zip(features, targets, strict=True):
            loss = loss + F.l1_loss(feature.float(), target.detach().float()) * 4 / len(features) / len(fake)
    return loss


class VGGLoss(nn.Module):
    """L1 between the features that VGG19 finds in images in [-1, 1], un-normalised, gray ones as three channels."""

    def __init__(self, features: nn.Sequential):
        super().__init__()
        self.features = features[: max(VGG_LAYERS) + 1].eval().requires_grad_(False)

    def forward(self, y_fake: Tensor, y: Tensor) -> Tensor:
        loss = 0.0
        a = y_fake.expand(-1, 3, -1, -1)
        b = y.expand(-1, 3, -1, -1)
        for number, layer in enumerate(self.features):
            a, b = layer(a), layer(b)
            if number in VGG_LAYERS:
                loss = loss + VGG_LAYERS[number] * F.l1_loss(a.float(), b.float())
        return loss


def load_vgg(device: torch.device) -> VGGLoss:
    """With torchvision's weights, which it downloads once. Raises UserError where they cannot be had."""
    try:
        from torchvision.models import VGG19_Weights, vgg19  # takes seconds, which few runs need
    except ImportError as error:
        raise UserError("lambda_vgg needs torchvision: install it, or train with --lambda-vgg 0") from error
    weights = VGG19_Weights.IMAGENET1K_V1
    try:
        features = vgg19(weights=weights).features
    except Exception as error:  # no network, a full disk, a broken download
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise UserError(f"lambda_vgg needs the weights of VGG19, which cannot be had here ({first_line(error)}): put "
                        f"{weights.url} at {file}, or train with --lambda-vgg 0") from error
    return VGGLoss(features).to(device)
