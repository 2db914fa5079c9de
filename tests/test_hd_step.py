import csv
import itertools
import math
import os
import signal
import urllib.error
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from conftest import LARGER, fresh_state, stacked
from test_distributed import take_steps
from test_train import Constant
from torch import nn

import train as train_module
from config import Config
from hd.losses import VGGLoss, feature_matching, gan_loss, load_vgg
from hd.networks import make_generator
from hd.step import hd_step
from inference.export import export
from inference.load import load_generator
from runtime.checkpoint import load_tensors
from runtime.ema import EMA, EVERY
from runtime.logger import LOSSES
from runtime.state import State
from train import step_for, train, train_step
from utils import Stopped, UserError

CPU = torch.device("cpu")
TINY = dict(n_downs=2, n_blocks=1)
ALL = dict(generator="global", **TINY, n_scales=2, gan_loss="lsgan", lambda_fm=10.0, spectral_norm=True, ema=0.999)
MIXTURES = {
    "unet, fm": dict(lambda_fm=10.0), "unet, lsgan": dict(gan_loss="lsgan", lambda_l1=25.0),
    "unet, spectral norm, ema": dict(spectral_norm=True, ema=0.999), "unet, 3 scales": dict(n_scales=3),
    "global, everything": ALL, "global, the paper's losses": dict(generator="global", **TINY),
    "local, bf16": dict(ALL, generator="local", precision="bf16"),
}


def judged(*scales):
    """What a discriminator gives: for each scale features, then logits."""
    return [[torch.tensor(values, dtype=torch.float32) for values in scale] for scale in scales]


def test_the_losses_of_the_gan_are_those_of_their_papers():
    """Each scale counts fully."""
    logits = judged([[9.0], [2.0, -0.5]], [[9.0], [0.0]])
    softplus = lambda value: math.log1p(math.exp(value))  # noqa: E731
    wanted = {
        "lsgan": ((1 + 2.25) / 2 + 1, (4 + 0.25) / 2 + 0),
        "bce": ((softplus(-2) + softplus(0.5)) / 2 + softplus(0), (softplus(2) + softplus(-0.5)) / 2 + softplus(0)),
    }
    for kind, values in wanted.items():
        found = gan_loss(kind, logits, True), gan_loss(kind, logits, False)
        assert [value.item() for value in found] == pytest.approx(values), kind
        assert gan_loss(kind, [[logits[0][1].bfloat16()]], True).dtype == torch.float32


def test_feature_matching_weighs_as_the_authors_and_leaves_the_logits_and_the_real_side_out():
    """4 / (n_layers + 1) / n_scales; with n_layers 3, each of four layers counts 1 / n_scales."""
    fake, real = judged([[1.0], [2.0, 4.0], [0.0], [0.0], [99.0]], [[1.0], [1.0], [1.0], [1.0], [5.0]]), judged(
        [[0.0], [2.0, 2.0], [0.0], [3.0], [0.0]], [[1.0], [1.0], [1.0], [1.5], [0.0]])
    real[0][0].requires_grad_()
    loss = feature_matching(fake, real)
    assert loss.item() == pytest.approx((1 + 1 + 0 + 3) / 2 + 0.5 / 2) and not loss.requires_grad
    shallow = [scale[-2:] for scale in fake[:1]], [scale[-2:] for scale in real[:1]]
    assert feature_matching(*shallow).item() == pytest.approx(4 * 3)  # n_layers 0 would have one


class Scaled(nn.Module):
    """A discriminator whose one feature is the mean of y, and whose logit is its one weight times that."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x, y):
        return [[y.mean().reshape(1), (self.weight * y.mean()).reshape(1)]]


def test_one_step_is_g_then_d_to_the_formula():
    """Both judge the same y_fake by the same D; plain gradient descent tells the gradients."""
    paint, weight, x, y = -0.5, 0.3, torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.25)
    gen, disc = Constant(paint), Scaled(weight)
    state = State(gen, disc, torch.optim.SGD(gen.parameters(), 1.0), torch.optim.SGD(disc.parameters(), 1.0),
                  torch.amp.GradScaler("cpu", enabled=False))
    cfg = replace(Config(), gan_loss="lsgan", lambda_fm=8.0, lambda_l1=2.0)
    losses = hd_step(state, x, y, cfg, nullcontext, None)
    d_real, d_fake, g_gan = (weight * 0.25 - 1) ** 2, (weight * paint) ** 2, (weight * paint - 1) ** 2
    wanted = {"d_real": d_real, "d_fake": d_fake, "g_gan": g_gan, "g_l1": 0.75, "g_fm": 4 * 0.75}
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(wanted)
    to_g = 2 * (weight * paint - 1) * weight - 2 * 1 - 8 * 4 * 1
    to_d = (2 * (weight * 0.25 - 1) * 0.25 + 2 * weight * paint**2) / 2
    assert gen.value.item() == pytest.approx(paint - to_g) and disc.weight.item() == pytest.approx(weight - to_d)
    assert disc.weight.requires_grad and not any(loss.requires_grad for loss in losses.values())


def test_d_can_be_trained_again_after_a_failed_step():
    state = fresh_state(replace(Config(), ngf=4, ndf=4, crop_size=64, gan_loss="lsgan", n_scales=1))
    x = torch.rand(1, 3, 64, 64)
    with pytest.raises(RuntimeError, match="size"):
        hd_step(state, x, x[:, :, :32], replace(Config(), gan_loss="lsgan"), nullcontext, None)
    state.disc.requires_grad_(False)
    step_for(replace(Config(), gan_loss="lsgan"), state, nullcontext)(x, x)
    assert all(p.requires_grad for p in state.disc.parameters())


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if "bf16" in name else name
                                  for name in MIXTURES])
@pytest.mark.long
def test_any_mixture_learns_one_pair_by_heart(name):
    torch.manual_seed(0)
    cfg = replace(Config(), ngf=8, ndf=8, crop_size=64, load_size=64, dropout=0.0, lr=2e-3,
                  **{"lambda_l1": 100.0, **MIXTURES[name]})
    state = fresh_state(cfg)
    bf16 = partial(torch.autocast, "cpu", torch.bfloat16)
    step = step_for(cfg, state, bf16 if cfg.precision == "bf16" else nullcontext)
    assert step.func is (train_step if cfg.paper_step else hd_step)
    x, y = nn.functional.interpolate(torch.rand(2, 3, 4, 4) * 2 - 1, size=64).unsqueeze(1)
    before = [p.clone() for net in (state.gen, state.disc) for p in net.parameters()]
    losses = torch.stack([stacked(step(x, y)) for _ in range(30)])
    assert losses.isfinite().all() and losses[-5:, 3].mean() < 0.7 * losses[0, 3]
    after = [p for net in (state.gen, state.disc) for p in net.parameters()]
    assert not any(map(torch.equal, before, after))


@pytest.mark.parametrize("name", [name if name == "unet, spectral norm, ema" else pytest.param(
    name, marks=pytest.mark.slow) for name in MIXTURES])
def test_a_run_that_was_cut_ends_as_one_that_was_not(small, end_of, same, at_step, name):
    """To the bit: both networks, what spectral norm and the average keep, both optimisers, the logged losses."""
    whole, halted = (small(run, n_epochs=3, **MIXTURES[name]) for run in ("whole", "halted"))  # two updates of the mean
    train(whole)
    at_step(10, lambda losses: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        train(halted)
    train(replace(halted, resume=True))
    assert same(end_of(whole), end_of(halted))
    (first, *_) = csv.DictReader((whole.out_dir / "log.csv").read_text().splitlines())
    assert ("g_fm" in first) == bool(whole.lambda_fm) and "g_vgg" not in first
    assert ("ema" in end_of(whole)["state"]) == bool(whole.ema)


@pytest.mark.parametrize("name", ["global, everything", pytest.param("local, bf16", marks=pytest.mark.slow)])
@pytest.mark.long
def test_what_a_run_leaves_is_its_average_and_is_exported(small, tmp_path, name):
    cfg = small(**{**LARGER, "n_epochs": 2, **MIXTURES[name]})
    train(cfg)
    state = load_tensors(cfg.out_dir / "checkpoint.pth.tar")["state"]
    assert not torch.equal(state["ema"]["net"]["model.1.weight"], state["gen"]["model.1.weight"])
    gen, again = (load_generator(cfg.out_dir / name) for name in ("gen.pth.tar", "checkpoint.pth.tar"))
    for other in (state["ema"]["net"], again.state_dict()):  # the average, not the last
        assert all(torch.equal(value, other[key]) for key, value in gen.state_dict().items())
    assert gen.crop_size == 64 and type(gen) is type(make_generator(cfg.plain()))
    least = 2 * gen.multiple
    for suffix, sizes in itertools.product(("pt2", "onnx"), [(1, least, least), (2, 64, 96)]):
        path = tmp_path / f"gen.{suffix}"
        if not path.exists():
            export(gen, path)
        x = torch.rand(sizes[0], 3, *sizes[1:])
        if suffix == "pt2":
            made = torch.export.load(path).module()(x)
        else:
            session = pytest.importorskip("onnxruntime").InferenceSession(path)
            made = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
        torch.testing.assert_close(made, gen(x), rtol=1e-3, atol=1e-4)
    with pytest.raises(AssertionError, match=rf">= {least}"):
        torch.export.load(tmp_path / "gen.pt2").module()(torch.rand(1, 3, gen.multiple, 64))


@pytest.mark.parametrize("between", [(), (3, 13)])
def test_the_average_follows_as_if_it_took_in_every_step(between):
    """A weight that jumps once: what is left of the old one is decay for each step since that was taken in.

    Also by updates between, as at an epoch's end, from which the next ones count.
    """
    net, seen = nn.Linear(1, 1), 0
    nn.init.zeros_(net.weight)
    average = EMA(net, 0.9)
    for _ in range(1000 * EVERY):
        average.update(net)
    nn.init.ones_(net.weight)
    for steps in range(1, 3 * EVERY + 1):
        average.update(net)
        if steps in between:
            average.take_in(net)
        seen = steps if steps in between or steps - seen == EVERY else seen
        assert average.net.weight.item() == pytest.approx(1 - 0.9**seen, abs=1e-5), steps


def test_the_average_forgets_the_initialisation_at_once():
    net, average = nn.Linear(1, 1), EMA(nn.Linear(1, 1), 0.999)
    nn.init.ones_(net.weight)
    for _ in range(EVERY):
        average.update(net)
        assert average.net.weight.item() == 1
    nn.init.zeros_(net.weight)
    for _ in range(EVERY):
        average.update(net)
    assert 0 < average.net.weight.item() < 0.2


@pytest.mark.long
def test_the_average_of_a_run_holds_its_last_steps(small, end_of):
    """Six steps an epoch: after the fifth, gen.pth.tar was still that of the fourth."""
    train(small(n_epochs=4, ema=0.9))
    before = load_tensors(small().out_dir / "gen.pth.tar")["state_dict"]
    train(small(n_epochs=5, ema=0.9, resume=True))
    state, after = end_of(small())["state"], load_tensors(small().out_dir / "gen.pth.tar")["state_dict"]
    keep = min(0.9, 31 / 40) ** 6
    for name in ("encoder.0.weight", "output.1.weight"):
        torch.testing.assert_close(after[name], keep * before[name] + (1 - keep) * state["gen"][name])


def test_an_average_switched_on_later_begins_with_the_weights_so_far(small, run, end_of):
    last = load_tensors(small().out_dir / "checkpoint.pth.tar")["state"]["gen"]
    train(small(resume=True, n_epochs=2, ema=0.9, lr=1e-12))
    mean = end_of(small())["state"]["ema"]["net"]["output.1.weight"]
    torch.testing.assert_close(mean, last["output.1.weight"])


@pytest.mark.parametrize("why", ["no network", "damaged"])
@pytest.mark.long
def test_without_vgg_s_weights_a_run_is_refused_before_its_data_is_read(small, tmp_path, monkeypatch, why):
    """It trained to the end with the term at 0."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    if why == "damaged":
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half a download")
    monkeypatch.setattr(torch.hub, "urlopen", Mock(side_effect=urllib.error.URLError("no network")))
    monkeypatch.setattr(train_module, "load_data", Mock(side_effect=AssertionError("the data was read")))
    with pytest.raises(UserError, match=f"lambda_vgg needs the weights of VGG19, .* at {file}, or .*--lambda-vgg 0"):
        train(small(n_epochs=1, lambda_vgg=10.0))


@pytest.mark.long
def test_vgg_compares_five_layers_and_learns_nothing(monkeypatch):
    """By hooks on the whole network, with random weights; the layers are found by their widths."""
    from torchvision.models import vgg19  # takes seconds

    torch.manual_seed(0)
    net = vgg19(weights=None)
    monkeypatch.setattr("torchvision.models.vgg19", lambda weights: net)
    cfg = replace(Config(), ngf=4, ndf=4, crop_size=64, lambda_vgg=10.0, lambda_l1=0.0, gan_loss="lsgan")
    step = step_for(cfg, fresh_state(cfg), nullcontext, load_vgg(CPU))
    assert step(*torch.rand(2, 1, 3, 64, 64))["g_vgg"] > 0
    a, b = torch.rand(2, 1, 3, 64, 64)
    layers, seen = [*net.features], []
    firsts = [i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)
              and (i == 1 or isinstance(layers[i - 2], nn.MaxPool2d))]  # relu1_1 … relu5_1
    for i in firsts:
        layers[i].register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    for image in (a, b):
        for layer in layers:
            image = layer(image)
    wanted = sum(weight * (x - y).abs().mean() for weight, x, y in zip(
        (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), seen[:5], seen[5:], strict=True))
    perceptual = VGGLoss(net.features)
    torch.testing.assert_close(perceptual(a, b), wanted)
    torch.testing.assert_close(perceptual(a[:, :1], b[:, :1]), perceptual(a[:, :1].expand_as(a), b[:, :1].expand_as(b)))
    assert len(firsts) == 5 and not any(p.requires_grad or p.grad is not None for p in net.features[:30].parameters())


def test_least_squares_are_not_told_that_somebody_wins(small, capsys, monkeypatch):
    """The thresholds of that sentence are those of binary cross-entropy."""
    losses = dict(zip(LOSSES, torch.tensor([0.0, 0.0, 0.9, 0.3]), strict=True))
    monkeypatch.setattr(train_module, "hd_step", lambda *_, **__: losses)
    train(small(gan_loss="lsgan", n_epochs=6))
    assert "has won" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, dict(generator="local")])
def test_two_processes_take_the_step_of_one_with_both_images(small, tmp_path, change):
    """Nothing in these networks looks at two images at once."""
    samples = (torch.rand(1, 2, 2, 3, 64, 64) * 2 - 1).repeat(3, 1, 1, 1, 1, 1)
    one, two = (take_steps(tmp_path, small(**{**ALL, **change}), samples, n)["gradients"] for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)
