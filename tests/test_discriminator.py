import pytest
import torch
from torch import nn

from discriminator import Discriminator


@pytest.mark.parametrize(("n_layers", "field"), [(0, 1), (1, 16), (2, 34), (3, 70), (4, 142), (5, 286)])
def test_one_logit_sees_the_field_of_the_paper(n_layers, field):
    """Measured: the pixels that have a gradient from a logit in the middle, without BatchNorm's global statistics."""
    disc = Discriminator(ndf=2, n_layers=n_layers).eval()
    x = torch.randn(1, 3, 640, 640, requires_grad=True)
    y = torch.randn(1, 3, 640, 640, requires_grad=True)
    logits = disc(x, y)
    logits[0, 0, logits.shape[-2] // 2, logits.shape[-1] // 2].backward()
    for image in (x, y):
        touched = image.grad[0].abs().sum(0) > 0
        assert touched.any(0).sum() == field and touched.any(1).sum() == field


def test_layers_and_start_are_those_of_the_paper():
    disc = Discriminator()
    assert sum(p.numel() for p in disc.parameters()) == 2_768_705
    assert disc(*torch.zeros(2, 1, 3, 256, 256)).shape == (1, 1, 30, 30)
    modules = list(disc.modules())
    assert {m.negative_slope for m in modules if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert [m.num_features for m in modules if isinstance(m, nn.BatchNorm2d)] == [128, 256, 512]
    assert {(m.eps, m.momentum) for m in modules if isinstance(m, nn.BatchNorm2d)} == {(1e-5, 0.1)}
    for module in modules:
        if isinstance(module, nn.Conv2d):
            assert abs(module.weight.std() - 0.02) < 0.002
            assert module.bias is None or not module.bias.any()


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 24 pixels"):
        Discriminator(ndf=2)(torch.zeros(1, 3, 16, 64), torch.zeros(1, 3, 16, 64))
    assert Discriminator(ndf=2)(torch.zeros(1, 3, 24, 24), torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
