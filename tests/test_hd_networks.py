"""The oracles are written from the paper's description, as functions of the weights of a file: no module of ours."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from config import Config
from discriminator import Discriminator
from hd.networks import (
    GlobalGenerator,
    LocalEnhancer,
    MultiscaleDiscriminator,
    PatchDiscriminator,
    make_discriminator,
    make_generator,
)
from inference.load import head_start, load_generator
from inference.translate import Translator, translate
from runtime.state import count


@pytest.mark.parametrize(("make", "wanted"), [
    (lambda: GlobalGenerator(), 182_443_267), (lambda: GlobalGenerator(36), 182_546_755),
    (lambda: LocalEnhancer(), 182_701_827), (lambda: LocalEnhancer(36), 182_857_059),
    (lambda: GlobalGenerator(ngf=32), 45_620_867), (lambda: GlobalGenerator(n_downs=2), 11_378_179),
    (lambda: MultiscaleDiscriminator(), 5_535_618), (lambda: MultiscaleDiscriminator(36), 5_603_202),
    (lambda: MultiscaleDiscriminator(n_scales=3), 8_303_427),
    (lambda: MultiscaleDiscriminator(36, n_scales=3), 8_404_803)])
def test_the_parameter_counts_are_those_of_the_authors(make, wanted):
    with torch.device("meta"):
        assert count(make()) == wanted


def test_a_run_has_the_networks_that_its_settings_name():
    cfg = replace(Config(), ngf=4, ndf=4, crop_size=64, n_blocks=2, n_downs=3)
    gen = {kind: make_generator(replace(cfg, generator=kind).plain()) for kind in ("unet", "global", "local")}
    assert gen["unet"].crop_size == 64 and type(gen["global"]) is GlobalGenerator and gen["global"].multiple == 8
    assert type(gen["local"]) is LocalEnhancer and gen["local"].multiple == 16
    assert gen["local"].model[1].out_channels == 8 and gen["local"].model1_1[1].out_channels == 4
    assert make_discriminator(replace(cfg, n_scales=3)).n_scales == 3
    assert type(make_discriminator(replace(cfg, lambda_fm=1.0))) is PatchDiscriminator
    bound = make_discriminator(replace(cfg, spectral_norm=True, n_scales=2)).eval()
    for layer in [layer for layer in bound.modules() if isinstance(layer, nn.Conv2d)]:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)


def test_the_initialisation_is_the_authors():
    """Not that of the paper's networks: the biases stay as PyTorch draws them."""
    torch.manual_seed(0)
    for net in (GlobalGenerator(ngf=8, n_downs=2, n_blocks=1), LocalEnhancer(ngf=4), MultiscaleDiscriminator()):
        layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
        assert torch.cat([layer.weight.flatten() for layer in layers]).std().item() == pytest.approx(0.02, rel=0.02)
        assert all(layer.bias.abs().max() > 0 for layer in layers)


def norm(w, name, x, running):
    if f"{name}.weight" not in w:
        return (x - x.mean((2, 3), True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    mean, var = (w[f"{name}.running_mean"], w[f"{name}.running_var"]) if running else (
        x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
    scale, shift, mean, var = (v[:, None, None] for v in (w[f"{name}.weight"], w[f"{name}.bias"], mean, var))
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def convolve(w, name, x, pad=0, **options):
    x = F.pad(x, (pad,) * 4, mode="reflect") if pad else x
    return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **options)


def grow(w, name, x):
    return F.conv_transpose2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride=2, padding=1, output_padding=1)


def residual(w, name, x, running=False):
    second = 6 if f"{name}.conv_block.6.weight" in w and w[f"{name}.conv_block.6.weight"].dim() == 4 else 5
    h = F.relu(norm(w, f"{name}.conv_block.2", convolve(w, f"{name}.conv_block.1", x, 1), running))
    return x + norm(w, f"{name}.conv_block.{second + 1}", convolve(w, f"{name}.conv_block.{second}", h, 1), running)


def sequence(w, x, downs, blocks, ups, last=None, running=False):
    h = F.relu(norm(w, "model.2", convolve(w, "model.1", x, 3), running))
    for i in downs:
        h = F.relu(norm(w, f"model.{i + 1}", convolve(w, f"model.{i}", h, stride=2, padding=1), running))
    for i in blocks:
        h = residual(w, f"model.{i}", h, running)
    for i in ups:
        h = F.relu(norm(w, f"model.{i + 1}", grow(w, f"model.{i}", h), running))
    return torch.tanh(convolve(w, f"model.{last}", h, 3)) if last else h


def halved(x):
    """The mean of the up to nine pixels that are there around every second one."""
    box = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype)
    there = F.conv2d(torch.ones_like(x), box, stride=2, padding=1, groups=x.shape[1])
    return F.conv2d(x, box, stride=2, padding=1, groups=x.shape[1]) / there


GLOBAL = dict(downs=(4, 7, 10, 13), blocks=range(16, 25), ups=(25, 28, 31, 34))
RESNET = dict(downs=(4, 7), blocks=range(10, 19), ups=(19, 22), last=26)


def local_oracle(w, x):
    h = F.relu(norm(w, "", convolve(w, "model1_1.1", x, 3), False))
    h = F.relu(norm(w, "", convolve(w, "model1_1.4", h, stride=2, padding=1), False))
    h = h + sequence(w, halved(x), **GLOBAL)
    for i in range(3):
        h = residual(w, f"model1_2.{i}", h)
    return torch.tanh(convolve(w, "model1_2.7", F.relu(norm(w, "", grow(w, "model1_2.3", h), False)), 3))


def drawn(net):
    """What a file of such a network holds, the oracles' names among them: name → tensor of other numbers than ours."""
    draw = torch.Generator().manual_seed(0)
    return {name: torch.tensor(7) if value.dim() == 0 else torch.randn(value.shape, generator=draw) * 0.15
            if value.dim() == 4 else torch.rand(value.shape, generator=draw) + 0.5
            for name, value in net.state_dict().items()}


def global_oracle(w, x):
    return sequence(w, x, **GLOBAL, last=38)


FILES = {
    "global": (lambda: drawn(GlobalGenerator(ngf=4)), global_oracle),
    "global, of 2017": (lambda: drawn(GlobalGenerator(ngf=4)) | {  # with statistics, which are dropped
        "model.2.running_mean": torch.ones(4), "model.2.running_var": torch.ones(4) * 9}, global_oracle),
    "local": (lambda: drawn(LocalEnhancer(ngf=4)), local_oracle),
    **{f"resnet{'_batch' * batch}{'_dropout' * dropout}": (
        lambda batch=batch, dropout=dropout: drawn(GlobalGenerator(
            ngf=4, n_downs=2, norm="batch" if batch else "instance", dropout=dropout)),
        lambda w, x, running=False: sequence(w, x, **RESNET, running=running))
       for batch in (False, True) for dropout in (False, True)},
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", FILES)
def test_a_published_file_translates_as_its_layout_says(tmp_path, name, prefix):
    make, oracle = FILES[name]
    weights = make()
    counts = {"global": 56, "global, of 2017": 58, "local": 74, "resnet": 48}
    assert len(weights) == counts.get(name.removesuffix("_dropout"), 140)
    torch.save({prefix + key: value for key, value in weights.items()}, tmp_path / "latest_net_G.pth")
    gen = load_generator(tmp_path / "latest_net_G.pth").double()
    weights = {key: value.double() for key, value in weights.items()}
    torch.manual_seed(0)
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        with gen.test_time(dropout=False):
            torch.testing.assert_close(gen(x), oracle(weights, x))
        if "batch" in name:
            with gen.test_time("running", dropout="off"):
                torch.testing.assert_close(gen(x), oracle(weights, x, running=True))
        with gen.test_time(dropout=True):
            assert torch.equal(gen(x), gen(x)) == ("dropout" not in name)


@pytest.mark.parametrize(("change", "told"), [
    (lambda w: w.pop("model.16.conv_block.5.bias"), ""), (lambda w: w.pop("model.38.bias"), ""),
    (lambda w: w.update({"model.40.weight": torch.zeros(1)}), ""),
    (lambda w: [w.pop(key) for key in [*w] if "conv_block" in key], ".*there are no residual blocks")])
def test_a_layout_that_is_nearly_one_of_them_is_refused(tmp_path, change, told):
    weights = FILES["global"][0]()
    change(weights)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"other.pth holds no generator{told}"):
        load_generator(tmp_path / "other.pth")


@pytest.mark.parametrize("kind", ["global", "local"])
def test_every_size_is_translated(kind):
    """Also below the two pixels that a reflection needs at the smallest scale."""
    torch.manual_seed(0)
    gen = {"global": GlobalGenerator, "local": LocalEnhancer}[kind](ngf=4, n_downs=3, n_blocks=1)
    gen.crop_size = 64
    for size in [(1, 1), (1, 40), (7, 9), (16, 16), (33, 31), (64, 80)]:
        for options in ({}, dict(tile=64)):
            assert Translator(gen, **options).tensor(torch.rand(1, 3, *size)).shape == (1, 3, *size)
        for scale in ("native", "crop"):
            assert translate(gen, np.zeros((*size, 3), np.uint8), scale=scale).shape == (*size, 3)
    least = 2 * gen.multiple
    for size in (gen.multiple, least + 1):
        with pytest.raises(ValueError, match=f"multiples of {gen.multiple}, at least {least}, not 64×{size}"):
            gen(torch.rand(1, 3, size, 64))
    with pytest.raises(ValueError, match=f"at least {least}"):
        Translator(gen, tile=gen.multiple)


@pytest.mark.parametrize("size", [64, 96])
def test_d_judges_as_the_layout_says(size):
    """scale0 is the coarsest; padding 2; instance norm but on the first and on the last layer."""
    torch.manual_seed(0)
    disc = MultiscaleDiscriminator(ndf=4, n_scales=3)
    w, (x, y) = disc.state_dict(), torch.rand(2, 2, 3, size, size)
    assert {key for key in w if key.startswith("scale1")} == {
        f"scale1_layer{i}.0.{name}" for i in range(5) for name in ("weight", "bias")}
    pair = torch.cat([x, y], 1)
    for scale, judged in zip((2, 1, 0), disc(x, y), strict=True):
        h = pair
        for i in range(5):
            h = convolve(w, f"scale{scale}_layer{i}.0", h, stride=2 if i < 3 else 1, padding=2)
            h = norm({}, "", h, False) if 0 < i < 4 else h
            h = F.leaky_relu(h, 0.2) if i < 4 else h
            torch.testing.assert_close(judged[i], h, rtol=1e-4, atol=1e-5)
        assert len(judged) == 5
        pair = halved(pair)


def test_the_paper_s_d_tells_its_features_with_the_same_weights_and_logits():
    cfg = replace(Config(), ndf=4)
    plain, telling = make_discriminator(cfg), make_discriminator(replace(cfg, lambda_fm=10.0))
    telling.load_state_dict(plain.state_dict())
    x, y = torch.rand(2, 1, 3, 128, 128)
    (judged,) = telling(x, y)
    assert torch.equal(judged[-1], plain(x, y)) and [h.shape[1] for h in judged] == [4, 8, 16, 32, 1]


def peak(act):
    """The most bytes that act() allocates at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        act()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


@pytest.mark.parametrize("make", [GlobalGenerator, LocalEnhancer])
@pytest.mark.long
def test_checkpointing_halves_the_peak_and_changes_no_gradient(make):
    torch.manual_seed(0)
    plain, thrifty = make(ngf=8), make(ngf=8)
    thrifty.checkpointing = True
    thrifty.load_state_dict(plain.state_dict())
    x, peaks = torch.rand(1, 3, 256, 256), []
    for net in (plain, thrifty):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        peaks.append(peak(lambda net=net: (net(x) ** 2).mean().backward()))
    assert peaks[1] < 0.55 * peaks[0]
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), thrifty.parameters(), strict=True))


def test_the_local_enhancer_begins_with_a_global_generator(tmp_path, capsys):
    torch.manual_seed(0)
    trained, local = GlobalGenerator(ngf=8, n_downs=3, n_blocks=2), LocalEnhancer(ngf=4, n_downs=3, n_blocks=2)
    fresh = {name: value.clone() for name, value in local.state_dict().items()}
    torch.save(trained.state_dict(), tmp_path / "latest_net_G.pth")
    head_start(local, Discriminator(), tmp_path / "latest_net_G.pth")
    told = capsys.readouterr().out
    assert "parameters of G, not model1_1.1.weight" in told
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(local.model(x), trained.model[:-3](x))
    assert all(torch.equal(value, fresh[name]) for name, value in local.state_dict().items() if "model1_" in name)
    for other in (dict(ngf=8, n_downs=3, n_blocks=2), dict(ngf=4, n_downs=2, n_blocks=2)):
        with pytest.raises(ValueError, match="too few to begin with: .* twice its ngf, the same n_downs and n_blocks"):
            head_start(LocalEnhancer(**other), Discriminator(), tmp_path / "latest_net_G.pth")
