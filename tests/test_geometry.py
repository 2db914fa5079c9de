import json
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import LARGER, begin, coordinates, paired, settings, write_pair
from PIL import Image

import evaluate
import predict
import train as train_module
from check import check
from generator import Generator
from inference.load import load_generator
from inference.metrics import image_scores
from inference.translate import Translator, translate
from pairs.find import usable_pairs
from pairs.geometry import Geometry, Sizes, resize, resize_masked, usual_size
from pairs.images import normalise, to_tensor
from utils import DataError


def write_set(root, sizes, copies=1):
    """Pairs whose halves hold their own coordinates, of these sizes, in train and val."""
    for split in ("train", "val"):
        for i, (width, height) in enumerate(sizes * copies):
            half = coordinates(width, height)
            write_pair(root / split / f"{i}.png", left=half, right=half)
    return root


@pytest.mark.parametrize(("size", "depth"), [
    ((512, 0), 9), ((256, 0), 8), ((256, 384), 7), ((96, 160), 5), ((144, 0), 4), ((64, 0), 6)])
def test_the_depth_is_the_largest_that_both_sides_allow(size, depth):
    gen = Generator(ngf=2, crop_size=size[0], crop_width=size[1]).eval()
    assert len(gen.encoder) == depth and gen.multiple == 2**depth
    x = torch.zeros(1, 3, size[0], size[1] or size[0])
    assert gen(x).shape == x.shape
    with pytest.raises(ValueError, match=f"multiples of {2**depth}"):
        gen(torch.zeros(1, 3, size[0] + 16 if depth > 4 else size[0] + 8, size[0]))


def test_a_side_that_cannot_be_halved_four_times_is_refused_with_its_neighbour(larger):
    for change, near in ((dict(crop_size=100), 96), (dict(crop_width=90), 96), (dict(crop_width=8), 16)):
        with pytest.raises(ValueError, match=f"multiple of 16, such as {near}; it is"):
            larger(**change)


@pytest.mark.parametrize(("changes", "size", "load", "whole"), [
    (dict(), (600, 400), (286, 286), (256, 256)),
    (dict(load_size=288, crop_width=384), (500, 500), (432, 288), (384, 256)),
    (dict(resize="aspect", load_size=288), (432, 288), (432, 288), (432, 288)),
    (dict(resize="aspect"), (300, 900), (286, 858), (286, 858)),
    (dict(resize="none"), (600, 31), (600, 31), (600, 31))])
def test_the_three_modes_resize_as_they_say(changes, size, load, whole):
    geometry = Geometry(**changes)
    assert geometry.load(size) == load and geometry.whole(size) == whole
    sizes = Sizes.of_file(size)
    assert geometry.trained(size, sizes) == whole
    twice = geometry.trained((2 * size[0], 2 * size[1]), sizes)
    assert twice == (2 * whole[0], 2 * whole[1])  # what is twice as large has twice as much to show


def test_bicubic_is_that_of_pillow_at_both_depths():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    for size in ((143, 100), (31, 45), (90, 60)):
        wanted = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)).astype(int)
        difference = np.abs(resize(image, size, "bicubic") - wanted)
        assert difference.max() <= 2 and difference.mean() < 0.05  # it rounds between the axes, as Pillow does
        difference = np.abs(resize(image / np.float32(255), size, "bicubic") * 255 - wanted)
        assert difference.mean() < 1


def test_beside_holes_labels_are_not_blended_either():
    image, mask = np.random.default_rng(0).choice(np.uint8([0, 7, 255]), (2, 9, 8, 1))
    assert {*np.unique(resize_masked(image, mask, (13, 5), "nearest"))} == {0, 7, 255}


@pytest.mark.filterwarnings("error")
def test_nearest_takes_the_pixels_that_pillow_takes_whatever_the_version_of_opencv():
    """OpenCV 4 resizes labels 256 → 286 to other pixels than OpenCV 5."""
    rng = np.random.default_rng(0)
    sizes = [(256, 286), (286, 256), (512, 286), (100, 300), (1, 7), (7, 1), (600, 256), (3, 1000), (1024, 1023)]
    for old, new in [*sizes, *rng.integers(1, 600, (200, 2)).tolist()]:
        image = rng.integers(0, 256, (old, 3), np.uint8)
        wanted = np.asarray(Image.fromarray(image).resize((3, new), Image.Resampling.NEAREST))
        assert (resize(image[..., None], (3, new), "nearest")[..., 0] == wanted).all(), (old, new)
        across = resize(np.ascontiguousarray(image.T)[..., None], (new, 3), "nearest")[..., 0]
        assert (across == wanted.T).all(), (old, new)


@pytest.mark.filterwarnings("error")
def test_an_image_as_pillow_hands_it_over_is_resized_without_a_warning():
    """Its array is read-only, of which torch warns, in the middle of the first epoch."""
    torch.set_warn_always(True)
    try:
        for how in ("linear", "bicubic", "nearest"):
            resize(np.asarray(Image.new("RGB", (60, 90))), (30, 40), how)
    finally:
        torch.set_warn_always(False)


def test_the_usual_size_is_that_of_most_or_in_the_middle():
    assert usual_size(Counter({(600, 600): 5, (10, 900): 4})) == (600, 600)
    assert usual_size(Counter({(100, 80): 1, (200, 160): 1, (900, 170): 1})) == (200, 160)


def test_no_mode_distorts_but_the_one_that_says_so(larger, tmp_path):
    """The step of the coordinates from pixel to pixel is the scale along an axis."""
    root = write_set(tmp_path / "wide", [(432, 288)])
    pairs = usable_pairs(root, 0).splits["train"]
    for changes, sides in ((dict(resize="aspect", load_size=144), (0.5, 0.5)), (dict(resize="none"), (1, 1)),
                           (dict(load_size=72), (72 / 432, 72 / 288)),
                           (dict(load_size=96, crop_width=96), (1 / 3, 1 / 3))):
        cfg = larger(data_root=root, **changes)
        for x in paired(pairs, cfg)[1, 0]:
            assert x.shape[1:] == (64, cfg.crop_width or 64)
            steps = [(x[0, :, -1] - x[0, :, 0]).abs().mean() / (x.shape[2] - 1) * 431,
                     (x[1, -1] - x[1, 0]).abs().mean() / (x.shape[1] - 1) * 287]
            for step, scale in zip(steps, sides, strict=True):
                assert step * 127.5 == pytest.approx(250 / scale, rel=0.06)
    cfg = larger(data_root=root, resize="aspect", load_size=144)
    assert paired(pairs, cfg, train=False)[0][0].shape == (3, 144, 216)


def test_an_image_smaller_than_a_crop_is_reflected_at_its_edges_and_that_is_said(larger, tmp_path, capsys):
    for size in ((1, 1), (3, 70), (70, 3), (63, 64)):
        image = coordinates(*size)
        padded = Geometry(crop_size=64).pad(image)
        assert padded.shape == (max(64, size[1]), max(64, size[0]), 3)
        assert set(map(tuple, padded.reshape(-1, 3))) == set(map(tuple, image.reshape(-1, 3)))
    root = write_set(tmp_path / "mixed", [(40, 50), (200, 90), (64, 64)])
    cfg = larger(data_root=root, resize="none", n_epochs=1)
    train_module.train(cfg)
    assert "1 of 3 training pairs are smaller than a crop, 64×64, where it is taken" in capsys.readouterr().out


def test_a_strip_that_aspect_would_blow_up_is_a_sentence_and_eats_no_memory(larger, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    cfg = larger(data_root=write_set(tmp_path / "strips", [(200, 2)], copies=2), resize="aspect", load_size=72)
    with pytest.raises(DataError, match=r"0.png becomes 7200×72 with resize aspect, which is too large"):
        train_module.train(cfg)
    assert check(cfg) == 2 and "7200×72 with resize aspect, which is too large" in capsys.readouterr().out
    root = write_set(tmp_path / "mixed", [(80, 160), (100, 70), (130, 90)])
    assert check(replace(cfg, data_root=root)) == 0  # a size that some pair has
    assert "one side, 80×160: trained on 72×144" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on pairs of 150×90, of which the file tells the scale."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = settings(write_set(folder / "data", [(150, 90)], copies=2), folder / "run", **{**LARGER, "n_epochs": 1})
    train_module.train(cfg)
    return cfg


def network_sees(gen, act):
    seen = []
    handle = gen.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    result = act()
    handle.remove()
    return seen, result


def test_a_file_of_the_training_size_becomes_what_validation_showed(trained):
    gen = load_generator(trained.out_dir / "gen.pth.tar")
    pairs = usable_pairs(trained.data_root, 0).splits["val"]
    shown = paired(pairs, trained, train=False)[0][0]
    half = coordinates(150, 90)
    (seen,), result = network_sees(gen, lambda: translate(gen, half))
    assert torch.equal(seen[0], shown) and result.shape == half.shape
    (seen,), result = network_sees(gen, lambda: translate(gen, cv2.resize(half, (300, 180))))
    assert seen.shape[2:] == (128, 128) and result.shape == (180, 300, 3)
    (seen,), _ = network_sees(gen, lambda: translate(gen, half, scale="native"))
    assert seen.shape[2:] == (128, 192)  # padded
    (seen,), _ = network_sees(gen, lambda: translate(gen, half, scale=0.5))
    assert seen.shape[2:] == (64, 128)
    (seen,), _ = network_sees(gen, lambda: translate(gen, cv2.resize(half, (300, 180)), scale="crop"))
    assert seen.shape[2:] == (64, 64)
    untold = Translator(gen, replace(gen.trained, sizes=None))  # by a file: the size of the network
    assert untold.network_size((900, 30)) == (64, 64)


def test_labels_keep_their_colours_on_the_way_to_the_scale_of_training_and_back(trained):
    gen = load_generator(trained.out_dir / "gen.pth.tar")
    gen.trained = replace(gen.trained, label_side="A")
    labels = np.zeros((90, 150, 3), np.uint8)
    labels[::2, 1::2] = 255
    (seen,), _ = network_sees(gen, lambda: translate(gen, labels))
    assert set(seen.unique().tolist()) == {-1, 1}


@pytest.mark.long
def test_the_full_size_score_is_that_of_the_files_that_predict_writes(trained, tmp_path):
    network = ["--checkpoint", trained.out_dir / "gen.pth.tar", "--device", "cpu", "--precision", "fp32"]
    assert not begin(predict, *network, "--input", trained.data_root / "val", "--side-by-side", "left", "--output",
                     tmp_path / "out")
    assert not begin(evaluate, *network, "--data-root", trained.data_root, "--full-size", "--out-dir", tmp_path)
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]["output"]
    y = normalise(to_tensor(coordinates(150, 90)))
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 2
    written = [image_scores(normalise(to_tensor(np.asarray(Image.open(path)))), y) for path in files]
    for name in ("l1", "ssim"):
        assert np.mean([row[name] for row in written]) == pytest.approx(scores[name]["mean"], abs=1 / 255)
