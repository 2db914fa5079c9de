import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from config import PALETTES, Config
from pairs import palettes


@pytest.mark.parametrize("change", [
    dict(direction="sideways"), dict(direction="atob"), dict(in_channels=0), dict(out_channels=65), dict(crop_size=200),
    dict(crop_size=4112), dict(crop_width=100), dict(load_size=255), dict(ngf=0), dict(n_layers=7), dict(n_layers=-1),
    dict(crop_size=64, load_size=64, n_layers=5), dict(dropout=1.0), dict(lambda_l1=-1.0),
    dict(lambda_l1=math.nan), dict(lr=0.0), dict(lr=math.nan), dict(beta1=1.0), dict(n_epochs=-1),
    dict(n_epochs=0, n_epochs_decay=0), dict(batch_size=0), dict(precision="half"),
    dict(device="tpu"), dict(seed=-1), dict(color_jitter=2.0), dict(color_jitter=0.1, label_side="both"),
    dict(range_a=(4000.0, 500.0)), dict(range_b=(0.0, math.nan)), dict(range_a=(0.0,)), dict(range_b=2.0),
    dict(range_a=(0, 2**2000)), dict(n_labels=256), dict(in_channels=4, color_jitter=0.1),
    dict(n_labels=3, color_jitter=0.1, label_side="B"),
    dict(generator="resnet"), dict(n_scales=4), dict(gan_loss="wgan"), dict(lambda_fm=-1.0), dict(ema=1.0),
    dict(n_layers=0, n_scales=1), dict(n_layers=0, lambda_fm=10.0), dict(speed="fast"),
    dict(n_downs=6, generator="global", crop_size=64, load_size=64),
    dict(n_downs=5, generator="local", crop_size=64, load_size=64),
    dict(flip="yes"), dict(flip=True), dict(group="(x"), dict(best_by="label_accuracy"), dict(best_by="facades"),
    dict(best_by="ms_ssim", crop_size=128),
    dict(best_by="colours.json", label_side="A"), dict(best_by="facades", label_side="B", out_channels=1),
    dict(n_epochs=1.5), dict(batch_size=True), *(dict(bands_a=bands) for bands in ((0,), (-1, 2), ("4",), 3)),
    *(dict(change, space="lab") for change in (
        dict(range_a=(0.0, 9.0)), dict(range_b=(0.0, 9.0)), dict(n_labels=5), dict(label_side="B"),
        dict(out_channels=1), dict(in_channels=4), dict(bands_a=(3, 2)), dict(bands_b=(1, 2)), dict(lambda_vgg=1.0))),
])
def test_a_bad_value_is_refused_with_its_field_and_value(change):
    with pytest.raises(ValueError) as error:
        replace(Config(), **change)
    message = str(error.value)
    assert any(message.startswith(name) and repr(value) in message for name, value in change.items()), message


def test_ranges_and_labels_survive_the_way_through_json():
    cfg = replace(Config(), range_b=[500, 4000], n_labels=150)
    assert cfg.range_b == (500.0, 4000.0) and cfg.in_channels == 150
    assert Config(**json.loads(json.dumps(cfg.plain()))) == cfg


def test_every_field_is_read_by_some_script():
    root = Path(__file__).parents[1]
    places = [root, *(root / name for name in ("pairs", "runtime", "inference", "hd"))]
    sources = "".join(path.read_text(encoding="utf-8") for place in places for path in place.glob("*.py")
                      if path != root / "config.py")
    sources = sources.replace("{x_side}", "a") + sources.replace("{y_side}", "b")
    assert [f.name for f in fields(Config) if not re.search(rf"((cfg|self)\.|settings.*\"){f.name}\b", sources)] == []


def test_the_palettes_by_name_are_those_that_there_are():
    assert (*sorted(palettes.PALETTES),) == PALETTES


def test_added_losses_leave_the_cross_entropies_as_they_are():
    assert Config(lambda_vgg=1.0).paper_gan and not Config(lambda_vgg=1.0).paper_step
    for changes in (dict(gan_loss="lsgan"), dict(n_scales=1)):
        assert not Config(**changes).paper_gan and not Config(**changes).paper_step
