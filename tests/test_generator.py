import pytest
import torch
import torch.nn.functional as F
from torch import nn

from generator import Generator


@pytest.mark.parametrize("crop_size", [64, 128, 256, 512])
def test_depth_follows_crop_size_down_to_one_pixel(crop_size):
    gen, seen = Generator(ngf=2, crop_size=crop_size), []
    gen.encoder[-1].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    y_fake = gen(torch.zeros(1, 3, crop_size, crop_size))
    assert seen[0][-2:] == (1, 1) and y_fake.shape == (1, 3, crop_size, crop_size)


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


def test_it_computes_what_the_nested_reference_computes():
    """The authors' network nests blocks whose LeakyReLU works in place on the tensor that is also the skip."""
    torch.manual_seed(0)
    gen = Generator(ngf=4, crop_size=64, dropout=0.0).eval()
    for module in gen.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that are not those of a fresh network
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)

    def norm(bn, h):
        scale = bn.weight / torch.sqrt(bn.running_var + 1e-5)
        return (h - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]

    def block(level, h):  # takes what the level above made, returns [skip, way back] for it
        conv = gen.encoder[level][1]
        h = F.leaky_relu(h, 0.2, inplace=True)
        inner = F.conv2d(h, conv.weight, stride=2, padding=1)
        if level < len(gen.encoder) - 1:
            inner = block(level + 1, norm(gen.encoder[level][2], inner))
        up = gen.decoder[len(gen.encoder) - 1 - level]
        back = norm(up[2], F.conv_transpose2d(F.relu(inner), up[1].weight, stride=2, padding=1))
        return torch.cat([h, back], dim=1)

    with torch.no_grad():
        x = torch.randn(2, 3, 128, 64)
        inner = block(1, F.conv2d(x, gen.encoder[0].weight, stride=2, padding=1))
        last = gen.output[1]
        wanted = torch.tanh(F.conv_transpose2d(F.relu(inner), last.weight, last.bias, stride=2, padding=1))
        torch.testing.assert_close(gen(x), wanted, rtol=1e-4, atol=1e-5)


def test_the_bottleneck_is_not_normalised_to_zero_at_batch_size_1():
    gen, seen = Generator(ngf=4, crop_size=64), []
    gen.encoder[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    with gen.test_time():
        gen(torch.randn(1, 3, 64, 64))
    assert seen[0].abs().mean() > 1e-3
    assert not any(isinstance(m, nn.BatchNorm2d) for m in gen.encoder[-1])


def test_dropout_is_in_the_first_three_decoder_blocks_only():
    gen = Generator()
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


@pytest.mark.parametrize("shape", [(64, 65), (96, 64), (32, 32), (63, 64)])
def test_a_size_it_cannot_take_is_refused_with_the_multiple(shape):
    with pytest.raises(ValueError, match=f"multiples of 64, not {shape[1]}×{shape[0]}"):
        Generator(ngf=2, crop_size=64)(torch.zeros(1, 3, *shape))


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


@pytest.mark.parametrize("norm", ["image", "running"])
@pytest.mark.parametrize("dropout", [True, False])
def test_at_test_time_an_image_does_not_depend_on_the_rest_of_its_batch(norm, dropout):
    torch.manual_seed(0)
    gen, x = Generator(ngf=4, crop_size=64), torch.randn(3, 3, 64, 64)
    gen(x)  # running statistics that are not those of a fresh network
    outputs = []
    with torch.no_grad(), gen.test_time(norm, dropout):
        for batch in (x, x[:1], x[[2, 0, 1]]):
            torch.manual_seed(7)
            outputs.append(gen(batch))
    whole, alone, shuffled = outputs
    torch.testing.assert_close(whole[:1], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[[2, 0, 1]], shuffled, rtol=0, atol=1e-5)
    if norm == "image":  # at batch size 1, training mode is what the paper runs
        torch.manual_seed(7)
        gen.train()
        for module in gen.modules():
            if isinstance(module, nn.Dropout):
                module.train(dropout)
        torch.testing.assert_close(gen(x[:1]), alone, rtol=0, atol=1e-5)


def test_channels_are_configurable():
    assert Generator(1, 3, ngf=2, crop_size=64)(torch.zeros(1, 1, 64, 64)).shape == (1, 3, 64, 64)
    assert Generator(3, 1, ngf=2, crop_size=64)(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)
