import torch
from torch import nn

from generator import Generator


def test_layers_are_those_of_the_paper():
    gen = Generator()
    assert sum(p.numel() for p in gen.parameters()) == 54_413_955
    convs = [m for m in gen.modules() if isinstance(m, nn.Conv2d)]
    ups = [m for m in gen.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [c.out_channels for c in convs] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert [c.out_channels for c in ups] == [512, 512, 512, 512, 256, 128, 64, 3]
    assert all((m.kernel_size, m.stride, m.padding) == ((4, 4), (2, 2), (1, 1)) for m in convs + ups)
    norms = [m for m in gen.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)} and len(norms) == 6 + 7
    assert {m.negative_slope for m in gen.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert [sum(m.p for m in block if isinstance(m, nn.Dropout)) for block in gen.decoder] == [0.5] * 3 + [0.0] * 4
    assert sum(m.p for m in gen.modules() if isinstance(m, nn.Dropout)) == 1.5


def test_weights_start_as_in_the_paper():
    gen = Generator(ngf=32)
    for module in gen.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert abs(module.weight.std() - 0.02) < 0.002 and abs(module.weight.mean()) < 0.002
        if isinstance(module, nn.BatchNorm2d):
            assert abs(module.weight.mean() - 1) < 0.02 and 0.005 < module.weight.std() < 0.04
            assert not module.bias.any()
    assert not gen.output[1].bias.any()


def test_test_time_uses_the_statistics_of_the_image_and_leaves_no_trace():
    torch.manual_seed(0)
    gen = Generator(ngf=4, crop_size=64).eval()
    before = {name: value.clone() for name, value in gen.state_dict().items()}
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), gen.test_time():
        first, second = gen(x), gen(x)
        for module in gen.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        outputs = []
        gen.encoder[1].register_forward_hook(lambda module, args, out: outputs.append(out))
        gen(x)
    assert not torch.equal(first, second)  # dropout is on
    assert outputs[0].mean(dim=(0, 2, 3)).abs().max() < 1e-5  # normalised by itself, not by running statistics
    assert all(torch.equal(before[name], value) for name, value in gen.state_dict().items())
    assert not gen.training and not any(
        getattr(module, name, False) for module in gen.modules() for name in ("per_image", "shared_mask"))
