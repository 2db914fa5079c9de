import pytest
import torch
from conftest import LARGER, fresh_state
from torch import nn

from inference.load import from_published, load_generator, named
from train import train


class Block(nn.Module):
    """One level of the authors' nested U-Net, written from the description of its keys: the oracle of these tests."""

    def __init__(self, outer, inner, inside=None, outermost=False, in_channels=None, dropout=0.0):
        super().__init__()
        self.outermost = outermost
        down = nn.Conv2d(in_channels or outer, inner, 4, 2, 1, bias=False)
        if outermost:
            up = nn.ConvTranspose2d(inner * 2, outer, 4, 2, 1)
            layers = [down, inside, nn.ReLU(True), up, nn.Tanh()]
        elif inside is None:
            up = nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False)
            layers = [nn.LeakyReLU(0.2, True), down, nn.ReLU(True), up, nn.BatchNorm2d(outer)]
        else:
            up = nn.ConvTranspose2d(inner * 2, outer, 4, 2, 1, bias=False)
            layers = [nn.LeakyReLU(0.2, True), down, nn.BatchNorm2d(inner), inside, nn.ReLU(True), up,
                      nn.BatchNorm2d(outer), *([nn.Dropout(dropout)] if dropout else [])]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class Published(nn.Module):
    def __init__(self, depth, ngf, in_channels=3, out_channels=3):
        super().__init__()
        block = Block(ngf * 8, ngf * 8)
        for _ in range(depth - 5):
            block = Block(ngf * 8, ngf * 8, block, dropout=0.5)
        for i in (4, 2, 1):
            block = Block(ngf * i, ngf * i * 2, block)
        self.model = Block(out_channels, ngf, block, outermost=True, in_channels=in_channels)


@pytest.fixture
def published():
    def make(depth=7, ngf=4, **channels):
        torch.manual_seed(0)
        net = Published(depth, ngf, **channels)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.2)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0, 0.1)
        return net

    return make


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(("depth", "channels"), [(7, {}), (8, dict(in_channels=1, out_channels=3))])
def test_outputs_equal_the_published_network_in_both_norm_modes(published, tmp_path, depth, channels, prefix):
    net = published(depth, **channels)
    torch.save({prefix + key: value for key, value in net.state_dict().items()}, tmp_path / "latest_net_G.pth")
    gen = load_generator(tmp_path / "latest_net_G.pth")
    x = torch.randn(1, channels.get("in_channels", 3), 2**depth, 2 * 2**depth)
    with torch.no_grad():
        with gen.test_time("running", dropout=False):
            torch.testing.assert_close(gen(x), net.eval().model(x), rtol=1e-4, atol=1e-5)
        net.train()
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        with gen.test_time("image", dropout=False):
            torch.testing.assert_close(gen(x), net.model(x), rtol=1e-4, atol=1e-5)


def test_dropout_is_where_that_release_has_it(published):
    """The same number of blocks and the same masks, drawn in the same order from the same seed."""
    net, x = published(8), torch.randn(1, 3, 256, 256)
    gen = from_published(named(net.state_dict()))
    assert [block[3].p for block in gen.decoder] == [0, 0.5, 0.5, 0.5, 0, 0, 0]
    with torch.no_grad(), gen.test_time("image", dropout=True):
        torch.manual_seed(3)
        wanted = net.train().model(x)
        torch.manual_seed(3)
        torch.testing.assert_close(gen(x), wanted, rtol=1e-4, atol=1e-5)


def test_an_unknown_layout_or_shape_is_refused_with_the_first_keys_that_differ(published, tmp_path):
    saved = published().state_dict()
    saved["model.model.9.weight"] = saved.pop("model.model.3.weight")
    torch.save(saved, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth.*model.model.3.weight, model.model.9.weight"):
        load_generator(tmp_path / "other.pth")
    saved = published().state_dict() | {"model.model.1.model.1.weight": torch.zeros(3, 3, 4, 4)}
    torch.save(saved, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth.*size mismatch"):
        load_generator(tmp_path / "other.pth")
    with pytest.raises(ValueError, match="differ: 0.model.1.weight$"):  # no depth of such keys, which fill the memory
        from_published(named(published().state_dict()) | {"0.model.1.weight": 0})


def test_files_from_before_batches_were_counted_load(published):
    saved = {key: value for key, value in published().state_dict().items() if "num_batches_tracked" not in key}
    assert from_published(saved).crop_size == 128


def test_a_run_may_have_dropout_where_that_release_has_it(small):
    """And its file tells so: what is loaded, or resumed, has it there too."""
    for crop_size, wanted in ((256, [0, 0.4, 0.4, 0.4, 0, 0, 0]), (128, [0, 0.4, 0.4, 0, 0, 0])):
        cfg = small(crop_size=crop_size, load_size=crop_size, dropout=0.4, generator="release")
        assert [block[3].p for block in fresh_state(cfg).gen.decoder] == wanted
    train(small(generator="release", **LARGER))
    train(small(resume=True, generator="release", **{**LARGER, "n_epochs": 3}))
    for name in ("gen.pth.tar", "checkpoint.pth.tar"):
        gen = load_generator(small().out_dir / name)
        assert [block[3].p for block in gen.decoder] == [0, 0.5, 0, 0, 0]
        assert gen.trained.geometry.interpolation == "bicubic"
